"""Which FSC is to be believed? Corrected curves, noise substitution, held-out likelihood, estimate against the truth.

    python benchmarks/corrected_fsc.py [--sets 1] [--write]

Half maps of simulated particles by every method of benchmarks/truth_estimate.py, and by relion_reconstruct where it is
installed. All answers are brought to one scale, the FSC c of a half map to the truth: two half maps with independent
errors agree by F = c1 c2, so a curve of half-map FSC, corrected or not, says that c is sqrt(F). Each answer is compared
with the truth in its own mask and shells. The held-out likelihood is no FSC; like the others it can rank methods: a
pair of methods of one set counts if their FSCs to the truth differ by more than 0.01 in the mean over the shells that
have an answer.
`--write` puts table and figure into docs/measured. It takes about twenty minutes on one core.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from program_half_maps import PROGRAMS
from truth_estimate import QUICK, Set, linear_maps, particles, slow_methods, task_of
from written_tables import MEASURED, write_table

from gsworkbench.assessment.corrected import noise_substitution
from gsworkbench.assessment.definitions import DEFINITIONS, judge
from gsworkbench.assessment.fsc import Shells, fourier_shell_correlation
from gsworkbench.assessment.masks import Mask
from gsworkbench.assessment.plots import COLOURS
from gsworkbench.assessment.truth_estimate import ROUNDED, estimate_truth_fsc
from gsworkbench.errors import NotRun
from gsworkbench.io.mrc import Map
from gsworkbench.methods.one_pass import OnePass
from gsworkbench.methods.part import HALVES
from gsworkbench.methods.sums_of_parts import sums_of_parts
from gsworkbench.methods.task import solutions, substituted_task
from gsworkbench.normal_equations.diagonal import DiagonalEquations, diagonal, from_transform, to_transform
from gsworkbench.particles.stack import ParticleStack

PAGE = MEASURED / "corrected_fsc.md"
FIGURE = MEASURED / "figure_corrected_fsc.png"
SETS = [
    Set("ribosome", 48, 1500, 0.05, True, False, 51),
    Set("spliceosome", 48, 1500, 0.1, False, True, 52),
    Set("chaperonin", 48, 1500, 0.1, True, True, 53),
]
LINEAR = ("backprojection", "voxels", "relion_reconstruct")  # methods that hold next to nothing back
FIRST_RANDOM = 8  # shell from which the particles' phases are random, of noise substitution
DIFFERENT = 0.01  # mean FSC to the truth by which the methods of a pair must differ
LIKELIHOOD = "held-out likelihood"

Float64 = NDArray[np.float64]
Halves = tuple[Map, Map]
MakeBoth = Callable[[ParticleStack, Set, Path, float], tuple[Halves, Halves]]


@dataclass(frozen=True)
class Answer:
    """What one curve says of the FSC of a half map to the truth, and what is right: (D // 2 + 1,) each."""

    said: Float64
    true: Float64

    @property
    def shells(self) -> NDArray[np.bool_]:
        """Those below Nyquist that have an answer."""
        there = np.isfinite(self.said) & np.isfinite(self.true)
        there[[0, -1]] = False
        return there

    @property
    def bias(self) -> float:
        return float((self.said - self.true)[self.shells].mean())

    @property
    def error(self) -> float:
        return float(np.abs(self.said - self.true)[self.shells].mean())


@dataclass(frozen=True)
class Row:
    """All answers about the half maps of one method; held_out : by how much they lower the error of unseen particles,
    over what a linear map of all signal would, at their best scale."""

    of: Set
    method: str
    answers: Mapping[str, Answer]
    held_out: float


def with_random_phases(settings: object) -> MakeBoth:
    """What makes the half maps of a method, and those of the same particles with random phases beyond so many A."""

    def make(stack: ParticleStack, of: Set, folder: Path, beyond: float) -> tuple[Halves, Halves]:
        task = task_of(stack, settings, of.seed, folder)
        found = [[s.volume for _, s in solutions(t)] for t in (task, substituted_task(task, beyond))]
        return (found[0][0], found[0][1]), (found[1][0], found[1][1])

    return make


def by_program(name: str) -> MakeBoth:
    """The same for another program."""

    def make(stack: ParticleStack, of: Set, _: Path, beyond: float) -> tuple[Halves, Halves]:
        found = []
        for particles_ in (stack, stack.with_random_phases(beyond, of.seed)):
            halves = [particles_[particles_.half_set == part.half_set] for part in HALVES]
            found.append((PROGRAMS[name](halves[0], of.seed), PROGRAMS[name](halves[1], of.seed)))
        return found[0], found[1]

    return make


def implied(fsc: Float64) -> Float64:
    """The FSC of a half map to the truth that a half-map FSC means, if errors are independent."""
    return np.where(np.isfinite(fsc), np.sqrt(np.clip(np.nan_to_num(fsc), 0, 1)), np.nan)


def answers(halves: Halves, substituted: Halves, linear: Halves, truth: Map, voxel_size: float) -> dict[str, Answer]:
    """What every curve says about two half maps."""

    def true(mask: Mask | None = None, shells: Shells = ROUNDED) -> Float64:
        curves = [
            fourier_shell_correlation(h, truth, voxel_size=voxel_size, mask=mask, shells=shells).values for h in halves
        ]
        return (curves[0] + curves[1]) / 2

    beyond = len(truth) * voxel_size / FIRST_RANDOM
    noise = noise_substitution(halves, substituted, from_angstrom=beyond, voxel_size=voxel_size)
    estimate = estimate_truth_fsc(halves, linear, voxel_size=voxel_size)
    found = {"half maps, no mask": Answer(implied(noise.measured.values), true())}
    for name in ("RELION", "cryoDRGN"):
        judged = judge(*halves, name, voxel_size=voxel_size)
        mask = judged.masks["fsc_masked"]
        right = true(mask, DEFINITIONS[name].shells)
        masked = judged.curve("fsc_masked")
        assert masked is not None
        corrected = judged.curve("fsc_corrected") or masked  # without a corrected curve the masked one is read
        if name == "RELION":
            found["half maps, in the mask"] = Answer(implied(masked.values), right)
            in_mask = estimate_truth_fsc(halves, linear, voxel_size=voxel_size, mask=mask)
            masked_estimate = Answer(in_mask.half.values, right)
        found[f"corrected, {name}"] = Answer(implied(corrected.values), right)
    found["noise substitution"] = Answer(implied(noise.corrected.values), true())
    found["estimate, no mask"] = Answer(estimate.half.values, true())
    found["estimate, in the mask"] = masked_estimate
    return found


def held_out_gain(volume: Map, unseen: DiagonalEquations) -> float:
    """By how much a map, at its best scale, lowers the error of particles it was not fitted to: <V, b>^2 / <V, KV>."""
    density = torch.from_numpy(np.asarray(volume, np.float32))
    with_data = float((density * from_transform(unseen.data)).double().sum())
    own = float((density * from_transform(unseen.kernel * to_transform(density))).double().sum())
    return with_data * abs(with_data) / max(own, 1e-300)


def rows_of(of: Set, folder: Path) -> Iterator[Row]:
    stack, truth = particles(of, folder)
    linear = linear_maps(stack, folder / "linear")
    sums = sums_of_parts(task_of(stack, OnePass(), of.seed, folder / "sums"), hold_out=False)
    unseen = [diagonal(sums[part][0]) for part in reversed(HALVES)]
    of_truth = sum(held_out_gain(truth, e) for e in unseen)
    beyond = of.box * stack.pixel_size / FIRST_RANDOM
    methods = {name: with_random_phases(settings) for name, settings in (QUICK | slow_methods()).items()}
    methods["relion_reconstruct"] = by_program("relion_reconstruct")
    for number, (method, make) in enumerate(methods.items()):
        try:
            halves, substituted = make(stack, of, folder / str(number), beyond)
        except NotRun as absent:
            print(f"{method}: {absent}")
            continue
        found = answers(halves, substituted, linear, truth, stack.pixel_size)
        gain = sum(held_out_gain(h, e) for h, e in zip(halves, unseen, strict=True))
        yield Row(of, method, found, gain / of_truth)


def ranked(rows: list[Row], name: str) -> tuple[int, int]:
    """How many pairs of methods of one set an answer ranks right, and how many pairs there are."""
    right = total = 0
    for one, other in itertools.combinations(rows, 2):
        if one.of != other.of:
            continue
        first, second = (r.answers["half maps, no mask" if name == LIKELIHOOD else name] for r in (one, other))
        both = first.shells & second.shells
        better = (first.true - second.true)[both].mean()
        if abs(better) <= DIFFERENT:
            continue
        said = one.held_out - other.held_out if name == LIKELIHOOD else (first.said - second.said)[both].mean()
        total += 1
        right += bool(better * said > 0)
    return right, total


def summary(rows: list[Row]) -> str:
    """A row for each answer."""
    head = (
        "| answer | bias, linear methods | bias, others | error, linear methods | error, others | largest error "
        "| shells with an answer | pairs of methods ranked right |\n|" + "---|" * 8
    )
    lines = [head]
    for name in rows[0].answers:
        groups = [[r.answers[name] for r in rows if (r.method in LINEAR) == linear] for linear in (True, False)]
        both = groups[0] + groups[1]
        biases = " | ".join(f"{np.mean([a.bias for a in g]):+.3f}" for g in groups)
        errors = " | ".join(f"{np.mean([a.error for a in g]):.3f}" for g in groups)
        share = sum(a.shells.sum() for a in both) / sum(len(a.said) - 2 for a in both)
        right, total = ranked(rows, name)
        worst = max(a.error for a in both)
        lines.append(f"| {name} | {biases} | {errors} | {worst:.3f} | {100 * share:.0f} % | {right} of {total} |")
    right, total = ranked(rows, LIKELIHOOD)
    lines.append(f"| {LIKELIHOOD} | | | | | | | {right} of {total} |")
    return "\n".join(lines)


def table(rows: list[Row]) -> str:
    """A row for each set and method: the truth without a mask, and the bias of each answer."""
    names = list(rows[0].answers)
    lines = [f"| set | method | truth, no mask | {' | '.join(names)} | {LIKELIHOOD} |", "|" + "---|" * (len(names) + 4)]
    for r in rows:
        true = r.answers["half maps, no mask"].true[1:-1].mean()
        biases = " | ".join(f"{r.answers[name].bias:+.3f}" for name in names)
        lines.append(f"| {r.of} | {r.method} | {true:.3f} | {biases} | {r.held_out:.4f} |")
    return "\n".join(lines)


def draw(rows: list[Row]) -> None:
    """Bias of each answer, a mark for each method and set; and how many pairs it ranks right."""
    from matplotlib.figure import Figure

    names = list(rows[0].answers)
    figure = Figure(figsize=(7.2, 3.4), layout="constrained")
    bias, rank = figure.subplots(1, 2, sharey=True, width_ratios=[2.6, 1])
    groups = (("backprojection, voxels, RELION", True, "o", COLOURS[2], -0.14),
              ("Gaussians, neural field", False, "^", COLOURS[1], 0.14))  # fmt: skip
    for label, linear, marker, colour, aside in groups:
        chosen = [r for r in rows if (r.method in LINEAR) == linear]
        spread = np.linspace(-0.09, 0.09, len(chosen))
        for place, name in enumerate(names):
            biases = [r.answers[name].bias for r in chosen]
            bias.plot(
                biases, place + aside + spread, marker, color=colour, ms=4, mew=0, alpha=0.75,
                label=label if place == 0 else None,
            )  # fmt: skip
    bias.axvline(0, color="0.4", lw=0.8)
    bias.set_yticks(range(len(names) + 1), [*names, LIKELIHOOD])
    bias.set_ylim(len(names) + 0.5, -0.5)
    bias.set_xlabel("answer less FSC of the half map to the truth,\nmean over shells (0: right)")
    bias.text(0.01, len(names), "(is no FSC: ranks only)", color="0.4", fontsize="small", va="center", ha="left")
    figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize="small")
    shares = [100 * ranked(rows, name)[0] / max(ranked(rows, name)[1], 1) for name in [*names, LIKELIHOOD]]
    rank.barh(range(len(shares)), shares, height=0.55, color="0.75")
    for place, share in enumerate(shares):
        rank.text(share - 2, place, f"{share:.0f}", ha="right", va="center", fontsize="small")
    rank.set_xlim(0, 100)
    rank.set_xlabel("pairs of methods\nranked right, %")
    for axes in (bias, rank):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="0.92", lw=0.6)
        axes.set_axisbelow(True)
    figure.savefig(FIGURE, dpi=200)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=len(SETS), help="the first so many sets")
    parser.add_argument("--write", action="store_true", help="write table and figure into docs/measured")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    rows: list[Row] = []
    for of in SETS[: options.sets]:
        with tempfile.TemporaryDirectory() as name:
            for found in rows_of(of, Path(name)):
                rows.append(found)
                print(f"{of}, {found.method}: done", flush=True)
    print(made := f"{summary(rows)}\n\n{table(rows)}")
    if options.write:
        write_table(PAGE, "corrected_fsc.py", made)
        draw(rows)


if __name__ == "__main__":
    main()
