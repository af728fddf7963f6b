"""Normal equations of the parts of a task, from one pass over the particles, with every tenth particle apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gsworkbench.methods.part import ALL, HALVES, Part
from gsworkbench.methods.task import FEW, PartSums, Task
from gsworkbench.normal_equations.equations import NormalEquations, accumulate
from gsworkbench.particles.half_sets import every_nth
from gsworkbench.particles.noise_spectrum import chosen_noise
from gsworkbench.system import distributed

TRAIN, TEST = "sums", "held out"  # of a part: the equations without every tenth particle, and of these
HELD_OUT = 10  # every tenth particle is held out

Files = dict[Part, tuple[Path, Path | None]]  # of the equations without the held-out particles, and of these


def write_sums(task: Task, *, hold_out: bool) -> Files:
    """Read every particle once, and keep the equations of each half set, or of all where there are none, on disk.

    The equations of a part lie there as soon as they are complete: a resumed run takes them from there, and no more are
    in memory than one fit needs.
    """
    if task.sums is not None:
        return {}
    halves = [part for part in task.parts if part != ALL]
    with task.record.stage("accumulate" if ALL in task.parts else "accumulate substituted"):
        return {part: _accumulated(task, part, hold_out) for part in halves or [ALL]}


def sums_of_halves(task: Task, *, hold_out: bool = False) -> Files:
    """Return the files of the equations of both half sets: those that the method wrote, or of one pass made now.

    hold_out : whether the pass that is made now keeps every tenth particle apart.
    """
    if task.sums is not None:
        return {}
    files = {}
    for part in (part for part in task.parts if part != ALL):
        train, test = task.sums_file(part, TRAIN), task.sums_file(part, TEST)
        if task.config.row.leaves_sums:
            files[part] = (train, test if test.is_file() else None)
        else:
            files[part] = _accumulated(task, part, hold_out)
    return files


def sums_of_parts(task: Task, *, hold_out: bool) -> PartSums:
    """Return the equations of each part without every tenth particle, and of these, all in memory."""
    files = write_sums(task, hold_out=hold_out)
    return {part: load_part(task, files, part) for part in task.parts}


def keep_sums(task: Task, folder: Path, names: tuple[str, str]) -> None:
    """Write the equations of half sets 1 and 2, which lie in the folder of checkpoints, to files of these names."""
    for part, name in zip(HALVES, names, strict=True):
        train, test = (task.sums_file(part, what) for what in (TRAIN, TEST))
        held_out = NormalEquations.load(test) if test.is_file() else None
        NormalEquations.load(train).save(folder / name, held_out=held_out)


def load_part(task: Task, files: Files, part: Part) -> tuple[NormalEquations, NormalEquations | None]:
    """Return a part's equations without every tenth particle, and of these; those of all add up from the half sets."""
    if task.sums is not None:
        return task.sums[part]
    chosen = [files[part]] if part in files else list(files.values())
    held_out = [test for _, test in chosen if test is not None]
    train = NormalEquations.load_all([file for file, _ in chosen])
    return train, NormalEquations.load_all(held_out) if held_out else None


def _accumulated(task: Task, part: Part, hold_out: bool) -> tuple[Path, Path | None]:
    """Return the files of a part's equations without every tenth particle, and of these; all in one for few."""
    stack = task.parts[part]
    held = every_nth(stack.specimens(), HELD_OUT)
    if len(stack) < FEW / 2 or not hold_out or held.all():
        held[:] = False
    spectrum = chosen_noise(task.config.noise_spectrum, stack)

    def pass_over(chosen: NDArray[np.bool_], what: str) -> Path:
        file = task.sums_file(part, what)
        found = accumulate(
            stack[chosen],
            noise_spectrum=spectrum[chosen] if spectrum is not None and spectrum.ndim == 2 else spectrum,
            checkpoint=file,
            checkpoint_seconds=task.checkpoint_seconds,
            resume=task.resume,
            label=f"{part.label}: {what}",
        )
        if distributed.is_first():
            found.save(file)
        return file

    return pass_over(~held, TRAIN), pass_over(held, TEST) if held.any() else None
