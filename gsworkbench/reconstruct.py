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
import torch
from numpy.typing import NDArray

from gsworkbench.assessment.agreement import agreement
from gsworkbench.assessment.fsc import FscCurve, Resolution
from gsworkbench.blended import fit_blended
from gsworkbench.config import ReconstructionConfig, to_mapping
from gsworkbench.device import find_device
from gsworkbench.errors import InputError
from gsworkbench.files import atomic_path, remove
from gsworkbench.filtered_backprojection import filtered_backprojection
from gsworkbench.fit_normal_equations import fit_normal_equations
from gsworkbench.gaussians import Gaussians
from gsworkbench.inspection import particle_alarms
from gsworkbench.judging import FILES, HALF_MAPS, MASKS, assess, judge_substituted, write_assessment
from gsworkbench.neural_field import fit_neural_field
from gsworkbench.noise import chosen_noise
from gsworkbench.normal_equations import CHECKPOINT_SECONDS, NormalEquations, accumulate
from gsworkbench.particles import ParticleStack
from gsworkbench.programs import ProgramMap, cryodrgn, relion_reconstruct
from gsworkbench.provenance import RunRecord
from gsworkbench.readers import read_map, write_map, write_with_half_sets
from gsworkbench.rendering import voxelize
from gsworkbench.substitution import RandomPhases
from gsworkbench.training import fit
from gsworkbench.voxel_solution import solve_voxels

Volume = NDArray[np.float32]

MAP = "run_class001.mrc"
SUBSTITUTED = ("half_map_1_substituted.mrc", "half_map_2_substituted.mrc")
SUMS = ".sums.npz"  # checkpoints that a finished run removes
OUTPUTS = (
    *(MAP, *HALF_MAPS, *FILES, "run_data.star", "run.json"),
    *("gaussians.npz", "gaussians_half1.npz", "gaussians_half2.npz", "background.mrc", "held_out.csv"),
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
    """What a method is given: named stacks with a seed each, settings, a folder for checkpoints, the run's record.

    checkpoint_seconds : how often to write what cannot be lost.
    """

    parts: dict[str, ParticleStack]
    seeds: dict[str, int]
    config: ReconstructionConfig
    checkpoints: Path
    resume: bool
    record: RunRecord
    device: torch.device
    checkpoint_seconds: float = CHECKPOINT_SECONDS

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
                device=task.device,
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
    return _program(task, lambda stack, seed: cryodrgn(stack, task.config.cryodrgn, seed=seed))


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
    for name in task.parts:
        with task.record.stage(f"{name}: {task.config.method}"):
            fitted, held_out = _loaded(files, name)
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
        report: dict[str, Any] = {"n_gaussians": len(result.gaussians)}
        verdict = result.held_out
        if result.misfit is not None and verdict is not None:
            report["misfit"] = [round(float(m), 5) for m in result.misfit]
            report["held_out"] = {"signal": verdict.signal, "missed": verdict.missed, "ladder": verdict.ladder}
            task.record.warnings += [f"{name}: {sentence}" for sentence in verdict.warnings()]
        curve = () if verdict is None else verdict.curve
        yield name, Solution(result.volume, result.gaussians, result.background, report, curve)


def _voxels(task: Task) -> Iterator[tuple[str, Solution]]:
    files = _sums(task, hold_out=True)
    for name in task.parts:
        with task.record.stage(f"{name}: {task.config.method}"):
            fitted, held_out = _loaded(files, name)
            result = solve_voxels(fitted, held_out, task.config.voxels, label=name)
        yield name, Solution(result.volume, report={"n_steps": result.n_steps}, held_out=result.curve)


def _sums(task: Task, *, hold_out: bool) -> dict[str, tuple[Path, Path | None]]:
    """Read every particle once, and keep the sums of each half set, or of all where there are none, on disk.

    Sums of a part lie there as soon as they are complete: a resumed run takes them from there, and no more are in
    memory than one fit needs.
    """
    halves = [name for name in task.parts if name != "all"]
    with task.record.stage("accumulate" if "all" in task.parts else "accumulate substituted"):
        return {name: _accumulated(task, name, hold_out) for name in halves or ["all"]}


def _loaded(files: dict[str, tuple[Path, Path | None]], name: str) -> tuple[NormalEquations, NormalEquations | None]:
    """Sums of a part without every tenth particle, and of these; those of all are the sums of both half sets'."""
    chosen = [files[name]] if name in files else list(files.values())
    fitted, held_out = (_added([pair[i] for pair in chosen]) for i in (0, 1))
    assert fitted is not None
    return fitted, held_out


def _accumulated(task: Task, name: str, hold_out: bool) -> tuple[Path, Path | None]:
    """Files of the sums of a stack without every tenth particle, and of these; all in one where there are few."""
    stack = task.parts[name]
    held = np.arange(len(stack)) % _HELD_OUT == 0
    if len(stack) < _FEW / 2 or not hold_out:
        held[:] = False
    spectrum = chosen_noise(task.config.noise_spectrum, stack)

    def pass_over(chosen: NDArray[np.bool_], what: str) -> Path:
        file = task.checkpoint(f"{name} {what}").with_suffix(SUMS)
        found = accumulate(
            stack[chosen],
            noise_spectrum=spectrum,
            checkpoint=file,
            checkpoint_seconds=task.checkpoint_seconds,
            resume=task.resume,
            label=f"{name}: {what}",
        )
        found.save(file)
        return file

    return pass_over(~held, "sums"), pass_over(held, "held out") if held.any() else None


def _added(files: list[Path | None]) -> NormalEquations | None:
    total = None
    for file in filter(None, files):
        part = NormalEquations.load(file)
        total = part if total is None else total + part
    return total


# Methods that divide the data by the power of their noise.
_WEIGHTED = ("normal-equations", "voxels", "backprojection")

# A method yields a Solution for each part of its task, "all" first.
METHODS: dict[str, Callable[[Task], Iterator[tuple[str, Solution]]]] = {
    "normal-equations": _normal_equations,
    "voxels": _voxels,
    "stochastic": _stochastic,
    "backprojection": _backprojection,
    "neural-field": _neural_field,
    "3dgs": _blended,
    "relion": _relion,
    "cryodrgn": _cryodrgn,
}


def reconstruct(
    stack: ParticleStack,
    output_dir: str | Path,
    config: ReconstructionConfig,
    *,
    truth: Path | None = None,
    resume: bool = False,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> Reconstruction:
    """Reconstruct the map of all particles and, if asked for, of each half set; compare them; write everything.

    `truth` is a map to compare with. With `resume`, a run that was interrupted continues from its checkpoints, written
    every `checkpoint_seconds` or at the ends of epochs. The files of an earlier run in `output_dir` are replaced once
    the first map of this one is done.
    """
    output_dir = Path(output_dir)
    _check(config, stack)
    true_map = _matching_map(truth, stack) if truth else None
    user_mask = None if config.mask in MASKS else _matching_map(Path(config.mask), stack)
    solutions, record = make_maps(
        stack, output_dir, config, truth=truth, resume=resume, checkpoint_seconds=checkpoint_seconds
    )
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
    if config.noise_substitute_beyond is not None:
        record.results["noise_substitution"] = _judged_substitution(output_dir, config.noise_substitute_beyond, record)
    if true_map is not None:
        record.results["agreement"] = asdict(agreement(volume, true_map))
    record.warnings += [*_saturation(resolutions), *assessment.alarms]
    record.finish(output_dir / "run.json")
    return Reconstruction(output_dir, volume, halves, curves, resolutions, record)


def make_maps(
    stack: ParticleStack,
    output_dir: str | Path,
    config: ReconstructionConfig,
    *,
    truth: Path | None = None,
    resume: bool = False,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> tuple[dict[str, Solution], RunRecord]:
    """Make the map of all particles and, if asked for, of each half set, and write them; compare nothing.

    Returns the solutions by name ("all", "half 1", "half 2") and the record, for the caller to finish. The workflow
    assesses maps apart from their making, so that a new judge fits nothing again.
    """
    output_dir = Path(output_dir)
    _check(config, stack)
    if config.half_maps:
        stack = stack.with_half_sets(config.seed)
    shared = particle_alarms(stack, most_images=0) if config.half_maps else []
    record = RunRecord.start(to_mapping(config), _inputs(stack, truth))
    record.warnings += _warnings(stack) + shared

    device = _device(config)
    record.device = str(device)
    parts = _parts(stack, config.half_maps)
    record.n_particles |= {name: len(part) for name, part in parts.items()}
    record.seeds |= {name: 3 * config.seed + number for number, name in enumerate(parts)}
    task = Task(parts, record.seeds, config, output_dir / "checkpoints", resume, record, device, checkpoint_seconds)
    solutions: dict[str, Solution] = {}
    for name, solution in METHODS[config.method](task):
        solutions[name] = solution
        record.results[name] = solution.report
        if name == "all":
            _remove_outputs(output_dir)  # not before a map stands ready to take the place of an older one
        _write_solution(output_dir, name, solution, stack, config)
    if config.noise_substitute_beyond is not None:
        _write_substituted(task, config.noise_substitute_beyond, output_dir)
    write_with_half_sets(stack.source, output_dir / "run_data.star", stack)
    _remove_sums(task.checkpoints)
    return solutions, record


def _check(config: ReconstructionConfig, stack: ParticleStack) -> None:
    """Refuse what cannot be done before anything is read."""
    if config.method not in METHODS:
        raise InputError(f"there is no method {config.method!r}", remedy=f"choose one of {', '.join(METHODS)}")
    _device(config)
    stack.require_poses()
    if config.noise_spectrum != "white" and config.method not in _WEIGHTED:
        remedy = f"leave out the noise spectrum, or use {', '.join(_WEIGHTED)}"
        raise InputError(f"the method {config.method} knows white noise only", remedy=remedy)
    if config.noise_substitute_beyond is not None:
        RandomPhases(config.noise_substitute_beyond, config.seed).check(stack.box_size, stack.pixel_size)
        if not config.half_maps:
            raise InputError("noise substitution is read off half maps", remedy="leave out --no-half-maps")


def _write_substituted(task: Task, beyond: float, output_dir: Path) -> None:
    """Repeat both half maps, with the same settings and seeds, from particles with random phases beyond `beyond` A."""
    named = {f"{half} substituted": half for half in ("half 1", "half 2")}
    again = replace(
        task,
        parts={name: task.parts[half].with_random_phases(beyond, task.config.seed) for name, half in named.items()},
        seeds={name: task.seeds[half] for name, half in named.items()},
    )
    for file, (name, solution) in zip(SUBSTITUTED, METHODS[task.config.method](again), strict=True):
        stack = again.parts[name]
        write_map(output_dir / file, solution.volume, stack.pixel_size, f"{task.config.method}, {stack.random_phases}")


def _judged_substitution(output_dir: Path, beyond: float, record: RunRecord) -> dict[str, Any]:
    """Figures of the substituted half maps beside the half maps: those of the judge, and the mean where phases are
    random."""
    first, second = (output_dir / name for name in HALF_MAPS)
    third, fourth = (output_dir / name for name in SUBSTITUTED)
    found = judge_substituted((first, second), (third, fourth), beyond=beyond)
    record.warnings += found.alarms
    noise = next(c for c in found.curves if c.name == "fsc_substituted")
    shell = round(noise.box_size * noise.voxel_size / beyond) + 2
    mean = float(np.nan_to_num(noise.values[shell : noise.box_size // 2]).mean())
    return {"beyond_angstrom": beyond, "mean_fsc_of_random_phases": mean, **found.figures()}


def _remove_sums(checkpoints: Path) -> None:
    """Remove the sums of a run whose maps are all written; they are large and quickly made again."""
    for file in checkpoints.glob(f"*{SUMS}"):
        remove(file)
    if checkpoints.is_dir() and not any(checkpoints.iterdir()):
        checkpoints.rmdir()


def _device(config: ReconstructionConfig) -> torch.device:
    """Where fits run: as configured; auto is the CPU where a renderer is named. Maps are sampled on the CPU anyway."""
    if config.backend == "gpu" or (config.device == "cuda" and config.backend == "cpu"):
        raise InputError(f"renderer {config.backend} cannot be named here", remedy="leave it out: the device decides")
    return find_device("cpu" if config.device == "auto" and config.backend else config.device)


def _parts(stack: ParticleStack, half_maps: bool) -> dict[str, ParticleStack]:
    halves = {f"half {k}": stack[stack.half_set == k] for k in (1, 2)} if half_maps else {}
    return {"all": stack} | halves


def _write_solution(
    output_dir: Path, name: str, solution: Solution, stack: ParticleStack, config: ReconstructionConfig
) -> None:
    half = name.replace(" ", "")  # half1, half2 or all
    file = MAP if name == "all" else f"run_{half}_class001_unfil.mrc"
    write_map(output_dir / file, solution.volume, stack.pixel_size, f"{config.method}, {name}")
    if solution.gaussians is not None:
        file = "gaussians.npz" if name == "all" else f"gaussians_{half}.npz"
        solution.gaussians.save(output_dir / file, box_size=stack.box_size, pixel_size=stack.pixel_size)
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
    for name in (*OUTPUTS, *SUBSTITUTED):
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
