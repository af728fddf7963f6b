"""From a ParticleStack to a folder of maps, curves and a record: the whole of what one command does.

The map of all particles and the two half maps are separate fits with separate seeds; what compares them (assessment)
knows nothing of how they were made.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gsworkbench.assessment.agreement import agreement
from gsworkbench.assessment.alarms import particles_in_both_halves
from gsworkbench.assessment.fsc import FscCurve, Resolution
from gsworkbench.backprojection import backproject
from gsworkbench.config import ReconstructionConfig, to_mapping
from gsworkbench.errors import InputError
from gsworkbench.files import atomic_path
from gsworkbench.fit_normal_equations import fit_normal_equations
from gsworkbench.gaussians import Gaussians
from gsworkbench.judging import FILES, MASKS, assess, write_assessment
from gsworkbench.normal_equations import NormalEquations, accumulate
from gsworkbench.particles import ParticleStack
from gsworkbench.provenance import RunRecord
from gsworkbench.readers import read_map, write_map, write_with_half_sets
from gsworkbench.rendering import voxelize
from gsworkbench.training import fit
from gsworkbench.viewers import write_chimerax_script, write_splats

Volume = NDArray[np.float32]
PartSums = dict[str, tuple[NormalEquations, NormalEquations | None]]

MAP = "run_class001.mrc"
HALF_MAPS = ("run_half1_class001_unfil.mrc", "run_half2_class001_unfil.mrc")
OUTPUTS = (
    *(MAP, *HALF_MAPS, *FILES, "run_data.star", "run.json"),
    *("gaussians.npz", "gaussians_half1.npz", "gaussians_half2.npz", "background.mrc", "held_out.csv"),
    *("gaussians.ply", "open.cxc"),
)
_MAP_CUTOFF = 5.0  # standard deviations: a map is sampled once, so the float32 floor is affordable
_FEW = 500  # fewer particles than this get a warning, and no particles held out
_HELD_OUT = 10  # every tenth particle is held out


@dataclass(frozen=True)
class Reconstruction:
    """What `reconstruct` made; the same things lie in `output_dir` under the names of OUTPUTS.

    volume : (D, D, D) float32 map of all particles, image units / A. half_maps : those of half sets 1 and 2, or None.
    curves : FSC curves, in the order of fsc.csv. resolutions : read off them, 0.143 between half maps, 0.5 to a truth.
    """

    output_dir: Path
    volume: Volume
    half_maps: tuple[Volume, Volume] | None
    curves: tuple[FscCurve, ...]
    resolutions: tuple[Resolution, ...]
    record: RunRecord


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


@dataclass(frozen=True)
class Task:
    """What a method is given: named stacks with a seed each, settings, a folder for checkpoints, the run's record."""

    parts: dict[str, ParticleStack]
    seeds: dict[str, int]
    config: ReconstructionConfig
    checkpoints: Path
    resume: bool
    record: RunRecord

    def checkpoint(self, name: str) -> Path:
        return self.checkpoints / f"{name.replace(' ', '')}.pt"


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
                label=name,
            )
            g = fitted.gaussians
            volume = voxelize(
                g.means,
                g.covariances(),
                g.weights,
                box_size=stack.box_size,
                voxel_size=stack.pixel_size,
                cutoff=_MAP_CUTOFF,
                backend=config.backend,
            )
        report = {"losses": list(fitted.losses), "image_scale": fitted.image_scale, "n_gaussians": len(g)}
        yield name, Solution(volume.numpy(), g, report=report)


def _backprojection(task: Task) -> Iterator[tuple[str, Solution]]:
    for name, stack in task.parts.items():
        with task.record.stage(f"{name}: {task.config.method}"):
            volume = backproject(stack, label=name)
        yield name, Solution(volume)


def _normal_equations(task: Task) -> Iterator[tuple[str, Solution]]:
    """Read every particle once; the sums of all are those of the half sets."""
    with task.record.stage("accumulate"):
        sums = accumulate_parts(task)
    yield from fit_parts(task, sums)


def accumulate_parts(task: Task) -> PartSums:
    """Sums over each part of a task, "all" first, from one pass over the particles: (fitted, held out or None)."""
    halves = [name for name in task.parts if name != "all"]
    sums = {name: _accumulated(task, name) for name in halves or ["all"]}
    return with_all(sums) if halves else sums


def with_all(halves: PartSums) -> PartSums:
    """Sums over two half sets, and before them those of all particles."""
    first, second = halves.values()
    held = None if first[1] is None or second[1] is None else first[1] + second[1]
    return {"all": (first[0] + second[0], held)} | halves


def fit_parts(task: Task, sums: PartSums) -> Iterator[tuple[str, Solution]]:
    """Fit each part to its sums; the particles are not read."""
    config = task.config.normal_equations
    for name, (fitted, held_out) in sums.items():
        chosen = config if held_out is not None else replace(config, background=False)
        with task.record.stage(f"{name}: {task.config.method}"):
            result = fit_normal_equations(
                fitted, held_out, chosen, seed=task.seeds[name], backend=task.config.backend, label=name
            )
        report: dict[str, Any] = {"n_gaussians": len(result.gaussians)}
        if result.misfit is not None:
            report["misfit"] = [round(float(m), 5) for m in result.misfit]
        yield name, Solution(result.volume, result.gaussians, result.background, report, result.curve)


def _accumulated(task: Task, name: str) -> tuple[NormalEquations, NormalEquations | None]:
    """Normal equations of a stack without every tenth particle, and of these; all in one where there are few."""
    stack = task.parts[name]
    held = np.arange(len(stack)) % _HELD_OUT == 0
    if len(stack) < _FEW / 2 or not task.config.normal_equations.background:
        held[:] = False

    def pass_over(chosen: NDArray[np.bool_], what: str) -> NormalEquations:
        checkpoint = task.checkpoint(f"{name} {what}").with_suffix(".npz")
        return accumulate(stack[chosen], checkpoint=checkpoint, resume=task.resume, label=f"{name}: {what}")

    return pass_over(~held, "sums"), pass_over(held, "held out") if held.any() else None


# A method yields a Solution for each part of its task, "all" first.
METHODS: dict[str, Callable[[Task], Iterator[tuple[str, Solution]]]] = {
    "normal-equations": _normal_equations,
    "stochastic": _stochastic,
    "backprojection": _backprojection,
}


def reconstruct(
    stack: ParticleStack,
    output_dir: str | Path,
    config: ReconstructionConfig,
    *,
    truth: str | Path | None = None,
    resume: bool = False,
) -> Reconstruction:
    """Reconstruct the map of all particles and, if asked for, of each half set; compare them; write everything.

    `truth` is a map to compare with. With `resume`, a run that was interrupted continues from its checkpoints. The
    files of an earlier run in `output_dir` are replaced once the first map of this one is done.
    """
    output_dir = Path(output_dir)
    truth = None if truth is None else Path(truth)
    if config.method not in METHODS:
        raise InputError(f"there is no method {config.method!r}", remedy=f"choose one of {', '.join(METHODS)}")
    stack.require_poses()
    true_map = _matching_map(truth, stack) if truth else None
    user_mask = None if config.mask in MASKS else _matching_map(Path(config.mask), stack)
    if config.half_maps:
        stack = stack.with_half_sets(config.seed)
    shared = particles_in_both_halves(stack.file_index, stack.image_index, stack.half_set) if config.half_maps else None
    record = RunRecord.start(to_mapping(config), _inputs(stack, truth))
    record.warnings += _warnings(stack) + ([shared] if shared else [])

    task = make_task(stack, config, record, output_dir / "checkpoints", resume=resume)
    solutions: dict[str, Solution] = {}
    for name, solution in METHODS[config.method](task):
        solutions[name] = solution
        record.results[name] = solution.report
        if name == "all":
            _remove_outputs(output_dir)  # not before a map stands ready to take the place of an older one
        _write_solution(output_dir, name, solution, stack, config)

    with record.stage("assess"):
        volume = solutions["all"].volume
        halves = (solutions["half 1"].volume, solutions["half 2"].volume) if config.half_maps else None
        assessment = assess(
            volume,
            halves,
            true_map,
            voxel_size=stack.pixel_size,
            mask=config.mask,
            user_mask=user_mask,
            seed=config.seed,
        )
        write_assessment(output_dir, assessment, f"{config.method}, {len(stack):,} particles", HALF_MAPS)
    curves, resolutions = assessment.curves, assessment.resolutions
    record.results |= assessment.figures()
    if true_map is not None:
        record.results["agreement"] = asdict(agreement(volume, true_map))
    record.warnings += [*_saturation(resolutions), *assessment.alarms]
    halves_beside = dict(zip(HALF_MAPS, halves or (), strict=False))
    write_chimerax_script(output_dir / "open.cxc", {MAP: volume} | halves_beside)
    write_with_half_sets(stack.source, output_dir / "run_data.star", stack)
    record.finish(output_dir / "run.json")
    return Reconstruction(output_dir, volume, halves, curves, resolutions, record)


def make_task(
    stack: ParticleStack, config: ReconstructionConfig, record: RunRecord, checkpoints: Path, *, resume: bool = False
) -> Task:
    """A stack and, if asked for, its half sets, with a seed each; `record` notes how many particles and which seeds."""
    halves = {f"half {k}": stack[stack.half_set == k] for k in (1, 2)} if config.half_maps else {}
    parts = {"all": stack} | halves
    record.n_particles |= {name: len(part) for name, part in parts.items()}
    record.seeds |= {name: 3 * config.seed + number for number, name in enumerate(parts)}
    return Task(parts, record.seeds, config, checkpoints, resume, record)


def _write_solution(
    output_dir: Path, name: str, solution: Solution, stack: ParticleStack, config: ReconstructionConfig
) -> None:
    half = name.replace(" ", "")  # half1, half2 or all
    file = MAP if name == "all" else f"run_{half}_class001_unfil.mrc"
    write_map(output_dir / file, solution.volume, stack.pixel_size, f"{config.method}, {name}")
    if solution.gaussians is not None:
        file = "gaussians.npz" if name == "all" else f"gaussians_{half}.npz"
        solution.gaussians.save(output_dir / file, box_size=stack.box_size, pixel_size=stack.pixel_size)
        if name == "all":
            write_splats(output_dir / "gaussians.ply", solution.gaussians)
    if name == "all" and solution.background is not None:
        write_map(output_dir / "background.mrc", solution.background, stack.pixel_size, "part of the map: background")
    if name == "all" and solution.held_out:
        with atomic_path(output_dir / "held_out.csv") as temporary, open(temporary, "w", encoding="utf-8") as text:
            table = csv.writer(text, lineterminator="\n")
            table.writerow(["step", "error_fitted", "error_held_out"])
            table.writerows(solution.held_out)


def _matching_map(path: Path, stack: ParticleStack) -> Volume:
    """Read a map that must lie on the grid of the reconstruction."""
    volume, voxel_size = read_map(path)
    if len(volume) != stack.box_size or abs(voxel_size / stack.pixel_size - 1) > 0.01:
        raise InputError(
            f"its grid, {len(volume)} voxels of {voxel_size:.4g} A, is not that of the particles, "
            f"{stack.box_size} of {stack.pixel_size:.4g} A",
            file=path,
        )
    return volume


def _inputs(stack: ParticleStack, truth: Path | None) -> list[Path]:
    return [*([stack.source] if stack.source else []), *stack.files, *([truth] if truth else [])]


def _remove_outputs(output_dir: Path) -> None:
    for name in OUTPUTS:
        (output_dir / name).unlink(missing_ok=True)


def _warnings(stack: ParticleStack) -> list[str]:
    if len(stack) >= _FEW:
        return []
    return [f"only {len(stack)} particles: expect a poor map, thousands are usual"]


def _saturation(resolutions: tuple[Resolution, ...]) -> list[str]:
    """Say of half-map curves that never cross that they are no measurement."""
    return [
        f"{r.curve} never falls below {r.threshold:g} before Nyquist ({r.nyquist_angstrom:.2f} A): that is the "
        "limit of the sampling, not a measured resolution"
        for r in resolutions
        if r.angstrom is None and not r.curve.endswith("_truth")
    ]
