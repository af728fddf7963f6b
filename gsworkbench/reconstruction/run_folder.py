"""The files in the folder of a reconstruction."""

from __future__ import annotations

from gsworkbench.assessment.map_names import MAP, REGULARISED, UNFILTERED
from gsworkbench.methods.part import ALL, HALVES, Part
from gsworkbench.methods.reconstruction_config import ReconstructionConfig


def half_map_names(config: ReconstructionConfig) -> tuple[str, str]:
    """Return the names of the half maps that a configuration makes."""
    unfiltered = config.row.unfiltered
    if unfiltered is None:
        return REGULARISED
    as_noisy = all(getattr(config.settings, name) == value for name, value in unfiltered.items())
    return UNFILTERED if as_noisy else REGULARISED


def map_files(config: ReconstructionConfig) -> dict[Part, str]:
    """Return the name of the map of each part that a configuration can make."""
    return {ALL: MAP} | dict(zip(HALVES, half_map_names(config), strict=True))
