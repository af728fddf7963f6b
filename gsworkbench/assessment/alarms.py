"""What should make a reader doubt an FSC: every alarm is a function that returns a sentence, or None.

`gather` collects them. An alarm says what was seen and what it means; none of them changes a number.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from gsworkbench.assessment.fsc import FscCurve, Resolution, fourier_shell_correlation, shell_indices
from gsworkbench.assessment.transforms import transform

Map = NDArray[np.floating]


def gather(alarms: Iterable[str | None]) -> list[str]:
    """Return the sentences among `alarms`, each once, in order."""
    return list(dict.fromkeys(alarm for alarm in alarms if alarm))


def particles_in_both_halves(
    file_index: NDArray[np.integer], image_index: NDArray[np.integer], half_set: NDArray[np.integer]
) -> str | None:
    """Images, keyed by file and place in it, that are in half set 1 and in half set 2. All (n,)."""
    keys = np.stack([file_index, image_index], axis=1)
    first, second = (np.unique(keys[half_set == half], axis=0) for half in (1, 2))
    shared = len(first) + len(second) - len(np.unique(np.concatenate([first, second]), axis=0))
    return _shared("the same images are", shared, min(len(first), len(second)))


def identical_images(images: NDArray[np.floating], half_set: NDArray[np.integer], least: float = 0.9) -> str | None:
    """Images (n, D, D) of half set 1 that correlate by `least` or more with one of half set 2: copies, rescaled or not.

    Images are binned to 16 to 31 px a side first; noise of cryo-EM images alone does not correlate like that.
    """
    step = max(1, images.shape[-1] // 16)
    side = images.shape[-1] // step
    binned = images[:, : side * step, : side * step].reshape(len(images), side, step, side, step).mean((2, 4))
    flat = binned.reshape(len(images), -1).astype(np.float32)
    flat = flat - flat.mean(1, keepdims=True)
    flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    first, second = flat[half_set == 1], flat[half_set == 2]
    shared = sum(int((first[i : i + 4096] @ second.T >= least).any(1).sum()) for i in range(0, len(first), 4096))
    return _shared("copies of the same image are", shared, min(len(first), len(second)))


def near_coordinates(
    micrographs: NDArray[np.integer], coordinates: NDArray[np.floating], half_set: NDArray[np.integer], distance: float
) -> str | None:
    """Particles of one micrograph in different half sets closer than `distance`: the same particle picked twice.

    micrographs (n,) their numbers; coordinates (n, 2) and distance in one unit, px or A.
    """
    from scipy.spatial import cKDTree

    # Micrographs are laid side by side, farther apart than any two particles that could be near.
    apart = np.ptp(coordinates[:, 0]) + 2 * distance
    places = coordinates + np.outer(micrographs, [apart, 0])
    first, second = places[half_set == 1], places[half_set == 2]
    if not len(first) or not len(second):
        return None
    shared = int(np.isfinite(cKDTree(second).query(first, distance_upper_bound=distance)[0]).sum())
    return _shared(f"particles closer than {distance:g} to each other are", shared, min(len(first), len(second)))


def _shared(what: str, shared: int, of: int) -> str | None:
    if not shared:
        return None
    return f"{what} in both half sets, {shared:,} of {of:,}: the half-map FSC cannot fall below {shared / of:.3g}"


def shared_initialisation(
    half_1: Map, half_2: Map, initial: Map, resolution: Resolution, mask: Map | None = None
) -> str | None:
    """Half maps that owe their agreement to the map they both started from.

    If each half agrees with the initial map by r1 and r2, the initial map alone makes them agree by r1 r2. The alarm
    is raised where that is more than a third of what they share, in the outer half of the shells up to the resolution.
    """
    size = resolution.voxel_size
    f, r1, r2 = (
        fourier_shell_correlation(a, b, voxel_size=size, mask=mask).values
        for a, b in ((half_1, half_2), (half_1, initial), (half_2, initial))
    )
    last = round(resolution.shell) if resolution.shell is not None else len(half_1) // 2 - 1
    shells = slice(max(last // 2, 1), last + 1)
    share = np.nan_to_num(r1 * r2)[shells].sum() / max(np.nan_to_num(f)[shells].sum(), 1e-9)
    if share < 1 / 3:
        return None
    low, high = (len(half_1) * size / s for s in (shells.start, last))
    return (
        f"the map both halves started from explains {100 * min(share, 1):.0f} % of their agreement between {low:.1f} "
        f"and {high:.1f} A: they are not independent; start from a map low-passed well below that"
    )


def rises_again(curve: FscCurve, error: NDArray[np.floating], height: float = 0.143) -> str | None:
    """A curve that falls below `height` and later exceeds it again by more than 4 of its standard errors."""
    end = curve.box_size // 2
    values = np.nan_to_num(curve.values[:end])
    below = np.flatnonzero(values[1:] < height) + 1
    if not len(below):
        return None
    beyond = np.arange(below[0], end)
    again = beyond[values[beyond] > height + 4 * np.nan_to_num(error[beyond])]
    if not len(again):
        return None
    dip = below[0] + int(np.argmin(values[below[0] : again[0]]))
    peak = again[int(np.argmax(values[again]))]
    edge = curve.box_size * curve.voxel_size
    return (
        f"{curve.name} falls to {values[dip]:.2f} at {edge / dip:.2f} A and rises again to {values[peak]:.2f} at "
        f"{edge / peak:.2f} A: what agrees there need not be signal (duplicates, masks, a shared prior)"
    )


def empty_shells(curve: FscCurve) -> str | None:
    """Shells in which a map has no power, so that there is no FSC: NaN here, 1 in some programs."""
    empty = np.flatnonzero(np.isnan(curve.values[1 : curve.box_size // 2])) + 1
    if not len(empty):
        return None
    edge = curve.box_size * curve.voxel_size
    return (
        f"{curve.name} has no value in {len(empty)} shells from {edge / empty[0]:.2f} A on: the maps have no power "
        "there, which is no agreement"
    )


def reaches_too_far(unmasked: Resolution, corrected: Resolution) -> str | None:
    """An unmasked curve that reaches further than the corrected one: the mask takes signal away."""
    end = unmasked.box_size / 2
    reach = [r.shell if r.shell is not None else end for r in (unmasked, corrected)]
    if reach[0] <= reach[1]:
        return None
    return (
        f"the unmasked FSC reaches further ({_said(unmasked)}) than the corrected one ({_said(corrected)}): the mask "
        "cuts into the map, or the half maps share what lies outside it"
    )


def _said(resolution: Resolution) -> str:
    return "no crossing" if resolution.angstrom is None else f"{resolution.angstrom:.2f} A"


def mask_still_agrees(randomised: FscCurve, corrected: Resolution, most: float = 0.1) -> str | None:
    """Random phases that agree by more than `most` at the resolution read: a mask too tight or too hard."""
    shell = round(corrected.shell) if corrected.shell is not None else randomised.box_size // 2 - 1
    value = randomised.values[shell]
    if not value > most:
        return None
    return f"maps of random phases agree by {value:.2f} at the resolution read: the mask is too tight or too hard"


def agree_where_empty(half_1: Map, half_2: Map, curve: FscCurve) -> str | None:
    """Half maps that are empty in the corners of the box and still agree by more than 0.5 in the last shells.

    Maps cut off in Fourier space, or made of smooth pieces, and then multiplied by a mask agree beyond the cut-off,
    about the mask, where the same maps without it agree by less than 0.1. Random phases cannot take that out again.
    """
    n = len(half_1)
    axis = np.arange(n) - n // 2
    corners = axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2 > (n / 2) ** 2
    if any(np.abs(half[corners]).mean() > 1e-4 * np.abs(half).mean() for half in (half_1, half_2)):
        return None
    last = np.nan_to_num(curve.values[3 * n // 8 : n // 2]).mean()
    if not last > 0.5:
        return None
    return (
        f"the half maps are empty outside the particle and agree by {last:.2f} up to Nyquist: maps that were filtered "
        "and then masked do so whatever they show; give half maps that are neither"
    )


def shared_bias(mean_overstatement: float, most: float = 0.02) -> str | None:
    """Half maps that agree more than the truth allows (honesty.py), by `most` or more in the mean."""
    if mean_overstatement < most:
        return None
    return (
        f"the half maps agree by {mean_overstatement:.3f} more, in the mean over shells, than the truth allows: they "
        "share a bias, and their FSC overstates the resolution"
    )


VARIANTS = ("its sign flipped", "its hand inverted", "half its size", "twice its size")


def unlike_truth(volume: Map, truth: Map, margin: float = 0.1) -> str | None:
    """A map that agrees with the truth by `margin` more after its sign, hand or magnification is changed.

    Both (D, D, D) are compared by correlation, below 0.4 of Nyquist, where every map has signal.
    """
    from scipy import ndimage

    box = len(truth)
    index = shell_indices(box)
    band = (index >= 1) & (index <= max(box // 5, 4))
    wanted = transform(truth)[band]

    def likeness(candidate: Map) -> float:
        f = transform(candidate)[band]
        norm = np.linalg.norm(f) * np.linalg.norm(wanted)
        return float((f * wanted.conj()).real.sum() / norm) if norm else 0.0

    def scaled(factor: float) -> Map:
        centre = np.full(3, box // 2)
        smooth = ndimage.gaussian_filter(volume, 1.0) if factor < 1 else volume
        return ndimage.affine_transform(smooth, np.full(3, 1 / factor), centre - centre / factor, order=1)

    as_given = likeness(volume)
    mirrored = max(likeness(np.roll(volume[flip], 1, axes)) for flip, axes in _MIRRORS)
    changed = dict(zip(VARIANTS, (-as_given, mirrored, likeness(scaled(0.5)), likeness(scaled(2.0))), strict=True))
    best = max(changed, key=lambda name: changed[name])
    if changed[best] < as_given + margin or changed[best] < 0.3:
        return None
    return (
        f"the map agrees better with the truth with {best}: correlation {changed[best]:.2f} instead of {as_given:.2f}"
    )


_BACK = slice(None, None, -1)
# The inverted hand comes as a point inversion (psi turned by 180 degrees) or as a mirror image along z.
_MIRRORS: tuple[tuple[tuple[slice, ...], tuple[int, ...]], ...] = (
    ((_BACK, _BACK, _BACK), (0, 1, 2)),
    ((_BACK, slice(None), slice(None)), (0,)),
)
