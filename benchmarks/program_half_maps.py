"""Half maps that other programs make of a stack: RELION's and cryoDRGN's, where they are on PATH.

Each program is given one half set at a time, in a folder in which nothing else lies. relion_refine runs as a 3D
classification into one class with fixed poses, from the relion_reconstruct map of the same half set at 60 A.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from gsworkbench.errors import NotRun
from gsworkbench.io.mrc import Volume, read_map, write_map
from gsworkbench.methods.cryodrgn_program import Cryodrgn
from gsworkbench.methods.other_programs import cryodrgn, relion_reconstruct
from gsworkbench.methods.part import HALVES
from gsworkbench.particles.copy import write_particles
from gsworkbench.particles.image_statistics import weighted_alike
from gsworkbench.particles.stack import ParticleStack

ITERATIONS = 5
DIAMETER = 0.9  # of the particle's mask, fraction of the box


def relion_refine(stack: ParticleStack, seed: int) -> Volume:
    """(D, D, D) map of one class from `ITERATIONS` iterations at the poses of the stack, in RELION's units."""
    if shutil.which("relion_refine") is None:
        raise NotRun("relion", "there is no relion_refine on PATH")
    start = relion_reconstruct(stack).volume
    diameter = DIAMETER * stack.box_size * stack.pixel_size
    command = (
        f"relion_refine --i particles.star --o out/run --ref start.mrc --ini_high 60 --iter {ITERATIONS} --K 1 "
        f"--tau2_fudge 4 --particle_diameter {diameter:.0f} --skip_align --ctf --norm --scale --flatten_solvent "
        f"--zero_mask --oversampling 0 --pad 2 --sym C1 --dont_check_norm --random_seed {seed} --j 1"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "out").mkdir()
        write_particles(stack, folder)
        write_map(folder / "start.mrc", start, stack.pixel_size)
        result = subprocess.run(command.split(), cwd=folder, capture_output=True, text=True, check=False)
        made = folder / f"out/run_it{ITERATIONS:03d}_class001.mrc"
        if result.returncode or not made.is_file():
            raise NotRun("relion", f"relion_refine failed ({result.stderr.strip()[-200:]})")
        return read_map(made)[0]


def of_cryodrgn(config: Cryodrgn) -> Callable[[ParticleStack, int], Volume]:
    return lambda stack, seed: cryodrgn(weighted_alike(stack), config, seed=seed).volume


TRAINED = Cryodrgn("train_nn", width=128, n_epochs=4)

PROGRAMS: dict[str, Callable[[ParticleStack, int], Volume]] = {
    "relion_reconstruct": lambda stack, _: relion_reconstruct(stack).volume,
    "relion_refine, one class": relion_refine,
    "cryodrgn backproject_voxel": of_cryodrgn(Cryodrgn()),
    f"cryodrgn train_nn, {TRAINED.width} wide, {TRAINED.n_epochs} epochs": of_cryodrgn(TRAINED),
}


def half_maps_of(program: str, stack: ParticleStack, seed: int) -> tuple[Volume, Volume]:
    """Both half maps of a program; NotRun where it is not installed or fails."""
    first, second = (PROGRAMS[program](stack[stack.half_set == p.half_set], p.seed(seed) % 2**31) for p in HALVES)
    return first, second
