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
    """Settings of the classical map (methods/backprojection.py): how it is filtered.

    "wiener" divides by K + noise / signal, where the signal of each shell is measured on the data. "none" is least
    squares. "fsc" is that times the figure of merit sqrt(2 F / (1 + F)) of each shell (Rosenthal and Henderson 2003).
    "local" is that low-passed, voxel by voxel, at the local resolution. F and the local resolution come from two halves
    of the particles that the map is made of.

    Examples
    --------
    >>> import gsworkbench as gs
    >>> gs.Backprojection(filter="fsc").filter
    'fsc'
    """

    filter: Literal["wiener", "none", "fsc", "local"] = "wiener"


DEFAULT = Backprojection()


def solve(task: Task) -> Iterator[tuple[Part, Solution]]:
    """Backproject the particles of each part, or take the sums of them that are at hand, and filter the map."""
    from gsworkbench.methods.backprojection_filters import filtered_backprojection, filtered_sums
    from gsworkbench.methods.deposited_sums import FILTERS_OF_SUMS
    from gsworkbench.methods.task import Solution
    from gsworkbench.particles.noise_spectrum import chosen_noise

    settings: Backprojection = task.config.settings
    for part, stack in task.parts.items():
        with task.stage(part):
            if task.sums is not None and settings.filter in FILTERS_OF_SUMS:
                train, test = task.sums[part]
                volume = filtered_sums(train if test is None else train + test, settings)
            else:
                spectrum = chosen_noise(task.config.noise_spectrum, stack)
                volume = filtered_backprojection(stack, settings, noise_spectrum=spectrum, label=part.label)
        yield part, Solution(volume)
