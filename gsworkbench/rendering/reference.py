"""The readable definition of project() and voxelize(): dense, any dtype, differentiated by torch. Never optimised.

Every Gaussian is evaluated at every pixel and multiplied by the indicator of its footprint, one image at a time.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gsworkbench.rendering.footprints import image_footprints, volume_footprints


def unavailable_because() -> str | None:
    return None


def supports(tensor: Tensor) -> bool:
    return tensor.is_floating_point()


def image_moments(means: Tensor, covariances: Tensor, rotations: Tensor) -> tuple[Tensor, Tensor]:
    """Means (b, n, 2) and covariances (b, n, 2, 2) of the projections: the xy part of A m and A S A^T."""
    a = rotations[:, None, :2, :]  # (b, 1, 2, 3)
    return (a @ means[None, :, :, None])[..., 0], a @ covariances[None] @ a.mT


def project(
    means: Tensor,
    covariances: Tensor,
    weights: Tensor,
    rotations: Tensor,
    *,
    box_size: int,
    pixel_size: float,
    cutoff: float | None,
) -> Tensor:
    """(b, box_size, box_size); `rotations` are (b, 3, 3)."""
    bounds = image_footprints(means, covariances, rotations, box_size, pixel_size, cutoff)
    centres, variances = image_moments(means, covariances, rotations)
    images = [
        _sample(c, v, weights, b, box_size, pixel_size) for c, v, b in zip(centres, variances, bounds, strict=True)
    ]
    return torch.stack(images) if images else means.new_zeros(0, box_size, box_size)


def voxelize(
    means: Tensor,
    covariances: Tensor,
    weights: Tensor,
    *,
    box_size: int,
    voxel_size: float,
    cutoff: float | None,
) -> Tensor:
    """(box_size, box_size, box_size) = z, y, x."""
    bounds = volume_footprints(means, covariances, box_size, voxel_size, cutoff)
    return _sample(means, covariances, weights, bounds, box_size, voxel_size)


def _sample(
    means: Tensor, covariances: Tensor, weights: Tensor, bounds: Tensor, box_size: int, spacing: float
) -> Tensor:
    """Sum of w N(x; m, S) over Gaussians at the samples of a d-dimensional grid; the last array axis is x."""
    d = means.shape[-1]
    axis = torch.arange(box_size, device=means.device)
    index = torch.cartesian_prod(*[axis] * d).flip(-1)  # (box_size^d, d), columns x, y(, z)
    x = (index - box_size // 2).to(means.dtype) * spacing
    offset = x[None] - means[:, None]  # (n, box_size^d, d)
    inside = ((index >= bounds[:, None, :, 0]) & (index < bounds[:, None, :, 1])).all(-1)
    exponent = -0.5 * torch.einsum("npi,nij,npj->np", offset, torch.linalg.inv(covariances), offset)
    amplitude = weights / torch.sqrt((2 * math.pi) ** d * torch.linalg.det(covariances))
    density = amplitude[:, None] * torch.exp(exponent) * inside
    return density.sum(0).reshape([box_size] * d)
