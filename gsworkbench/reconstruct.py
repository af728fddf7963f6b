"""From a ParticleStack to a folder of maps, curves and a record: the whole of what one command does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gsworkbench.assessment.fsc import FscCurve, Resolution
from gsworkbench.provenance import RunRecord


@dataclass(frozen=True)
class Reconstruction:
    """What `reconstruct` made; the same things lie in `output_dir` (names in DESIGN of CONVENTIONS.md, Outputs).

    volume : (D, D, D) float32 map of all particles, in image units / A. half_maps : those of half sets 1 and 2, or None.
    curves : FSC curves, in the order of fsc.csv. resolutions : read off them at 0.143 and 0.5.
    """

    output_dir: Path
    volume: NDArray[np.float32]
    half_maps: tuple[NDArray[np.float32], NDArray[np.float32]] | None
    curves: tuple[FscCurve, ...]
    resolutions: tuple[Resolution, ...]
    record: RunRecord
