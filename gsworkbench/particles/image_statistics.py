"""What the images of a stack are like: background, noise, outliers; and the normalisation that follows from it.

A sample of the images decides how noise is measured; then every image is read once. Noise has two measures: the
standard deviation outside the inscribed circle, where particles seldom reach, and that of the highest frequencies,
which hold little signal. Where corners are masked, windowed or padded the first is wrong, and the second is taken.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from gsworkbench.errors import InputError, first_few
from gsworkbench.particles.normalisation import Normalisation, remove_hot_pixels, subtract_background
from gsworkbench.particles.stack import ParticleStack
from gsworkbench.system import distributed
from gsworkbench.system.progress import progress

Float64 = NDArray[np.float64]
Float32 = NDArray[np.float32]

SAMPLE = 500  # images that decide how noise is measured
CHUNK_BYTES = 2**21  # of images measured at a time: they stay in the cache

_RAMP = 2.0  # a slope's median square over its variance, above which backgrounds count as ramps; 0.45 for white noise
_ALIKE = 0.7  # noise power of the highest frequencies, outside the circle over inside: below, corners are masked
_AMPLIFIED = 2.0  # above, corners are amplified
_FEWEST_PIXELS = 300  # in the corners of all images of the sample, which then tell their noise to a tenth
_STRONG = 0.35  # noise at the border over the spread of whole images: below, the signal is stronger than the noise,
_SMOOTH = 0.7  # where the high frequencies, so much of the spread where noise is white and stronger, are weak as well
_LEAST_NOISE = 0.01  # of the spread of the images: less is no noise
_STRONG_NOISE = 0.2  # of the spread of the images: noise-free images are given so much, for errors of interpolation
_SUSPICIOUS = 9.0  # standard deviations of the whole image, where hot pixels are looked for
_HOT = 4.0  # times the 99th percentile of |pixel - background|: 10 standard deviations of white noise
_GAIN = 5.0  # noise this many times above or below the median is another unit of the image, not more noise
ABSURD = 5.0  # times the median of the power of images over that of their noise: left out
NOTICEABLE = 2.0  # the same: listed
_LARGEST = 1e15  # of pixels, which are squared and multiplied in single precision

Measure = Literal["border", "high frequencies", "none"]


@dataclass(frozen=True)
class ImageStatistics:
    """What each of n images is like, in the units of its file.

    offset, slope : background, as in `Normalisation`; slopes are 0 unless the images have ramps.
    noise : (n,) standard deviation of the noise. spread : (n,) standard deviation of the whole image, hot pixels
        removed. largest : (n,) largest difference of a pixel from the background. hot : (n,) number of hot pixels, and
        limit : (n,) the difference from which on pixels are hot; infinity where there are none.
    plan : how they were measured, and what the median image is like.
    """

    offset: Float64
    slope: Float64
    noise: Float64
    spread: Float64
    largest: Float64
    limit: Float64
    hot: NDArray[np.int64]
    plan: Plan

    def __len__(self) -> int:
        return len(self.offset)

    def __getitem__(self, rows: NDArray[np.integer] | NDArray[np.bool_]) -> ImageStatistics:
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        chosen: dict[str, Any] = {name: value[rows] for name, value in values.items() if isinstance(value, np.ndarray)}
        return dataclasses.replace(self, **chosen)


def measure_images(stack: ParticleStack, plan: Plan | None = None, *, label: str = "look at images") -> ImageStatistics:
    """Measure every image of a stack, each read once. Processes of torchrun measure a share each.

    plan : of `make_plan`, for the whole that these particles are part of; by default their own. With one plan, what is
        measured of an image depends on no other image.

    Raises InputError for pixels that are NaN or infinite, naming file and image.
    """
    plan = make_plan(stack) if plan is None else plan
    n = len(stack)
    table = torch.zeros(n, 8, dtype=torch.float64)
    own = distributed.share(np.arange(n))
    with progress(label, len(own), unit="img", leave=False) as meter:
        part = stack[own]
        for rows, images in part.chunks(CHUNK_BYTES, raw=True):
            with np.errstate(all="ignore"):  # of values that cannot be squared; see `_as_statistics`
                table[torch.from_numpy(own[rows])] = torch.from_numpy(_row(images, plan))
            meter.advance(len(rows))
    distributed.add_up([table])
    return _as_statistics(table.numpy(), plan)


def _as_statistics(table: Float64, plan: Plan) -> ImageStatistics:
    """From the rows of `_row`."""
    # Values beyond 1e19 cannot be squared in single precision: such an image has power without end.
    broken = np.asarray(~np.isfinite(table[:, [0, 1, 2, 3, 4, 6]]).all(axis=1))
    table = np.where(broken[:, None], [0, 0, 0, plan.noise, np.inf, np.inf, 0, 0], table)
    offset, x, y, noise, spread, largest, limit, hot = table.T
    if plan.measure == "none":
        noise = np.where(spread > 0, plan.noise, 0.0)
    limit = np.where(hot > 0, limit, np.inf)
    return ImageStatistics(offset, np.stack([x, y], -1), noise, spread, largest, limit, hot.astype(np.int64), plan)


@dataclass(frozen=True)
class Plan:
    """How images are measured, and what the median image is like, decided on a sample of them.

    ramps : whether backgrounds rise from one side to the other.
    measure : how noise is measured: at the "border", in the "high frequencies", or "none": the signal is stronger than
        the noise, and all images count alike.
    border, high : standard deviation of the noise by the two measures. corners : noise power of the high frequencies
        outside the inscribed circle over that inside it. noise : standard deviation, by the measure chosen.
    relative_power : (spread / noise)^2. level : a power of two near spread / noise.
    """

    ramps: bool
    measure: Measure
    border: float
    high: float
    corners: float
    noise: float
    relative_power: float = 1.0
    level: float = 1.0

    @property
    def amplified(self) -> bool:
        """Whether the corners hold more noise than the rest."""
        return self.measure == "high frequencies" and self.corners > 1


def make_plan(stack: ParticleStack) -> Plan:
    """Look at up to SAMPLE images spread over the stack, in the order of the files."""
    order = np.lexsort((stack.image_index, stack.file_index))
    chosen = order[np.unique(np.linspace(0, len(order) - 1, SAMPLE).astype(int))]
    chunks = [images for _, images in stack[chosen].chunks(CHUNK_BYTES, raw=True)]
    with np.errstate(all="ignore"):
        sampled = np.concatenate([_sampled(images) for images in chunks])
    usable = np.isfinite(sampled).all(1)
    if not usable.any() or np.median(sampled[usable, 4]) > _LARGEST:
        raise InputError(
            "the pixels of the images are too large to be squared in single precision",
            file=stack.files[0],
            remedy="normalise the images to noise of standard deviation 1",
        )
    border, slope, outside, inside, spread = sampled[usable].T
    alive = spread > 0
    if not alive.any():
        raise InputError(
            "all images that were looked at are blank (all pixels alike)",
            file=stack.files[0],
            remedy="check that the copy of the stack is complete",
        )
    b, high, s = (float(np.median(v[alive])) for v in (border, inside, spread))
    corners = float(np.median((outside[alive] / np.maximum(inside[alive], 1e-12 * spread[alive])) ** 2))
    geometry = _geometry(stack.box_size)
    pixels = [int(where.sum()) for where in (geometry.differences_outside, geometry.differences_inside)]
    enough = alive.sum() * min(pixels) >= _FEWEST_PIXELS
    odd_corners = enough and not _ALIKE < corners < _AMPLIFIED
    measure: Measure = "border"
    noise = b
    if odd_corners and b < _STRONG * s and high < _SMOOTH * s:
        measure, noise = "none", b if b > _LEAST_NOISE * s else high
    elif odd_corners and high > _SMOOTH * s:
        measure, noise = "high frequencies", high
    ramps = bool(np.median(slope[alive]) > _RAMP) and b > _LEAST_NOISE * s
    least = _STRONG_NOISE if measure == "none" else _LEAST_NOISE
    plan = Plan(ramps, measure, b, high, corners, max(noise, least * s))
    with np.errstate(all="ignore"):
        found = _as_statistics(np.concatenate([_row(images, plan) for images in chunks]), plan)
    found = found[(found.spread > 0) & (found.noise > 0) & np.isfinite(found.spread)]
    if len(found) == 0:
        return dataclasses.replace(plan, measure="none")
    noise, ratio = float(np.median(found.noise)), float(np.median(found.spread / found.noise))
    return dataclasses.replace(plan, noise=noise, relative_power=ratio**2, level=2.0 ** math.ceil(math.log2(ratio)))


def _sampled(images: Float32) -> Float64:
    """(m, 5) noise at the border, square of the slope over its variance, noise of high frequencies outside and inside
    the circle, spread; of images (m, D, D)."""
    coefficients, residual = _fit_plane(images)
    geometry = _geometry(images.shape[-1])
    significance = (coefficients[:, 1:] ** 2 / np.maximum(geometry.slope_variance, 1e-300)).mean(1)
    significance /= np.maximum(residual**2, 1e-300)
    outside, inside = _high_frequencies(images)
    middle = images.reshape(len(images), -1)[:, geometry.inside]
    spread = middle.std(1, dtype=np.float64)
    return np.stack([residual, np.where(residual > 0, significance, 0), outside, inside, spread], -1)


def _row(images: Float32, plan: Plan) -> Float64:
    """(m, 8) offset, slope x and y, noise, spread, largest, limit, hot; of images (m, D, D), which are changed."""
    coefficients, residual = _fit_plane(images)
    if not plan.ramps:
        coefficients[:, 1:] = 0
        corners = images.reshape(len(images), -1)[:, _geometry(images.shape[-1]).outside]
        coefficients[:, 0] = corners.mean(1, dtype=np.float64)
        residual = corners.std(1, dtype=np.float64)
    subtract_background(images, coefficients[:, 0], coefficients[:, 1:])
    flat = images.reshape(len(images), -1)
    largest = np.maximum(flat.max(1), -flat.min(1)).astype(np.float64)
    spread = _spread(images)
    limit, hot = np.full(len(images), np.inf), np.zeros(len(images))
    for k in np.flatnonzero(largest > _SUSPICIOUS * spread):
        limit[k], hot[k], offset = _hot_pixels(images[k])
        coefficients[k, 0] += offset
        flat[k] -= np.float32(offset)
    changed = np.flatnonzero(hot)
    if len(changed):
        again = images[changed].copy()
        remove_hot_pixels(again, limit[changed])
        spread[changed] = _spread(again)
        residual[changed] = again.reshape(len(again), -1)[:, _geometry(images.shape[-1]).outside].std(1)
        images[changed] = again
    noise = _high_frequencies(images)[1] if plan.measure == "high frequencies" else residual
    return np.column_stack([coefficients, noise, spread, largest, np.where(hot > 0, limit, 0), hot])


def _hot_pixels(image: Float32) -> tuple[float, int, float]:
    """Of an image (D, D): from which difference to the background on pixels are hot (infinity if none are), how many
    are, and the background without them, relative to the one that was taken off."""
    corners = image.ravel()[_geometry(len(image)).outside]
    offset = float(np.median(corners))
    size = np.abs(image - np.float32(offset))
    level = _HOT * float(np.percentile(size, 99))
    count = int(np.count_nonzero(size > level))
    if not (level > 0 and count):
        return np.inf, 0, 0.0
    ordinary = corners[np.abs(corners - offset) <= level]
    offset = float(ordinary.mean(dtype=np.float64))
    count = int(np.count_nonzero(np.abs(image - np.float32(offset)) > level))
    return level, count, offset


@dataclass(frozen=True)
class _Geometry:
    """Of a box: the pixels outside the inscribed circle (k,) and those inside 0.4 of the box; what fits a plane to the
    former (k, 3); variances of its slopes (2,) for noise of variance 1; on the grid of differences of neighbours, the
    pixels outside the circle and those in a ring inside it."""

    outside: NDArray[np.int64]
    inside: NDArray[np.int64]
    solve: Float64
    design: Float64
    slope_variance: Float64
    differences_outside: NDArray[np.bool_]
    differences_inside: NDArray[np.bool_]


@functools.lru_cache(maxsize=2)
def _geometry(box_size: int) -> _Geometry:
    axis = np.arange(box_size) - box_size // 2
    beyond = axis[:, None] ** 2 + axis**2 >= (box_size / 2) ** 2
    y, x = np.nonzero(beyond)
    design = np.column_stack([np.ones(len(x)), x - box_size // 2, y - box_size // 2]).astype(np.float64)
    inverse = np.linalg.inv(design.T @ design)
    middle = axis[:-1] + 0.5
    between = np.hypot(middle[:, None], middle).ravel() / box_size
    return _Geometry(
        outside=np.flatnonzero(beyond),
        inside=np.flatnonzero(np.hypot(axis[:, None], axis) < 0.4 * box_size),
        solve=design @ inverse,
        design=design,
        slope_variance=np.diag(inverse)[1:],
        # No neighbours across the circle; of a tiny box, the very corners.
        differences_outside=between >= min(0.5 + 1 / box_size, 0.999 * between.max()),
        differences_inside=(between > 0.2) & (between < 0.4),
    )


def _fit_plane(images: Float32) -> tuple[Float64, Float64]:
    """(m, 3) offset, slope x, slope y of the pixels outside the circle, and (m,) the standard deviation about it."""
    geometry = _geometry(images.shape[-1])
    corners = images.reshape(len(images), -1)[:, geometry.outside].astype(np.float64)
    coefficients = corners @ geometry.solve
    corners -= coefficients @ geometry.design.T
    return coefficients, np.sqrt(np.square(corners).sum(1) / (corners.shape[1] - 3))


def _high_frequencies(images: Float32) -> tuple[Float64, Float64]:
    """(m,) standard deviation of white noise whose mixed second difference is that of images, outside the inscribed
    circle, and in a ring from 0.2 to 0.4 of the box."""
    y = images[:, :-1] - images[:, 1:]
    differences = (y[:, :, :-1] - y[:, :, 1:]).reshape(len(images), -1).astype(np.float64)
    squares = np.square(differences) / 4
    geometry = _geometry(images.shape[-1])
    outside, inside = (
        squares[:, where].mean(1) for where in (geometry.differences_outside, geometry.differences_inside)
    )
    return np.sqrt(outside), np.sqrt(inside)


def _spread(images: Float32) -> Float64:
    """(m,) root mean square of images whose background is 0."""
    flat = images.reshape(len(images), -1)
    power = np.einsum("ij,ij->i", flat, flat).astype(np.float64) / flat.shape[1]
    for row in np.flatnonzero(~((power > 1e-30) & (power < 1e30))):  # too small or too large to be squared in float32
        power[row] = np.square(flat[row].astype(np.float64)).mean()
    return np.sqrt(power)


def normalisation(found: ImageStatistics) -> tuple[Normalisation, Float64]:
    """What brings images to a background of 0 and noise of 1, and (n,) the factor of each image's signal.

    Noise that differs from that of the median image by less than a factor _GAIN is noise, and the signal is divided by
    it too; a larger difference is one of units, which noise and signal share.
    """
    middle = found.plan.noise
    divisor = np.where(found.noise > 0, found.noise, middle)
    unit = 2.0 ** round(math.log2(middle))
    factor = unit / np.where(in_other_units(found), middle, divisor)
    how = Normalisation(
        found.offset,
        found.slope,
        found.limit,
        divisor,
        round=found.plan.amplified,
        level=found.plan.level,
        unit=unit,
    )
    return how, factor


def in_other_units(found: ImageStatistics) -> NDArray[np.bool_]:
    """(n,) images whose noise differs from that of the median image by so much that their unit must be another."""
    middle = found.plan.noise
    return (found.noise > _GAIN * middle) | ((found.noise < middle / _GAIN) & (found.noise > 0))


def normalised(stack: ParticleStack, found: ImageStatistics) -> ParticleStack:
    """The stack whose images have no background, no hot pixels, and noise of standard deviation 1.

    The CTF's scale is divided as the images are, so that each image weighs by its noise, and a map that fits them is
    one of the images in the files divided by `normalisation.unit`.
    """
    how, factor = normalisation(found)
    ctf = dataclasses.replace(stack.ctf, scale=stack.ctf.scale * factor)
    return dataclasses.replace(stack, ctf=ctf, normalisation=how)


def weighted_alike(stack: ParticleStack) -> ParticleStack:
    """A normalised stack whose images are all divided by one number, for programs that know no scale of the CTF."""
    how = stack.normalisation
    if how is None:
        return stack
    ctf = dataclasses.replace(stack.ctf, scale=stack.ctf.scale * how.divisor / how.unit)
    return dataclasses.replace(
        stack, ctf=ctf, normalisation=dataclasses.replace(how, divisor=np.full(len(stack), how.unit))
    )


def blank(found: ImageStatistics) -> NDArray[np.bool_]:
    """(n,) images that hold nothing, or no noise to weigh them by, or numbers that nothing can be made of."""
    return (found.spread == 0) | (found.noise == 0) | ~np.isfinite(found.spread)


def kept(stack: ParticleStack, found: ImageStatistics, *, keep_outliers: bool = False) -> ParticleStack:
    """The normalised stack without the images that are to be left out; InputError if that leaves none."""
    left_out = blank(found) if keep_outliers else outliers(found)
    if left_out.all():
        raise InputError(
            "no image is left: all are blank, or have absurd values", file=stack.source, remedy="inspect names them"
        )
    return normalised(stack, found)[~left_out]


def outliers(found: ImageStatistics) -> NDArray[np.bool_]:
    """(n,) images to leave out: blank ones, and ones whose power is absurd beside their noise."""
    return blank(found) | (relative_power(found) > ABSURD)


def as_dict(found: ImageStatistics) -> dict[str, Any]:
    """What run.json says of the images."""
    plan = found.plan
    return {
        "noise_measured": plan.measure,
        "noise_median": plan.noise,
        "noise_border": plan.border,
        "noise_high_frequencies": plan.high,
        "background_median": float(np.median(found.offset)),
        "ramps": plan.ramps,
        "hot_pixels": int(found.hot.sum()),
        "images_with_hot_pixels": int(np.count_nonzero(found.hot)),
        "images_in_other_units": int(np.count_nonzero(in_other_units(found))),
    }


def relative_power(found: ImageStatistics) -> Float64:
    """(n,) power of an image over that of its noise, over the median of the same."""
    with np.errstate(over="ignore"):
        power = (found.spread / np.where(found.noise > 0, found.noise, np.inf)) ** 2
    return power / found.plan.relative_power


def sentences(found: ImageStatistics, stack: ParticleStack, *, kept: bool = False) -> list[str]:
    """What a user should know of these images, in words; empty for images as they should be."""
    said: list[str] = []
    plan, middle = found.plan, found.plan.noise
    offset = np.divide(np.abs(found.offset), found.noise, out=np.zeros(len(found)), where=found.noise > 0)
    if np.median(offset) > 0.2:
        digits = 2 if np.median(offset) < 100 else 4
        said.append(
            f"the images have a background of {np.median(found.offset):.4g}, {np.median(offset):.{digits}g} standard "
            "deviations of their noise, as images that nobody normalised have: it is subtracted from each image"
        )
    if found.slope.any():
        said.append("the background of the images rises from one side to the other: a plane is subtracted from each")
    if plan.measure == "high frequencies":
        how = "less" if plan.corners < 1 else "more"
        said.append(
            f"the corners of the images hold {how} noise than the rest ({math.sqrt(plan.corners):.2g} times its "
            "standard deviation), as images that were masked, windowed or padded do: noise is measured in the highest "
            "frequencies inside the circle instead" + ", and the corners are set to the background" * plan.amplified
        )
    if plan.measure == "none":
        said.append(
            "the signal in these images is stronger than their noise, as in simulated projections: they all count alike"
        )
    out = outliers(found)
    units = np.flatnonzero(in_other_units(found))
    if len(units):
        ratio = found.noise[units] / middle
        times = f"{ratio.min():.3g}" + f" to {ratio.max():.3g}" * (len(units) > 1)
        said.append(
            f"{_images(len(units))} {times} times the noise of the median image (first {_rows(stack, units)}): "
            f"{'it is' if len(units) == 1 else 'they are'} taken to be in other units, and scaled to the others"
        )
    hot = np.flatnonzero(found.hot)
    if len(hot):
        said.append(
            f"{_images(len(hot))} hot pixels, {found.hot.sum():,} in all, up to "
            f"{(found.largest[hot] / np.maximum(found.noise[hot], 1e-300)).max():.3g} standard deviations of the noise "
            f"(first {_rows(stack, hot)}): these pixels are set to the background"
        )
    what = "kept, as --keep-outliers asks" if kept else "left out"
    empty = np.flatnonzero(blank(found) & np.isfinite(found.spread))
    if len(empty):
        be = "is" if len(empty) == 1 else "are"
        said.append(
            f"{len(empty):,} of {len(found):,} images {be} blank (first {_rows(stack, empty)}) and {be} left out"
        )
    endless = np.flatnonzero(~np.isfinite(found.spread))
    if len(endless):
        said.append(
            f"{_images(len(endless))} values that cannot be squared in single precision (first "
            f"{_rows(stack, endless)}) and {'is' if len(endless) == 1 else 'are'} left out"
        )
    absurd = np.flatnonzero(out & ~blank(found))
    if len(absurd):
        be = "is" if len(absurd) == 1 else "are"
        said.append(
            f"{_images(len(absurd))} more than {ABSURD:g} times the power of the median image "
            f"(first {_rows(stack, absurd)}) and {be} {what}"
        )
    far = np.flatnonzero((relative_power(found) > NOTICEABLE) & ~out)
    if len(far):
        said.append(
            f"{_images(len(far))} more than {NOTICEABLE:g} times the power of the median image "
            f"(first {_rows(stack, far)}): ice, carbon or a neighbour, most likely; look at them"
        )
    return said


def _images(n: int) -> str:
    return "1 image has" if n == 1 else f"{n:,} images have"


def _rows(stack: ParticleStack, chosen: NDArray[np.integer]) -> str:
    """Where images stand in the table, counted from 1."""
    rows = [f"{row + 1:,}" for row in stack.source_row[chosen[:5]]]
    return f"row{'s' * (len(chosen) > 1)} {first_few(rows)}" + (" ..." if len(chosen) > 5 else "")
