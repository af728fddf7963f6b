"""Which of a run's particles a map is made of."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """All particles of a run, or one of its half sets, as they are or with random phases.

    half_set : 0 for all particles, or 1 or 2. substituted : whether phases are random beyond some resolution.
    """

    half_set: int = 0
    substituted: bool = False

    @property
    def label(self) -> str:
        """The part in words: "all", "half 1", "half 2 substituted"."""
        words = f"half {self.half_set}" if self.half_set else "all"
        return f"{words} substituted" if self.substituted else words

    @property
    def file(self) -> str:
        """The part in names of files: "all", "half1", "half2substituted"."""
        return self.label.replace(" ", "")

    def stage(self, method: str) -> str:
        """Return the name under which a run's record has the time of this part's fit."""
        return f"{self.label}: {method}"

    def seed(self, of_run: int) -> int:
        """Return the seed of this part's fit; it is the same with random phases."""
        return 3 * of_run + self.half_set


ALL = Part()
HALVES = (Part(1), Part(2))
