"""Mean densities of regions with intervals: how far noise can have moved the mean of a map inside a mask.

The map and the parts of its error are those of `reconstruct --error-map`. The mean is counted from the mean of the box,
because the mean of an image, and with it that of a map, is not measured. What the interval covers is the density of
the specimen inside |k| < D / 2, as these particles with these poses and CTFs show it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gsworkbench.assessment.assess import chosen_mask
from gsworkbench.assessment.map_names import ERRORS, MAP
from gsworkbench.assessment.mask_names import MASKS
from gsworkbench.assessment.masks import Mask
from gsworkbench.assessment.of_files import read_maps
from gsworkbench.errors import InputError
from gsworkbench.io.mrc import Map, read_images, stack_shape


@dataclass(frozen=True)
class RegionMean:
    """The mean of a map inside a mask, above the mean of the box, in the units of the map.

    value : the mean. error : its standard error. interval : its ends. level : of the interval, as 0.95. n_parts : parts
    that the error was measured between. n_voxels : sum of the mask.
    """

    value: float
    error: float
    interval: tuple[float, float]
    level: float
    n_parts: int
    n_voxels: float

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:.4g} +- {self.error:.2g}, {100 * self.level:g} % interval {low:.4g} to {high:.4g}"


def region_mean(volume: Map, parts: Iterable[Map], mask: Mask | Map, *, level: float = 0.95) -> RegionMean:
    """Return the mean of a linear map inside a mask, with a standard error and an interval.

    Parameters
    ----------
    volume : (D, D, D) array
        The linear map of all particles, linear_all.mrc of `reconstruct --error-map`.
    parts : iterable of (D, D, D) arrays
        The error that each part of the particles brings into it, error_parts.mrcs.
    mask : Mask or (D, D, D) array
        Weights from 0 to 1.
    level : float
        Of the interval, between 0 and 1.

    Returns
    -------
    RegionMean
        The mean above that of the box, and the interval by Student's t for one part fewer than there are.

    Raises
    ------
    InputError
        If boxes differ, the mask is empty or fills the box, there are fewer than two parts, or the level is not
        between 0 and 1.

    Examples
    --------
    >>> import numpy as np
    >>> import gsworkbench as gs
    >>> rng = np.random.default_rng(0)
    >>> parts = rng.standard_normal((32, 8, 8, 8))
    >>> mask = np.zeros((8, 8, 8))
    >>> mask[:4, :4, :4] = 1
    >>> found = gs.region_mean(parts.sum(0), parts, mask)
    >>> bool(found.interval[0] < 0 < found.interval[1]), found.n_parts
    (True, 32)
    """
    if not 0 < level < 1:
        raise InputError(f"the level of an interval lies between 0 and 1, not at {level:g}")
    values = mask.values if isinstance(mask, Mask) else mask
    weights = _weights(values, volume.shape)
    means = []
    for part in parts:
        if part.shape != volume.shape:
            raise InputError(f"a part of the error is {part.shape}, and the map {volume.shape}")
        means.append(_weighted(part, weights))
    if len(means) < 2:
        raise InputError(f"an error needs two parts or more, not {len(means)}")
    return _region_mean(_weighted(volume, weights), np.array(means), float(np.sum(values)), level)


@dataclass(frozen=True)
class MeasuredRegion:
    """A region in the maps of a run. mask : its name. linear, of_map : its mean in the linear map and the run's map."""

    mask: str
    linear: RegionMean
    of_map: float

    def __str__(self) -> str:
        return f"{self.mask} ({self.linear.n_voxels:,.0f} voxels): {self.linear}; in {MAP} {self.of_map:.4g}"


def regions_of_run(folder: Path, masks: Sequence[str], *, level: float = 0.95) -> list[MeasuredRegion]:
    """Measure regions of a run that was made with an error map; masks are names as `assess` has them, or paths.

    Raises InputError for a folder without an error map, and for masks of another box.
    """
    missing = next((name for name in (MAP, *ERRORS) if not (folder / name).is_file()), None)
    if missing:
        remedy = "give the folder of a run of reconstruct or backproject with --error-map"
        raise InputError(f"this folder has no {missing}", file=folder, remedy=remedy)
    user = [name for name in masks if name not in MASKS]
    read = read_maps(folder / ERRORS[1], folder / MAP, masks=user)
    linear, of_map, *values = read.volumes
    given = dict(zip(user, values, strict=True))
    n, found = len(linear), []
    for name in masks:
        mask = chosen_mask(name, given.get(name), of_map, read.voxel_size)
        if mask is None:
            raise InputError(f"{name} is no region", remedy="give a mask")
        parts = _parts(folder / ERRORS[2], n)
        mean = region_mean(linear, parts, mask, level=level)
        found.append(MeasuredRegion(name, mean, _weighted(of_map, _weights(mask.values, of_map.shape))))
    return found


def _parts(path: Path, box_size: int) -> Iterator[Map]:
    """The maps of a stack of images of which `box_size` make one, one at a time."""
    n_images, side, _ = stack_shape(path)
    if side != box_size or n_images % box_size:
        raise InputError(f"not a stack of maps of {box_size} voxels", file=path)
    for start in range(0, n_images, box_size):
        yield read_images(path, np.arange(start, start + box_size), warn_of_blank=False)


def _region_mean(value: float, means: NDArray[np.float64], n_voxels: float, level: float) -> RegionMean:
    from scipy.stats import t

    n = len(means)
    error = float(np.sqrt(n / (n - 1) * np.square(means - means.mean()).sum()))
    reach = float(t.ppf((1 + level) / 2, n - 1)) * error
    return RegionMean(value, error, (value - reach, value + reach), level, n, n_voxels)


def _weights(mask: Map, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """(D, D, D) weights that sum to 0: those of the mean inside the mask, less those of the mean of the box."""
    if mask.shape != shape:
        raise InputError(f"the mask is {mask.shape}, and the map {shape}")
    total = float(np.sum(mask, dtype=np.float64))
    if not np.isfinite(total) or mask.min() < 0 or total <= 0:
        raise InputError("a mask has weights of 0 or more, and some above 0")
    weights = np.asarray(mask, np.float64) / total
    weights = weights - weights.mean()
    if not np.abs(weights).max() > 0:
        raise InputError("the mask is the same everywhere: there is nothing outside to count density from")
    return weights


def _weighted(volume: Map, weights: NDArray[np.float64]) -> float:
    return float(np.vdot(np.asarray(volume, np.float64), weights))
