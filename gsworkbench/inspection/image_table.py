"""What `inspect` says of single images: a table with a row for each that was measured, and which ones are the worst."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gsworkbench.inspection.findings import Inspection
from gsworkbench.io.files import atomic_path
from gsworkbench.particles.image_statistics import ABSURD, NOTICEABLE, blank, in_other_units, outliers, relative_power

COLUMNS = (
    "row",
    "file",
    "image",
    "background",
    "slope_x",
    "slope_y",
    "noise",
    "spread",
    "largest",
    "hot_pixels",
    "relative_power",
    "scale",
    "scale_error",
    "left_out",
    "why",
)

_FAR_NOISE = 1.5  # times the median noise, up or down: worth a look
_FAR_BACKGROUND = 2.0  # standard deviations of the noise from the median background: worth a look
_NO_SIGNAL = 3.0  # standard errors from the scale of the typical particle, below it: worth a look


@dataclass(frozen=True)
class Bad:
    """An image to look at: its row among those measured, why, and whether that is worth a word or just the most."""

    row: int
    why: str
    remarkable: bool


def write_image_table(path: Path, found: Inspection) -> None:
    """Write a .csv with a row for each image that was measured, in the order of the particles' table.

    row : in that table, counted from 1. image : in its file, counted from 1. background, slopes (per pixel), noise,
    spread and largest : in the units of the file. relative_power : power over that of the noise, over the median of the
    same. scale : of the particle's signal, beside a map of others, 1 for the typical one; empty where not measured.
    left_out : 1 for images that `reconstruct` leaves out. why : what is odd about the image.
    """
    stack, measured = found.images.stack, found.images.found
    scale, error = scales_of_all(found)
    power, out, why = relative_power(measured), outliers(measured), reasons(found)
    with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for k in range(len(stack)):
            values = (
                measured.offset[k],
                *measured.slope[k],
                measured.noise[k],
                measured.spread[k],
                measured.largest[k],
            )
            writer.writerow(
                [
                    int(stack.source_row[k]) + 1,
                    stack.files[stack.file_index[k]],
                    int(stack.image_index[k]) + 1,
                    *(f"{value:.6g}" for value in values),
                    int(measured.hot[k]),
                    f"{power[k]:.5g}",
                    *("" if np.isnan(value) else f"{value:.4g}" for value in (scale[k], error[k])),
                    int(out[k]),
                    "; ".join(why[k]),
                ]
            )


def scales_of_all(found: Inspection) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(n,) scales of the particles measured, and their standard errors; NaN where there is none."""
    values, errors = np.full((2, len(found.images.stack)), np.nan)
    if found.scales is not None:
        values[found.scaled], errors[found.scaled] = found.scales.measured, found.scales.error
    return values, errors


def reasons(found: Inspection) -> list[list[str]]:
    """What is odd about each image, in words; most have nothing."""
    measured = found.images.found
    power, units, empty = relative_power(measured), in_other_units(measured), blank(measured)
    said: list[list[str]] = [[] for _ in range(len(measured))]
    for k in np.flatnonzero(empty):
        said[k].append("blank")
    for k in np.flatnonzero(units):
        said[k].append("in other units, scaled to the others")
    for k in np.flatnonzero(measured.hot):
        said[k].append("hot pixels, set to the background")
    for k in np.flatnonzero(~empty & (power > NOTICEABLE)):
        said[k].append(f"more than {ABSURD if power[k] > ABSURD else NOTICEABLE:g} times the power of the median image")
    return said


def worst(found: Inspection, n: int) -> list[Bad]:
    """n images that a person should look at, the worst of each kind in turn; remarkable ones first."""
    kinds = [list(islice(kind, 3 * n)) for kind in _kinds(found)]  # some are of several kinds
    chosen: dict[int, Bad] = {}
    for remarkable in (True, False):
        queues = [[bad for bad in kind if bad.remarkable == remarkable] for kind in kinds]
        while len(chosen) < n and any(queues):
            for queue in queues:
                while queue and queue[0].row in chosen:
                    queue.pop(0)
                if queue and len(chosen) < n:
                    bad = queue.pop(0)
                    chosen[bad.row] = bad
    return list(chosen.values())


def _kinds(found: Inspection) -> Iterator[Iterator[Bad]]:
    """Images from the worst on, by hot pixels, power, noise, scale and background."""
    measured = found.images.found
    middle = measured.plan.noise
    alive = ~blank(measured)
    noise = np.where(measured.noise > 0, measured.noise, middle)
    power = relative_power(measured)
    yield (Bad(int(k), "blank", True) for k in np.flatnonzero(~alive))
    hot = np.where(measured.hot > 0, measured.largest / noise, 0)
    yield (
        Bad(int(k), f"{measured.hot[k]} hot px\nto {_short(hot[k])} sd", True)
        for k in np.argsort(-hot, kind="stable")
        if hot[k] > 0
    )
    yield (
        Bad(int(k), f"power\n{_short(power[k])} times", bool(power[k] > NOTICEABLE))
        for k in np.argsort(np.where(alive, -power, 0), kind="stable")
        if alive[k]
    )
    far = np.abs(np.log(noise / middle))
    yield (
        Bad(int(k), f"noise\n{_short(noise[k] / middle)} times", bool(far[k] > np.log(_FAR_NOISE)))
        for k in np.argsort(np.where(alive, -far, 0), kind="stable")
        if alive[k] and far[k] > 1e-6
    )
    scale, error = scales_of_all(found)
    short = np.where(np.isnan(scale), -np.inf, (1 - scale) / error)
    yield (
        Bad(int(k), f"signal\n{_short(scale[k])} times", bool(short[k] > _NO_SIGNAL and scale[k] < 0.5))
        for k in np.argsort(-short, kind="stable")
        if np.isfinite(short[k])
    )
    shift = np.abs(measured.offset - np.median(measured.offset)) / middle
    yield (
        Bad(int(k), f"background\n{_short(shift[k])} sd off", bool(shift[k] > _FAR_BACKGROUND))
        for k in np.argsort(np.where(alive, -shift, 0), kind="stable")
        if alive[k] and shift[k] > 1e-6
    )


def _short(value: float) -> str:
    """A number of few characters: 0.31, 12, 4e6."""
    if abs(value) >= 1e4 or 0 < abs(value) < 1e-2:
        return f"{value:.0e}".replace("e+0", "e").replace("e-0", "e-").replace("e+", "e")
    return f"{value:.2g}" if abs(value) < 100 else f"{value:.0f}"
