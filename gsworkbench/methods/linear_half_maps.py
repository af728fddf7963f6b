"""The least-squares backprojections of both half sets, which stand for the unknown truth when half maps are judged."""

from __future__ import annotations

from pathlib import Path

from gsworkbench.errors import InputError
from gsworkbench.io.mrc import Volume
from gsworkbench.methods.part import HALVES
from gsworkbench.methods.reconstruction_config import ReconstructionConfig
from gsworkbench.methods.sums_of_parts import load_part, sums_of_halves
from gsworkbench.methods.task import Task, make_task
from gsworkbench.normal_equations.classical_map import least_squares
from gsworkbench.normal_equations.equations import NormalEquations
from gsworkbench.particles.stack import ParticleStack
from gsworkbench.system import distributed
from gsworkbench.system.provenance import RunRecord


def linear_half_maps(task: Task, *, hold_out: bool = False) -> tuple[Volume, Volume] | None:
    """Return the linear maps of half sets 1 and 2, None without half sets or in a process that writes nothing.

    Normal equations that the method left on disk are used; otherwise the particles are read once, and equations lie
    there afterwards. hold_out : whether these keep every tenth particle apart.
    """
    parts = [part for part in task.parts if part in HALVES]
    if len(parts) != len(HALVES):
        return None
    if task.config.row.leaves_sums and not distributed.is_first():
        return None  # the first process reads what all of them added up
    with task.record.stage("linear half maps"):
        files = sums_of_halves(task, hold_out=hold_out)
        if not distributed.is_first():
            return None
        normalisation = task.parts[parts[0]].normalisation
        unit = 1.0 if normalisation is None else normalisation.unit
        first, second = (linear_map(*load_part(task, files, part), unit) for part in parts)
    return first, second


def linear_maps_of(stack: ParticleStack, folder: Path) -> tuple[Volume, Volume]:
    """Return the linear maps of a stack whose half sets are known, for half maps that another program made.

    Sums lie in `folder` meanwhile. Raises InputError for particles without poses or half sets.
    """
    stack.require_poses()
    if stack.half_set is None:
        raise InputError(
            "the particles have no half sets", file=stack.source, remedy="give the table of the refinement's particles"
        )
    config = ReconstructionConfig("backprojection", {"filter": "none"})
    record = RunRecord(command=[], config={})
    found = linear_half_maps(make_task(stack.with_half_sets(0), config, record, folder))
    assert found is not None
    return found


def linear_map(train: NormalEquations, test: NormalEquations | None, unit: float) -> Volume:
    """Return the least-squares map (D, D, D) of two disjoint sets of particles together, times `unit`."""
    volume: Volume = least_squares(train if test is None else train + test)
    return volume if unit == 1 else (volume * unit).astype(volume.dtype)
