"""Rendering: project() and voxelize(), one contract, several backends.

A projection is the line integral of the mixture along z after rotating it by A,

    I(x, y) = sum_i w_i N((x, y); (A m_i)_xy, (A S_i A^T)_xy),

sampled at pixel centres; a volume is the mixture sampled at voxel centres. Nothing is sorted, blended or normalised.
A Gaussian reaches the pixels of its footprint only: the rectangle of `cutoff` standard deviations about its mean,
decided once here in float64 and given to every backend, so that backends agree to rounding.

`reference` is the readable definition. The others are tested against it, values and gradients.
"""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from gsworkbench.rendering import reference, windowed
from gsworkbench.rendering.footprints import footprints, image_extents

# Fastest first. A backend is a module with project(), voxelize() and unavailable_because().
_BACKENDS: dict[str, ModuleType] = {"windowed": windowed, "reference": reference}


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
    backend : a name of `available_backends()`; None takes the first that works.

    Returns
    -------
    (..., box_size, box_size), rows are y, columns x, in weight / A^2: sum(image) pixel_size^2 = sum(weights) for
    Gaussians inside the box, wider than about a pixel.
    """
    _check(means, covariances, weights)
    if rotations.shape[-2:] != (3, 3):
        raise ValueError(f"rotations must be (..., 3, 3), not {tuple(rotations.shape)}")
    flat = rotations.reshape(-1, 3, 3)
    centres, variances = image_extents(*(t.detach().double() for t in (means, covariances, flat)))
    bounds = footprints(centres, variances, box_size, pixel_size, cutoff)
    images = _backend(backend).project(
        means, covariances, weights, flat, bounds, box_size=box_size, pixel_size=pixel_size
    )
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
    _check(means, covariances, weights)
    variances = covariances.detach().double().diagonal(dim1=-2, dim2=-1)
    bounds = footprints(means.detach().double(), variances, box_size, voxel_size, cutoff)
    return _backend(backend).voxelize(means, covariances, weights, bounds, box_size=box_size, voxel_size=voxel_size)


def _backend(name: str | None) -> ModuleType:
    reasons = available_backends()
    if name is None:
        name = next(n for n, reason in reasons.items() if reason is None)
    if name not in _BACKENDS:
        raise ValueError(f"there is no backend {name!r}; there are {', '.join(_BACKENDS)}")
    if reasons[name] is not None:
        raise RuntimeError(f"backend {name} does not work here: {reasons[name]}")
    return _BACKENDS[name]


def _check(means: Tensor, covariances: Tensor, weights: Tensor) -> None:
    n = len(means)
    if means.shape != (n, 3) or covariances.shape != (n, 3, 3) or weights.shape != (n,):
        raise ValueError(
            "means, covariances and weights must be (n, 3), (n, 3, 3) and (n,), not "
            f"{tuple(means.shape)}, {tuple(covariances.shape)} and {tuple(weights.shape)}"
        )
    finite = torch.isfinite(means).all(1) & torch.isfinite(covariances).flatten(1).all(1) & torch.isfinite(weights)
    if not finite.all():
        raise ValueError(f"Gaussian {int((~finite).nonzero()[0])} is not finite")
