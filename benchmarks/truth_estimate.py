"""How far is the estimated FSC to the truth from the FSC to the truth?

    python benchmarks/truth_estimate.py [--sets 3] [--programs] [--write]

Simulates particles of several molecules, with and without solvent, in white and coloured noise, at SNR 0.3 to 0.005;
reconstructs half maps by every method that runs here; and compares, in shells that have an estimate, the estimate with
the FSC of the half maps to the truth, without a mask, in a sphere, and in a tight mask made of the truth. `--write`
puts the table into docs/measured/truth_estimate.md and the figure beside it. The estimate was developed on other seeds.
It takes about half an hour on one core. `--programs` makes, in place of that table, one of the half maps of RELION
and cryoDRGN, as far as they are on PATH, on sets of its own (ten minutes).
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from one_pass import with_solvent
from program_half_maps import PROGRAMS, half_maps_of
from written_tables import MEASURED, write_table

from gsworkbench.assessment.fsc import fourier_shell_correlation
from gsworkbench.assessment.masks import Mask, automatic_mask, spherical_mask
from gsworkbench.assessment.truth_estimate import TruthEstimate, estimate_truth_fsc
from gsworkbench.errors import NotRun
from gsworkbench.io.mrc import Map, new_image_stack
from gsworkbench.methods.backprojection import Backprojection
from gsworkbench.methods.linear_half_maps import linear_half_maps
from gsworkbench.methods.neural_field import NeuralField
from gsworkbench.methods.one_pass import OnePass
from gsworkbench.methods.part import HALVES
from gsworkbench.methods.reconstruction_config import ReconstructionConfig
from gsworkbench.methods.registry import METHODS
from gsworkbench.methods.stochastic import PRESETS
from gsworkbench.methods.task import Task, make_task, solutions
from gsworkbench.methods.voxels import Voxels
from gsworkbench.molecules import load_molecule
from gsworkbench.particles.stack import ParticleStack
from gsworkbench.simulation import simulate
from gsworkbench.simulation.simulation_config import Simulation
from gsworkbench.system.provenance import RunRecord

PAGE = MEASURED / "truth_estimate.md"
FIGURE = PAGE.with_name("figure_truth_estimate.png")
EDGE = {"ribosome": 384.0, "spliceosome": 480.0, "chaperonin": 288.0, "large_subunit": 384.0}  # A


@dataclass(frozen=True)
class Set:
    """A simulated set. slow : whether the methods that iterate over particles run on it too."""

    molecule: str
    box: int
    n: int
    snr: float
    solvent: bool
    coloured: bool
    seed: int
    slow: bool = False

    @property
    def without_seed(self) -> str:
        density, noise = "solvent" if self.solvent else "atoms", "coloured" if self.coloured else "white"
        return f"{self.molecule}, {self.n:,} x {self.box}^2, SNR {self.snr:g}, {density}, {noise}"

    def __str__(self) -> str:
        return f"{self.without_seed}, seed {self.seed}"


_SETS = (
    Set("ribosome", 48, 1500, 0.1, False, False, 31, slow=True),
    Set("spliceosome", 48, 1500, 0.03, True, True, 32, slow=True),
    Set("chaperonin", 48, 1500, 0.3, False, True, 33, slow=True),
    *(Set("ribosome", 48, 2000, 0.02, solvent, False, 34) for solvent in (False, True)),
    *(Set("spliceosome", 64, 2000, snr, True, False, 37) for snr in (0.3, 0.03, 0.005)),
    *(Set("chaperonin", 64, 3000, snr, False, True, 38) for snr in (0.1, 0.01)),
    Set("large_subunit", 96, 2000, 0.05, True, True, 39),
    Set("ribosome", 128, 1000, 0.1, True, True, 40),
)
SETS = [replace(of, seed=of.seed + 100 * i) for of in _SETS for i in range(3)]  # three seeds, one after the other

PROGRAM_SETS = [
    Set("ribosome", 48, 1500, 0.1, False, False, 41),
    Set("spliceosome", 48, 1500, 0.03, True, True, 42),
    Set("chaperonin", 48, 1500, 0.3, True, False, 43),
    Set("chaperonin", 48, 1500, 0.02, False, True, 44),
]

HalfMapsOf = Callable[[ParticleStack, Set, Path], tuple[Map, Map]]

QUICK: dict[str, Any] = {
    "one pass": OnePass(),
    "one pass, Gaussians alone": OnePass(combine=False),
    "voxels": Voxels(),
    "backprojection": Backprojection(),
}


def slow_methods() -> dict[str, Any]:
    """Settings of the methods that read particles again and again, at lengths that fit here."""
    short = {"n_gaussians": 512}
    return {
        "tuned": replace(PRESETS["tuned"], **short),
        "cryosplat": replace(PRESETS["cryosplat"], n_epochs=2, **short),
        "gem": replace(PRESETS["gem"], n_steps=3000, **short),
        "cryogs": replace(PRESETS["cryogs"], n_epochs=1, **short),
        "neural field": NeuralField(width=128, n_epochs=2),
    }


@dataclass(frozen=True)
class Row:
    """What half maps, estimate and truth say of one set, method and mask, over shells that have an estimate."""

    of: Set
    method: str
    mask: str
    told: int
    truth: float
    half_maps: float
    estimate: float
    half_maps_error: float
    estimate_error: float
    expected_error: float
    covered: float
    covered_by_bootstrap: float
    pairs: tuple[NDArray[np.float64], NDArray[np.float64]]

    def __str__(self) -> str:
        return str_of([self])


def str_of(rows: Sequence[Row]) -> str:
    """One line for the seeds of a set, a method and a mask: means over them, and the largest error."""
    first = rows[0]

    def mean(name: str) -> float:
        return float(np.mean([getattr(r, name) for r in rows]))

    seeds = ", ".join(str(r.of.seed) for r in rows)
    numbers = f"{mean('truth'):.3f} | {mean('half_maps'):.3f} | {mean('estimate'):.3f} | {mean('half_maps_error'):.3f}"
    largest = max(r.estimate_error for r in rows)
    errors = f"{mean('estimate_error'):.4f} | {largest:.4f} | {mean('expected_error'):.4f}"
    covered = f"{100 * mean('covered'):.0f} % | {100 * mean('covered_by_bootstrap'):.0f} %"
    what = f"{first.of.without_seed}, seeds {seeds} | {first.method} | {first.mask} | {mean('told'):.0f}"
    return f"| {what} | {numbers} | {errors} | {covered} |"


HEAD = (
    "| set | method | mask | shells | truth | half maps say | estimate | error of half maps | error of estimate "
    "| largest of a seed | expected from its standard errors | shells within two standard errors | by bootstrap |\n|"
    + "---|"
    * 13
)


def truth_of(of: Set, pixel_size: float) -> Map:
    """(D, D, D) map of a set's molecule, with solvent or without, at a pixel size in A."""
    b_factor = Simulation(of.molecule).b_factor
    volume = simulate.potential(load_molecule(of.molecule), box_size=of.box, pixel_size=pixel_size, b_factor=b_factor)
    return with_solvent(volume, pixel_size) if of.solvent else volume


def particles(of: Set, folder: Path, *, noisy: bool = True) -> tuple[ParticleStack, Map]:
    """Particles of a set, with or without noise, and the truth."""
    pixel = EDGE[of.molecule] / of.box
    config = Simulation(of.molecule, n_particles=of.n, box_size=of.box, pixel_size=pixel, snr=of.snr, seed=of.seed)
    truth = truth_of(of, pixel)
    stack = simulate.draw_particles(config, folder / "particles.mrcs")
    amplitudes = None
    if of.coloured:
        np.save(folder / "noise.npy", 1 / (1 + (8 * np.arange(of.box) / of.box) ** 2) + 0.3)
        amplitudes = simulate.noise_amplitudes(str(folder / "noise.npy"), of.box)
    with new_image_stack(folder / "particles.mrcs", len(stack), of.box, pixel) as images:
        for start in range(0, len(stack), 500):
            rows = np.arange(start, min(len(stack), start + 500))
            images[rows] = simulate.form_images(truth, stack[rows])
        scale = np.sqrt(of.snr / np.square(images, dtype=np.float64).mean())
        for i in range(len(stack)):
            noise = simulate.draw_noise(of.seed, i, of.box, amplitudes) if noisy else 0
            images[i] = scale * images[i] + noise
    return stack.with_half_sets(of.seed), truth


def task_of(stack: ParticleStack, settings: Any, seed: int, folder: Path) -> Task:
    """The task of making both half maps by the method that has these settings."""
    method = next(row.name for row in METHODS.values() if row.settings is type(settings))
    task = make_task(stack, ReconstructionConfig(method, settings, seed=seed), RunRecord([], {}), folder)
    return replace(task, parts={part: chosen for part, chosen in task.parts.items() if part in HALVES})


def half_maps(settings: Any) -> HalfMapsOf:
    """What makes the half maps of one method."""

    def make(stack: ParticleStack, of: Set, folder: Path) -> tuple[Map, Map]:
        made = dict(solutions(task_of(stack, settings, of.seed, folder)))
        return made[HALVES[0]].volume, made[HALVES[1]].volume

    return make


def program(name: str) -> HalfMapsOf:
    """What makes the half maps of another program."""
    return lambda stack, of, _: half_maps_of(name, stack, of.seed)


def linear_maps(stack: ParticleStack, folder: Path) -> tuple[Map, Map]:
    found = linear_half_maps(task_of(stack, Backprojection("none"), 0, folder))
    assert found is not None
    return found


def rows_of(of: Set, folder: Path, methods: Mapping[str, HalfMapsOf]) -> Iterator[Row]:
    """Rows of a set; a method that is not installed here has none."""
    stack, truth = particles(of, folder)
    linear = linear_maps(stack, folder / "linear")
    masks = {
        "none": None,
        "sphere": spherical_mask(of.box, stack.pixel_size),
        "tight": automatic_mask(truth, stack.pixel_size),
    }
    for number, (method, make) in enumerate(methods.items()):
        try:
            halves = make(stack, of, folder / str(number))
        except NotRun as absent:
            print(f"{method}: {absent}")
            continue
        for name, mask in masks.items():
            found = estimate_truth_fsc(halves, linear, voxel_size=stack.pixel_size, mask=mask)
            if found.told.any():
                yield row(of, method, name, found, halves, truth, mask)


def row(
    of: Set, method: str, name: str, found: TruthEstimate, halves: tuple[Map, Map], truth: Map, mask: Mask | None
) -> Row:
    voxel_size, told = found.half.voxel_size, found.told
    curves = [fourier_shell_correlation(h, truth, voxel_size=voxel_size, mask=mask).values for h in halves]
    true = (curves[0] + curves[1])[told] / 2
    said, estimate = np.sqrt(np.clip(found.agreement, 0, None))[told], found.half.values[told]
    return Row(
        of, method, name, int(told.sum()), true.mean(), said.mean(), estimate.mean(),
        np.abs(said - true).mean(), np.abs(estimate - true).mean(),
        float(found.error[told].mean() * np.sqrt(2 / np.pi)),
        float((np.abs(estimate - true) < 2 * found.error[told]).mean()),
        float((np.abs(estimate - true) < 2 * found.bootstrap[told]).mean()), (true, estimate),
    )  # fmt: skip


def summary(rows: list[Row]) -> str:
    lines = []
    for masks, limit in ((("sphere", "tight"), 0.01), (("none",), 0.02)):
        chosen = [r for r in rows if r.mask in masks]
        errors = np.array([r.estimate_error for r in chosen])
        shells = sum(r.told for r in chosen)
        covered, by_bootstrap = (
            sum(getattr(r, name) * r.told for r in chosen) / shells for name in ("covered", "covered_by_bootstrap")
        )
        unexpected = sum(r.estimate_error > limit and r.expected_error < limit / 2 for r in chosen)
        lines.append(
            f"{' and '.join(masks)}: {len(chosen)} rows; mean error {errors.mean():.4f}, largest {errors.max():.4f}, "
            f"{(errors > limit).sum()} rows above {limit}; half maps: mean error "
            f"{np.mean([r.half_maps_error for r in chosen]):.4f}, largest "
            f"{max(r.half_maps_error for r in chosen):.4f}; {100 * covered:.1f} % of {shells:,} shells within two "
            f"standard errors ({100 * by_bootstrap:.1f} % by bootstrap). The standard errors let expect a mean error "
            f"of {np.mean([r.expected_error for r in chosen]):.4f}; {unexpected} rows above {limit} where they let "
            "expect less than half of that."
        )
    return "\n\n".join(lines)


def draw(rows: list[Row]) -> None:
    """Estimate against truth, a dot for each shell."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.6), layout="constrained")
    for axes, (title, masks) in zip(
        figure.subplots(1, 2, sharey=True), (("no mask", ("none",)), ("masks", ("sphere", "tight"))), strict=True
    ):
        chosen = [r for r in rows if r.mask in masks]
        true, estimate = (np.concatenate([r.pairs[k] for r in chosen]) for k in (0, 1))
        axes.plot([0, 1], [0, 1], color="0.6", lw=0.8)
        axes.plot(true, estimate, ".", ms=2.5, alpha=0.4, color="#0072B2")
        axes.set_title(f"{title}: {len(true):,} shells", fontsize="medium")
        axes.set_xlabel("FSC of the half map to the truth")
        axes.set_xlim(0, 1.02)
        axes.set_ylim(0, 1.15)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("estimate")
    figure.savefig(FIGURE, dpi=150)


def _place(row: Row) -> tuple[int, str, str]:
    """Rows of the sets in their order, seeds together."""
    order = list(dict.fromkeys(of.without_seed for of in (*SETS, *PROGRAM_SETS)))
    return order.index(row.of.without_seed), row.method, row.mask


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=len(SETS), help="the first so many sets")
    parser.add_argument("--programs", action="store_true", help="the half maps of RELION and cryoDRGN")
    parser.add_argument("--write", action="store_true", help="write the table and the figure into docs/measured")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    rows: list[Row] = []
    print(HEAD)
    for of in (PROGRAM_SETS if options.programs else SETS)[: options.sets]:
        settings = QUICK | (slow_methods() if of.slow else {})
        made = {name: half_maps(chosen) for name, chosen in settings.items()}
        with tempfile.TemporaryDirectory() as name:
            for found in rows_of(of, Path(name), {p: program(p) for p in PROGRAMS} if options.programs else made):
                rows.append(found)
                print(found, flush=True)
    print(summary(rows))
    if options.write:
        script = f"truth_estimate.py{' --programs' * options.programs}"
        lines = [str_of(list(same)) for _, same in itertools.groupby(sorted(rows, key=_place), key=_place)]
        write_table(PAGE, script, "\n".join([summary(rows), "", HEAD, *lines]))
        if not options.programs:
            draw(rows)


if __name__ == "__main__":
    main()
