"""Has a fit converged? Each iterative run has a twin with half the steps, and what the other half changed is looked at.

A claim about a recipe is decided only where twice the steps change the FSC to the truth, and that between half maps, by
less than a third of what counts for the claim: else the difference that is found may be one of unfinished fits.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

PART = 3  # of a margin that more steps may still change
LOOKED_AT = ("fsc_truth_mean", "fsc_half_mean")


@dataclass(frozen=True)
class Gate:
    """What twice the steps changed. runs : names of the runs it speaks of, of all seeds. changes : metric -> change."""

    label: str
    runs: tuple[str, ...]
    steps: str
    changes: dict[str, float]

    @property
    def worst(self) -> tuple[str, float]:
        """The metric that changed most, and by how much."""
        return max(self.changes.items(), key=lambda item: abs(item[1]))

    def __str__(self) -> str:
        listed = ", ".join(f"{name} by {change:+.4f}" for name, change in self.changes.items())
        return f"{self.label}: the second half of {self.steps} changed {listed}"


def unconverged(names: set[str], gates: Iterable[Gate], margin: float) -> str:
    """Return why runs of these names are not converged as far as a margin asks, in words; "" where they are."""
    for gate in gates:
        if gate.changes and names & set(gate.runs):
            metric, change = gate.worst
            if abs(change) > margin / PART:
                return (
                    f"{gate.label}: the second half of {gate.steps} still changed {metric} by {change:+.4f}, more than "
                    f"a third of what counts ({margin / PART:.2g}); more steps would decide"
                )
    return ""
