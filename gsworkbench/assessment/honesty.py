"""Where the truth is known: by how much do two half maps overstate what their mean has right?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gsworkbench.assessment.fsc import FscCurve


@dataclass(frozen=True)
class Overstatement:
    """H of every shell and over shells 1 to D // 2 - 2 (the last ones hold corners and gains of their own).

    values : (D // 2 + 1,). mean, worst : over those shells that have a value; worst_shell : where the largest is.
    """

    values: NDArray[np.float64]
    mean: float
    worst: float
    worst_shell: int

    def __str__(self) -> str:
        worst = f"{self.worst:+.3f} at worst (shell {self.worst_shell})"
        return f"half maps overstate by {self.mean:+.4f} in the mean, {worst}"


def overstatement(half_map_fsc: FscCurve, truth_fsc: FscCurve) -> Overstatement:
    """H = F - C |C| / (2 - C^2) per shell: zero on average for independent errors, positive for a shared bias.

    half_map_fsc : F, of the half maps. truth_fsc : C, of (half_1 + half_2) / 2 with the truth, under the same mask and
    definition. With equal independent errors of the halves, C^2 = 2 F / (1 + F); the sign of C is kept, so that a
    map against the truth in a shell counts as worse than nothing. Curves that differ in box, mask or definition raise
    ValueError.
    """
    f, c = half_map_fsc, truth_fsc
    if (f.box_size, f.mask, f.definition) != (c.box_size, c.mask, c.definition):
        raise ValueError(f"{f.name} and {c.name} differ in box, mask or definition")
    values = f.values - c.values * np.abs(c.values) / (2 - c.values**2)
    counted = values[1 : f.box_size // 2 - 1]
    if not np.isfinite(counted).any():
        return Overstatement(values, 0.0, 0.0, 0)
    return Overstatement(values, float(np.nanmean(counted)), float(np.nanmax(counted)), int(np.nanargmax(counted)) + 1)
