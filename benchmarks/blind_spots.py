"""Which mistakes does a half-map FSC not see? Each is made on purpose; half maps and truth are compared; a table.

    python benchmarks/blind_spots.py [PARTICLES]

Linear backprojection of simulated ribosome images (64 px of 6 A, SNR 0.1), so that no prior is to blame. Runs in
about a minute on two cores and writes nothing but the table, as it stands in docs/measured/judge.md.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from gsworkbench.assessment.assess import Assessment, assess
from gsworkbench.io.mrc import read_map
from gsworkbench.normal_equations.classical_map import backproject
from gsworkbench.particles.read import read_particles
from gsworkbench.particles.stack import ParticleStack
from gsworkbench.simulation.simulate import simulate
from gsworkbench.simulation.simulation_config import Simulation


def shifted(stack: ParticleStack, shifts: np.ndarray) -> ParticleStack:
    return dataclasses.replace(stack, shifts_angstrom=shifts)


def turned(stack: ParticleStack, rotations: np.ndarray) -> ParticleStack:
    return dataclasses.replace(stack, rotations=rotations)


def astigmatism_turned(stack: ParticleStack) -> ParticleStack:
    return dataclasses.replace(stack, ctf=dataclasses.replace(stack.ctf, defocus_angle=stack.ctf.defocus_angle + 90))


def sharing(stack: ParticleStack, fraction: float) -> ParticleStack:
    """Every half set also holds `fraction` of the other."""
    n = int(fraction * len(stack) / 2)
    rows = [np.flatnonzero(stack.half_set == half)[:n] for half in (1, 2)]
    both = stack[np.concatenate([np.arange(len(stack)), *rows])]
    half_set = np.concatenate([stack.half_set, np.full(n, 2, np.int8), np.full(n, 1, np.int8)])
    return dataclasses.replace(both, half_set=half_set)


MISTAKES: dict[str, Callable[[ParticleStack], ParticleStack]] = {
    "none": lambda s: s,
    "psi + 180 degrees (inverted hand)": lambda s: turned(s, np.diag([-1.0, -1.0, 1.0]) @ s.require_poses()),
    "a fifth of the particles in both halves": lambda s: sharing(s, 0.2),
    "astigmatism turned by 90 degrees": astigmatism_turned,
    "origin half a pixel off in x and y": lambda s: shifted(s, s.shifts_angstrom + s.pixel_size / 2),
    "rotations transposed": lambda s: turned(s, s.require_poses().transpose(0, 2, 1)),
    "shifts in A read as pixels": lambda s: shifted(s, s.shifts_angstrom / s.pixel_size),
    "sign of the shifts": lambda s: shifted(s, -s.shifts_angstrom),
}


def judged(stack: ParticleStack, truth: np.ndarray) -> Assessment:
    halves = tuple(backproject(stack[stack.half_set == half], label=f"half {half}") for half in (1, 2))
    mean = (halves[0] + halves[1]) / 2
    return assess(mean, halves, truth, voxel_size=stack.pixel_size, mask="sphere")


def main() -> None:
    n_particles = int(sys.argv[1]) if len(sys.argv) > 1 else 3000
    with tempfile.TemporaryDirectory() as folder:
        simulate(Simulation(n_particles=n_particles), Path(folder))
        stack = read_particles(Path(folder) / "particles.star").with_half_sets()
        truth = read_map(Path(folder) / "truth.mrc")[0]
        print("| mistake | half maps, mean FSC | to the truth, mean FSC | mean H | alarms |\n|---|---|---|---|---|")
        for name, make in MISTAKES.items():
            found = judged(make(stack), truth)
            curves = {c.name: c.mean() for c in found.curves}
            half, true = curves["fsc_masked"], curves["fsc_masked_truth"]
            h = found.overstatements["masked"].mean
            print(f"| {name} | {half:.3f} | {true:.3f} | {h:+.3f} | {len(found.alarms)} |", flush=True)


if __name__ == "__main__":
    main()
