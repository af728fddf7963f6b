"""Are two half maps what they are taken for: independent, unfiltered, unmasked, on one scale and in register?

Each function returns a sentence or None; `half_map_alarms` gathers them, for every command that takes two maps.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from gsworkbench.assessment import alarms
from gsworkbench.assessment.fsc import shell_indices
from gsworkbench.assessment.masks import Mask, doubtful_mask
from gsworkbench.assessment.power import CLIFF, Spectrum, cliff, spectrum
from gsworkbench.assessment.register import out_of_register
from gsworkbench.assessment.transforms import coarser, inverse, transform
from gsworkbench.io.mrc import Map

_OUTSIDE = 0.45  # of the box: farther from its centre than this there is solvent
_SHARED = 0.2  # correlation of the noise of two half maps
_COMPARED_BOX = 96  # voxels: larger maps are compared as coarse as this, which takes a second


def half_map_alarms(half_1: Map, half_2: Map, voxel_size: float, mask: Mask | None = None) -> list[str]:
    """Return what two (D, D, D) half maps are not; mask : the one that was made of them."""
    same = alarms.same_map_twice(half_1, half_2)
    others = [] if same else [out_of_register(half_1, half_2, voxel_size), shared_noise(half_1, half_2)]
    filtered = _first(power_ends(spectrum(half), voxel_size) for half in (half_1, half_2))
    masked = _first(masked_already(half) for half in (half_1, half_2))
    scales = alarms.unlike_scales(half_1, half_2)
    return alarms.gather([same, scales, *others, filtered, masked, doubtful_mask(mask)])


def power_ends(found: Spectrum, voxel_size: float) -> str | None:
    """A map that holds nothing, or next to nothing, beyond a shell: filtered, or enlarged in Fourier space."""
    box, last = 2 * len(found.power), found.last
    edge = box * voxel_size
    if 0 < last < len(found.power) - 1:
        return (
            f"the half maps hold no power beyond {edge / last:.2f} A (shell {last} of {box // 2}): they were low-pass "
            f"filtered there, or enlarged from voxels of about {edge / last / 2:.3g} A; nothing finer is in them"
        )
    shell, step = cliff(found.power), max(box // 32, 1)
    if shell is None:
        return None
    return (
        f"the power of the half maps falls to less than a {1 / CLIFF:,.0f}th between {edge / shell:.2f} and "
        f"{edge / (shell + step):.2f} A: they were low-pass filtered; give half maps that were not, for masked "
        "curves and local resolutions beyond that are those of the filter"
    )


def shared_noise(half_1: Map, half_2: Map) -> str | None:
    """Fine detail that two maps share outside the particle, where independent half maps have nothing in common.

    The fine half of Fourier space is looked at, farther than 0.45 boxes from the centre. Half a map's particles and all
    of them share half of the noise's power: a correlation of 0.71. Maps that hold less noise there than inside, as
    masked maps and sums of Gaussians do, and maps without fine detail have nothing to compare.
    """
    correlation = noise_correlation(half_1, half_2)
    if correlation is None or correlation < max(_SHARED, 16 / np.sqrt(half_1.size / 2)):
        return None
    return (
        "outside the particle, where independent half maps have nothing in common, the fine detail of the two "
        f"correlates by {correlation:.2f} (a half map and the map of all particles do by 0.71): they share particles "
        "or noise, and then their FSC says nothing about resolution, or the molecule reaches the edge of the box, as a "
        "filament does; give the two half maps of one refinement"
    )


def noise_correlation(half_1: Map, half_2: Map) -> float | None:
    """Return the correlation of two maps outside the particle, None where they hold no noise to compare.

    Components of each shell are brought to one scale and the strongest are cut: a few that hardly any particle has
    would else outweigh all others in maps that no filter damped.
    """
    half_1, half_2 = (coarser(half, _COMPARED_BOX) for half in (half_1, half_2))
    box = len(half_1)
    shells = shell_indices(box)
    distance = np.minimum(shells, box // 2) / (box / 2)
    band = 0.5 * (1 - np.cos(np.pi * np.clip((distance - 0.35) / 0.3, 0, 1))) * (distance < 1)
    maps = []
    for half in (half_1, half_2):
        if power_ends(spectrum(half), 1.0):
            return None
        f = transform(half)
        limit = 2 * np.sqrt(_median_power(f, shells))[np.minimum(shells, box // 2)]
        size = np.abs(f)
        maps.append(inverse(f * band * np.minimum(1, limit / np.maximum(size, 1e-300)) / np.maximum(limit, 1e-300)))
    first, second = maps
    axis = np.arange(box) - box // 2
    radius = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
    outside, inside = radius > _OUTSIDE * box, radius < box / 4
    a, b = first[outside], second[outside]
    noise_inside = float(((first - second)[inside] ** 2).mean()) / 2
    if min((a @ a), (b @ b)) / a.size < 0.3 * noise_inside:
        return None
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def _median_power(half: NDArray[np.complex128], shells: NDArray[np.int64]) -> NDArray[np.float64]:
    """(D // 2 + 1,) median power of the components of each shell."""
    n = len(half) // 2 + 1
    inside = np.flatnonzero(shells.ravel() < n)
    order = inside[np.argsort(shells.ravel()[inside], kind="stable")]
    starts = np.searchsorted(shells.ravel()[order], np.arange(1, n))
    return np.array([np.median(part) for part in np.split(np.abs(half.ravel()[order]) ** 2, starts)])


def masked_already(half: Map) -> str | None:
    """A map that is the same outside a region at whose border it ends at once, as sums of Gaussians do not.

    Compared are the voxels two to four from the border, the median of their squares, and the mean inside.
    """
    from scipy import ndimage

    flat = half == half[0, 0, 0]
    if flat.mean() < 0.1:
        return None
    near, far = (ndimage.maximum_filter(flat, size, mode="wrap") for size in (3, 9))
    ring, core = ~near & far, ~far
    if not ring.any() or not core.any():
        return None
    squares = (half.astype(np.float64) - half[0, 0, 0]) ** 2
    if not np.median(squares[ring]) > 0.002 * squares[core].mean():
        return None
    return (
        f"the half maps hold the same value in {100 * flat.mean():.0f} % of the box and end at once at its border: "
        "they were masked already, so that every curve is one inside that mask and random phases cannot correct it; "
        "give half maps that were not"
    )


def _first(sentences: Iterable[str | None]) -> str | None:
    return next((sentence for sentence in sentences if sentence), None)
