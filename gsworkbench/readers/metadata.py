"""What one metadata file says, before anything is looked up: the common language of the readers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gsworkbench.particles import CtfParameters, Float64, Picks, required_poses


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


def unique_names(names: Iterable[str]) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Return the distinct names in order of appearance and, for each name, its place among them."""
    places: dict[str, int] = {}
    index = [places.setdefault(name, len(places)) for name in names]
    return tuple(places), np.array(index, np.int64)
