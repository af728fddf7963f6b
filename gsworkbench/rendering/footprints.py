"""Footprints: which samples a Gaussian reaches, as integers. The one rule, in float64, that every backend follows.

`kernels/footprint.h` repeats it in C++ to the same integers, which a test compares.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def image_footprints(
    means: Tensor, covariances: Tensor, rotations: Tensor, box_size: int, pixel_size: float, cutoff: float | None
) -> Tensor:
    """Bounds (b, n, 2, 2) of projections; means (n, 3), covariances (n, 3, 3), rotations (b, 3, 3)."""
    means, covariances, rotations = (t.detach().double() for t in (means, covariances, rotations))
    rows = rotations[:, :2, :] / pixel_size
    outer = (rows[..., :, None] * rows[..., None, :]).flatten(2)  # (b, 2, 9): A S A^T is linear in S
    centres, variances = (rows @ means.mT).mT, (outer @ covariances.flatten(1).mT).mT
    return footprints(centres, variances, box_size, cutoff)


def volume_footprints(
    means: Tensor, covariances: Tensor, box_size: int, voxel_size: float, cutoff: float | None
) -> Tensor:
    """Bounds (n, 3, 2) in a volume; means (n, 3), covariances (n, 3, 3)."""
    variances = covariances.detach().double().diagonal(dim1=-2, dim2=-1) / voxel_size**2
    return footprints(means.detach().double() / voxel_size, variances, box_size, cutoff)


def footprints(centres: Tensor, variances: Tensor, box_size: int, cutoff: float | None) -> Tensor:
    """Integer bounds of the tight boxes of `cutoff` standard deviations around Gaussians.

    centres, variances : (..., n, d) float64, in samples from the box centre and their squares, axis order x, y(, z).
    Returns (..., n, d, 2) int64: first sample and one past the last, clipped to [0, box_size]; empty (0, 0) where the
    box is missed. A sample on the boundary counts.
    """
    first = torch.zeros_like(centres, dtype=torch.int64)
    last = torch.full_like(first, box_size)
    if cutoff is not None and not math.isinf(cutoff):
        centre = centres + box_size // 2
        reach = (cutoff**2 * variances.clamp_min(0)).sqrt()
        first = (centre - reach).ceil().clamp(0, box_size).long()
        last = ((centre + reach).floor() + 1).clamp(0, box_size).long()
    bounds = torch.stack([first, last], dim=-1)
    missed = (last <= first).any(-1)
    bounds[missed] = 0
    return bounds
