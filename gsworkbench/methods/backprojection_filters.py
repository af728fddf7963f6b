"""Backprojection and what is done to it before it is looked at: the fair rivals of a method that regularises.

Figures of merit and local resolution are measured between two halves of the particles that the map is made of: those
of the run for the map of all, two halves of the half set for a half map, so that half maps stay independent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from gsworkbench.assessment.fsc import fourier_shell_correlation, shell_indices
from gsworkbench.assessment.local import local_resolution
from gsworkbench.assessment.local_filter import locally_filtered
from gsworkbench.assessment.masks import spherical_mask
from gsworkbench.io.mrc import Volume
from gsworkbench.normal_equations.classical_map import classical_map, least_squares
from gsworkbench.normal_equations.equations import NormalEquations, accumulate
from gsworkbench.particles.stack import ParticleStack

if TYPE_CHECKING:
    from gsworkbench.methods.backprojection import Backprojection


@dataclass(frozen=True)
class Pair:
    """A map and the maps of two halves of its particles, all by least squares."""

    volume: Volume
    halves: tuple[Volume, Volume]
    voxel_size: float


def filtered_backprojection(
    stack: ParticleStack,
    config: Backprojection,
    *,
    noise_spectrum: NDArray[np.floating] | None = None,
    label: str = "backproject",
) -> Volume:
    """(D, D, D) map of all particles of a stack, in image units / A; noise_spectrum as in `accumulate`."""
    if config.filter in ("wiener", "none"):
        return filtered_sums(accumulate(stack, noise_spectrum=noise_spectrum, label=label), config)
    pair = as_pair(stack, noise_spectrum=noise_spectrum, label=label)
    return weighted_by_fsc(pair) if config.filter == "fsc" else weighted_locally(pair)


def filtered_sums(sums: NormalEquations, config: Backprojection) -> Volume:
    """The same from sums over all particles, for the filters "wiener" and "none"."""
    return classical_map(sums) if config.filter == "wiener" else least_squares(sums)


def as_pair(
    stack: ParticleStack, *, noise_spectrum: NDArray[np.floating] | None = None, label: str = "backproject"
) -> Pair:
    """Split a stack by its half sets, or where it holds one only, at every second particle; read it once."""
    first = stack.half_set == 1
    if first.all() or not first.any():
        first = np.arange(len(stack)) % 2 == 0
    sums = [
        accumulate(stack[part], noise_spectrum=_of_rows(noise_spectrum, part), label=f"{label}, half {k}")
        for k, part in enumerate((first, ~first), 1)
    ]
    halves = least_squares(sums[0]), least_squares(sums[1])
    return Pair(least_squares(sums[0] + sums[1]), halves, stack.pixel_size)


def _of_rows(spectrum: NDArray[np.floating] | None, rows: NDArray[np.bool_]) -> NDArray[np.floating] | None:
    return spectrum[rows] if spectrum is not None and spectrum.ndim == 2 else spectrum


def weighted_by_fsc(pair: Pair) -> Volume:
    """The map times sqrt(2 F / (1 + F)) in each shell, F the FSC of its halves (Rosenthal and Henderson 2003).

    From the first shell whose F is not positive on, nothing is left.
    """
    curve = np.nan_to_num(fourier_shell_correlation(*pair.halves, voxel_size=pair.voxel_size).values, nan=0.0)
    curve[0] = max(curve[0], curve[1])  # one component alone
    ends = np.flatnonzero(curve <= 0)
    curve[ends[0] if len(ends) else len(curve) :] = 0
    merit = np.sqrt(2 * curve / (1 + curve))
    shells = shell_indices(len(pair.volume))
    gain = np.where(shells < len(merit) - 1, merit[np.minimum(shells, len(merit) - 1)], 0)
    transform = fft.rfftn(pair.volume) * gain
    return fft.irfftn(transform, s=pair.volume.shape).astype(np.float32)


def weighted_locally(pair: Pair) -> Volume:
    """The map low-passed, voxel by voxel, at the local resolution of its halves; zero outside the box's sphere."""
    sphere = spherical_mask(len(pair.volume), pair.voxel_size)
    found = local_resolution(*pair.halves, voxel_size=pair.voxel_size, mask=sphere)
    return locally_filtered(pair.volume, found.resolution, voxel_size=pair.voxel_size)
