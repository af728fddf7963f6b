"""Is a fit ever worse than the classical map of the same particles?

    python benchmarks/never_worse.py [--seeds 21 22 23] [--boxes 48 64 96] [--write]

`reconstruct` at its defaults beside `backproject`: mean FSC to the truth in one soft mask made of the truth, of the map
and of the half maps, over 50 to 5,000 particles, SNR 0.001 to 0.3, even and preferred views. Prints a row for every
set, then the largest loss, and the largest loss that more particles brought. The combination of the two maps was chosen
on other molecules and seeds. It takes about forty minutes on one core.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from gsworkbench.assessment.fsc import fourier_shell_correlation
from gsworkbench.assessment.masks import Mask, automatic_mask
from gsworkbench.errors import InputError
from gsworkbench.io.mrc import Volume, read_map
from gsworkbench.methods.reconstruction_config import ReconstructionConfig
from gsworkbench.particles.stack import ParticleStack
from gsworkbench.reconstruction.run import reconstruct
from gsworkbench.simulation.simulate import simulate
from gsworkbench.simulation.simulation_config import Simulation

PAGE = Path(__file__).parents[1] / "docs" / "measured" / "particles.md"
NUMBERS = (50, 200, 1000, 5000)
SNRS = (0.001, 0.01, 0.1, 0.3)
VIEWS = (0.0, 0.5, 0.9)  # fraction of preferred views
PIXELS = {48: ("large_subunit", 8.0), 64: ("spliceosome", 7.5), 96: ("large_subunit", 4.0)}


@dataclass(frozen=True)
class Row:
    """Mean FSC to the truth of a set's map and half maps (mean of both), by reconstruct and by backproject."""

    box: int
    seed: int
    views: float
    snr: float
    n: int
    fitted: tuple[float, float]
    classical: tuple[float, float]

    def __str__(self) -> str:
        (f, fh), (c, ch) = self.fitted, self.classical
        set_ = f"| {self.box} | {self.seed} | {self.views} | {self.snr} | {self.n:,} |"
        return f"{set_} {f:.3f} | {c:.3f} | {f - c:+.3f} | {fh:.3f} | {ch:.3f} | {fh - ch:+.3f} |"


HEAD = (
    "| box | seed | preferred views | SNR | particles | reconstruct | backproject | difference "
    "| half maps: reconstruct | backproject | difference |\n|" + "---|" * 11
)


def rows_of(box: int, seed: int, views: float, snr: float, folder: Path) -> list[Row]:
    molecule, pixel_size = PIXELS[box]
    config = Simulation(
        molecule=molecule,
        n_particles=max(NUMBERS),
        box_size=box,
        pixel_size=pixel_size,
        snr=snr,
        preferred_views=views,
        seed=seed,
    )
    whole = simulate(config, folder / "set")
    truth, _ = read_map(folder / "set" / "truth.mrc")
    mask = automatic_mask(truth, pixel_size)

    def scores(stack: ParticleStack, method: str) -> tuple[float, float]:
        try:
            made = reconstruct(stack, folder / "out", ReconstructionConfig(method=method, mask="none"))
        except InputError:
            return float("nan"), float("nan")
        assert made.half_maps is not None
        values = [_likeness(v, truth, mask, pixel_size) for v in (made.volume, *made.half_maps)]
        return values[0], (values[1] + values[2]) / 2

    rows = []
    for n in NUMBERS:
        stack = replace(whole[np.arange(n)], half_set=np.zeros(n, np.int8))
        row = Row(box, seed, views, snr, n, scores(stack, "one-pass"), scores(stack, "backprojection"))
        print(row, flush=True)
        rows.append(row)
    return rows


def _likeness(volume: Volume, truth: Volume, mask: Mask, size: float) -> float:
    return fourier_shell_correlation(volume, truth, voxel_size=size, mask=mask).mean()


def summary(rows: list[Row]) -> str:
    losses = np.array([[r.fitted[k] - r.classical[k] for k in (0, 1)] for r in rows])
    steps = [
        (b.fitted[0] - a.fitted[0])
        for a, b in pairwise(rows)
        if (a.box, a.seed, a.views, a.snr) == (b.box, b.seed, b.views, b.snr)
    ]
    return (
        f"{len(rows)} sets. Smallest difference {np.nanmin(losses[:, 0]):+.4f} for maps and "
        f"{np.nanmin(losses[:, 1]):+.4f} for half maps; mean {np.nanmean(losses[:, 0]):+.4f} and "
        f"{np.nanmean(losses[:, 1]):+.4f}; "
        f"{(losses < -0.005).sum()} of {losses.size} below -0.005. Smallest gain of a map by more particles "
        f"{np.nanmin(steps):+.4f}."
    )


def write(table: str) -> None:
    """Put a table between the marks of the page."""
    begin, end = "<!-- made by benchmarks/never_worse.py -->\n", "<!-- end of never_worse -->"
    head, _, rest = PAGE.read_text().partition(begin)
    PAGE.write_text(head + begin + "\n" + table + "\n" + end + rest.partition(end)[2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[21, 22, 23])
    parser.add_argument("--boxes", type=int, nargs="+", default=list(PIXELS), choices=list(PIXELS))
    parser.add_argument("--write", action="store_true", help="put the table into docs/measured/particles.md")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    rows: list[Row] = []
    print(HEAD)
    for box in options.boxes:
        for k, seed in enumerate(options.seeds):
            for i, snr in enumerate(SNRS):
                with tempfile.TemporaryDirectory() as name:
                    rows += rows_of(box, seed, VIEWS[(k + i) % len(VIEWS)], snr, Path(name))
    print(summary(rows))
    if options.write:
        write("\n".join([summary(rows), "", HEAD, *map(str, rows)]) + "\n")


if __name__ == "__main__":
    main()
