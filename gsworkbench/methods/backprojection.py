"""Backprojection and its filters: the settings and how a task is solved."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from gsworkbench.methods.part import Part
    from gsworkbench.methods.task import Solution, Task


@dataclass(frozen=True)
class Backprojection:
    """The classical map (normal_equations/classical_map.py), and what is done to it afterwards.

    wiener: divided by K + noise / signal, the signal of each shell measured on the data. none: least squares. fsc: that
    times the figure of merit sqrt(2 F / (1 + F)) of each shell. local: that low-passed, voxel by voxel, at the local
    resolution. F and local resolution come from two halves of the very particles that the map is made of.
    """

    filter: Literal["wiener", "none", "fsc", "local"] = "wiener"


DEFAULT = Backprojection()


def solve(task: Task) -> Iterator[tuple[Part, Solution]]:
    """Backproject the particles of each part and filter the map."""
    from gsworkbench.methods.backprojection_filters import filtered_backprojection
    from gsworkbench.methods.task import Solution
    from gsworkbench.particles.noise_spectrum import chosen_noise

    for part, stack in task.parts.items():
        with task.stage(part):
            spectrum = chosen_noise(task.config.noise_spectrum, stack)
            volume = filtered_backprojection(stack, task.config.settings, noise_spectrum=spectrum, label=part.label)
        yield part, Solution(volume)
