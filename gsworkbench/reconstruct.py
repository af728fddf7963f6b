"""From a ParticleStack to a folder of maps, curves and a record: the whole of what one command does.

The map of all particles and the two half maps are separate fits with separate seeds; what compares them (assessment)
knows nothing of how they were made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
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
from gsworkbench.gaussians import Gaussians
from gsworkbench.judging import FILES, MASKS, assess, write_assessment
from gsworkbench.particles import ParticleStack
from gsworkbench.provenance import RunRecord
from gsworkbench.readers import read_map, write_map, write_with_half_sets
from gsworkbench.rendering import voxelize
from gsworkbench.training import fit

Volume = NDArray[np.float32]

MAP = "run_class001.mrc"
HALF_MAPS = ("run_half1_class001_unfil.mrc", "run_half2_class001_unfil.mrc")
OUTPUTS = (
    *(MAP, *HALF_MAPS, *FILES, "run_data.star", "run.json"),
    *("gaussians.npz", "gaussians_half1.npz", "gaussians_half2.npz"),
)
_MAP_CUTOFF = 5.0  # standard deviations: a map is sampled once, so the float32 floor is affordable
_FEW = 500  # fewer particles than this get a warning


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
    """What a method makes of one stack: a map, the Gaussians behind it if there are any, figures for run.json."""

    volume: Volume
    gaussians: Gaussians | None = None
    report: dict[str, Any] = field(default_factory=dict)


def _stochastic(
    stack: ParticleStack, config: ReconstructionConfig, seed: int, checkpoint: Path, resume: bool, label: str
) -> Solution:
    fitted = fit(
        stack, config.stochastic, seed=seed, checkpoint=checkpoint, resume=resume, backend=config.backend, label=label
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
    return Solution(volume.numpy(), g, report)


def _backprojection(
    stack: ParticleStack, config: ReconstructionConfig, seed: int, checkpoint: Path, resume: bool, label: str
) -> Solution:
    return Solution(backproject(stack, label=label))


# A method makes a Solution of (stack, config, seed, checkpoint file, resume, label of the progress bar).
METHODS: dict[str, Callable[[ParticleStack, ReconstructionConfig, int, Path, bool, str], Solution]] = {
    "stochastic": _stochastic,
    "backprojection": _backprojection,
}


def reconstruct(
    stack: ParticleStack,
    output_dir: str | Path,
    config: ReconstructionConfig,
    *,
    truth: Path | None = None,
    resume: bool = False,
) -> Reconstruction:
    """Reconstruct the map of all particles and, if asked for, of each half set; compare them; write everything.

    `truth` is a map to compare with. With `resume`, a run that was interrupted continues from its checkpoints. The
    files of an earlier run in `output_dir` are replaced once the first map of this one is done.
    """
    output_dir = Path(output_dir)
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

    solutions: dict[str, Solution] = {}
    for number, (name, part) in enumerate(_parts(stack, config.half_maps).items()):
        record.n_particles[name] = len(part)
        record.seeds[name] = seed = 3 * config.seed + number
        checkpoint = output_dir / "checkpoints" / f"{name.replace(' ', '')}.pt"
        with record.stage(f"{name}: {config.method}"):
            solutions[name] = METHODS[config.method](part, config, seed, checkpoint, resume, name)
        record.results[name] = solutions[name].report
        if name == "all":
            _remove_outputs(output_dir)  # not before a map stands ready to take the place of an older one
        _write_solution(output_dir, name, solutions[name], stack, config)

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
    write_with_half_sets(stack.source, output_dir / "run_data.star", stack)
    record.finish(output_dir / "run.json")
    return Reconstruction(output_dir, volume, halves, curves, resolutions, record)


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
