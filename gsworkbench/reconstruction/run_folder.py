"""The files in the folder of a reconstruction."""

from __future__ import annotations

from gsworkbench.assessment.map_names import REGULARISED, UNFILTERED
from gsworkbench.config import ReconstructionConfig


def half_map_names(config: ReconstructionConfig) -> tuple[str, str]:
    """Return the names of the half maps that a configuration makes."""
    plain = config.method == "backprojection" and config.backprojection.filter == "none"
    return UNFILTERED if plain or config.method == "relion" else REGULARISED
