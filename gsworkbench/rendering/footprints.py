"""Footprints: which pixels a Gaussian reaches, as integers, decided once for all backends."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def image_extents(means: Tensor, covariances: Tensor, rotations: Tensor) -> tuple[Tensor, Tensor]:
    """Centres and variances along x and y, both (b, n, 2), of projections: (A m)_i and (A S A^T)_ii."""
    rows = rotations[:, :2, :]
    outer = (rows[..., :, None] * rows[..., None, :]).flatten(2)  # (b, 2, 9)
    return (rows @ means.mT).mT, (outer @ covariances.flatten(1).mT).mT


def footprints(centres: Tensor, variances: Tensor, box_size: int, spacing: float, cutoff: float | None) -> Tensor:
    """Integer bounds of the tight boxes of `cutoff` standard deviations around Gaussians.

    centres, variances : (..., n, d) float64, A and A^2, axis order x, y(, z). spacing : A between samples.
    Returns (..., n, d, 2) int64: first sample and one past the last, clipped to [0, box_size]; empty (0, 0) where the
    box is missed. A sample on the boundary counts.
    """
    first = torch.zeros_like(centres, dtype=torch.int64)
    last = torch.full_like(first, box_size)
    if cutoff is not None and not math.isinf(cutoff):
        origin = box_size // 2
        centre = centres / spacing + origin
        reach = cutoff * variances.clamp_min(0).sqrt() / spacing
        first = (centre - reach).ceil().clamp(0, box_size).long()
        last = ((centre + reach).floor() + 1).clamp(0, box_size).long()
    bounds = torch.stack([first, last], dim=-1)
    missed = (last <= first).any(-1)
    bounds[missed] = 0
    return bounds
