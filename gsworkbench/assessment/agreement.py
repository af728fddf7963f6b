"""Does a map agree with a known truth in scale, centre and hand? FSC alone sees none of the three."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gsworkbench.io.mrc import Map


@dataclass(frozen=True)
class Agreement:
    """slope : of map against truth, least squares with an intercept; 1 if the absolute scale is right.
    shift_voxels : how far along x, y, z the map lies from the truth. correlation : over all voxels.
    mirrored_correlation : with the truth's mirror image; the higher of the two tells the hand.
    """

    slope: float
    shift_voxels: tuple[float, float, float]
    correlation: float
    mirrored_correlation: float


def agreement(volume: Map, truth: Map) -> Agreement:
    """Compare two (D, D, D) maps. Shifts are read off to first order: good while they are below a voxel or so."""
    v, t = (m.astype(np.float64) - m.mean() for m in (volume, truth))
    # A map shifted by d is t - d . grad t + ..., so d is a linear least-squares fit.
    design = np.stack([t.ravel(), *(-g.ravel() for g in _gradients(t))])  # slope, then slope * d along x, y, z
    slope, *moved = np.linalg.solve(design @ design.T, design @ v.ravel())
    x, y, z = (float(m / slope) for m in moved)
    mirror = np.roll(t[::-1], 1, axis=0)  # index D // 2 stays the origin
    return Agreement(
        float(v.ravel() @ t.ravel() / (t.ravel() @ t.ravel())), (x, y, z), _correlation(v, t), _correlation(v, mirror)
    )


def _gradients(volume: Map) -> list[Map]:
    """Derivatives along x, y, z per voxel, exact below Nyquist."""
    transform = np.fft.fftn(volume)
    k = 2j * np.pi * np.fft.fftfreq(len(volume))
    k[len(volume) // 2] = 0
    return [np.fft.ifftn(transform * k.reshape(shape)).real for shape in ((1, 1, -1), (1, -1, 1), (-1, 1, 1))]


def _correlation(a: Map, b: Map) -> float:
    return float(a.ravel() @ b.ravel() / np.sqrt((a.ravel() @ a.ravel()) * (b.ravel() @ b.ravel())))
