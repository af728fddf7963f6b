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
    """Return every backend by name, fastest first: None if it works here, else the reason why it does not."""
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
    """Project Gaussians along z in one orientation or many. Differentiable in all four tensors.

    Parameters
    ----------
    means : (n, 3) A, xyz from the box centre.
    covariances : (n, 3, 3) A^2, symmetric, final (any floor included).
    weights : (n,) integrals.
    rotations : (..., 3, 3) map frame to microscope frame.
    box_size : pixels along each side; pixel box_size // 2 is the origin.
    pixel_size : A.
    cutoff : half width of a footprint in standard deviations; None reaches every pixel.
    backend : a name of `available_backends()`; None takes the first that works and knows the device and dtype.

    Returns
    -------
    (..., box_size, box_size), rows are y, columns x, in weight / A^2: sum(image) pixel_size^2 = sum(weights) for
    Gaussians inside the box, wider than about a pixel.
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
    """Sample the mixture on a grid. Differentiable in all three tensors; arguments as for `project`.

    Returns
    -------
    (box_size, box_size, box_size) = (z, y, x), in weight / A^3: sum(volume) voxel_size^3 = sum(weights).
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
