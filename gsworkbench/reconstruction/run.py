"""From a ParticleStack to a folder of maps, curves and a record: the whole of what one command does.

The map of all particles and the two half maps are separate fits with separate seeds; what compares them (assessment)
knows nothing of how they were made.
"""

from __future__ import annotations

import contextlib
import csv
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gsworkbench.assessment.agreement import agreement
from gsworkbench.assessment.assess import (
    FILES,
    SUBSTITUTED,
    assess,
    assess_substituted,
    user_mask,
    write_assessment,
)
from gsworkbench.assessment.fsc import FscCurve, Resolution
from gsworkbench.assessment.map_names import ERRORS, LINEAR, MAP, REGULARISED, UNFILTERED
from gsworkbench.assessment.mask_names import MASKS
from gsworkbench.assessment.masks import Mask
from gsworkbench.assessment.of_files import SAME_SIZE, unknown_size
from gsworkbench.assessment.truth_estimate import TruthEstimate
from gsworkbench.config import to_mapping
from gsworkbench.errors import InputError
from gsworkbench.inspection.findings import particle_alarms
from gsworkbench.io.files import appear_together, atomic_path, remove
from gsworkbench.io.locks import lock_folder
from gsworkbench.io.mrc import Volume, map_voxel_size, read_map, write_map
from gsworkbench.methods.deposited_sums import KEPT
from gsworkbench.methods.error_map import PARTS, MapErrors, deal_parts, map_errors
from gsworkbench.methods.linear_half_maps import linear_half_maps
from gsworkbench.methods.part import ALL, HALVES, Part
from gsworkbench.methods.reconstruction_config import ReconstructionConfig
from gsworkbench.methods.registry import METHODS
from gsworkbench.methods.sums_of_parts import keep_sums as write_kept_sums
from gsworkbench.methods.task import FEW, SUMS, Solution, Task, fit_device, make_task, substituted_task
from gsworkbench.methods.task import solutions as solve
from gsworkbench.normal_equations.equations import CHECKPOINT_SECONDS
from gsworkbench.particles.formats.ctf_columns import is_no_ctf
from gsworkbench.particles.formats.relion import relative_names, write_with_half_sets
from gsworkbench.particles.noise_spectrum import chosen_noise
from gsworkbench.particles.random_phases import RandomPhases
from gsworkbench.particles.stack import ParticleStack
from gsworkbench.particles.views import refuse_one_view
from gsworkbench.reconstruction.run_folder import half_map_names, map_files
from gsworkbench.reconstruction.viewers import write_chimerax_script, write_splats
from gsworkbench.system import distributed
from gsworkbench.system.provenance import RunRecord

RUN_DATA = "run_data.star"
CHECKPOINTS = "checkpoints"
OUTPUTS = (
    *(MAP, *REGULARISED, *FILES, RUN_DATA, "run.json"),
    *("gaussians.npz", "gaussians_half1.npz", "gaussians_half2.npz", "background.mrc", "held_out.csv"),
    *("gaussians.ply", "open.cxc", *LINEAR),
)


@dataclass(frozen=True)
class Reconstruction:
    """What `reconstruct` made; the same things lie in `output_dir` under the names of OUTPUTS.

    volume : (D, D, D) float32 map of all particles, image units / A. half_maps : those of half sets 1 and 2, or None.
    curves : FSC curves, in the order of fsc.csv. resolutions : read off them, 0.143 between half maps, 0.5 to a truth.
    estimates : of the FSC to the unknown truth, unmasked and masked; empty without half maps.
    """

    output_dir: Path
    volume: Volume
    half_maps: tuple[Volume, Volume] | None
    curves: tuple[FscCurve, ...]
    resolutions: tuple[Resolution, ...]
    record: RunRecord
    estimates: tuple[TruthEstimate, ...] = ()


def reconstruct(
    particles: ParticleStack,
    out: str | Path,
    settings: Any = None,
    *,
    truth: str | Path | None = None,
    mask: str | Path = "auto",
    half_maps: bool = True,
    normalise: bool = True,
    particle_scales: bool = True,
    keep_outliers: bool = False,
    noise_spectrum: str | Path = "white",
    noise_substitute_beyond: float | None = None,
    seed: int = 0,
    backend: str | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    keep_sums: bool = False,
    error_map: bool = False,
    resume: bool = False,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> Reconstruction:
    """Reconstruct the map of all particles and of each half set, compare them, and write everything to a folder.

    The files appear together, at the end, in place of those of an earlier run in the same folder.

    Parameters
    ----------
    particles : ParticleStack
        Particles with poses and CTF, as `read_particles` returns them.
    out : str or Path
        The folder to write to. It is made if it does not exist.
    settings : settings of a method, or ReconstructionConfig, optional
        The type says which method is used: `OnePass()` (the default), `Stochastic()` or a row of `PRESETS`,
        `Voxels()`, `Backprojection()`, `NeuralField()`. A ReconstructionConfig, as the workflow makes it, holds the
        method together with all the options below, which then must not be given.
    truth : str or Path, optional
        A map on the same grid to compare with, such as the truth.mrc of a simulation.
    mask : str or Path
        The mask of the masked FSC: "auto" (from the map), "sphere", "none", or the path of a mask.
    half_maps : bool
        Also reconstruct each half set by itself. Without half maps there is no FSC between them.
    normalise : bool
        Take background and hot pixels off each image, and weight each image by its own noise.
    particle_scales : bool
        Give each particle a contrast scale of its own where the data show that contrast differs.
    keep_outliers : bool
        Keep images whose power is absurd. By default they are left out.
    noise_spectrum : str or Path
        "white", "measured" (from the corners of the images), or the path of a .npy file with the noise power in
        each shell.
    noise_substitute_beyond : float, optional
        Angstrom. Reconstruct the half maps once more from images whose phases are random beyond this resolution
        (Chen et al. 2013, Ultramicroscopy 135, 24).
    seed : int
        Decides the half sets, where the file has none, and all random numbers of the fit.
    backend : str, optional
        A name of `available_backends()`. By default the fastest one that works.
    device : {"auto", "cpu", "cuda"}
        Where the fit runs. "auto" takes a GPU that works.
    keep_sums : bool
        Leave the sums over the particles of each half set in the folder, with which maps can be made and judged again
        without the particles.
    error_map : bool
        Measure the noise of the linear map of all particles between 32 parts of them, for which the particles are read
        once more: error_map.mrc, and what `region_mean` needs.
    resume : bool
        Continue an interrupted run from its checkpoints.
    checkpoint_seconds : float
        Seconds between checkpoints.

    Returns
    -------
    Reconstruction
        `volume` and `half_maps` are (D, D, D) float32 in z, y, x order, in image units per angstrom. `curves` are FSC
        curves, `resolutions` what is read off them, `record` is what run.json holds.

    Raises
    ------
    InputError
        If the particles have no poses, an option is not valid, or the method cannot run here.
    BlockingIOError
        If another process is writing to the folder.

    Examples
    --------
    >>> import gsworkbench as gs
    >>> small = gs.Simulation(n_particles=40, box_size=32, pixel_size=12.0)
    >>> particles = gs.simulate(small, "ribosome")
    >>> made = gs.reconstruct(particles, "my_map", gs.Backprojection(), truth="ribosome/truth.mrc", mask="none")
    >>> made.volume.shape
    (32, 32, 32)
    >>> [curve.name for curve in made.curves]
    ['fsc_unmasked', 'fsc_unmasked_truth', 'fsc_unmasked_estimate']
    """
    config = configured(
        settings,
        mask=str(mask),
        half_maps=half_maps,
        normalise=normalise,
        particle_scales=particle_scales,
        keep_outliers=keep_outliers,
        noise_spectrum=str(noise_spectrum),
        noise_substitute_beyond=noise_substitute_beyond,
        seed=seed,
        backend=backend,
        device=device,
    )
    return _reconstruct(
        particles,
        out,
        config,
        truth=truth,
        keep=keep_sums,
        error_map=error_map,
        resume=resume,
        checkpoint_seconds=checkpoint_seconds,
    )


def configured(settings: Any, **options: Any) -> ReconstructionConfig:
    """The whole configuration, from the settings of one method and the options that all methods share."""
    if isinstance(settings, ReconstructionConfig):
        usual = ReconstructionConfig()
        if given := [name for name, value in options.items() if value != getattr(usual, name)]:
            raise InputError(f"a ReconstructionConfig holds {', '.join(given)} itself", remedy="set them there")
        return settings
    if settings is None:
        return ReconstructionConfig(**options)
    for method in METHODS.values():
        if type(settings) is method.settings:
            return ReconstructionConfig(method=method.name, settings=settings, **options)
    raise InputError(f"{settings!r} is not the settings of a method", remedy="give for example gsworkbench.OnePass()")


def _reconstruct(
    stack: ParticleStack,
    output_dir: str | Path,
    config: ReconstructionConfig,
    *,
    truth: str | Path | None = None,
    keep: bool = False,
    error_map: bool = False,
    resume: bool = False,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> Reconstruction:
    """`reconstruct` with everything in one configuration."""
    output_dir = Path(output_dir)
    truth = None if truth is None else Path(truth)
    _check(config, stack, output_dir)
    if keep and not config.half_maps:
        raise InputError("sums are kept of half sets", remedy="leave out --no-half-maps, or use accumulate")
    if error_map:
        if distributed.size() > 1:
            raise InputError("an error map is made by one process", remedy="start it without torchrun")
        deal_parts(stack, config.seed)  # too few particles are refused before anything is made
    true_map, mask = reference_maps(truth, config, stack)
    with lock_folder(output_dir, CHECKPOINTS):
        made = _make(stack, output_dir, config, truth, resume, checkpoint_seconds, keep=keep, error_map=error_map)
        result = judge_and_write(made, output_dir, true_map, mask)
        if made.errors is not None:
            remove(made.errors.parts)
        _remove_sums(output_dir / CHECKPOINTS)
    return result


def reference_maps(
    truth: Path | None, config: ReconstructionConfig, stack: ParticleStack
) -> tuple[Volume | None, str | Mask]:
    """Read the truth and the mask that a run is judged by; a mask that has only a name stays that."""
    true_map = _matching_map(truth, stack) if truth else None
    if config.mask in MASKS:
        return true_map, config.mask
    return true_map, user_mask(_matching_map(Path(config.mask), stack, only_box=True), config.mask)


def judge_and_write(made: Made, output_dir: Path, true_map: Volume | None, mask: str | Mask) -> Reconstruction:
    """Judge what was made, and write it to a folder in place of an earlier run; the caller has locked the folder."""
    stack, config = made.stack, made.config
    record, volume, halves = made.record, made.solutions[ALL].volume, made.halves
    with record.stage("assess"):
        assessment = assess(
            volume,
            halves,
            true_map,
            voxel_size=stack.pixel_size,
            linear=made.linear,
            mask=mask,
            seed=config.seed,
        )
        figures = assessment.as_dict()
        if made.substituted and halves is not None:
            figures["noise_substitution"] = _substitution_figures(made, halves)
    record.results |= figures
    if true_map is not None:
        record.results["agreement"] = asdict(agreement(volume, true_map))
    record.warnings += [*_saturation(assessment.resolutions), *assessment.alarms]
    with _replacing(output_dir):
        _write(made, output_dir)
        with record.stage("assess"):
            what = f"{config.method}, {record.n_particles[ALL.label]:,} particles"
            write_assessment(output_dir, assessment, what, half_map_names(config))
        record.finish(output_dir / "run.json")
    return Reconstruction(
        output_dir, volume, halves, assessment.curves, assessment.resolutions, record, assessment.estimates
    )


def make_maps(
    stack: ParticleStack,
    output_dir: str | Path,
    config: ReconstructionConfig,
    *,
    truth: str | Path | None = None,
    resume: bool = False,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> tuple[dict[Part, Solution], RunRecord]:
    """Make the map of all particles and, if asked for, of each half set, and write them; compare nothing.

    Returns the solution of each part and the record, for the caller to finish. The workflow
    assesses maps apart from their making, so that a new judge fits nothing again.
    """
    output_dir = Path(output_dir)
    _check(config, stack, output_dir)
    with lock_folder(output_dir, CHECKPOINTS):
        made = _make(stack, output_dir, config, None if truth is None else Path(truth), resume, checkpoint_seconds)
        with _replacing(output_dir):
            _write(made, output_dir)
        _remove_sums(output_dir / CHECKPOINTS)
    return made.solutions, made.record


@dataclass(frozen=True)
class Made:
    """What the methods made of a stack, half sets dealt, before any of it is written.

    solutions : of each part. linear : least-squares maps of the half sets, or None. substituted : those of both half
    sets with random phases, or empty. sums_of : the task whose sums are to be kept, or None.
    errors : the linear map of all particles and its noise, or None.
    """

    stack: ParticleStack
    config: ReconstructionConfig
    solutions: dict[Part, Solution]
    substituted: dict[Part, Solution]
    phases: str
    record: RunRecord
    linear: tuple[Volume, Volume] | None = None
    sums_of: Task | None = None
    errors: MapErrors | None = None

    @property
    def halves(self) -> tuple[Volume, Volume] | None:
        if not self.config.half_maps:
            return None
        return self.solutions[HALVES[0]].volume, self.solutions[HALVES[1]].volume


def _make(
    stack: ParticleStack,
    output_dir: Path,
    config: ReconstructionConfig,
    truth: Path | None,
    resume: bool,
    checkpoint_seconds: float,
    *,
    keep: bool = False,
    error_map: bool = False,
) -> Made:
    if config.half_maps:
        stack = stack.with_half_sets(config.seed)
    shared = particle_alarms(stack, most_images=0) if config.half_maps else []
    record = RunRecord.start(to_mapping(config), _inputs(stack, config, truth))
    record.particles = _as_read(stack)
    record.warnings += _warnings(stack) + shared

    task, *again = _tasks(stack, output_dir, config, record, resume, checkpoint_seconds)
    solutions = dict(solve(task))
    record.results |= {part.label: solution.report for part, solution in solutions.items()}
    linear = linear_half_maps(task, hold_out=keep)
    made = Made(stack, config, solutions, {}, "", record, linear, task if keep else None)
    if error_map:
        made = replace(made, errors=_errors(task))
    if not again:
        return made
    phases = str(next(iter(again[0].parts.values())).random_phases)
    return replace(made, substituted=dict(solve(again[0])), phases=phases)


def _errors(task: Task) -> MapErrors:
    """Measure the noise of the linear map of all particles of a task."""
    stack, config = task.parts[ALL], task.config
    with task.record.stage("error map"):
        spectrum = chosen_noise(config.noise_spectrum, stack)
        found = map_errors(stack, task.checkpoints / ERRORS[2], noise_spectrum=spectrum, seed=config.seed)
    task.record.results["error_map"] = {"parts": PARTS, "components_left_out": round(found.left_out, 5)}
    return found


def _tasks(
    stack: ParticleStack,
    output_dir: Path,
    config: ReconstructionConfig,
    record: RunRecord,
    resume: bool,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> list[Task]:
    """What a method is to solve: the stack and its half sets, and, if asked for, these with random phases."""
    task = replace(
        make_task(stack, config, record, output_dir / CHECKPOINTS),
        resume=resume,
        checkpoint_seconds=checkpoint_seconds,
    )
    beyond = config.noise_substitute_beyond
    return [task] if beyond is None else [task, substituted_task(task, beyond)]


def _replacing(output_dir: Path) -> contextlib.AbstractContextManager[None]:
    """Have the files of this run appear together, in place of those of an earlier one."""
    return appear_together(
        instead_of=[output_dir / name for name in ("run.json", *OUTPUTS, *ERRORS, *UNFILTERED, *SUBSTITUTED, *KEPT)]
    )


def _write(made: Made, output_dir: Path) -> None:
    """Write what was made, but for the record."""
    stack, config, solutions = made.stack, made.config, made.solutions
    files = map_files(config)
    for part, solution in solutions.items():
        _write_solution(output_dir, part, solution, stack, config)
    write_chimerax_script(output_dir / "open.cxc", {files[part]: made.volume for part, made in solutions.items()})
    for file, volume in zip(LINEAR, made.linear or (), strict=False):
        write_map(output_dir / file, volume, stack.pixel_size, "least-squares backprojection, no filter")
    for file, solution in zip(SUBSTITUTED, made.substituted.values(), strict=False):
        write_map(output_dir / file, solution.volume, stack.pixel_size, f"{config.method}, {made.phases}")
    if made.errors is not None:
        write_map(output_dir / ERRORS[0], made.errors.error, stack.pixel_size, "standard error of the linear map")
        write_map(output_dir / ERRORS[1], made.errors.volume, stack.pixel_size, "least squares, all particles")
        with atomic_path(output_dir / ERRORS[2]) as temporary:
            shutil.copyfile(made.errors.parts, temporary)
    if made.sums_of is not None:
        write_kept_sums(made.sums_of, output_dir, KEPT)
    if len(stack):  # else there are sums in place of particles
        write_with_half_sets(stack.source, output_dir / RUN_DATA, stack)


def run_worker(
    stack: ParticleStack,
    output_dir: str | Path,
    config: ReconstructionConfig,
    *,
    keep_sums: bool = False,
    resume: bool = False,
) -> None:
    """What the other processes of torchrun do while the first one calls `reconstruct`: the same passes and fits."""
    _check(config, stack, Path(output_dir))
    stack = stack.with_half_sets(config.seed) if config.half_maps else stack
    first, *again = _tasks(stack, Path(output_dir), config, RunRecord.start(to_mapping(config), []), resume)
    for _ in solve(first):
        pass
    linear_half_maps(first, hold_out=keep_sums)
    for task in again:
        for _ in solve(task):
            pass


def _check(config: ReconstructionConfig, stack: ParticleStack, output_dir: Path) -> None:
    """Refuse what cannot be done before anything is read, and what could not be written after the fit."""
    if distributed.size() > 1 and not config.row.shared_by_processes:
        shared = ", ".join(name for name, row in METHODS.items() if row.shared_by_processes)
        raise InputError(
            f"the method {config.method} runs in one process", remedy=f"start it without torchrun, or use {shared}"
        )
    fit_device(config)
    stack.require_poses()
    refuse_one_view(stack)
    relative_names(output_dir / RUN_DATA, stack)
    if config.noise_spectrum not in ("white", "measured"):
        chosen_noise(config.noise_spectrum, stack)  # a file that is none is refused before anything is read
    if config.noise_spectrum != "white" and not config.row.weighted_by_noise:
        weighted = ", ".join(name for name, row in METHODS.items() if row.weighted_by_noise)
        remedy = f"leave out the noise spectrum, or use {weighted}"
        raise InputError(f"the method {config.method} knows white noise only", remedy=remedy)
    if config.noise_substitute_beyond is not None:
        RandomPhases(config.noise_substitute_beyond, config.seed).check(stack.box_size, stack.pixel_size)
        if not config.half_maps:
            raise InputError("noise substitution is read off half maps", remedy="leave out --no-half-maps")


def _substitution_figures(made: Made, halves: tuple[Volume, Volume]) -> dict[str, Any]:
    """Figures of the substituted half maps beside the half maps: those of the judge, and the mean where phases are
    random."""
    third, fourth = (solution.volume for solution in made.substituted.values())
    beyond = made.config.noise_substitute_beyond
    assert beyond is not None
    found = assess_substituted(halves, (third, fourth), made.stack.pixel_size, beyond)
    made.record.warnings += found.alarms
    noise = next(c for c in found.curves if c.name == "fsc_substituted")
    shell = round(noise.box_size * noise.voxel_size / beyond) + 2
    mean = float(np.nan_to_num(noise.values[shell : noise.box_size // 2]).mean())
    return {"beyond_angstrom": beyond, "mean_fsc_of_random_phases": mean, **found.as_dict()}


def _remove_sums(checkpoints: Path) -> None:
    """Remove the sums of a run whose maps are all written; they are large and quickly made again."""
    for file in checkpoints.glob(f"*{SUMS}"):
        remove(file)
    if checkpoints.is_dir() and not any(checkpoints.iterdir()):
        checkpoints.rmdir()


def _write_solution(
    output_dir: Path, part: Part, solution: Solution, stack: ParticleStack, config: ReconstructionConfig
) -> None:
    used = getattr(config.settings, "filter", None)
    made = config.method if used is None else f"{config.method}, filter {used}"
    write_map(output_dir / map_files(config)[part], solution.volume, stack.pixel_size, f"{made}, {part.label}")
    if solution.gaussians is not None:
        file = "gaussians.npz" if part == ALL else f"gaussians_{part.file}.npz"
        solution.gaussians.save(output_dir / file, box_size=stack.box_size, pixel_size=stack.pixel_size)
    if part != ALL:
        return
    if solution.gaussians is not None:
        write_splats(output_dir / "gaussians.ply", solution.gaussians)
    if solution.background is not None:
        write_map(output_dir / "background.mrc", solution.background, stack.pixel_size, "part of the map: background")
    if solution.learning_curve:
        with atomic_path(output_dir / "held_out.csv") as temporary, open(temporary, "w", encoding="utf-8") as text:
            table = csv.writer(text, lineterminator="\n")
            table.writerow(["step", "error_fitted", "error_held_out"])
            table.writerows(solution.learning_curve)


def _matching_map(path: Path, stack: ParticleStack, *, only_box: bool = False) -> Volume:
    """Read a map that must lie on the grid of the reconstruction; of a mask only the box must match.

    A header that says 1 A per voxel, or nothing, is taken for that of a program that did not know it.
    """
    volume, _ = read_map(path, voxel_size=stack.pixel_size)
    said = None if only_box else map_voxel_size(path)
    known = stack.pixel_size if said is None or unknown_size(said) else said
    if len(volume) != stack.box_size or abs(known / stack.pixel_size - 1) > SAME_SIZE:
        raise InputError(
            f"its grid, {len(volume)} voxels of {known:.4g} A, is not that of the particles, "
            f"{stack.box_size} of {stack.pixel_size:.4g} A",
            file=path,
        )
    return volume


def _inputs(stack: ParticleStack, config: ReconstructionConfig, truth: Path | None) -> list[Path]:
    """Every file that the run depends on."""
    named = [path for path in map(Path, (config.mask, config.noise_spectrum)) if path.is_file()]
    return [
        *([stack.source] if stack.source else []),
        *stack.also_read,
        *stack.files,
        *named,
        *([truth] if truth else []),
    ]


def _as_read(stack: ParticleStack) -> dict[str, Any]:
    """What the options of reading decide: without them, a run from Python could not be repeated from its record."""
    signs = np.unique(stack.data_sign)
    return {
        "data_sign": int(signs[0]) if len(signs) == 1 else None,
        "pixel_size": float(stack.pixel_size),
        "box_size": stack.box_size,
        **({"no_ctf": True} if is_no_ctf(stack.ctf) else {}),
    }


def _warnings(stack: ParticleStack) -> list[str]:
    few = [f"only {len(stack)} particles: expect a poor map, thousands are usual"] if len(stack) < FEW else []
    return [*stack.notes, *few]


def _saturation(resolutions: tuple[Resolution, ...]) -> list[str]:
    """Say of half-map curves that never cross that they are no measurement."""
    return [
        f"{r.curve} never falls below {r.threshold:g} before Nyquist ({r.nyquist_angstrom:.2f} A): that is the "
        "limit of the sampling, not a measured resolution"
        for r in resolutions
        if r.angstrom is None and not r.curve.endswith(("_truth", "_estimate"))
    ]
