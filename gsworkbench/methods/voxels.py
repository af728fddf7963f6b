"""The map of free voxels: its settings and how a task is solved. The mathematics are in voxels_fit.py."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gsworkbench.methods.part import Part
    from gsworkbench.methods.task import Solution, Task


@dataclass(frozen=True)
class Voxels:
    """Settings of the map of free voxels that solves the normal equations (methods/voxels.py).

    Examples
    --------
    >>> import gsworkbench as gs
    >>> gs.Voxels().n_steps
    20
    """

    n_steps: int = 20  # of conjugate gradients, at most: held-out particles say when to stop


DEFAULT = Voxels()


def solve(task: Task) -> Iterator[tuple[Part, Solution]]:
    """Solve the normal equations of each part, which one pass over the particles makes."""
    from gsworkbench.methods.sums_of_parts import load_part, write_sums
    from gsworkbench.methods.task import Solution
    from gsworkbench.methods.voxels_fit import solve_voxels
    from gsworkbench.system import distributed

    files = write_sums(task, hold_out=True)
    if not distributed.is_first():
        return
    for part in task.parts:
        with task.stage(part):
            train, test = load_part(task, files, part)
            result = solve_voxels(train, test, task.config.settings, label=part.label)
        yield part, Solution(result.volume, report={"n_steps": result.n_steps}, learning_curve=result.curve)
