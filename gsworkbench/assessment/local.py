"""Local resolution: the FSC of two half maps inside a window that moves over the map (Cardone et al. 2013).

At each point both maps are multiplied by a Hann window of revolution and their FSC is read where it first falls below
a threshold, interpolated between shells. The window smears frequencies by about one over its width: no finer
difference can be seen, and the sharp end of a strong signal reads up to a shell of the window too fine. Where the maps
have no power a window still has some, carried there from coarser shells and alike in both: no curve is read beyond.
Window and step are part of every result.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.spatial import cKDTree

from gsworkbench.assessment.fsc import shell_indices, shell_weights
from gsworkbench.assessment.masks import Mask
from gsworkbench.assessment.power import last_shell, own_shells, spectrum
from gsworkbench.assessment.transforms import threads
from gsworkbench.errors import InputError
from gsworkbench.io.mrc import Map

_NOTHING = 1e-9  # of the mean power in a window: one with less holds the rounding of what lies around it
_BATCH = 64  # windows transformed at a time, small enough for the cache of a core


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
    if step is not None and not step > 0:
        raise InputError(f"the step must be positive, not {step:g} A")
    width = 2 * round((max(40.0, 16 * voxel_size) if window is None else window) / voxel_size / 2)
    stride = max(1, round((width * voxel_size / 8 if step is None else step) / voxel_size))
    if not 8 <= width <= len(map_1):
        raise InputError(f"a window of {width} voxels does not suit a box of {len(map_1)}", remedy="give 8 or more")
    points = _points(mask.values, stride)
    if not len(points):
        raise InputError("no point of the sampling grid lies inside the mask")
    pair = [np.pad(np.asarray(m, np.float32), width // 2, mode="wrap") for m in (map_1, map_2)]
    batches = [points[i : i + _BATCH] for i in range(0, len(points), _BATCH)]
    with ThreadPoolExecutor(threads()) as pool:
        found = list(pool.map(lambda batch: _curves(pair[0], pair[1], batch, width), batches))
    curves, least, own = (np.concatenate(parts) for parts in zip(*found, strict=True))
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


def first_crossings(curves: NDArray[np.floating], threshold: float) -> NDArray[np.float64]:
    """(n,) shell where each of the (n, shells) curves first falls below `threshold` from shell 1 on, interpolated.

    1 if it is below at once; the number of shells if it never is. Shells without power count as below.
    """
    above = np.nan_to_num(curves[:, 1:], nan=-1.0) - threshold
    below = above < 0
    first = np.where(below.any(1), below.argmax(1), above.shape[1])  # above[:, i] is shell i + 1
    rows, inner = np.arange(len(above)), (first > 0) & (first < above.shape[1])
    before, after = above[rows, np.maximum(first - 1, 0)], above[rows, np.minimum(first, above.shape[1] - 1)]
    fraction = np.divide(before, before - after, out=np.zeros(len(above)), where=inner)
    return np.where(first == above.shape[1], curves.shape[1], np.maximum(first + fraction, 1))


def _points(mask: Map, stride: int) -> NDArray[np.int64]:
    """Points of a cubic lattice through the box centre, inside the mask."""
    axis = np.arange(len(mask) // 2 % stride, len(mask), stride)
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    return grid[mask[tuple(grid.T)] > 0.5]


def _curves(
    map_1: Map, map_2: Map, points: NDArray[np.int64], width: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """(n, width // 2) FSC of the windows around `points`, of maps padded by half a window; (n,) the power in them, of
    the map that has less; (n,) the last shell that holds power of both maps' own."""
    spectra = [_spectra(m, points, width) for m in (map_1, map_2)]
    first, second = spectra
    shells, weights = shell_indices(width).ravel(), np.broadcast_to(shell_weights(width), first.shape[1:]).ravel()
    n = width // 2
    kept = shells < n
    # One sparse sum for all windows: rows of `products` are added up by shell.
    order = np.argsort(shells[kept], kind="stable")
    starts = np.searchsorted(shells[kept][order], np.arange(n))

    def shell_sums(products: NDArray[np.floating]) -> NDArray[np.float64]:
        flat = (products.reshape(len(points), -1) * weights)[:, kept][:, order]
        return np.add.reduceat(flat.astype(np.float64), starts, axis=1)

    cross = shell_sums((first * second.conj()).real)
    powers = [shell_sums(np.abs(spectrum) ** 2) for spectrum in spectra]
    power = powers[0] * powers[1]
    curves = np.divide(cross, np.sqrt(power), out=np.full(cross.shape, np.nan), where=power > 0)
    counts = np.bincount(shells[kept], weights[kept], minlength=n)
    own = [own_shells(shell_power / counts, width) for shell_power in powers]
    return curves, np.minimum(powers[0].sum(1), powers[1].sum(1)), np.minimum(own[0], own[1])


def _spectra(padded: Map, points: NDArray[np.int64], width: int) -> NDArray[np.complexfloating]:
    """(n, width, width, width // 2 + 1) transforms of windows; their mean under the window is taken off first."""
    windows = np.lib.stride_tricks.sliding_window_view(padded, (width,) * 3)[tuple(points.T)]
    axis = (np.arange(width) - width // 2) / (width / 2)
    radius = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
    hann = np.where(radius < 1, 0.5 * (1 + np.cos(np.pi * radius)), 0).astype(np.float32)
    mean = np.tensordot(windows, hann, 3) / hann.sum()
    return fft.rfftn((windows - mean[:, None, None, None]) * hann, axes=(1, 2, 3))


def _filled(points: NDArray[np.int64], values: NDArray[np.float64], mask: Map) -> NDArray[np.float32]:
    """Voxels inside the mask take the spatial frequency of the nearest points, weighted by 1 / distance^2, in A."""
    inside = np.argwhere(mask > 0.5)
    distance, nearest = cKDTree(points).query(inside, k=np.arange(1, min(8, len(points)) + 1), workers=threads())
    weights = 1 / np.maximum(distance, 0.5) ** 2
    filled = np.zeros(mask.shape, np.float32)
    filled[tuple(inside.T)] = weights.sum(1) / (weights / values[nearest]).sum(1)
    return filled
