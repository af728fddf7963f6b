"""The program relion_reconstruct on the particles of a run. How it is called is in other_programs.py."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gsworkbench.methods.part import Part
    from gsworkbench.methods.task import Solution, Task


@dataclass(frozen=True)
class Relion:
    """The program relion_reconstruct has no settings here."""


DEFAULT = Relion()


def solve(task: Task) -> Iterator[tuple[Part, Solution]]:
    """Have RELION backproject the particles of each part."""
    from gsworkbench.methods.other_programs import program_solutions, relion_reconstruct

    return program_solutions(task, lambda stack, seed: relion_reconstruct(stack))
