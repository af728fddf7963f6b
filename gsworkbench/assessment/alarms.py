"""What should make a reader doubt an FSC: every alarm is a function that returns a sentence, or None.

`gather` collects them. An alarm says what was seen and what it means; none of them changes a number.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from gsworkbench.assessment.fsc import FscCurve, Resolution, fourier_shell_correlation, shell_indices
from gsworkbench.assessment.masks import Mask
from gsworkbench.assessment.transforms import transform
from gsworkbench.io.mrc import Map

_PATTERNS = 8  # that images have in common, and that are taken out before images are compared; at most
_IMAGES_A_PATTERN = 16  # images needed to know one such pattern
FEWEST_IMAGES = 8  # fewer do not tell what they have in common
_LEAST_SCATTER = 1e-4  # of a Fourier component, relative to the largest: rounding counts for nothing


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


def units_in_both_halves(unit: NDArray[np.integer], half_set: NDArray[np.integer]) -> str | None:
    """Specimens of several images (filaments, particles of tilt series) with images in half set 1 and in half set 2."""
    first, second = (np.unique(unit[half_set == half]) for half in (1, 2))
    shared = len(np.intersect1d(first, second))
    if not shared:
        return None
    return (
        f"images of one filament, or tilt images of one particle, are in both half sets, of {shared:,} of "
        f"{len(np.unique(unit)):,}: the halves are not independent, and the half-map FSC reads too high"
    )


def fingerprints(images: NDArray[np.floating], n_components: int = 512) -> NDArray[np.complex64]:
    """(n, m) Fourier components of images (n, D, D), the same ones of each: what `identical_images` compares."""
    size = images.shape[-1]
    ky, kx = np.meshgrid(np.fft.fftfreq(size, 1 / size), np.arange(size // 2 + 1), indexing="ij")
    inside = np.flatnonzero((np.hypot(ky, kx) < size / 2) & (kx > 0))
    chosen = np.random.default_rng(0).permutation(inside)[:n_components]
    return np.fft.rfft2(images).reshape(len(images), -1)[:, chosen].astype(np.complex64)


def identical_images(
    components: NDArray[np.complex64], half_set: NDArray[np.integer], least: float = 0.95
) -> str | None:
    """Images of half set 1 that correlate by `least` or more with one of half set 2: copies, rescaled or inverted too.

    components : (n, m) `fingerprints` of images that have no background and no hot pixels. All components are brought
    to one scatter, and the few patterns that most images share (a mean particle, a common gradient, a fixed pattern of
    the camera) are taken out of each, so that noise, which copies share, counts most. Two images of alike views are
    taken for copies only where there is next to no noise; give a higher `least` then. Blank images are not compared.
    """
    flat = np.ascontiguousarray(components).view(np.float32).reshape(len(components), -1).astype(np.float32)
    filled = np.linalg.norm(flat, axis=1) > 0
    flat, halves = _unit_rows(flat[filled]), half_set[filled]
    if len(flat) < FEWEST_IMAGES:
        return None
    patterns = min(_PATTERNS, max(len(flat) // _IMAGES_A_PATTERN, 1))
    scatter = np.sqrt(np.square(flat).mean(0))
    flat = _unit_rows(flat / np.maximum(scatter, _LEAST_SCATTER * scatter.max()))
    _, vectors = np.linalg.eigh(flat.T @ flat)
    shared = vectors[:, -patterns:]
    flat = _unit_rows(flat - (flat @ shared) @ shared.T)
    first, second = flat[halves == 1], flat[halves == 2]
    found = sum(int((np.abs(first[i : i + 1024] @ second.T) >= least).any(1).sum()) for i in range(0, len(first), 1024))
    return _shared("copies of the same image are", found, min(len(first), len(second)))


def _unit_rows(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float32).tiny)


def near_coordinates(
    micrographs: NDArray[np.integer], coordinates: NDArray[np.floating], half_set: NDArray[np.integer], distance: float
) -> str | None:
    """Particles of one micrograph in different half sets closer than `distance`: the same particle picked twice.

    micrographs (n,) their numbers; coordinates (n, 2) and distance in A.
    """
    from scipy.spatial import cKDTree

    # Micrographs are laid side by side, farther apart than any two particles that could be near.
    apart = np.ptp(coordinates[:, 0]) + 2 * distance
    places = coordinates + np.outer(micrographs, [apart, 0])
    first, second = places[half_set == 1], places[half_set == 2]
    if not len(first) or not len(second):
        return None
    shared = int(np.isfinite(cKDTree(second).query(first, distance_upper_bound=distance)[0]).sum())
    return _shared(f"particles closer than {distance:g} A to each other are", shared, min(len(first), len(second)))


def _shared(what: str, shared: int, of: int) -> str | None:
    if not shared:
        return None
    return f"{what} in both half sets, {shared:,} of {of:,}: the half-map FSC cannot fall below {shared / of:.3g}"


def shared_initialisation(
    half_1: Map, half_2: Map, initial: Map, resolution: Resolution, mask: Mask | None = None
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


def mask_still_agrees(
    randomised: FscCurve, corrected: Resolution, from_shell: int, most: float = 0.1, reach: int = 4
) -> str | None:
    """Random phases that agree by more than `most` at the resolution read: a mask too tight or too hard.

    Every mask carries what agrees below `from_shell` some shells beyond it. So the curve of random phases is read
    `reach` shells from their start or farther, in the last shell if there is no crossing, and not at all if Nyquist is
    closer.
    """
    last = randomised.box_size // 2 - 1
    shell = last if corrected.shell is None else max(round(corrected.shell), from_shell + reach)
    if not from_shell + reach <= shell <= last or not randomised.values[shell] > most:
        return None
    angstrom = randomised.box_size * randomised.voxel_size / shell
    return (
        f"maps of random phases agree by {randomised.values[shell]:.2f} at {angstrom:.2f} A, "
        f"{shell - from_shell} shells beyond where they became random: the mask is too tight or too hard"
    )


def fits_noise(substituted: FscCurve, from_shell: int, most: float = 0.05) -> str | None:
    """Fits to particles of random phases that agree by more than `most` on average, from `from_shell` to Nyquist."""
    beyond = np.nan_to_num(substituted.values[from_shell : substituted.box_size // 2])
    if not len(beyond) or beyond.mean() <= most:
        return None
    edge = substituted.box_size * substituted.voxel_size
    return (
        f"fits to random phases agree by {beyond.mean():.2f} on average beyond {edge / from_shell:.2f} A: so much of "
        "the half-map FSC there is overfitting, a shared prior or the mask"
    )


def agree_where_empty(half_1: Map, half_2: Map, curve: FscCurve) -> str | None:
    """Half maps that are empty in the corners of the box and still agree by more than 0.5 in the last shells.

    Maps cut off in Fourier space, or made of smooth pieces, and then multiplied by a mask agree beyond the cut-off,
    about the mask, where the same maps without it agree by less than 0.1. Random phases cannot take that out again.
    """
    n = len(half_1)
    axis = np.arange(n) - n // 2
    corners = axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2 > (n / 2) ** 2
    for half in (half_1, half_2):
        level = float(np.median(half[corners].astype(np.float64)))  # of the solvent, which need not be 0
        if np.abs(half[corners] - level).mean() > 1e-4 * np.abs(half - level).mean():
            return None
    last = np.nan_to_num(curve.values[3 * n // 8 : n // 2]).mean()
    if not last > 0.5:
        return None
    return (
        f"the half maps are empty outside the particle and agree by {last:.2f} up to Nyquist: maps that were filtered "
        "and then masked do so whatever they show; give half maps that are neither"
    )


def same_map_twice(half_1: Map, half_2: Map) -> str | None:
    """Half maps that are one map, whatever its scale and offset: their FSC is 1 and says nothing."""
    a, b = (half.astype(np.float64).ravel() - half.mean(dtype=np.float64) for half in (half_1, half_2))
    if a @ b < (1 - 1e-9) * np.sqrt((a @ a) * (b @ b)):
        return None
    return "the two half maps are the same map: their agreement says nothing about resolution"


def unlike_scales(half_1: Map, half_2: Map, most: float = 1.5) -> str | None:
    """Half maps whose standard deviations differ by more than a factor `most`: their mean is not that of all data."""
    ratio = float(half_1.std(dtype=np.float64) / half_2.std(dtype=np.float64))
    if 1 / most <= ratio <= most:
        return None
    return (
        f"half map 1 has {ratio:.3g} times the standard deviation of half map 2: the FSC does not see it, but their "
        "mean, and what is made of it, is that of one half"
    )


def held_out_disagrees(fitted: NDArray[np.floating], held_out: NDArray[np.floating], mean_fsc: float) -> str | None:
    """A fit that particles held out of it do not bear out, however well half maps agree (`mean_fsc`).

    fitted, held_out : (n,) errors in the course of a fit, per particle, on those fitted and on those held out, without
    the constant power of the images: zero for an empty map, negative for one that explains them. Rings where the
    held-out error ends more than 2 % of its best above its best, or explains less than half of what the fitted ones'
    does.
    """
    best, last = float(held_out.min()), float(held_out[-1])
    half_maps = f"while half maps agree by {mean_fsc:.2f} in the mean"
    if fitted[-1] < 0 and last > 0.5 * fitted[-1]:
        share = max(last / fitted[-1], 0.0)
        return (
            f"the fit explains of held-out particles {100 * share:.0f} % of what it explains of its own, {half_maps}: "
            "the rest is fitted noise"
        )
    if best < 0 and last - best > 0.02 * abs(best):
        rise = 100 * (last - best) / abs(best)
        return (
            f"the error on held-out particles ends {rise:.0f} % above its best, {half_maps}: the fit went on into the "
            "noise"
        )
    return None


def shared_bias(mean_overstatement: float, most: float = 0.02) -> str | None:
    """Half maps that agree more than the truth allows (honesty.py), by `most` or more in the mean."""
    if mean_overstatement < most:
        return None
    return (
        f"the half maps agree by {mean_overstatement:.3f} more, in the mean over shells, than the truth allows: they "
        "share a bias, and their FSC overstates the resolution"
    )


VARIANTS = ("its sign flipped", "its hand inverted", "half its size", "twice its size")


def unlike_truth(volume: Map, truth: Map, what: str = "truth", margin: float = 0.1) -> str | None:
    """A map that agrees with the truth, or a model, by `margin` more after its sign, hand or magnification is changed.

    what : "truth" or "model", for the sentence. Both (D, D, D) are compared by correlation, below 0.4 of Nyquist, where
    every map has signal.
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

    volume = volume - volume.mean(dtype=np.float64)  # beyond its box, a map that is shrunk is zero
    as_given = likeness(volume)
    mirrored = max(likeness(np.roll(volume[flip], 1, axes)) for flip, axes in _MIRRORS)
    changed = dict(zip(VARIANTS, (-as_given, mirrored, likeness(scaled(0.5)), likeness(scaled(2.0))), strict=True))
    best = max(changed, key=lambda name: changed[name])
    if changed[best] < as_given + margin or changed[best] < 0.3:
        return None
    return (
        f"the map agrees better with the {what} with {best}: correlation {changed[best]:.2f} instead of {as_given:.2f}"
    )


_BACK = slice(None, None, -1)
# The inverted hand comes as a point inversion (psi turned by 180 degrees) or as a mirror image along z.
_MIRRORS: tuple[tuple[tuple[slice, ...], tuple[int, ...]], ...] = (
    ((_BACK, _BACK, _BACK), (0, 1, 2)),
    ((_BACK, slice(None), slice(None)), (0,)),
)
