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
from gsworkbench.assessment.fsc import FscCurve, Resolution, fourier_shell_correlation, resolution, write_fsc_csv
from gsworkbench.assessment.masks import automatic_mask, spherical_mask
from gsworkbench.backprojection import backproject
from gsworkbench.config import ReconstructionConfig, to_mapping
from gsworkbench.errors import InputError
from gsworkbench.files import atomic_path
from gsworkbench.gaussians import Gaussians
from gsworkbench.particles import ParticleStack
from gsworkbench.plotting import fsc_figure
from gsworkbench.provenance import RunRecord
from gsworkbench.readers import read_map, write_map, write_with_half_sets
from gsworkbench.rendering import voxelize
from gsworkbench.training import fit

Volume = NDArray[np.float32]

MAP = "run_class001.mrc"
HALF_MAPS = ("run_half1_class001_unfil.mrc", "run_half2_class001_unfil.mrc")
OUTPUTS = (
    *(MAP, *HALF_MAPS, "mask.mrc", "fsc.csv", "fsc.png", "run_data.star", "run.json"),
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
    user_mask = None if config.mask in ("auto", "sphere", "none") else _matching_map(Path(config.mask), stack)
    if config.half_maps:
        stack = stack.with_half_sets(config.seed)
    record = RunRecord.start(to_mapping(config), _inputs(stack, truth))
    record.warnings += _warnings(stack)

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
        mask, mask_name = _mask(config.mask, user_mask, volume, stack.pixel_size)
        if mask is not None:
            write_map(output_dir / "mask.mrc", mask, stack.pixel_size, mask_name)
        curves = _curves(volume, halves, true_map, mask, mask_name, stack.pixel_size)
        resolutions = _resolutions(curves)
        if curves:
            _write_curves(output_dir, curves, resolutions, f"{config.method}, {len(stack):,} particles")
    record.results |= {c.name: {"mean": c.mean(), **asdict(r)} for c, r in zip(curves, resolutions, strict=True)}
    if true_map is not None:
        record.results["agreement"] = asdict(agreement(volume, true_map))
    record.warnings += _saturation(resolutions)
    write_with_half_sets(stack.source, output_dir / "run_data.star", stack)
    record.finish(output_dir / "run.json")
    return Reconstruction(output_dir, volume, halves, curves, resolutions, record)


def compare_maps(
    half_1: Path, half_2: Path, *, mask: str = "none", truth: Path | None = None, out: Path | None = None
) -> tuple[tuple[FscCurve, ...], tuple[Resolution, ...]]:
    """FSC between two half maps on disk, and of their mean to a truth; fsc.csv and fsc.png go to `out` if given."""
    first, voxel_size = read_map(half_1)
    others = []
    for path in (half_2, *([truth] if truth else [])):
        volume, size = read_map(path)
        if volume.shape != first.shape or abs(size / voxel_size - 1) > 0.01:
            raise InputError(f"its grid is not that of {half_1}", file=path)
        others.append(volume)
    mean = (first + others[0]) / np.float32(2)
    user_mask = None if mask in ("auto", "sphere", "none") else read_map(Path(mask))[0]
    soft, name = _mask(mask, user_mask, mean, voxel_size)
    curves = _curves(mean, (first, others[0]), others[1] if truth else None, soft, name, voxel_size)
    resolutions = _resolutions(curves)
    if out is not None:
        _write_curves(out, curves, resolutions, f"{half_1.name} and {half_2.name}")
    return curves, resolutions


def _resolutions(curves: tuple[FscCurve, ...]) -> tuple[Resolution, ...]:
    return tuple(resolution(c, 0.5 if c.name.endswith("_truth") else 0.143) for c in curves)


def _write_curves(
    output_dir: Path, curves: tuple[FscCurve, ...], resolutions: tuple[Resolution, ...], title: str
) -> None:
    write_fsc_csv(output_dir / "fsc.csv", curves)
    with atomic_path(output_dir / "fsc.png") as temporary:
        fsc_figure(curves, resolutions, title).savefig(temporary, dpi=150)


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


def _mask(
    choice: str, user_mask: Volume | None, volume: Volume, voxel_size: float
) -> tuple[NDArray[np.float32] | None, str]:
    if user_mask is not None:
        if user_mask.min() < 0 or user_mask.max() > 1:
            raise InputError("a mask must lie between 0 and 1", file=choice)
        return user_mask, Path(choice).name
    if choice == "none":
        return None, "none"
    return automatic_mask(volume, voxel_size) if choice == "auto" else spherical_mask(len(volume), voxel_size)


def _curves(
    volume: Volume,
    halves: tuple[Volume, Volume] | None,
    truth: Volume | None,
    mask: NDArray[np.float32] | None,
    mask_name: str,
    voxel_size: float,
) -> tuple[FscCurve, ...]:
    pairs: list[tuple[Volume, Volume, str]] = [] if halves is None else [(*halves, "")]
    pairs += [] if truth is None else [(volume, truth, "_truth")]
    curves = []
    for first, second, suffix in pairs:
        curves.append(fourier_shell_correlation(first, second, voxel_size=voxel_size, name=f"fsc_unmasked{suffix}"))
        if mask is not None:
            curves.append(
                fourier_shell_correlation(
                    first, second, voxel_size=voxel_size, mask=mask, mask_name=mask_name, name=f"fsc_masked{suffix}"
                )
            )
    return tuple(curves)


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
