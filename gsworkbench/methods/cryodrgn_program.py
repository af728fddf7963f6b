"""The program cryoDRGN on the particles of a run. How it is called is in other_programs.py."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from gsworkbench.methods.part import Part
    from gsworkbench.methods.task import Solution, Task


@dataclass(frozen=True)
class Cryodrgn:
    """The program cryoDRGN (methods/other_programs.py): which of its commands, and the size of its network."""

    command: Literal["backproject_voxel", "train_nn"] = "backproject_voxel"
    width: int = 256  # published: 1024
    n_epochs: int = 4  # published: 20


DEFAULT = Cryodrgn()


def solve(task: Task) -> Iterator[tuple[Part, Solution]]:
    """Have cryoDRGN make the map of each part; all its particles weigh alike, as it knows no weights."""
    from gsworkbench.methods.other_programs import cryodrgn, program_solutions
    from gsworkbench.particles.image_statistics import weighted_alike

    return program_solutions(task, lambda stack, seed: cryodrgn(weighted_alike(stack), task.config.settings, seed=seed))
