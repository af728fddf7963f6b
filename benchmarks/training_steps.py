"""Steps a second of the papers' trainer: compiled steps, and the loop in Python, in turns.

    python benchmarks/training_steps.py [--repeats 5]

One thread, batches of one image, preset cryosplat. A time is the difference of two lengths, in processor time, so that
start and end do not count; the least of the repeats is printed. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from gsworkbench.imaging.residual import data_term
from gsworkbench.methods import compiled_steps, stochastic_fit
from gsworkbench.methods.stochastic import PRESETS
from gsworkbench.particles.read import read_particles
from gsworkbench.particles.stack import ParticleStack
from gsworkbench.simulation.simulate import simulate
from gsworkbench.simulation.simulation_config import Simulation
from gsworkbench.system.compiler import capability

CASES = ((512, 32), (2048, 64), (2048, 128), (8192, 128))  # Gaussians, px
SERVES = compiled_steps.serves


def seconds(stack: ParticleStack, n_gaussians: int, n_steps: int) -> float:
    """Processor time of a fit's steps, without its preparation."""
    config = replace(PRESETS["cryosplat"], n_gaussians=n_gaussians, n_steps=n_steps)
    term, rotations = data_term(stack), torch.from_numpy(stack.require_poses()).float()
    optimizer = stochastic_fit.optimiser_of(config, stack)
    started = time.process_time()
    for epoch in range(-(-n_steps // len(stack))):
        stochastic_fit._epoch(optimizer, term, rotations, 3.0, config, 0, epoch, None, "steps")
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"instructions: {capability()}")
    print("| Gaussians | px | compiled: us a step | steps/s | one by one: us a step | ratio |\n|" + "---|" * 6)
    for n_gaussians, box in CASES:
        with tempfile.TemporaryDirectory() as name:
            config = Simulation("ribosome", n_particles=100, box_size=box, pixel_size=384 / box, snr=0.1)
            simulate(config, Path(name))
            stack = read_particles(Path(name) / "particles.star")
            best = {True: float("inf"), False: float("inf")}
            for _ in range(options.repeats):
                for compiled in (True, False):
                    compiled_steps.serves = SERVES if compiled else lambda *_: False
                    more = 1000 if compiled else 300
                    taken = seconds(stack, n_gaussians, 100 + more) - seconds(stack, n_gaussians, 100)
                    best[compiled] = min(best[compiled], taken / more)
        ours, theirs = best[True], best[False]
        numbers = f"{1e6 * ours:.0f} | {1 / ours:,.0f} | {1e6 * theirs:.0f} | {theirs / ours:.1f}"
        print(f"| {n_gaussians:,} | {box} | {numbers} |", flush=True)


if __name__ == "__main__":
    main()
