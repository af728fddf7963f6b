"""Every method and preset on one simulated set: FSC to the truth, what half maps overstate, and at what cost.

    python benchmarks/baselines.py [NAME ...] [--particles 5000] [--gaussians 2048]
    python benchmarks/baselines.py --schemes          # skip thresholds, order, gather or scatter
    python benchmarks/baselines.py --speed            # neural field, 1024 wide, from 200 images

The ribosome of the laptop scale (64 px of 6 A, SNR 0.1), the same particles, poses, CTF and half sets for all. Prints
the tables of docs/measured/methods.md, a row as soon as it is done. CPU seconds are those of all three maps.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from gsworkbench.assessment.assess import assess
from gsworkbench.errors import NotRun
from gsworkbench.gaussians.mixture import random_gaussians
from gsworkbench.geometry.rotations import random_rotations
from gsworkbench.io.mrc import read_map
from gsworkbench.methods.backprojection import Backprojection
from gsworkbench.methods.cryodrgn_program import Cryodrgn
from gsworkbench.methods.gradient_schemes import measure_schemes
from gsworkbench.methods.neural_field import NeuralField
from gsworkbench.methods.neural_field_fit import images_per_second
from gsworkbench.methods.part import ALL, HALVES
from gsworkbench.methods.reconstruction_config import ReconstructionConfig
from gsworkbench.methods.splatting_3dgs import Splatting3dgs
from gsworkbench.methods.stochastic import PRESETS
from gsworkbench.particles.read import read_particles
from gsworkbench.reconstruction.run import make_maps
from gsworkbench.simulation.simulate import simulate
from gsworkbench.simulation.simulation_config import Simulation
from gsworkbench.system.provenance import machine

LABELS = ("method", "to the truth, mean FSC", "half maps, mean FSC", "mean H", "mean H in a sphere", "CPU s")


def methods(n: int) -> dict[str, ReconstructionConfig]:
    """Rows by name; n Gaussians each. Steps of batch 1 are scaled to the set: two epochs of its particles."""

    def stochastic(name: str, **changes: object) -> ReconstructionConfig:
        return ReconstructionConfig("stochastic", replace(PRESETS[name], n_gaussians=n, **changes))

    filters = ("wiener", "none", "fsc", "local")
    rows = {f"backprojection, {f}": ReconstructionConfig("backprojection", Backprojection(f)) for f in filters}
    commands = ("backproject_voxel", "train_nn")
    return rows | {
        "relion": ReconstructionConfig("relion"),
        **{f"cryodrgn {c}": ReconstructionConfig("cryodrgn", Cryodrgn(c)) for c in commands},
        "tuned": stochastic("tuned"),
        "isotropic": stochastic("isotropic"),
        "cryogs": stochastic("cryogs"),
        "gem": stochastic("gem", n_steps=10_000),
        "cryosplat_as_released": stochastic("cryosplat_as_released"),
        "cryosplat": stochastic("cryosplat"),
        "cryosplat_3dgs_rates": stochastic("cryosplat_3dgs_rates"),
        "neural-field": ReconstructionConfig("neural-field"),
        "neural-field, fourier": ReconstructionConfig("neural-field", NeuralField(domain="fourier")),
        "splatting-3dgs": ReconstructionConfig("splatting-3dgs", Splatting3dgs(n_gaussians=n)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="rows to run (default: all)")
    parser.add_argument("--particles", type=int, default=5000, metavar="N")
    parser.add_argument("--gaussians", type=int, default=2048, metavar="N")
    parser.add_argument("--schemes", action="store_true")
    parser.add_argument("--speed", action="store_true")
    options = parser.parse_args()
    print(f"{machine()}, {torch.get_num_threads()} thread(s)\n")
    if options.schemes:
        return schemes(options.gaussians)
    rows = methods(options.gaussians)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        simulate(Simulation(n_particles=options.particles), folder)
        stack, (truth, _) = read_particles(folder / "particles.star"), read_map(folder / "truth.mrc")
        if options.speed:
            published = NeuralField(width=1024, n_components=None)
            rate = images_per_second(stack[np.arange(200)], published)
            return print(f"neural field 3 x 1024, 64 px, all components: {rate:.2f} images per CPU second")
        print(f"| {' | '.join(LABELS)} |\n|{'---|' * len(LABELS)}")
        for row in options.names or rows:
            print(f"| {row} | {measured(rows[row], stack, truth, folder / 'maps')} |", flush=True)


def measured(config: ReconstructionConfig, stack, truth: np.ndarray, folder: Path) -> str:
    try:
        solutions, record = make_maps(stack, folder, config)
    except NotRun as reason:
        return f"not run, because {reason.because} | | | |"
    halves = solutions[HALVES[0]].volume, solutions[HALVES[1]].volume
    found = assess(solutions[ALL].volume, halves, truth, voxel_size=stack.pixel_size, mask="sphere")
    mean, h = {c.name: c.mean() for c in found.curves}, found.overstatements
    fsc = f"{mean['fsc_unmasked_truth']:.3f} | {mean['fsc_unmasked']:.3f}"
    cpu = sum(record.cpu_seconds.values())
    return f"{fsc} | {h['unmasked'].mean:+.4f} | {h['masked'].mean:+.4f} | {cpu:.0f}"


def schemes(n: int) -> None:
    """Of a mixture as wide as fitted ones are (0.7 to 1.5 px), in a box of 64; thresholds in units of the trainer."""
    model = random_gaussians(n, spread=0.12, scale=1.1 / 64, total_weight=0.5, seed=0)
    views = torch.from_numpy(random_rotations(4, np.random.default_rng(0))).float()
    print(
        "| scheme | skip below | listed by | backward | forward, us | backward, us | lists, kB | image changes "
        "| gradient changes |\n|" + "---|" * 9
    )
    for c in measure_schemes(model, views, box_size=64, pixel_size=1 / 64):
        times = f"{1e6 * c.forward_seconds:.0f} | {1e6 * c.backward_seconds:.0f}"
        changes = f"{c.image_change:.1e} | {c.gradient_change:.1e}"
        scheme = f"{c.scheme} | {c.skip_below:g} | {c.order} | {c.backward}"
        print(f"| {scheme} | {times} | {c.list_bytes / 1e3:.0f} | {changes} |")


if __name__ == "__main__":
    main()
