"""Alarms about linear half maps, the backprojections that stand for the truth (truth_estimate.py)."""

from __future__ import annotations

from gsworkbench.assessment.half_maps import masked_already, power_ends, shared_noise
from gsworkbench.assessment.power import spectrum
from gsworkbench.io.mrc import Map

SURE = 4.0  # standard errors
MOST = 0.02  # of the mean FSC: what half maps may agree too much without a word


def linear_alarms(halves: tuple[Map, Map], linear: tuple[Map, Map], voxel_size: float) -> list[str | None]:
    """Return what (D, D, D) linear maps are not: unfiltered, unmasked, independent of the other half map.

    A half map that holds noise of the other half set was made from both, or the maps are in the wrong order.
    """
    found: list[str | None] = []
    for number, other in ((0, 1), (1, 0)):
        name = f"the linear map of half set {number + 1}"
        if masked_already(linear[number]):
            found.append(f"{name} seems to be masked: give one without a mask, or the estimate of the FSC is too high")
        if power_ends(spectrum(linear[number]), voxel_size):
            found.append(f"{name} seems to be filtered: give one without a filter")
        if shared_noise(halves[other], linear[number]):
            found.append(
                f"half map {other + 1} shares noise with {name}: it was made from particles of both half sets, or the "
                "maps are in the wrong order; the estimate of the FSC is too high"
            )
    return found


def unlike_the_estimate(overstatement: float, error: float) -> str | None:
    """Half maps that agree more, or less, than the estimate of their FSC to the truth allows."""
    least = max(MOST, SURE * error)
    if overstatement < -least:
        return (
            f"the half maps agree by {-overstatement:.3f} less, in the mean over shells, than the estimate of their "
            "FSC to the truth allows: each shares noise with the linear map of the other half set; give linear maps of "
            "the same half sets, in the order of the half maps"
        )
    if overstatement < least:
        return None
    return (
        f"the half maps agree by {overstatement:.3f} more, in the mean over shells, than the linear maps of the same "
        "particles allow: they share a bias, and their FSC overstates the resolution"
    )
