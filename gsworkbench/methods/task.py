"""Methods: what makes a map of a stack, each a row of METHODS, and the task that all of them are given.

The map of all particles and the half maps are separate fits with separate seeds. What is written, and what compares the
maps, is reconstruction/run.py's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gsworkbench.config import ReconstructionConfig
from gsworkbench.errors import InputError
from gsworkbench.gaussians.mixture import Gaussians
from gsworkbench.imaging.residual import require_white_protein
from gsworkbench.io.mrc import Volume
from gsworkbench.methods.backprojection_filters import filtered_backprojection
from gsworkbench.methods.combination import Candidate, combine, weigh
from gsworkbench.methods.neural_field import fit_neural_field
from gsworkbench.methods.one_pass import fit_normal_equations
from gsworkbench.methods.other_programs import ProgramMap, cryodrgn, relion_reconstruct
from gsworkbench.methods.particle_scales import SCALED, measure_scales, with_scales
from gsworkbench.methods.splatting_3dgs import fit_blended
from gsworkbench.methods.stochastic import fit
from gsworkbench.methods.voxels import solve_voxels
from gsworkbench.normal_equations.diagonal import Problem, wiener_map
from gsworkbench.normal_equations.equations import CHECKPOINT_SECONDS, NormalEquations, accumulate
from gsworkbench.particles.half_sets import every_nth
from gsworkbench.particles.image_statistics import (
    blank,
    figures,
    kept,
    measure_images,
    outliers,
    sentences,
    weighted_alike,
)
from gsworkbench.particles.noise_spectrum import chosen_noise
from gsworkbench.particles.stack import ParticleStack
from gsworkbench.system import distributed
from gsworkbench.system.device import find_device
from gsworkbench.system.provenance import RunRecord

PartSums = dict[str, tuple[NormalEquations, NormalEquations | None]]

SUMS = ".sums.npz"  # checkpoints that a finished run removes
FEW = 500  # fewer particles than this get a warning, and half as many no held-out particles
_HELD_OUT = 10  # every tenth particle is held out


@dataclass(frozen=True)
class Solution:
    """What a method makes of one stack.

    volume : its map. gaussians, background : the parts it is the sum of, where there are any. report : figures for
    run.json. held_out : (step, error on fitted particles, error on held-out ones).
    """

    volume: Volume
    gaussians: Gaussians | None = None
    background: Volume | None = None
    report: dict[str, Any] = field(default_factory=dict)
    held_out: tuple[tuple[int, float, float], ...] = ()

    def scaled(self, factor: float) -> Solution:
        """The same in other units of density."""
        if factor == 1:
            return self
        g, background = self.gaussians, self.background
        return replace(
            self,
            volume=(self.volume * factor).astype(np.float32),
            gaussians=None if g is None else replace(g, weights=g.weights * factor),
            background=None if background is None else (background * factor).astype(np.float32),
        )


@dataclass(frozen=True)
class Task:
    """What a method is given: named stacks with a seed each, settings, a folder for checkpoints, the run's record.

    checkpoint_seconds : how often to write what cannot be lost. sums : those of the parts, where they are at hand, so
    that particles need not be read again.
    """

    parts: dict[str, ParticleStack]
    seeds: dict[str, int]
    config: ReconstructionConfig
    checkpoints: Path
    resume: bool
    record: RunRecord
    device: torch.device
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    sums: PartSums | None = None

    def checkpoint(self, name: str) -> Path:
        return self.checkpoints / f"{name.replace(' ', '')}.pt"

    def sums_file(self, name: str, what: str) -> Path:
        """Of a part: its "sums" without every tenth particle, or those of the "held out"."""
        return self.checkpoint(f"{name} {what}").with_suffix(SUMS)


Method = Callable[[Task], Iterator[tuple[str, Solution]]]


def _stochastic(task: Task) -> Iterator[tuple[str, Solution]]:
    config = task.config
    for name, stack in task.parts.items():
        with task.record.stage(f"{name}: {config.method}"):
            fitted = fit(
                stack,
                config.stochastic,
                seed=task.seeds[name],
                checkpoint=task.checkpoint(name),
                resume=task.resume,
                backend=config.backend,
                device=task.device,
                label=name,
            )
            g = fitted.gaussians
            volume = g.voxelize(stack.box_size, stack.pixel_size, backend=config.backend)
        report = {"losses": list(fitted.losses), "image_scale": fitted.image_scale, "n_gaussians": len(g)}
        yield name, Solution(volume.numpy(), g, report=report)


def _one_by_one(task: Task, solve: Callable[[ParticleStack, int, str], Solution]) -> Iterator[tuple[str, Solution]]:
    """The solutions of a function of (stack, seed, name) for each part."""
    for name, stack in task.parts.items():
        with task.record.stage(f"{name}: {task.config.method}"):
            solution = solve(stack, task.seeds[name], name)
        yield name, solution


def _backprojection(task: Task) -> Iterator[tuple[str, Solution]]:
    def solve(stack: ParticleStack, seed: int, name: str) -> Solution:
        spectrum = chosen_noise(task.config.noise_spectrum, stack)
        volume = filtered_backprojection(stack, task.config.backprojection, noise_spectrum=spectrum, label=name)
        return Solution(volume)

    return _one_by_one(task, solve)


def _neural_field(task: Task) -> Iterator[tuple[str, Solution]]:
    def solve(stack: ParticleStack, seed: int, name: str) -> Solution:
        fitted = fit_neural_field(stack, task.config.neural_field, seed=seed, label=name)
        return Solution(fitted.volume, report={"losses": list(fitted.losses), "n_parameters": fitted.n_parameters})

    return _one_by_one(task, solve)


def _blended(task: Task) -> Iterator[tuple[str, Solution]]:
    def solve(stack: ParticleStack, seed: int, name: str) -> Solution:
        fitted = fit_blended(stack, task.config.blending, seed=seed, label=name)
        report = {"losses": list(fitted.losses), "rendered_by": fitted.rendered_by}
        return Solution(fitted.volume, fitted.gaussians, report=report)

    return _one_by_one(task, solve)


def _relion(task: Task) -> Iterator[tuple[str, Solution]]:
    return _program(task, lambda stack, seed: relion_reconstruct(stack))


def _cryodrgn(task: Task) -> Iterator[tuple[str, Solution]]:
    return _program(task, lambda stack, seed: cryodrgn(weighted_alike(stack), task.config.cryodrgn, seed=seed))


def _program(task: Task, run: Callable[[ParticleStack, int], ProgramMap]) -> Iterator[tuple[str, Solution]]:
    """Another program's maps; its processor time counts as ours."""
    for name, stack in task.parts.items():
        stage = f"{name}: {task.config.method}"
        with task.record.stage(stage):
            result = run(stack, task.seeds[name])
        task.record.cpu_seconds[stage] = round(task.record.cpu_seconds[stage] + result.cpu_seconds, 3)
        report = {"commands": list(result.commands), "program_cpu_seconds": round(result.cpu_seconds, 3)}
        yield name, Solution(result.volume, report=report)


def _normal_equations(task: Task) -> Iterator[tuple[str, Solution]]:
    config = task.config.normal_equations
    files = _sums(task, hold_out=config.background or config.n_gaussians == "auto")
    if not distributed.is_first():
        return  # the particles have been read; the fit is one process's
    solved: dict[str, Solution] = {}
    candidates: dict[str, Candidate] = {}
    trial = None
    for name in task.parts:
        with task.record.stage(f"{name}: {task.config.method}"):
            fitted, held_out = _loaded(task, files, name)
            chosen = config if held_out is not None else replace(config, background=False)
            result = fit_normal_equations(
                fitted,
                held_out,
                chosen,
                seed=task.seeds[name],
                backend=task.config.backend,
                device=task.device,
                label=name,
            )
            del fitted, held_out
            candidates[name] = Candidate(result.problem, result.volume, wiener_map(result.problem).numpy())
        report: dict[str, Any] = {"n_gaussians": len(result.gaussians)}
        verdict = result.held_out
        if result.misfit is not None and verdict is not None:
            report["misfit"] = [round(float(m), 5) for m in result.misfit]
            report["held_out"] = {"signal": verdict.signal, "missed": verdict.missed, "ladder": verdict.ladder}
            task.record.warnings += [f"{name}: {sentence}" for sentence in verdict.warnings()]
        curve = () if verdict is None else verdict.curve
        solved[name] = Solution(result.volume, result.gaussians, result.background, report, curve)
        trial = result.trial if len(task.parts) == 1 else None
    if config.combine:
        with task.record.stage("combine with backprojection"):
            solved = _combined(task, solved, candidates, trial)
    yield from solved.items()


def _combined(
    task: Task,
    solved: dict[str, Solution],
    candidates: dict[str, Candidate],
    trial: tuple[Volume, Problem, Problem] | None,
) -> dict[str, Solution]:
    """Fits combined with backprojections as the other half set asks, or, without half sets, as held-out particles."""
    halves = [name for name in candidates if name != "all"]
    if len(halves) == 2:
        first, second = (candidates[name] for name in halves)
        pairs = [(first, second.problem), (second, first.problem)]
    elif trial is not None:
        volume, problem, judge = trial
        pairs = [(Candidate(problem, volume, wiener_map(problem).numpy()), judge)]
    else:
        return solved
    weights = weigh(pairs)
    if len(halves) == 2:  # a tenth of the particles says less than a half set, and is no reason to worry anybody
        task.record.warnings += weights.sentences()
    report = {"share_of_fit": round(weights.mean, 4), "support_of_backprojection": weights.support}
    result = {}
    for name, solution in solved.items():
        volume = combine(candidates[name], weights)
        mixture = solution.volume if solution.background is None else solution.volume - solution.background
        result[name] = replace(
            solution, volume=volume, background=volume - mixture, report=solution.report | {"combined": report}
        )
    return result


def _voxels(task: Task) -> Iterator[tuple[str, Solution]]:
    files = _sums(task, hold_out=True)
    if not distributed.is_first():
        return
    for name in task.parts:
        with task.record.stage(f"{name}: {task.config.method}"):
            fitted, held_out = _loaded(task, files, name)
            result = solve_voxels(fitted, held_out, task.config.voxels, label=name)
        yield name, Solution(result.volume, report={"n_steps": result.n_steps}, held_out=result.curve)


def _sums(task: Task, *, hold_out: bool) -> dict[str, tuple[Path, Path | None]]:
    """Read every particle once, and keep the sums of each half set, or of all where there are none, on disk.

    Sums of a part lie there as soon as they are complete: a resumed run takes them from there, and no more are in
    memory than one fit needs.
    """
    if task.sums is not None:
        return {}
    halves = [name for name in task.parts if name != "all"]
    with task.record.stage("accumulate" if "all" in task.parts else "accumulate substituted"):
        return {name: _accumulated(task, name, hold_out) for name in halves or ["all"]}


def sums_of_parts(task: Task, *, hold_out: bool) -> PartSums:
    """Sums over each part without every tenth particle, and over these, all in memory."""
    files = _sums(task, hold_out=hold_out)
    return {name: _loaded(task, files, name) for name in task.parts}


def _loaded(
    task: Task, files: dict[str, tuple[Path, Path | None]], name: str
) -> tuple[NormalEquations, NormalEquations | None]:
    """Sums of a part without every tenth particle, and of these; those of all are the sums of both half sets'."""
    if task.sums is not None:
        return task.sums[name]
    chosen = [files[name]] if name in files else list(files.values())
    held = [held_out for _, held_out in chosen if held_out is not None]
    fitted = NormalEquations.load_all([sums for sums, _ in chosen])
    return fitted, NormalEquations.load_all(held) if held else None


def _accumulated(task: Task, name: str, hold_out: bool) -> tuple[Path, Path | None]:
    """Files of the sums of a stack without every tenth particle, and of these; all in one where there are few."""
    stack = task.parts[name]
    held = every_nth(stack.specimens(), _HELD_OUT)
    if len(stack) < FEW / 2 or not hold_out or held.all():
        held[:] = False
    spectrum = chosen_noise(task.config.noise_spectrum, stack)

    def pass_over(chosen: NDArray[np.bool_], what: str) -> Path:
        file = task.sums_file(name, what)
        found = accumulate(
            stack[chosen],
            noise_spectrum=spectrum[chosen] if spectrum is not None and spectrum.ndim == 2 else spectrum,
            checkpoint=file,
            checkpoint_seconds=task.checkpoint_seconds,
            resume=task.resume,
            label=f"{name}: {what}",
        )
        if distributed.is_first():
            found.save(file)
        return file

    return pass_over(~held, "sums"), pass_over(held, "held out") if held.any() else None


# Methods that processes of torchrun share.
SHARED = ("normal-equations", "voxels", "backprojection", "stochastic")
# Methods that divide the data by the power of their noise.
WEIGHTED = ("normal-equations", "voxels", "backprojection")

# A method yields a Solution for each part of its task, "all" first.
METHODS: dict[str, Method] = {
    "normal-equations": _normal_equations,
    "voxels": _voxels,
    "stochastic": _stochastic,
    "backprojection": _backprojection,
    "neural-field": _neural_field,
    "3dgs": _blended,
    "relion": _relion,
    "cryodrgn": _cryodrgn,
}


def solutions(task: Task, method: Method | None = None) -> Iterator[tuple[str, Solution]]:
    """What the method of a task makes of each of its parts, in the units of the images, "all" first.

    method : in place of the one that the task's settings name.
    """
    normalisation = next(iter(task.parts.values())).normalisation
    for name, solution in (method or METHODS[task.config.method])(task):
        yield name, solution if normalisation is None else solution.scaled(normalisation.unit)


def make_task(stack: ParticleStack, config: ReconstructionConfig, record: RunRecord, checkpoints: Path) -> Task:
    """A stack and, if asked for, its half sets, with a seed each, and images normalised as configured.

    `record` notes how many particles and which seeds, and what a user should know of the images.
    """
    stack = prepared(stack, config, record)
    halves = {f"half {k}": stack[stack.half_set == k] for k in (1, 2)} if config.half_maps else {}
    parts = {"all": stack} | halves
    record.n_particles |= {name: len(part) for name, part in parts.items()}
    record.seeds |= {name: 3 * config.seed + number for number, name in enumerate(parts)}
    device = fit_device(config)
    record.device = str(device)
    return Task(parts, record.seeds, config, checkpoints, False, record, device)


def prepared(stack: ParticleStack, config: ReconstructionConfig, record: RunRecord) -> ParticleStack:
    """The stack that methods are given: its images normalised, and those that are absurd left out, as configured.

    Raises InputError for images whose protein is dark, and where no image is left.
    """
    stack = _normalised(stack, config, record) if config.normalise else stack
    require_white_protein(stack)
    if not (config.normalise and config.particle_scales) or record.results["images"]["noise_measured"] == "none":
        return stack
    with record.stage("scales of particles"):
        scales = measure_scales(stack, most=SCALED)
        if scales is not None and scales.differ:
            scales = measure_scales(stack)
    if scales is None:
        return stack
    record.results["images"] |= scales.figures()
    record.warnings += scales.sentences(len(stack))
    return with_scales(stack, scales) if scales.differ else stack


def _normalised(stack: ParticleStack, config: ReconstructionConfig, record: RunRecord) -> ParticleStack:
    with record.stage("look at images"):
        found = measure_images(stack)
    record.warnings += sentences(found, stack, kept=config.keep_outliers)
    left_out = blank(found) if config.keep_outliers else outliers(found)
    record.results["images"] = figures(found) | {"left_out": int(left_out.sum())}
    return kept(stack, found, keep_outliers=config.keep_outliers)


def fit_device(config: ReconstructionConfig) -> torch.device:
    """Where fits run: as configured; auto is the CPU where a renderer is named. Maps are sampled on the CPU anyway."""
    if config.backend == "gpu" or (config.device == "cuda" and config.backend == "cpu"):
        raise InputError(f"renderer {config.backend} cannot be named here", remedy="leave it out: the device decides")
    return find_device("cpu" if config.device == "auto" and config.backend else config.device)


def substituted_task(task: Task, beyond: float) -> Task:
    """Both half sets again, with the same settings and seeds, and random phases beyond `beyond` A."""
    named = {f"{half} substituted": half for half in ("half 1", "half 2")}
    return replace(
        task,
        parts={name: task.parts[half].with_random_phases(beyond, task.config.seed) for name, half in named.items()},
        seeds={name: task.seeds[half] for name, half in named.items()},
        sums=None,
    )
