"""Does RELION find better poses when Gaussians make its maps?

    python benchmarks/relion_external.py [--draws 5] [--keep FOLDER] [--write]

Simulates particles of two molecules, turns and shifts their poses at random, and refines them by relion_refine (one
class, all particles) and relion_refine_mpi (gold standard, three processes): RELION alone, and RELION with
`gsworkbench external-reconstruct`. Measured are the angles between refined and true poses, after the one rotation of
the whole that fits best; the mean FSC to the truth, over all shells but k = 0, of the linear map that our
backprojection makes of all particles in the refined poses, turned by that rotation; and processor time. `--write` puts
the tables into docs/measured/relion.md. `--keep` keeps what was made, and goes on where an earlier call ended. Choices
were made on other seeds of the spliceosome. It takes about half an hour on one core.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shlex
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import gsworkbench as gs
from gsworkbench.assessment.fsc import fourier_shell_correlation
from gsworkbench.io.mrc import read_images
from gsworkbench.normal_equations.classical_map import backproject
from gsworkbench.particles.stack import ParticleStack
from gsworkbench.simulation.simulate import form_images, simulate
from gsworkbench.simulation.simulation_config import Simulation

PAGE = Path(__file__).parents[1] / "docs" / "measured" / "relion.md"
MARK = "<!-- made by benchmarks/relion_external.py -->"
EDGE = {"ribosome": 384.0, "chaperonin": 240.0, "spliceosome": 480.0}  # A
DIAMETER = {"ribosome": 330, "chaperonin": 210, "spliceosome": 420}  # A
BOX, PARTICLES, SNR, TURN, SHIFT, ITERATIONS, FIRST_SEED = 48, 600, 0.1, 6.0, 1.0, 4, 11
LOST = 12.0  # degrees
COMMON = (
    "--i particles.star --ref start.mrc --ini_high {first:.0f} --ctf --zero_mask --flatten_solvent --norm --scale "
    "--pad 2 --j 1 --random_seed 1 --oversampling 1 --healpix_order 4 --sigma_ang 3 --offset_range 2 --offset_step 2 "
    "--particle_diameter {diameter}"
)
MODES = {
    "one class": f"relion_refine {COMMON} --K 1 --tau2_fudge 4 --iter {ITERATIONS}",
    "gold standard": "mpirun --oversubscribe --allow-run-as-root -np 3 relion_refine_mpi --auto_refine "
    f"--split_random_halves {COMMON} --auto_local_healpix_order 4 --low_resol_join_halves 40 "
    f"--auto_iter_max {ITERATIONS}",
}
ARMS = ("RELION alone", "with Gaussians")


@dataclass(frozen=True)
class Result:
    """What one refinement came to. Angles in degrees, fsc the mean over shells, seconds of processor time."""

    molecule: str
    seed: int
    mode: str
    arm: str
    median: float
    ninth: float  # the angle that a tenth of the particles exceed
    worst: float  # the mean angle of that tenth
    fsc: float
    seconds: float
    lost: int  # particles more than LOST degrees off
    lost_started: float  # median angle of these in the poses that the refinement began with
    lost_by_both: int  # of these, how many RELION alone lost as well


@dataclass(frozen=True)
class Tail:
    """Particles more than LOST degrees off: n at the end; far after the first iteration; both; and what truth says.

    fit_better : of the n, how many fit the true map better where they ended than in their true pose. missed : (n,) by
    how much the logarithm of their likelihood under the true map is lower there.
    """

    n: int
    far: int
    both: int
    fit_better: int
    missed: NDArray[np.float64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED)
    parser.add_argument("--molecules", nargs="+", default=["ribosome", "chaperonin"], choices=EDGE)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = options.keep or Path(name)
        results: list[Result] = []
        tails: dict[tuple[str, str], list[Tail]] = {}
        for seed in range(options.first_seed, options.first_seed + options.draws):
            for molecule in options.molecules:
                place = folder / f"{molecule}_{seed}"
                true, truth = draw(molecule, seed, place)
                for mode in MODES:
                    for arm in ARMS:
                        results.append(refined(molecule, seed, mode, arm, place, true, truth))
                        tails.setdefault((mode, arm), []).append(tail(mode, arm, place, true, truth))
                        print(results[-1], flush=True)
        text = page(results) + "\n" + worst_tenth(tails)
        print(text)
        if options.write:
            PAGE.write_text(PAGE.read_text().split(MARK)[0] + MARK + "\n\n" + text)


def draw(molecule: str, seed: int, place: Path) -> tuple[ParticleStack, NDArray[np.float32]]:
    """Particles in their true poses and the truth; beside them, in place/turned, the same images in wrong poses."""
    config = Simulation(molecule, PARTICLES, BOX, EDGE[molecule] / BOX, SNR, seed=seed)
    if not (place / "turned" / "start.mrc").exists():
        simulate(config, place / "true")
        turned = replace(config, pose_error_degrees=TURN, shift_error_pixels=SHIFT)
        simulate(turned, place / "turned")
        command = f"relion_reconstruct --i particles.star --o start.mrc --ctf --pad 2 --maxres {first(molecule):.0f}"
        run(command, place / "turned", place / "start.log")
    return gs.read_particles(place / "true" / "particles.star"), gs.read_map(place / "true" / "truth.mrc")[0]


def first(molecule: str) -> float:
    """Resolution of the first reference, A."""
    return 3.75 * EDGE[molecule] / BOX


def refined(
    molecule: str, seed: int, mode: str, arm: str, place: Path, true: ParticleStack, truth: NDArray[np.float32]
) -> Result:
    """Run one refinement, unless its result is there already, and measure it."""
    name = f"{mode}_{arm}".replace(" ", "_")
    done = place / f"{name}.json"
    if done.exists():
        return Result(**json.loads(done.read_text()))
    folder = place / "turned" / name
    folder.mkdir(exist_ok=True)
    command = MODES[mode].format(first=first(molecule), diameter=DIAMETER[molecule]) + f" --o {name}/run"
    seconds = run(command + " --external_reconstruct" * (arm != ARMS[0]), place / "turned", place / f"{name}.log")
    last = folder / f"run_it{ITERATIONS:03d}_data.star"
    found = in_order(gs.read_particles(last, datadir=place / "turned"), true)
    angles, turned = errors(found, true)
    np.save(place / f"{name}.npy", angles)
    start, _ = errors(in_order(gs.read_particles(place / "turned" / "particles.star"), true), true)
    lost = angles > LOST
    alone = np.load(place / f"{mode}_{ARMS[0]}.npy".replace(" ", "_"), allow_pickle=False) > LOST
    worst = np.sort(angles)[-len(angles) // 10 :]
    result = Result(
        molecule, seed, mode, arm, float(np.median(angles)), float(worst[0]), float(worst.mean()),
        mean_fsc(backproject(turned), truth), seconds,
        int(lost.sum()), float(np.median(start[lost])) if lost.any() else 0.0, int((lost & alone).sum()),
    )  # fmt: skip
    done.write_text(json.dumps(asdict(result)))
    return result


def tail(mode: str, arm: str, place: Path, true: ParticleStack, truth: NDArray[np.float32]) -> Tail:
    """What became of the particles that end far from their true poses."""
    folder = place / "turned" / f"{mode}_{arm}".replace(" ", "_")
    stacks = [
        in_order(gs.read_particles(folder / f"run_it{iteration:03d}_data.star", datadir=place / "turned"), true)
        for iteration in (1, ITERATIONS)
    ]
    (first_angles, _), (angles, turned) = (errors(stack, true) for stack in stacks)
    lost, far = angles > LOST, first_angles > LOST
    images = read_images(place / "true" / "particles.mrcs", true.image_index).astype(np.float64)
    images *= np.reshape(true.data_sign, (-1, 1, 1))
    clean, found = (form_images(truth.astype(np.float64), stack) for stack in (true, turned))
    clean, found = (views - views.mean((1, 2), keepdims=True) for views in (clean, found))
    scale = (clean * images).sum() / (clean * clean).sum()
    noise = (images - scale * clean).var()
    missed = ((images - scale * found) ** 2 - (images - scale * clean) ** 2).sum((1, 2))[lost] / (2 * noise)
    return Tail(int(lost.sum()), int(far.sum()), int((lost & far).sum()), int((missed < 0).sum()), missed)


def worst_tenth(tails: dict[tuple[str, str], list[Tail]]) -> str:
    """Sentences on the particles that refinements lose."""
    lines = []
    for (mode, arm), parts in tails.items():
        n, far, both, better = (sum(getattr(t, k) for t in parts) for k in ("n", "far", "both", "fit_better"))
        missed = np.concatenate([t.missed for t in parts])
        lines.append(
            f"- {mode}, {arm}: {far} of {PARTICLES * len(parts):,} particles are more than {LOST:.0f} degrees off "
            f"after the first iteration, and {n} at the end, {both} of them among the former. {better} of the {n} fit "
            "the true map better where they ended than in their true pose; the median logarithm of the likelihood "
            f"ratio is {np.median(missed):.0f} in favour of the true pose."
        )
    return "\n".join(lines) + "\n"


def run(command: str, folder: Path, log: Path) -> float:
    """Run a command and return its processor time with that of all that it starts, s."""
    program = f"{shlex.quote(sys.executable)} -m gsworkbench external-reconstruct"
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]))
    ours = {"RELION_EXTERNAL_RECONSTRUCT_EXECUTABLE": program, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with open(log, "w") as out:
        subprocess.run(command.split(), cwd=folder, check=True, stdout=out, stderr=out, env=os.environ | ours)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def in_order(found: ParticleStack, true: ParticleStack) -> ParticleStack:
    """The particles in the order of others: RELION sorts them."""
    place = {int(index): row for row, index in enumerate(found.image_index)}
    return found[np.array([place[int(index)] for index in true.image_index])]


def errors(found: ParticleStack, true: ParticleStack) -> tuple[NDArray[np.float64], ParticleStack]:
    """(n,) angle between poses and true ones, degrees, after one rotation of all; and the poses so turned."""
    aim, poses = true.require_poses(), found.require_poses()
    left, _, right = np.linalg.svd(np.einsum("nji,njk->ik", poses, aim))
    turn = left @ np.diag([1, 1, np.linalg.det(left @ right)]) @ right
    poses = poses @ turn
    cosine = (np.einsum("nij,nij->n", poses, aim) - 1) / 2
    return np.degrees(np.arccos(np.clip(cosine, -1, 1))), replace(found, rotations=poses)


def mean_fsc(volume: NDArray[np.float32], truth: NDArray[np.float32]) -> float:
    curve = fourier_shell_correlation(volume, truth, voxel_size=1.0)
    return float(curve.values[1 : BOX // 2].mean())


def page(results: list[Result]) -> str:
    """The tables of all refinements, and of what they have in common."""
    both = [(a, b) for a, b in zip(results[::2], results[1::2], strict=True)]
    lines = [
        "Angles in degrees: median | exceeded by a tenth | mean of that tenth. *Linear FSC*: of the linear map in the "
        "refined poses. Each cell: RELION alone -> with Gaussians.\n",
        "| particles | seed | mode | median angle | tenth | worst tenth | lost | linear FSC | processor time |\n|"
        + "---|" * 9,
    ]
    for a, b in both:
        cells = [
            f"{getattr(a, name):.{digits}f} -> {getattr(b, name):.{digits}f}"
            for name, digits in (("median", 1), ("ninth", 1), ("worst", 1), ("lost", 0), ("fsc", 3))
        ]
        time = f"{a.seconds:.0f} -> {b.seconds:.0f} s ({b.seconds / a.seconds:.2f})"
        lines.append(f"| {a.molecule} | {a.seed} | {a.mode} | {' | '.join(cells)} | {time} |")
    lines.append("")
    for mode in MODES:
        pairs = [(a, b) for a, b in both if a.mode == mode]
        change = np.array([b.fsc - a.fsc for a, b in pairs])
        angle = np.array([b.median / a.median for a, b in pairs])
        tenth = np.array([b.worst / a.worst for a, b in pairs])
        ninth = np.array([b.ninth / a.ninth for a, b in pairs])
        alone, ours, common = (sum(n) for n in zip(*((a.lost, b.lost, b.lost_by_both) for a, b in pairs), strict=True))
        lines += [
            f"{mode}, {len(pairs)} refinements: linear FSC {change.min():+.3f} to {change.max():+.3f}, mean "
            f"{change.mean():+.3f}, {np.count_nonzero(change < -0.01)} worse by more than .01.",
            f"The median angle is {spread(angle)} of RELION's, the angle that a tenth exceed {spread(ninth)}, the "
            f"mean of that tenth {spread(tenth)}, larger in {np.count_nonzero(tenth > 1)}.",
            f"More than {LOST:.0f} degrees off are {alone} particles of RELION alone, {ours} with Gaussians, of these "
            f"{common} in both.\n",
        ]
    return "\n".join(lines)


def spread(ratios: NDArray[np.float64]) -> str:
    return f"{np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f})"


if __name__ == "__main__":
    main()
