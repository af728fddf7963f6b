"""What the estimated FSC to the truth measures where poses, CTF, hand or pixel size are wrong.

    python benchmarks/wrong_parameters.py [--write]

Half maps and linear maps of the same particles with the same wrong parameters, by three methods: the FSC of the half
maps to the truth, the estimate, and the FSC to the map that these parameters allow. That map is the least-squares
backprojection of noise-free images of many other particles whose parameters are wrong by the same law; so it shares
neither noise nor single pose errors with the half maps. All inside a sphere, over shells that have an estimate.
`--write` puts the table into docs/measured/truth_estimate.md. It takes a few minutes on one core.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from truth_estimate import PAGE, Set, half_maps, linear_maps, particles, truth_of
from written_tables import write_table

from gsworkbench.assessment.fsc import fourier_shell_correlation
from gsworkbench.assessment.masks import Mask, spherical_mask
from gsworkbench.assessment.truth_estimate import estimate_truth_fsc
from gsworkbench.io.mrc import Map
from gsworkbench.methods.backprojection import Backprojection
from gsworkbench.methods.one_pass import OnePass
from gsworkbench.methods.stochastic import PRESETS
from gsworkbench.normal_equations.classical_map import least_squares
from gsworkbench.normal_equations.equations import accumulate
from gsworkbench.particles.stack import ParticleStack
from gsworkbench.simulation.imperfections import turned

SETS = [
    Set("ribosome", 48, 2000, 0.1, True, False, 71),
    Set("chaperonin", 48, 2000, 0.1, True, False, 72),
]
MANY = 40_000  # particles behind the map that wrong parameters allow
OTHER = 1000  # added to a set's seed for these
METHODS = {
    "backprojection": Backprojection(),
    "one pass": OnePass(),
    "tuned": replace(PRESETS["tuned"], n_gaussians=512),
}
Wrong = Callable[[ParticleStack, np.random.Generator], ParticleStack]


def poses_off(degrees: float) -> Wrong:
    """Each pose turned about a random axis by an angle from N(0, degrees^2)."""
    return lambda stack, rng: replace(stack, rotations=turned(stack.require_poses(), degrees, rng))


def shifts_off(pixels: float) -> Wrong:
    """Each shift moved by N(0, pixels^2) in x and in y."""

    def change(stack: ParticleStack, rng: np.random.Generator) -> ParticleStack:
        moved = stack.shifts_angstrom + rng.normal(0, pixels * stack.pixel_size, stack.shifts_angstrom.shape)
        return replace(stack, shifts_angstrom=moved)

    return change


def defocus_off(fraction: float) -> Wrong:
    """All defoci larger by a fraction."""

    def change(stack: ParticleStack, _: np.random.Generator) -> ParticleStack:
        ctf, factor = stack.ctf, 1 + fraction
        return replace(stack, ctf=replace(ctf, defocus_u=ctf.defocus_u * factor, defocus_v=ctf.defocus_v * factor))

    return change


def other_hand(stack: ParticleStack, _: np.random.Generator) -> ParticleStack:
    """Poses at which a mirror image of the map has the same projections."""
    mirror = np.diag([1.0, 1.0, -1.0])
    return replace(stack, rotations=mirror @ stack.require_poses() @ mirror)


def pixel_off(fraction: float) -> Wrong:
    """A pixel size that is larger by a fraction than that of the images."""
    return lambda stack, _: replace(stack, pixel_size=stack.pixel_size * (1 + fraction))


WRONG: Mapping[str, Wrong] = {
    "nothing": lambda stack, _: stack,
    "poses, 2 degrees": poses_off(2),
    "poses, 5 degrees": poses_off(5),
    "poses, 10 degrees": poses_off(10),
    "shifts, 1 px": shifts_off(1),
    "defocus, 2 %": defocus_off(0.02),
    "defocus, 10 %": defocus_off(0.1),
    "the hand": other_hand,
    "pixel size, 1 %": pixel_off(0.01),
}


@dataclass(frozen=True)
class Row:
    """Means over the shells that have an estimate; distances are mean absolute differences from the estimate."""

    of: Set
    wrong: str
    method: str
    half_maps: float
    truth: float
    allowed: float
    estimate: float
    from_truth: float
    from_allowed: float

    def __str__(self) -> str:
        means = f"{self.half_maps:.3f} | {self.truth:.3f} | {self.allowed:.3f} | {self.estimate:.3f}"
        distances = f"{self.from_truth:.3f} | {self.from_allowed:.4f}"
        return f"| {self.of.molecule} | {self.wrong} | {self.method} | {means} | {distances} |"


HEAD = (
    "| molecule | what is wrong | method | half maps say | FSC to the truth "
    "| FSC to the map that these parameters allow | estimate "
    "| distance of the estimate from the truth | from the map that these parameters allow |\n|" + "---|" * 9
)


def rows_of(of: Set, folder: Path) -> Iterator[Row]:
    """Rows of a set: every mistake, every method."""
    stack, _ = particles(of, folder)
    many_folder = folder / "many"
    many_folder.mkdir()
    many, _ = particles(replace(of, n=MANY, seed=of.seed + OTHER), many_folder, noisy=False)
    for number, (wrong, change) in enumerate(WRONG.items()):
        rng = np.random.default_rng(of.seed)
        changed = change(stack, rng)
        allowed = least_squares(accumulate(change(many, rng)))
        linear = linear_maps(changed, folder / f"{number}")
        truth = truth_of(of, changed.pixel_size)  # on the grid that the pixel size makes believe
        mask = spherical_mask(of.box, changed.pixel_size)
        for method, settings in METHODS.items():
            halves = half_maps(settings)(changed, of, folder / f"{number} {method}")
            yield row(of, wrong, method, halves, linear, truth, allowed, mask, changed.pixel_size)


def row(
    of: Set,
    wrong: str,
    method: str,
    halves: tuple[Map, Map],
    linear: tuple[Map, Map],
    truth: Map,
    allowed: Map,
    mask: Mask,
    voxel_size: float,
) -> Row:
    found = estimate_truth_fsc(halves, linear, voxel_size=voxel_size, mask=mask)
    told, estimate = found.told, found.half.values[found.told]

    def mean_fsc(target: Map) -> np.ndarray:
        curves = [fourier_shell_correlation(h, target, voxel_size=voxel_size, mask=mask).values for h in halves]
        return (curves[0] + curves[1])[told] / 2

    to_truth, to_allowed = mean_fsc(truth), mean_fsc(allowed)
    return Row(
        of, wrong, method, np.sqrt(np.clip(found.agreement, 0, None))[told].mean(), to_truth.mean(), to_allowed.mean(),
        estimate.mean(), np.abs(estimate - to_truth).mean(), np.abs(estimate - to_allowed).mean(),
    )  # fmt: skip


def summary(rows: list[Row]) -> str:
    wrong = [r for r in rows if r.wrong != "nothing"]
    from_allowed, from_truth = (np.array([getattr(r, name) for r in wrong]) for name in ("from_allowed", "from_truth"))
    sets = "; ".join(map(str, dict.fromkeys(r.of for r in rows)))
    return (
        f"{sets}. {len(wrong)} rows with a mistake: the estimate is {from_allowed.mean():.4f} (at most "
        f"{from_allowed.max():.4f}) from the FSC to the map that the parameters allow, and {from_truth.mean():.3f} (at "
        f"most {from_truth.max():.3f}) from the FSC to the truth."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the table into docs/measured")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    rows: list[Row] = []
    print(HEAD)
    for of in SETS:
        with tempfile.TemporaryDirectory() as name:
            for found in rows_of(of, Path(name)):
                rows.append(found)
                print(found, flush=True)
    print(summary(rows))
    if options.write:
        write_table(PAGE, "wrong_parameters.py", "\n".join([summary(rows), "", HEAD, *map(str, rows)]))


if __name__ == "__main__":
    main()
