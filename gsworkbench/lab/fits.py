"""Live fits: the methods of `reconstruct` on the particles of a run, from sums that are made once and kept.

A fit here is what the command line does with the same settings, the same half sets and the same seeds, and gives the
same numbers; only nothing but the sums is written. The sums of a run lie in its folder `lab`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from gsworkbench.assessment.assess import assess
from gsworkbench.assessment.corrected import noise_substitution
from gsworkbench.assessment.fsc import FscCurve, Resolution
from gsworkbench.config import to_mapping
from gsworkbench.errors import InputError
from gsworkbench.experiments.results import Measurement, Result, measure, read_results, write_results
from gsworkbench.gaussians.mixture import Gaussians
from gsworkbench.io.files import sha256
from gsworkbench.io.mrc import Volume
from gsworkbench.lab.commands import identity
from gsworkbench.lab.opened_run import RunFolder, dataset_of, deposit_of, particles_of
from gsworkbench.methods.deposited_sums import Deposit
from gsworkbench.methods.one_pass import OnePass
from gsworkbench.methods.part import ALL, HALVES, Part
from gsworkbench.methods.reconstruction_config import ReconstructionConfig
from gsworkbench.methods.sums_of_parts import sums_of_parts
from gsworkbench.methods.task import PartSums, Solution, Task, make_task, solutions, substituted_task
from gsworkbench.normal_equations.classical_map import least_squares
from gsworkbench.normal_equations.equations import NormalEquations
from gsworkbench.particles.stack import ParticleStack
from gsworkbench.reconstruction.run import Reconstruction
from gsworkbench.system.provenance import RunRecord, machine

Pair = tuple[NormalEquations, NormalEquations | None]
FOLDER = "lab"  # in a run's folder: what exploring it leaves behind
TABLE = "explored.csv"


@dataclass(frozen=True)
class Outcome:
    """A finished live fit: its settings, maps, judgement and numbers (as metrics.json of a run has them)."""

    config: ReconstructionConfig
    volume: Volume
    half_maps: tuple[Volume, Volume]
    gaussians: Gaussians | None
    curves: tuple[FscCurve, ...]
    resolutions: tuple[Resolution, ...]
    measurements: tuple[Measurement, ...]
    alarms: tuple[str, ...]
    seconds: float

    @property
    def name(self) -> str:
        return identity(self.config)

    def number(self, metric: str) -> float | None:
        """One of the measurements by name."""
        return next(m.value for m in self.measurements if m.metric == metric)


class LiveFits:
    """The particles of one run, ready to be fitted again and again.

    Where the particles are not at hand, but the files of sums that the run was made from or kept, these are fitted.
    reading : options of the command line that the particles need, or the files of sums. deposit : these files, or None.
    """

    deposit: Deposit | None = None

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self.sums: PartSums
        try:
            self.stack, self.reading = particles_of(run)
        except InputError:
            self.deposit = deposit_of(run)
            if self.deposit is None:
                raise
            self.stack, self.reading = self.deposit.stack, tuple(map(str, self.deposit.files))
            self.sums = dict(self.deposit.sums)
        else:
            self.sums = saved_sums(run, self.stack)
        self.linear = linear_maps(self.sums)

    def warm_up(self) -> None:
        """Make a fit too small to matter, so that the first real one is as fast as the next."""
        steps = OnePass(n_gaussians=20, n_boosted_steps=1, n_steps=1, background=False)
        self.fit(ReconstructionConfig("one-pass", steps))

    def fit(self, config: ReconstructionConfig, show: Callable[[str, Solution], None] | None = None) -> Outcome:
        """Fit all particles and both half sets, then judge; `show` is given each map as it is made."""
        task = replace(self._task(config), sums=self.sums)
        solved = {}
        for part, solution in solutions(task):
            solved[part] = solution
            if show is not None:
                show(part.label, solution)
        beyond = config.noise_substitute_beyond
        again = [] if beyond is None else [made.volume for _, made in solutions(substituted_task(task, beyond))]
        return self._judged(task, solved, again)

    def _task(self, config: ReconstructionConfig) -> Task:
        if self.deposit is None:
            return _task(self.run, self.stack, config)
        return self.deposit.task(config, _record(config))

    def _judged(self, task: Task, solutions: dict[Part, Solution], substituted: list[Volume]) -> Outcome:
        config, record = task.config, task.record
        whole, halves = solutions[ALL], (solutions[HALVES[0]].volume, solutions[HALVES[1]].volume)
        found = assess(
            whole.volume,
            halves,
            self.run.maps.get("truth"),
            linear=self.linear,
            voxel_size=self.stack.pixel_size,
            mask=config.mask,
            seed=config.seed,
        )
        curves = found.curves
        if config.noise_substitute_beyond is not None:
            curves += substitution_curves(halves, substituted, config.noise_substitute_beyond, self.stack.pixel_size)
        judged = found.curves, found.resolutions, record, found.estimates
        made = Reconstruction(self.run.folder, whole.volume, halves, *judged)
        return Outcome(
            config=config,
            volume=whole.volume,
            half_maps=halves,
            gaussians=whole.gaussians,
            curves=curves,
            resolutions=found.resolutions,
            measurements=tuple(m for m in measure(made) if m.metric != "peak_memory_bytes"),
            alarms=found.alarms,
            seconds=sum(record.seconds.values()),
        )


def linear_maps(sums: PartSums) -> tuple[Volume, Volume]:
    """The least-squares maps of both half sets, with which the FSC to the unknown truth is estimated."""
    first, second = (least_squares(a if b is None else a + b) for a, b in (sums[part] for part in HALVES))
    return first, second


def substitution_curves(
    halves: tuple[Volume, Volume], substituted: list[Volume], beyond: float, voxel_size: float
) -> tuple[FscCurve, ...]:
    """FSC of half maps of particles with random phases beyond `beyond` A, and what it leaves of the measured one."""
    found = noise_substitution(halves, (substituted[0], substituted[1]), from_angstrom=beyond, voxel_size=voxel_size)
    return found.substituted, replace(found.corrected, name="fsc_true")


def saved_sums(run: RunFolder, stack: ParticleStack) -> PartSums:
    """Sums over both half sets and all particles, from the run's folder, or from one pass that leaves them there."""
    task = _task(run, stack, ReconstructionConfig())
    source = sha256(run.folder / "run_data.star")
    kept: dict[Part, Pair] = {}
    for part in HALVES:
        train, test = (_loaded(task.sums_file(part, what), source) for what in ("sums", "held out"))
        if train is not None:
            kept[part] = train, test
    complete = {part: sum(s.n_particles for s in pair if s is not None) for part, pair in kept.items()}
    if complete == {part: len(particles) for part, particles in task.parts.items() if part != ALL}:
        return {ALL: _together(*kept.values())} | kept
    return sums_of_parts(task, hold_out=True)


def record_outcome(run: RunFolder, outcome: Outcome) -> Path:
    """Add the numbers of a live fit to the table of explored runs, in place of earlier ones of the same settings."""
    path = explored_table(run.folder)
    old = [] if not path.is_file() else [Result(**row) for row in _plain_rows(path)]
    rows = rows_of(run, outcome)
    write_results(path, [r for r in old if r.run != rows[0].run] + rows)
    return path


def rows_of(run: RunFolder, outcome: Outcome) -> list[Result]:
    """The numbers of a live fit as rows of the results table."""
    who: dict[str, Any] = {
        "run": f"{run.name}/{outcome.name}",
        "experiment": "explored",
        "dataset": dataset_of(run),
        "method": outcome.config.method,
        "preset": None,
        "n_gaussians": outcome.config.n_gaussians,
        "seed": outcome.config.seed,
    }
    return [Result(**who, **asdict(m)) for m in outcome.measurements]


def explored_table(folder: Path) -> Path:
    """Where live fits of a run are written: beside the workflow's results.csv if it is one of its runs, else in lab."""
    above = next((place for place in folder.parents if (place / "results.csv").is_file()), folder / FOLDER)
    return above / TABLE


def _task(run: RunFolder, stack: ParticleStack, config: ReconstructionConfig) -> Task:
    return make_task(stack, config, _record(config), run.folder / FOLDER / "checkpoints")


def _record(config: ReconstructionConfig) -> RunRecord:
    return RunRecord(command=[], config=to_mapping(config), machine=machine(), threads=_threads())


def _threads() -> int:
    import torch

    return torch.get_num_threads()


def _together(first: Pair, second: Pair) -> Pair:
    held_out = None if first[1] is None or second[1] is None else first[1] + second[1]
    return first[0] + second[0], held_out


def _loaded(path: Path, source: str) -> NormalEquations | None:
    """Sums kept from earlier, if they are of this version of the particles."""
    if not path.is_file():
        return None
    try:
        sums = NormalEquations.load(path)
    except InputError:
        return None
    return sums if source in sums.sources else None


def _plain_rows(path: Path) -> list[dict]:
    """Rows of a results table with None where there is nothing."""
    table = read_results(path).astype(object)
    return table.where(table.notna(), None).to_dict("records")
