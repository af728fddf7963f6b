"""The readable definition of project() and voxelize(): dense, any dtype, differentiated by torch. Never optimised.

Every Gaussian is evaluated at every pixel and multiplied by the indicator of its footprint, one image at a time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from gsworkbench.rendering.autograd import Grid
from gsworkbench.rendering.footprints import image_footprints, volume_footprints


def unavailable_because() -> str | None:
    return None


def supports(tensor: Tensor) -> bool:
    return tensor.is_floating_point()


def image_moments(means: Tensor, covariances: Tensor, rotations: Tensor) -> tuple[Tensor, Tensor]:
    """Means (b, n, 2) and covariances (b, n, 2, 2) of the projections: the xy part of A m and A S A^T."""
    a = rotations[:, None, :2, :]  # (b, 1, 2, 3)
    return (a @ means[None, :, :, None])[..., 0], a @ covariances[None] @ a.mT


def splat(inputs: Sequence[Tensor], grid: Grid) -> Tensor:
    """Images (b, D, D) of means, covariances, weights and rotations; without rotations, a volume (D, D, D)."""
    means, covariances, weights, *rotations = inputs
    size, spacing = grid.box_size, grid.spacing
    if not rotations:
        bounds = volume_footprints(means, covariances, size, spacing, grid.cutoff)
        return _sample(means, covariances, weights, bounds, size, spacing)
    bounds = image_footprints(means, covariances, rotations[0], size, spacing, grid.cutoff)
    centres, variances = image_moments(means, covariances, rotations[0])
    images = [_sample(c, v, weights, b, size, spacing) for c, v, b in zip(centres, variances, bounds, strict=True)]
    return torch.stack(images) if images else means.new_zeros(0, size, size)


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
