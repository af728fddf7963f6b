"""Do half maps agree more than the truth allows? Mean H of backprojection, both Gaussian methods and a neural field.

    python benchmarks/honesty.py [--particles 3000] [--epochs 4]

One simulated ribosome set (64 px of 6 A, SNR 0.1), every method on the same half sets, H (assessment/honesty.py)
without a mask and inside a sphere; prints the table of docs/measured/judge.md. Minutes of processor time, and a dozen
more for cryoDRGN (a decoder 256 wide), which is run if the command `cryodrgn` is on PATH, as from
`pip install cryodrgn==4.3.1` into an environment of its own.
"""

from __future__ import annotations

import argparse
import pickle
import resource
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from gsworkbench.assessment.assess import Assessment, assess
from gsworkbench.io.mrc import read_map
from gsworkbench.methods.reconstruction_config import ReconstructionConfig
from gsworkbench.particles.read import read_particles
from gsworkbench.particles.stack import ParticleStack
from gsworkbench.reconstruction.run import reconstruct
from gsworkbench.simulation.simulate import simulate
from gsworkbench.simulation.simulation_config import Simulation

WIDTH = 256
LABELS = (
    *("method", "training", "half maps, mean FSC", "to the truth, mean FSC"),
    *("mean H", "mean H in a sphere", "worst H", "CPU s"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--particles", type=int, default=3000, metavar="N")
    parser.add_argument("--epochs", type=int, default=4, metavar="N", help="of cryoDRGN")
    options = parser.parse_args()
    print(f"| {' | '.join(LABELS)} |\n|{'---|' * len(LABELS)}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        stack = simulate(Simulation(n_particles=options.particles), folder)
        truth, _ = read_map(folder / "truth.mrc")
        for method in ("backprojection", "stochastic", "one-pass"):
            result = reconstruct(stack, folder / method, ReconstructionConfig(method=method))
            assert result.half_maps is not None
            cpu = sum(seconds for stage, seconds in result.record.cpu_seconds.items() if stage != "assess")
            length = training(result.record.config, method)
            print(row(method, length, judged(result.half_maps, truth, stack.pixel_size), cpu), flush=True)
        program = shutil.which("cryodrgn")
        if program is None:
            print("\ncryoDRGN: not run, because there is no `cryodrgn` on PATH")
            return
        halves, cpu = neural_field(program, read_particles(folder / "particles.star"), folder, options.epochs)
        found = judged(halves, truth, stack.pixel_size)
        print(row("cryoDRGN train_nn", f"{options.epochs} epochs", found, cpu))


def training(config: dict[str, Any], method: str) -> str:
    """How long a method went on, from the record of its run."""
    settings = config.get(method.replace("-", "_")) or {}
    for name, unit in (("n_epochs", "epochs"), ("n_steps", "steps")):
        if name in settings:
            return f"{settings[name] + settings.get('n_boosted_steps', 0)} {unit}"
    return "one pass"


def judged(halves: tuple[np.ndarray, np.ndarray], truth: np.ndarray, voxel_size: float) -> Assessment:
    return assess((halves[0] + halves[1]) / 2, halves, truth, voxel_size=voxel_size, mask="sphere")


def row(method: str, length: str, found: Assessment, cpu_seconds: float) -> str:
    mean = {c.name: c.mean() for c in found.curves}
    h = found.overstatements
    numbers = f"{mean['fsc_unmasked']:.3f} | {mean['fsc_unmasked_truth']:.3f} | {h['unmasked'].mean:+.4f}"
    more = f"{h['masked'].mean:+.4f} | {h['unmasked'].worst:+.3f} | {cpu_seconds:.0f}"
    return f"| {method} | {length} | {numbers} | {more} |"


def neural_field(
    program: str, stack: ParticleStack, folder: Path, epochs: int
) -> tuple[tuple[np.ndarray, np.ndarray], float]:
    """Half maps of `cryodrgn train_nn` on the half sets of a set, and its processor time, s.

    They have the truth's grid, hand and sign: `train_nn` inverts images, and its CTF has the other sign.
    """

    def run(command: str) -> None:
        subprocess.run([program, *command.split()], cwd=folder, check=True, capture_output=True)

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run("parse_pose_star particles.star -o poses.pkl")
    run("parse_ctf_star particles.star -o ctf.pkl --ps 0")
    for half in (1, 2):
        (folder / f"half{half}.pkl").write_bytes(pickle.dumps(np.flatnonzero(stack.half_set == half)))
        inputs = f"particles.mrcs --poses poses.pkl --ctf ctf.pkl --ind half{half}.pkl"
        run(f"train_nn {inputs} -o neural{half} -n {epochs} --dim {WIDTH}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    first, second = (read_map(folder / f"neural{half}" / f"reconstruct.{epochs}.mrc")[0] for half in (1, 2))
    return (first, second), after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
