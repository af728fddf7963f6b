"""What one metadata file says, before anything is looked up: the common language of the readers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from gsworkbench.errors import InputError
from gsworkbench.particles.stack import CtfParameters, Float64, Picks, required_poses

Fields = TypeVar("Fields")
Value = TypeVar("Value")
ONE_FILAMENT = (
    "all particles are segments of one filament, which half sets cannot keep together: they are dealt by segment, and "
    "the half-map FSC reads too high"
)


@dataclass(frozen=True)
class Metadata:
    """What a metadata file says about its n particles, row by row.

    `stacks` are names as written, each once; `stack_index` (n,) points into them; `image_index` (n,) counts from 0.
    `box_size` (px) and `pixel_size` (A) are None where the file does not say; `ctf` is None where it was not asked for.
    The other fields are those of ParticleStack, None where the file does not say. `norm_correction` (n,) is RELION's
    rlnNormCorrection, to be shown only. `source` is the file.
    """

    stacks: tuple[str, ...]
    stack_index: NDArray[np.int64]
    image_index: NDArray[np.int64]
    box_size: int | None
    pixel_size: float | None
    ctf: CtfParameters | None
    rotations: Float64 | None
    shifts_angstrom: Float64
    half_set: NDArray[np.int8]
    data_sign: NDArray[np.int8]
    picks: Picks | None = None
    optics_group: NDArray[np.int64] | None = None
    unit: NDArray[np.int64] | None = None
    class_number: NDArray[np.int64] | None = None
    norm_correction: Float64 | None = None
    notes: tuple[str, ...] = ()
    source: Path | None = None

    def __len__(self) -> int:
        return len(self.image_index)

    def require_poses(self) -> Float64:
        """Return `rotations`, or raise InputError if the poses are not known."""
        return required_poses(self.rotations, self.source)


def stated(read: Callable[[Fields], Value | None], fields: Fields, *, needed: bool) -> Value | None:
    """What `read` finds in the fields of a file; None where it cannot be used and is not needed."""
    try:
        return read(fields)
    except InputError:
        if needed:
            raise
        return None


def unique_names(names: Iterable[str]) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Return the distinct names in order of appearance and, for each name, its place among them."""
    places: dict[str, int] = {}
    index = [places.setdefault(name, len(places)) for name in names]
    return tuple(places), np.array(index, np.int64)


def class_counts(classes: NDArray[np.int64] | None) -> str | None:
    """How many particles each class has, as in "classes 1 to 4: 3, 3, 3, 3"; None where the file has no classes."""
    if classes is None or not len(classes):
        return None
    numbers, counts = np.unique(classes, return_counts=True)
    if len(numbers) == 1:
        return f"class {numbers[0]}: {counts[0]:,}"
    shown = ", ".join(f"{count:,}" for count in counts[:20]) + ", ..." * (len(counts) > 20)
    if numbers[-1] - numbers[0] + 1 == len(numbers):
        return f"classes {numbers[0]} to {numbers[-1]}: {shown}"
    named = ", ".join(map(str, numbers[:20])) + ", ..." * (len(numbers) > 20)
    return f"classes {named}: {shown}"
