"""Checks that every column of every format goes through: numbers are numbers, and possible ones.

Each returns what it was given in the type asked for, or raises InputError naming the file, the column and the row.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gsworkbench.errors import InputError
from gsworkbench.particles.stack import Float64

LARGEST = 1e30  # no quantity of a microscope is larger, and products of such numbers are still finite
SMALLEST_PIXEL, LARGEST_PIXEL = 0.1, 100.0  # A
_PIXEL_UNITS = (
    (1e-11, 1e-8, "metres"),
    (1e-5, 1e-2, "micrometres"),
    (1e-2, 0.1, "nanometres"),
    (100, 1e5, "picometres"),
)
EXACT = 2**53  # up to here a float64 holds every whole number


def numbers(values: Any, column: str, file: Path) -> Float64:
    """Return a column, strings or numbers, as float64 below LARGEST, or raise InputError naming column and row."""
    kind = np.asarray(values).dtype
    if kind.kind in "cmMV":  # complex, times, records
        raise InputError(f"{column} holds values of type {kind}, not numbers", file=file)
    try:
        result = np.asarray(values, np.float64)
    except (TypeError, ValueError):
        result = np.array([_number(value) for value in values])
    bad = ~(np.abs(result) < LARGEST).all(axis=tuple(range(1, result.ndim)))
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise InputError(f"{column} is not a number: {values[row]}", file=file, row=row + 1)
    return result


def integers(values: Any, column: str, file: Path, allowed: Sequence[int] | None = None) -> NDArray[np.int64]:
    """Return a column as int64, or raise InputError naming column and row; `allowed` lists the values it may take."""
    result = numbers(values, column, file)
    bad = (result != np.round(result)) | (np.abs(result) > EXACT)
    if allowed is not None:
        bad |= ~np.isin(result, allowed)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        wanted = "a whole number" if allowed is None else " or ".join(map(str, allowed))
        raise InputError(f"{column} must be {wanted}, not {values[row]}", file=file, row=row + 1)
    return result.astype(np.int64)


def check_pixel_size(
    size: float, column: str, file: Path | None, row: int | None = None, otherwise: str = " or give --pixel-size"
) -> float:
    """Return a pixel size (A) that a detector and a microscope can have, or raise InputError with a likely story.

    otherwise : what else than correcting the column helps, for the remedy.
    """
    if not size > 0:
        raise InputError(f"{column} must be positive, not {size:g}", file=file, row=row)
    if SMALLEST_PIXEL <= size <= LARGEST_PIXEL:
        return size
    looks = next((unit for low, high, unit in _PIXEL_UNITS if low <= size < high), None)
    story = f"looks like {looks}" if looks else "no detector has such pixels"
    raise InputError(
        f"{column} is {size:g}: {story}",
        file=file,
        row=row,
        remedy=f"pixel sizes are in A here, from {SMALLEST_PIXEL:g} to {LARGEST_PIXEL:g}, correct it{otherwise}",
    )


def common_value(values: Float64, column: str, file: Path) -> float:
    """Return the positive value that all rows share, to 1e-4, or raise InputError."""
    if not (values > 0).all():
        row = int(np.flatnonzero(~(values > 0))[0])
        raise InputError(f"{column} must be positive, not {values[row]:g}", file=file, row=row + 1)
    different = np.abs(values - values[0]) > 1e-4 * values[0]
    if different.any():
        row = int(np.flatnonzero(different)[0])
        raise InputError(
            f"{column} is {values[0]:g} in row 1 and {values[row]:g} here",
            file=file,
            row=row + 1,
            remedy="bring all particles to one box and pixel size first",
        )
    return float(values[0])


def common_box(values: Float64, column: str, file: Path) -> int:
    """Return the box (px) that all rows share, or raise InputError."""
    box = common_value(values, column, file)
    if box != round(box):
        raise InputError(f"{column} must be a whole number of pixels, not {box:g}", file=file, row=1)
    return int(box)


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return np.nan
