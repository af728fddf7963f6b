"""From a ParticleStack to a folder of maps, curves and a record: the whole of what one command does.

The map of all particles and the two half maps are separate fits with separate seeds; what compares them (assessment)
knows nothing of how they were made.
"""

from __future__ import annotations

import csv
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gsworkbench import distributed
from gsworkbench.assessment.agreement import agreement
from gsworkbench.assessment.fsc import FscCurve, Resolution
from gsworkbench.config import ReconstructionConfig, to_mapping
from gsworkbench.errors import InputError
from gsworkbench.files import atomic_path, remove
from gsworkbench.inspection import particle_alarms
from gsworkbench.judging import FILES, HALF_MAPS, MASKS, assess, judge_substituted, write_assessment
from gsworkbench.methods import (
    FEW,
    METHODS,
    SHARED,
    SUMS,
    WEIGHTED,
    Solution,
    Task,
    fit_device,
    make_task,
    substituted_task,
)
from gsworkbench.normal_equations import CHECKPOINT_SECONDS
from gsworkbench.particles import ParticleStack
from gsworkbench.provenance import RunRecord
from gsworkbench.readers import read_map, write_map, write_with_half_sets
from gsworkbench.substitution import RandomPhases
from gsworkbench.viewers import write_chimerax_script, write_splats

Volume = NDArray[np.float32]

MAP = "run_class001.mrc"
SUBSTITUTED = ("half_map_1_substituted.mrc", "half_map_2_substituted.mrc")
OUTPUTS = (
    *(MAP, *HALF_MAPS, *FILES, "run_data.star", "run.json"),
    *("gaussians.npz", "gaussians_half1.npz", "gaussians_half2.npz", "background.mrc", "held_out.csv"),
    *("gaussians.ply", "open.cxc"),
)


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


def reconstruct(
    stack: ParticleStack,
    output_dir: str | Path,
    config: ReconstructionConfig,
    *,
    truth: str | Path | None = None,
    resume: bool = False,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> Reconstruction:
    """Reconstruct the map of all particles and, if asked for, of each half set; compare them; write everything.

    `truth` is a map to compare with. With `resume`, a run that was interrupted continues from its checkpoints, written
    every `checkpoint_seconds` or at the ends of epochs. The files of an earlier run in `output_dir` are replaced once
    the first map of this one is done.
    """
    output_dir = Path(output_dir)
    truth = None if truth is None else Path(truth)
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
    truth: str | Path | None = None,
    resume: bool = False,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> tuple[dict[str, Solution], RunRecord]:
    """Make the map of all particles and, if asked for, of each half set, and write them; compare nothing.

    Returns the solutions by name ("all", "half 1", "half 2") and the record, for the caller to finish. The workflow
    assesses maps apart from their making, so that a new judge fits nothing again.
    """
    output_dir = Path(output_dir)
    truth = None if truth is None else Path(truth)
    _check(config, stack)
    if config.half_maps:
        stack = stack.with_half_sets(config.seed)
    shared = particle_alarms(stack, most_images=0) if config.half_maps else []
    record = RunRecord.start(to_mapping(config), _inputs(stack, truth))
    record.warnings += _warnings(stack) + shared

    task = replace(
        make_task(stack, config, record, output_dir / "checkpoints"),
        resume=resume,
        checkpoint_seconds=checkpoint_seconds,
    )
    solutions: dict[str, Solution] = {}
    for name, solution in METHODS[config.method](task):
        solutions[name] = solution
        record.results[name] = solution.report
        if name == "all":
            _remove_outputs(output_dir)  # not before a map stands ready to take the place of an older one
        _write_solution(output_dir, name, solution, stack, config)
    volumes = {MAP: solutions["all"].volume}
    volumes |= {file: solutions[f"half {k}"].volume for k, file in enumerate(HALF_MAPS, 1) if f"half {k}" in solutions}
    write_chimerax_script(output_dir / "open.cxc", volumes)
    if config.noise_substitute_beyond is not None:
        _write_substituted(task, config.noise_substitute_beyond, output_dir)
    write_with_half_sets(stack.source, output_dir / "run_data.star", stack)
    _remove_sums(task.checkpoints)
    return solutions, record


def assist(stack: ParticleStack, output_dir: str | Path, config: ReconstructionConfig, *, resume: bool = False) -> None:
    """What the other processes of torchrun do while the first one calls `reconstruct`: the same passes and fits."""
    _check(config, stack)
    stack = stack.with_half_sets(config.seed) if config.half_maps else stack
    record = RunRecord.start(to_mapping(config), [])
    task = replace(make_task(stack, config, record, Path(output_dir) / "checkpoints"), resume=resume)
    tasks = [task]
    if config.noise_substitute_beyond is not None:
        tasks.append(substituted_task(task, config.noise_substitute_beyond))
    for part in tasks:
        for _ in METHODS[config.method](part):
            pass


def _check(config: ReconstructionConfig, stack: ParticleStack) -> None:
    """Refuse what cannot be done before anything is read."""
    if distributed.size() > 1 and config.method not in SHARED:
        remedy = f"start it without torchrun, or use {', '.join(SHARED)}"
        raise InputError(f"the method {config.method} runs in one process", remedy=remedy)
    if config.method not in METHODS:
        raise InputError(f"there is no method {config.method!r}", remedy=f"choose one of {', '.join(METHODS)}")
    fit_device(config)
    stack.require_poses()
    if config.noise_spectrum != "white" and config.method not in WEIGHTED:
        remedy = f"leave out the noise spectrum, or use {', '.join(WEIGHTED)}"
        raise InputError(f"the method {config.method} knows white noise only", remedy=remedy)
    if config.noise_substitute_beyond is not None:
        RandomPhases(config.noise_substitute_beyond, config.seed).check(stack.box_size, stack.pixel_size)
        if not config.half_maps:
            raise InputError("noise substitution is read off half maps", remedy="leave out --no-half-maps")


def _write_substituted(task: Task, beyond: float, output_dir: Path) -> None:
    """Repeat both half maps from particles with random phases beyond `beyond` A."""
    again = substituted_task(task, beyond)
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
    for name in (*OUTPUTS, *SUBSTITUTED):
        (output_dir / name).unlink(missing_ok=True)


def _warnings(stack: ParticleStack) -> list[str]:
    if len(stack) >= FEW:
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
