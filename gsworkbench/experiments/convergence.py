"""Has a fit converged? Each iterative run has a twin with half the steps, and what the other half changed is looked at.

A claim about a recipe is decided only where twice the steps change what is compared by less than a third of what counts
for the claim, or by less than a third of the room that the found difference leaves before the outcome would be another:
else the difference may be one of unfinished fits.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

PART = 3  # of a margin, or of the room, that more steps may still change
LOOKED_AT = ("fsc_truth_mean", "fsc_half_mean")


@dataclass(frozen=True)
class Gate:
    """What twice the steps changed. runs : names of the runs it speaks of, of all seeds. changes : metric -> change."""

    label: str
    runs: tuple[str, ...]
    steps: str
    changes: dict[str, float]

    def of(self, metric: str) -> dict[str, float]:
        """The changes that matter for a metric: its own, or those of LOOKED_AT where it has none."""
        names = (metric,) if metric in self.changes else LOOKED_AT
        return {name: self.changes[name] for name in names if name in self.changes}

    @property
    def worst(self) -> float:
        """The largest change of what is LOOKED_AT."""
        return max((abs(change) for change in self.of("").values()), default=0.0)

    def __str__(self) -> str:
        listed = ", ".join(f"{name} by {change:+.4f}" for name, change in self.of("").items())
        return f"{self.label}: the second half of {self.steps} changed {listed}"


def unconverged(names: set[str], gates: Iterable[Gate], metric: str, margin: float, room: float = 0.0) -> str:
    """Return why runs of these names are not converged as far as a rule asks, in words; "" where they are.

    margin : what counts for the rule. room : by how much its finding may move before the outcome is another.
    """
    allowed = max(margin, room) / PART
    for gate in gates:
        if not names & set(gate.runs):
            continue
        for name, change in gate.of(metric).items():
            if abs(change) > allowed:
                return (
                    f"{gate.label}: the second half of {gate.steps} still changed {name} by {change:+.4f}, more than "
                    f"{allowed:.2g}, a third of what counts or of the room that the difference leaves; more steps "
                    "would decide"
                )
    return ""
