"""How often do the intervals of region means hold the truth?

    python benchmarks/error_map.py [--seeds 30] [--first 100] [--write]

Simulates particles of two molecules, in white and in coloured noise, with 30 seeds each, and makes the linear map, the
parts of its error and a one-pass fit. Counts, for regions of several sizes inside the molecule, at its edge and in the
solvent, how often the 95 % interval of the linear map's mean holds that of the truth (inside |k| < D / 2, both counted
from the mean of the box). For comparison, the same is counted for intervals about the fit's mean, by the delete-a-group
jackknife, for the first seeds: of the whole fit, repeated 32 times without one part, and of a mixture without
background that goes on from that of all particles for a few steps. `--write` puts the tables into
docs/measured/error_map.md. The intervals were developed on seeds 0 to 9. It takes about ten minutes on one core.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import warnings
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage, stats

from gsworkbench.assessment.region_means import region_mean
from gsworkbench.imaging.fourier import map_shells
from gsworkbench.io.mrc import read_images, read_map
from gsworkbench.methods.error_map import PARTS, deal_parts, map_errors
from gsworkbench.methods.one_pass import OnePass
from gsworkbench.methods.one_pass_fit import DEFAULT_CONTEXT, _descend, _final, fit_one_pass, sample
from gsworkbench.normal_equations.classical_map import classical_map
from gsworkbench.normal_equations.diagonal import diagonal, softened
from gsworkbench.normal_equations.equations import NormalEquations, accumulate
from gsworkbench.particles.stack import ParticleStack
from gsworkbench.simulation.simulate import simulate
from gsworkbench.simulation.simulation_config import Simulation
from gsworkbench.system.progress import reporting

PAGE = Path(__file__).parents[1] / "docs" / "measured" / "error_map.md"
MARKS = "<!-- made by benchmarks/error_map.py -->", "<!-- end of error_map -->"
LEVEL = 0.95
FIT = OnePass(n_gaussians=400)


@dataclass(frozen=True)
class Set:
    """Particles that differ from seed to seed. refits : seeds for which the fit is repeated without each part."""

    simulation: Simulation
    coloured: bool
    refits: int = 0

    def __str__(self) -> str:
        s = self.simulation
        noise = "coloured" if self.coloured else "white"
        return f"{s.molecule}, {s.n_particles:,} x {s.box_size}^2, SNR {s.snr:g}, {noise}"


SETS = (
    Set(Simulation(molecule="ribosome", n_particles=1000, box_size=32, pixel_size=12.0, snr=0.05), False, refits=10),
    Set(Simulation(molecule="ribosome", n_particles=600, box_size=40, pixel_size=9.6, snr=0.3), True),
    Set(Simulation(molecule="spliceosome", n_particles=800, box_size=40, pixel_size=12.0, snr=0.02), False),
    Set(Simulation(molecule="spliceosome", n_particles=1000, box_size=32, pixel_size=15.0, snr=0.1), True, refits=10),
)


def low_passed(truth: NDArray[np.float32]) -> NDArray[np.float64]:
    """The truth inside |k| < D / 2, which is all that particles show."""
    transform = np.fft.rfftn(truth.astype(np.float64))
    transform[map_shells(len(truth)).numpy() >= len(truth) // 2] = 0
    return np.fft.irfftn(transform, s=truth.shape, axes=(0, 1, 2))


def regions(truth: NDArray[np.float32]) -> dict[str, NDArray[np.float64]]:
    """Masks by name. The molecule is what is denser than a fifth of the truth's 99.9th percentile."""
    inside = ndimage.gaussian_filter(truth, 1.0) > 0.2 * np.percentile(truth, 99.9)
    depth = ndimage.distance_transform_edt(inside) - ndimage.distance_transform_edt(~inside)
    n = len(truth)
    axis = np.arange(n)
    radius = np.sqrt(sum(k**2 for k in np.meshgrid(*[axis - n // 2] * 3, indexing="ij")))

    def ball(place: tuple[int, ...], size: float) -> NDArray[np.float64]:
        grid = np.meshgrid(axis, axis, axis, indexing="ij")
        return (sum((k - p) ** 2 for k, p in zip(grid, place, strict=True)) <= size**2).astype(float)

    def first(chosen: NDArray[np.bool_]) -> tuple[int, ...]:
        """One voxel of those chosen, by a seed, inside the sphere."""
        places = np.argwhere(chosen & (radius < 0.4 * n))
        return tuple(places[np.random.default_rng(1).integers(len(places))])

    deepest = np.unravel_index(int(np.argmax(depth)), depth.shape)
    away = (depth < -3) & (radius < 0.45 * n)
    return {
        "whole molecule": inside.astype(float),
        "inside, radius 4": ball(deepest, 4),
        "inside, radius 2": ball(deepest, 2),
        "inside, one voxel": ball(first(depth > 2), 0.5),
        "edge, shell of a voxel": (np.abs(depth) <= 1).astype(float),
        "edge, radius 2": ball(first(np.abs(depth) <= 1), 2),
        "solvent, all": away.astype(float),
        "solvent, radius 2": ball(first(away), 2),
    }


@dataclass
class Count:
    """What was seen of one region over seeds: values, errors, and whether the interval held the truth."""

    truth: float = 0.0
    highest: float = 1.0
    values: list[float] = None  # type: ignore[assignment]
    errors: list[float] = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        self.values, self.errors = [], []

    def add(self, value: float, error: float) -> None:
        self.values.append(value)
        self.errors.append(error)

    @property
    def covered(self) -> NDArray[np.bool_]:
        reach = stats.t.ppf((1 + LEVEL) / 2, PARTS - 1) * np.array(self.errors)
        return np.abs(np.array(self.values) - self.truth) <= reach

    def row(self) -> str:
        values, highest = np.array(self.values) / self.highest, self.highest
        bias, spread = values.mean() - self.truth / highest, values.std(ddof=1)
        error = np.sqrt(np.mean(np.square(self.errors))) / highest
        return (
            f"{self.truth / highest:.3f} | {bias:+.4f} | {spread:.4f} | {error:.4f} | "
            f"{self.covered.sum()} of {len(values)}"
        )


def held_out(rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    return rows % 10 == 0


def refitted(stack: ParticleStack, dealt: NDArray[np.int64]) -> list[NDArray[np.float32]]:
    """The fit of all particles, then those without each part; background and all."""
    rows = np.arange(len(stack))
    sums: list[dict[bool, NormalEquations]] = []
    for part in range(PARTS):
        chosen = {test: (dealt == part) & (held_out(rows) == test) for test in (False, True)}
        sums.append({test: accumulate(stack[own]) for test, own in chosen.items() if own.any()})

    def summed(without: int | None, test: bool) -> NormalEquations:
        first, *others = [own[test] for part, own in enumerate(sums) if part != without and test in own]
        for other in others:
            first = first + other
        return first

    return [fit_one_pass(summed(out, False), summed(out, True), FIT).volume for out in (None, *range(PARTS))]


def continued(stack: ParticleStack, dealt: NDArray[np.int64]) -> list[NDArray[np.float32]]:
    """The mixture of all particles, then those that go on from the same beginning without each part."""
    sums = [accumulate(stack[dealt == part]) for part in range(PARTS)]
    total = sums[0]
    for other in sums[1:]:
        total = total + other
    whole, alone = diagonal(total), replace(FIT, background=False)
    begun, _ = _descend(softened(whole), None, alone, DEFAULT_CONTEXT)
    maps = []
    for part in (None, *sums):
        of = whole
        if part is not None:
            less = diagonal(part)
            of = replace(whole, data=whole.data - less.data, kernel=whole.kernel - less.kernel)
        mixture, _ = _descend(softened(of), None, _final(alone), DEFAULT_CONTEXT, start=begun)
        maps.append(sample(mixture, whole).numpy())
    return maps


def count_set(of: Set, seeds: range) -> dict[tuple[str, str], Count]:
    """(estimator, region) -> what was seen of it."""
    counts: dict[tuple[str, str], Count] = defaultdict(Count)
    for number, seed in enumerate(seeds):
        with tempfile.TemporaryDirectory() as name:
            folder, box = Path(name), of.simulation.box_size
            spectrum = None
            if of.coloured:
                spectrum = 1 + 4 / (1 + (np.arange(box // 2 + 1) / (box / 16)) ** 2)
                np.save(folder / "noise.npy", spectrum / spectrum.mean())
            noise = str(folder / "noise.npy") if of.coloured else "white"
            stack = simulate(replace(of.simulation, seed=seed, noise=noise), folder / "set")
            truth = read_map(folder / "set" / "truth.mrc")[0]
            masks, target = regions(truth), low_passed(truth)
            found = map_errors(stack, folder / "parts.mrcs", seed=seed)
            stored = read_images(found.parts, np.arange(PARTS * box)).reshape(PARTS, box, box, box)
            classical = classical_map(accumulate(stack))
            refits = {}
            if number < of.refits:
                dealt = deal_parts(stack, seed)
                refits = {"one-pass fit": refitted(stack, dealt), "Gaussians continued": continued(stack, dealt)}
            for region, mask in masks.items():
                weights = mask / mask.sum() - 1 / mask.size
                of_region = region_mean(found.volume, stored, mask, level=LEVEL)
                rows = {"linear": (of_region.value, of_region.error)}
                rows["Wiener"] = (float(np.vdot(classical, weights)), of_region.error)
                for fit, maps in refits.items():
                    whole, *without = (float(np.vdot(volume, weights)) for volume in maps)
                    spread = np.square(np.array(without) - np.mean(without)).sum()
                    rows[fit] = (whole, float(np.sqrt((PARTS - 1) / PARTS * spread)))
                for estimator, (value, error) in rows.items():
                    count = counts[estimator, region]
                    scale = float(target.max())  # the truth of a set is in units of its own noise: seeds differ
                    count.truth, count.highest = float(np.vdot(target, weights)) / scale, 1.0
                    count.add(value / scale, error / scale)
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=30, help="of each set")
    parser.add_argument("--first", type=int, default=100, help="the first seed")
    parser.add_argument("--refits", type=int, help="seeds for which the fit is repeated (default: as the set says)")
    parser.add_argument("--write", action="store_true", help="write the tables into docs/measured")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    tables: dict[str, list[str]] = defaultdict(list)
    covered: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for of in SETS:
        of = of if options.refits is None else replace(of, refits=options.refits if of.refits else 0)
        with reporting(lambda *_: None):
            counts = count_set(of, range(options.first, options.first + options.seeds))
        for (estimator, region), count in counts.items():
            tables[estimator].append(f"| {of} | {region} | {count.row()} |")
            print(estimator, tables[estimator][-1], flush=True)
            covered[estimator, region] += count.covered.tolist()
            covered[estimator, "all of them"] += count.covered.tolist()
    text = written(tables, covered)
    print(text)
    if options.write:
        write(text)


def written(tables: dict[str, list[str]], covered: dict[tuple[str, str], list[bool]]) -> str:
    names = list(tables)
    places = list(dict.fromkeys(region for _, region in covered))
    lines = [f"| region | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for region in [*(p for p in places if p != "all of them"), "all of them"]:
        cells = [covered[name, region] for name in names]
        lines.append(f"| {region} | " + " | ".join(f"{100 * np.mean(c):.1f} % of {len(c)}" for c in cells) + " |")
    head = (
        "| set | region | truth | bias | spread over seeds | standard error | interval holds the truth |\n" + "|---" * 7
    )
    parts = ["\n".join(lines)] + [f"### {name}\n\n{head}|\n" + "\n".join(tables[name]) for name in names]
    return "\n\n".join(parts) + "\n"


def write(text: str) -> None:
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    temporary = PAGE.with_suffix(".part")
    temporary.write_text(f"{before}{MARKS[0]}\n\n{text}\n{MARKS[1]}{after}", encoding="utf-8")
    os.replace(temporary, PAGE)


if __name__ == "__main__":
    main()
