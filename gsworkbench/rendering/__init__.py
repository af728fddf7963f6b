"""Rendering: project() and voxelize(), one contract, several backends.

A projection is the line integral of the mixture along z after rotating it by A,

    I(x, y) = sum_i w_i N((x, y); (A m_i)_xy, (A S_i A^T)_xy),

sampled at pixel centres; a volume is the mixture sampled at voxel centres. Nothing is sorted, blended or normalised.
A Gaussian reaches the pixels of its footprint only: the rectangle of `cutoff` standard deviations about its mean,
decided in float64 by one rule (footprints.py), so that backends agree to rounding.

`reference` is the readable definition. The others are tested against it, values and gradients: `cpu`, compiled; `gpu`,
Triton kernels for NVIDIA's; and `windowed`, plain torch, which serves where there is no compiler and on other devices.

Tensors must be finite. On the CPU each call looks, and names the first Gaussian that is not; elsewhere a look would
make the host wait for the device, and what is not finite makes images NaN instead: `require_finite` then names it.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

from torch import Tensor

from gsworkbench.rendering import autograd, reference
from gsworkbench.rendering.autograd import Grid
from gsworkbench.rendering.backends import cpu, gpu, windowed
from gsworkbench.rendering.finite import require_finite

# Fastest first. All but the reference compute only (autograd.Backend); torch differentiates the reference itself.
_BACKENDS: dict[str, ModuleType] = {"cpu": cpu, "gpu": gpu, "windowed": windowed, "reference": reference}


def available_backends() -> dict[str, str | None]:
    """Return which renderers there are and which of them work here.

    Returns
    -------
    dict
        Name of each backend, fastest first: None if it works here, else a sentence that says why it does not.

    Examples
    --------
    >>> import gsworkbench as gs
    >>> gs.available_backends()["reference"] is None
    True
    """
    return {name: backend.unavailable_because() for name, backend in _BACKENDS.items()}


def project(
    means: Tensor,
    covariances: Tensor,
    weights: Tensor,
    rotations: Tensor,
    *,
    box_size: int,
    pixel_size: float,
    cutoff: float | None = 4.5,
    backend: str | None = None,
) -> Tensor:
    """Project Gaussians along z, in one orientation or in many. Differentiable in all four tensors.

    Parameters
    ----------
    means : (n, 3) tensor
        Angstrom, in x, y, z order, from the box centre.
    covariances : (n, 3, 3) tensor
        Square angstrom, symmetric, with any floor included.
    weights : (n,) tensor
        Integrals of the Gaussians.
    rotations : (..., 3, 3) tensor
        From the map frame to the microscope frame; they multiply column vectors from the left.
    box_size : int
        Pixels along each side. Pixel box_size // 2 is the origin.
    pixel_size : float
        Angstrom.
    cutoff : float, optional
        Half width of a footprint in standard deviations. None reaches every pixel.
    backend : str, optional
        A name of `available_backends()`. By default the first that works and supports the device and dtype.

    Returns
    -------
    (..., box_size, box_size) tensor
        Rows are y, columns x, in weight per square angstrom: sum(image) pixel_size^2 = sum(weights) for Gaussians that
        lie inside the box and are wider than about a pixel.

    Raises
    ------
    ValueError
        If shapes, dtypes or devices do not agree, a value is not finite (on the CPU), or there is no such backend.
    RuntimeError
        If the backend does not work here.

    Examples
    --------
    >>> import torch
    >>> import gsworkbench as gs
    >>> image = gs.project(
    ...     torch.zeros(1, 3), 9 * torch.eye(3)[None], torch.ones(1), torch.eye(3), box_size=32, pixel_size=2.0
    ... )
    >>> image.shape, round(float(image.sum() * 2.0**2), 3)
    (torch.Size([32, 32]), 1.0)
    """
    if rotations.shape[-2:] != (3, 3):
        raise ValueError(f"rotations must be (..., 3, 3), not {tuple(rotations.shape)}")
    flat = rotations.reshape(-1, 3, 3)
    _check_agreement(means=means, covariances=covariances, weights=weights, rotations=flat)
    renderer = _backend(backend, means)
    if means.device.type == "cpu" and renderer is not cpu:  # whose kernels look while they lay Gaussians out
        require_finite(means=means, covariances=covariances, weights=weights, rotations=flat)
    images = _splat(renderer, (means, covariances, weights, flat), Grid(box_size, pixel_size, cutoff))
    return images.reshape(*rotations.shape[:-2], box_size, box_size)


def voxelize(
    means: Tensor,
    covariances: Tensor,
    weights: Tensor,
    *,
    box_size: int,
    voxel_size: float,
    cutoff: float | None = 4.5,
    backend: str | None = None,
) -> Tensor:
    """Sample a mixture of Gaussians on a grid of voxels. Differentiable in all three tensors.

    Parameters
    ----------
    means : (n, 3) tensor
        Angstrom, in x, y, z order, from the box centre.
    covariances : (n, 3, 3) tensor
        Square angstrom, symmetric, with any floor included.
    weights : (n,) tensor
        Integrals of the Gaussians.
    box_size : int
        Voxels along each side. Voxel box_size // 2 is the origin.
    voxel_size : float
        Angstrom.
    cutoff : float, optional
        Half width of a footprint in standard deviations. None reaches every voxel.
    backend : str, optional
        A name of `available_backends()`, as for `project`.

    Returns
    -------
    (box_size, box_size, box_size) tensor
        In z, y, x order, in weight per cubic angstrom: sum(volume) voxel_size^3 = sum(weights).

    Raises
    ------
    ValueError
        If shapes, dtypes or devices do not agree, a value is not finite (on the CPU), or there is no such backend.
    RuntimeError
        If the backend does not work here.

    Examples
    --------
    >>> import torch
    >>> import gsworkbench as gs
    >>> volume = gs.voxelize(torch.zeros(1, 3), 9 * torch.eye(3)[None], torch.ones(1), box_size=32, voxel_size=2.0)
    >>> volume.shape, round(float(volume.sum() * 2.0**3), 3)
    (torch.Size([32, 32, 32]), 1.0)
    """
    _check_agreement(means=means, covariances=covariances, weights=weights)
    if means.device.type == "cpu":
        require_finite(means=means, covariances=covariances, weights=weights)
    return _splat(_backend(backend, means), (means, covariances, weights), Grid(box_size, voxel_size, cutoff))


def _splat(renderer: ModuleType, inputs: Sequence[Tensor], grid: Grid) -> Tensor:
    return reference.splat(inputs, grid) if renderer is reference else autograd.splat(renderer, inputs, grid)


def _backend(name: str | None, tensor: Tensor) -> ModuleType:
    if name is None:
        return next(b for b in _BACKENDS.values() if b.supports(tensor) and b.unavailable_because() is None)
    if name not in _BACKENDS:
        raise ValueError(f"there is no backend {name!r}; there are {', '.join(_BACKENDS)}")
    backend = _BACKENDS[name]
    if reason := backend.unavailable_because():
        raise RuntimeError(f"backend {name} does not work here: {reason}")
    if not backend.supports(tensor):
        raise RuntimeError(f"backend {name} does not know {tensor.dtype} on {tensor.device}")
    return backend


def _check_agreement(means: Tensor, covariances: Tensor, weights: Tensor, **more: Tensor) -> None:
    """Shapes, and one dtype and device."""
    n = len(means)
    if means.shape != (n, 3) or covariances.shape != (n, 3, 3) or weights.shape != (n,):
        raise ValueError(
            "means, covariances and weights must be (n, 3), (n, 3, 3) and (n,), not "
            f"{tuple(means.shape)}, {tuple(covariances.shape)} and {tuple(weights.shape)}"
        )
    for name, tensor in {"covariances": covariances, "weights": weights, **more}.items():
        if tensor.dtype != means.dtype or tensor.device != means.device:
            raise ValueError(
                f"{name} are {tensor.dtype} on {tensor.device}, means {means.dtype} on {means.device}: they must agree"
            )
