"""Local resolution: the FSC of two half maps inside a window that moves over the map (Cardone et al. 2013).

At each point both maps are multiplied by a Hann window of revolution and their FSC is read where it first falls below
a threshold, interpolated between shells. The window smears frequencies by about one over its width: no finer
difference can be seen, and the sharp end of a strong signal reads up to a shell of the window too fine. Where the maps
have no power a window still has some, carried there from coarser shells and alike in both: no curve is read beyond.
Window and step are part of every result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft, sparse
from scipy.spatial import cKDTree

from gsworkbench.assessment.corrected import effective_samples
from gsworkbench.assessment.fsc import first_crossings, shell_indices, shell_weights
from gsworkbench.assessment.masks import Mask
from gsworkbench.assessment.power import last_shell, own_shells, spectrum
from gsworkbench.assessment.transforms import threads
from gsworkbench.assessment.truth_estimate import HALF_MAP_THRESHOLD, estimated_curves, told_crossings, without_spikes
from gsworkbench.errors import InputError
from gsworkbench.io.mrc import Map

_NOTHING = 1e-9  # of the mean power in a window: one with less holds the rounding of what lies around it
_BATCH = 64  # windows transformed at a time, small enough for the cache of a core
_GATHERED = 2**20  # windows whose sums are added up at a time


@dataclass(frozen=True)
class LocalResolution:
    """resolution : (D, D, D) float32 A, interpolated between the points sampled; 0 outside the mask.

    points : (n, 3) int, the voxels sampled, z, y, x. values : (n,) A at them; where the FSC stays above the threshold
    to the end, the end; the window's width where it is below it at once, or where a map holds nothing in the window.
    window, step : A. threshold : of the FSC. at_nyquist : fraction of points that never cross. finest : A, where the
    power of the maps ends: twice the voxel size in maps that nobody filtered. ended : fraction of points that stay
    above the threshold up to where the maps, or what the window shows of them, end, if that is before Nyquist. empty :
    fraction of points where a map holds nothing.
    """

    resolution: NDArray[np.float32]
    points: NDArray[np.int64]
    values: NDArray[np.float64]
    window: float
    step: float
    threshold: float
    at_nyquist: float
    mask: str
    voxel_size: float
    finest: float
    ended: float = 0.0
    empty: float = 0.0

    def __str__(self) -> str:
        low, middle, high = np.percentile(self.values, [5, 50, 95])
        where = (
            f"FSC = {self.threshold:g}, first crossing, interpolated, window {self.window:g} A, step {self.step:g} A, "
            f"{len(self.values):,} points, mask: {self.mask}, box {len(self.resolution)}, "
            f"{self.voxel_size:.4g} A/voxel; {100 * self.at_nyquist:.1f} % of the points never cross"
        )
        if self.ended:
            where += f"; {100 * self.ended:.1f} % of the points end where the maps have no power"
        if self.empty:
            where += f"; {100 * self.empty:.1f} % of the points lie where a map is empty"
        return (
            f"local resolution {middle:.2f} A in the median, {self.values.mean():.2f} A in the mean, "
            f"5 to 95 %: {low:.2f} to {high:.2f} A [{where}]"
        )


def local_resolution(
    map_1: Map,
    map_2: Map,
    *,
    voxel_size: float,
    mask: Mask,
    window: float | None = None,
    step: float | None = None,
    threshold: float = 0.5,
) -> LocalResolution:
    """Return the local resolution of two maps: half maps, or a map and a known truth.

    At each point both maps are multiplied by a window, and their FSC is read where it first falls below the threshold.

    Parameters
    ----------
    map_1, map_2 : (D, D, D) arrays
        Maps on the same grid. Half maps must not be masked themselves, because a mask makes the windows at its edge
        agree.
    voxel_size : float
        Angstrom.
    mask : Mask
        The resolution is measured where the mask is above one half.
    window : float, optional
        Angstrom, diameter of the window. By default 40 angstrom or 16 voxels, whichever is larger. It is rounded to an
        even number of voxels.
    step : float, optional
        Angstrom between the points. By default an eighth of the window. It is rounded to a whole number of voxels.
    threshold : float
        By default 0.5, because a window holds too few voxels to tell 0.143 from noise.

    Returns
    -------
    LocalResolution
        `resolution` is a (D, D, D) array in angstrom, 0 outside the mask. As text, a summary.

    Raises
    ------
    InputError
        If window, step or threshold are impossible, or the mask is empty.

    Notes
    -----
    Cardone, Heymann and Steven 2013 (J. Struct. Biol. 184, 226).

    Examples
    --------
    >>> import numpy as np
    >>> import gsworkbench as gs
    >>> truth, voxel_size = gs.read_map("ribosome/truth.mrc")
    >>> noisy = truth + np.random.default_rng(0).normal(size=truth.shape) * truth.std()
    >>> mask = gs.Mask(truth > 2 * truth.std(), "dense voxels")
    >>> local = gs.local_resolution(noisy, truth, voxel_size=voxel_size, mask=mask)
    >>> local.resolution.shape, local.window
    ((32, 32, 32), 192.0)
    """
    if not 0 < threshold < 1:
        raise InputError(f"the threshold of an FSC must lie between 0 and 1, not {threshold:g}")
    width, stride, points = _windows(mask.values, voxel_size, window, step)
    sums = _sums((map_1, map_2), ((0, 1),), points, width)
    power = sums.powers[0] * sums.powers[1]
    curves = np.divide(sums.cross[0], np.sqrt(power), out=np.full(power.shape, np.nan), where=power > 0)
    least, own = np.minimum(*(p.sum(1) for p in sums.powers)), np.minimum(*(sums.own(i) for i in range(2)))
    last, box = last_shell(spectrum(map_1), spectrum(map_2)), len(map_1)
    end = width / 2 if last == box // 2 - 1 else max(last * width / box, 1.0)
    ends = np.minimum(np.where(own < width // 2 - 1, own, width / 2), end)
    shells = first_crossings(curves, threshold)
    empty = least <= _NOTHING * least.mean() if least.any() else np.ones(len(least), bool)
    ended = (shells > ends) & (ends < width / 2) & ~empty
    shells = np.where(empty, 1, np.minimum(shells, ends))
    values = width * voxel_size / np.clip(shells, 1, width / 2)
    return LocalResolution(
        resolution=_filled(points, values, mask.values),
        points=points,
        values=values,
        window=width * voxel_size,
        step=stride * voxel_size,
        threshold=threshold,
        at_nyquist=float(np.mean(shells >= width / 2)),
        mask=mask.description,
        voxel_size=voxel_size,
        finest=width * voxel_size / end,
        ended=float(np.mean(ended)),
        empty=float(np.mean(empty)),
    )


@dataclass(frozen=True)
class LocalEstimate:
    """Local resolution of half maps by the estimate of their FSC to the unknown truth (truth_estimate.py).

    resolution : (D, D, D) float32 A, 0 outside the mask and next to points where it cannot tell. points : (n, 3) int,
    the voxels sampled, z, y, x. values : (n,) A, where the estimate of a half map falls below 0.378, interpolated,
    twice the voxel size where it never does; NaN where it cannot tell. window, reach : A; the sums of all windows whose
    centres lie within `reach` are taken together.
    """

    resolution: NDArray[np.float32]
    points: NDArray[np.int64]
    values: NDArray[np.float64]
    window: float
    reach: float

    def __str__(self) -> str:
        untold = int(np.isnan(self.values).sum())
        said = f"cannot tell at {untold:,} of {len(self.values):,} points"
        start = "local resolution by the estimated FSC of a half map to the truth: "
        if untold == len(self.values):
            return start + said
        return (
            f"{start}{np.nanmedian(self.values):.2f} A in the median; {said}, which are 0 [estimate = "
            f"{HALF_MAP_THRESHOLD:g}, windows of {self.window:g} A, taken together within {self.reach:g} A]"
        )


def local_estimate(
    halves: tuple[Map, Map],
    linear: tuple[Map, Map],
    *,
    voxel_size: float,
    mask: Mask,
    window: float | None = None,
    step: float | None = None,
) -> LocalEstimate:
    """Read local resolution off the estimate of the FSC of two half maps to the unknown truth.

    linear : unfiltered linear maps of the same half sets, in the same order. Windows and points are those of
    `local_resolution`. One window holds too few Fourier voxels to say that two noisy maps agree. Sums are therefore
    taken over all windows whose centres lie within half a window, and all shells up to the crossing, it included, must
    pass the limits of `estimate_truth_fsc` with as many samples as these windows have together.
    """
    width, stride, points = _windows(mask.values, voxel_size, window, step)
    maps = (*halves, *without_spikes(*linear))
    sums = _sums(maps, ((0, 3), (1, 2), (2, 3)), points, width)
    together, counts = _taken_together(np.stack([*sums.cross, *sums.powers]), points, width / 2)
    crossed_1, crossed_2, both, *powers = together

    def correlation(cross: NDArray[np.float64], first: int, second: int) -> NDArray[np.float64]:
        power = powers[first] * powers[second]
        return np.divide(cross, np.sqrt(power), out=np.full(cross.shape, np.nan), where=power > 0)

    ratio = np.divide(powers[3], powers[2], out=np.full(both.shape, np.nan), where=powers[2] > 0)
    crossed = correlation(crossed_1, 0, 3), correlation(crossed_2, 1, 2)
    samples = _samples(width, stride, counts)
    curves = estimated_curves(crossed, correlation(both, 2, 3), ratio, samples)
    last = last_shell(*map(spectrum, halves))
    end = width // 2 if last == len(halves[0]) // 2 - 1 else max(last * width // len(halves[0]), 1)
    ends = np.minimum(np.minimum(sums.own(0), sums.own(1)), end)
    curves[np.arange(width // 2) > ends[:, None]] = np.nan
    values = width * voxel_size / told_crossings(curves)
    resolution = np.zeros(mask.values.shape, np.float32)
    told = np.isfinite(values)
    if told.any():
        resolution = _filled(points[told], values[told], mask.values)
        inside = np.argwhere(resolution > 0)
        nearest = cKDTree(points).query(inside, workers=threads())[1]
        resolution[tuple(inside[~told[nearest]].T)] = 0
    return LocalEstimate(resolution, points, values, width * voxel_size, width * voxel_size / 2)


def _taken_together(
    sums: NDArray[np.float64], points: NDArray[np.int64], reach: float
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Sums (k, n, shells) over the windows around all points within `reach` voxels of each; how many these are."""
    tree, columns = cKDTree(points), np.concatenate(list(sums), axis=1)
    counts = np.asarray(tree.query_ball_point(points, reach + 1e-6, return_length=True, workers=threads()))
    size, together = max(1, _GATHERED // int(counts.max())), []
    for start in range(0, len(points), size):
        near = tree.query_ball_point(points[start : start + size], reach + 1e-6)
        which, ends = np.concatenate(near).astype(np.int64), np.cumsum([len(those) for those in near])
        chosen = sparse.csr_array((np.ones(len(which)), which, np.append(0, ends)), (len(near), len(points)))
        together.append(chosen @ columns)
    parts = np.split(np.concatenate(together), len(sums), axis=1)
    return np.stack(parts), counts


def _samples(width: int, stride: int, counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """(n, width // 2) real degrees of freedom of sums over `counts` (n,) windows that overlap.

    Cross terms of two windows of white noise are correlated by the overlap r of their squares. A sum over a ball of
    windows has 1 / <r> times the samples of one, <r> the mean over its pairs; one over a part of the ball its share,
    and never fewer than one.
    """
    hann = _hann(width).astype(np.float64)
    squared = np.abs(fft.rfftn(hann**2, (2 * width,) * 3)) ** 2
    overlap = fft.irfftn(squared, (2 * width,) * 3)
    reach = int(width / 2 / stride + 1e-6)
    axis = np.arange(-reach, reach + 1) * stride
    ball = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    ball = ball[(ball**2).sum(1) <= (width / 2 + 1e-6) ** 2]
    mean = float(np.mean([overlap[tuple((ball - here).T % (2 * width))].mean() for here in ball])) / overlap[0, 0, 0]
    one = effective_samples(width, Mask(hann))[: width // 2]
    return one * np.maximum(counts / len(ball) / mean, 1)[:, None]


def _windows(
    mask: Map, voxel_size: float, window: float | None, step: float | None
) -> tuple[int, int, NDArray[np.int64]]:
    """Width of the windows and stride between them, in voxels, and their centres inside the mask."""
    if step is not None and not step > 0:
        raise InputError(f"the step must be positive, not {step:g} A")
    width = 2 * round((max(40.0, 16 * voxel_size) if window is None else window) / voxel_size / 2)
    stride = max(1, round((width * voxel_size / 8 if step is None else step) / voxel_size))
    if not 8 <= width <= len(mask):
        raise InputError(f"a window of {width} voxels does not suit a box of {len(mask)}", remedy="give 8 or more")
    points = _points(mask, stride)
    if not len(points):
        raise InputError("no point of the sampling grid lies inside the mask")
    return width, stride, points


def _points(mask: Map, stride: int) -> NDArray[np.int64]:
    """Points of a cubic lattice through the box centre, inside the mask."""
    axis = np.arange(len(mask) // 2 % stride, len(mask), stride)
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    return grid[mask[tuple(grid.T)] > 0.5]


@dataclass(frozen=True)
class _Sums:
    """cross : of each pair of maps, powers : of each map; (n, width // 2), shell by shell of n windows."""

    cross: list[NDArray[np.float64]]
    powers: list[NDArray[np.float64]]

    def own(self, number: int) -> NDArray[np.int64]:
        """(n,) the last shell that holds power of a map's own."""
        width = 2 * self.powers[number].shape[1]
        shells, weights = (
            shell_indices(width).ravel(),
            np.broadcast_to(shell_weights(width), (width, width, width // 2 + 1)),
        )
        counts = np.bincount(shells, weights.ravel(), minlength=width // 2)[: width // 2]
        return own_shells(self.powers[number] / counts, width)


def _sums(maps: Sequence[Map], pairs: Sequence[tuple[int, int]], points: NDArray[np.int64], width: int) -> _Sums:
    """Cross terms of pairs of maps, and power of each, in the windows around `points`."""
    padded = [np.pad(np.asarray(m, np.float32), width // 2, mode="wrap") for m in maps]
    batches = [points[i : i + _BATCH] for i in range(0, len(points), _BATCH)]
    shell_sums = _summed_by_shell(width)

    def of_batch(batch: NDArray[np.int64]) -> list[NDArray[np.float64]]:
        spectra = [_spectra(m, batch, width) for m in padded]
        crossed = [shell_sums((spectra[i] * spectra[j].conj()).real) for i, j in pairs]
        return crossed + [shell_sums(np.abs(spectrum) ** 2) for spectrum in spectra]

    with ThreadPoolExecutor(threads()) as pool:
        found = [np.concatenate(parts) for parts in zip(*pool.map(of_batch, batches), strict=True)]
    return _Sums(found[: len(pairs)], found[len(pairs) :])


def _summed_by_shell(width: int) -> Callable[[NDArray[np.floating]], NDArray[np.float64]]:
    """One sparse sum for all windows: it adds up (n, width, width, width // 2 + 1) by shell, to (n, width // 2)."""
    shells = shell_indices(width).ravel()
    weights = np.broadcast_to(shell_weights(width), (width, width, width // 2 + 1)).ravel()
    kept = shells < width // 2
    order = np.argsort(shells[kept], kind="stable")
    starts = np.searchsorted(shells[kept][order], np.arange(width // 2))

    def shell_sums(products: NDArray[np.floating]) -> NDArray[np.float64]:
        flat = (products.reshape(len(products), -1) * weights)[:, kept][:, order]
        return np.add.reduceat(flat.astype(np.float64), starts, axis=1)

    return shell_sums


def _spectra(padded: Map, points: NDArray[np.int64], width: int) -> NDArray[np.complexfloating]:
    """(n, width, width, width // 2 + 1) transforms of windows; their mean under the window is taken off first."""
    windows = np.lib.stride_tricks.sliding_window_view(padded, (width,) * 3)[tuple(points.T)]
    hann = _hann(width)
    mean = np.tensordot(windows, hann, 3) / hann.sum()
    return fft.rfftn((windows - mean[:, None, None, None]) * hann, axes=(1, 2, 3))


def _hann(width: int) -> NDArray[np.float32]:
    """Hann window of revolution."""
    axis = (np.arange(width) - width // 2) / (width / 2)
    radius = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
    return np.where(radius < 1, 0.5 * (1 + np.cos(np.pi * radius)), 0).astype(np.float32)


def _filled(points: NDArray[np.int64], values: NDArray[np.float64], mask: Map) -> NDArray[np.float32]:
    """Voxels inside the mask take the spatial frequency of the nearest points, weighted by 1 / distance^2, in A."""
    inside = np.argwhere(mask > 0.5)
    distance, nearest = cKDTree(points).query(inside, k=np.arange(1, min(8, len(points)) + 1), workers=threads())
    weights = 1 / np.maximum(distance, 0.5) ** 2
    filled = np.zeros(mask.shape, np.float32)
    filled[tuple(inside.T)] = weights.sum(1) / (weights / values[nearest]).sum(1)
    return filled
