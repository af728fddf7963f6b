"""One pass beside the papers' trainer and backprojection, on the same particles: python benchmarks/comparison.py

5,000 simulated ribosome images (64 px of 6 A), 2,048 Gaussians. A seed changes particles, half sets and fits. Prints
the table of docs/measured/one_pass.md; about 8 minutes of processor time per seed, most of it preset cryosplat's. The
map of all particles is compared with the truth; the local filter takes its resolutions from half maps of the same.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from gsworkbench.assessment.fsc import fourier_shell_correlation
from gsworkbench.assessment.local import local_resolution
from gsworkbench.assessment.local_filter import locally_filtered
from gsworkbench.assessment.masks import Mask, automatic_mask, spherical_mask
from gsworkbench.io.mrc import Map, read_map
from gsworkbench.methods.one_pass import OnePass
from gsworkbench.methods.one_pass_fit import FitContext, fit_one_pass
from gsworkbench.methods.stochastic import PRESETS
from gsworkbench.methods.stochastic_fit import fit
from gsworkbench.methods.voxels import Voxels
from gsworkbench.methods.voxels_fit import solve_voxels
from gsworkbench.normal_equations.classical_map import backproject
from gsworkbench.normal_equations.equations import NormalEquations, accumulate
from gsworkbench.particles.stack import ParticleStack
from gsworkbench.simulation.simulate import simulate
from gsworkbench.simulation.simulation_config import Simulation
from gsworkbench.system.provenance import machine

N_GAUSSIANS = 2048


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--snr", type=float, nargs="+", default=[0.1, 0.03])
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    options = parser.parse_args()
    print(f"Mean FSC over shells to the truth; seeds {', '.join(map(str, options.seeds))}; {machine()}.\n")
    print(
        "| SNR | seed | method | no mask | in a sphere | in a soft mask | CPU s, one map |\n"
        "|---|---|---|---|---|---|---|"
    )
    for snr in options.snr:
        for seed in options.seeds:
            with tempfile.TemporaryDirectory() as folder:
                stack = simulate(Simulation(snr=snr, seed=seed), folder).with_half_sets(seed)
                truth, voxel_size = read_map(Path(folder) / "truth.mrc")
                masks = [spherical_mask(len(truth), voxel_size), soft_mask(stack)]
                for name in options.methods:
                    method = METHODS[name]
                    start = time.process_time()
                    volume = method(stack, seed)
                    seconds = time.process_time() - start
                    means = row(volume, truth, voxel_size, masks)
                    print(f"| {snr} | {seed} | {name} | {means} | {seconds:.1f} |", flush=True)


def row(volume: Map, truth: Map, voxel_size: float, masks: list[Mask]) -> str:
    curves = [fourier_shell_correlation(volume, truth, voxel_size=voxel_size)]
    for mask in masks:
        curves.append(fourier_shell_correlation(volume, truth, voxel_size=voxel_size, mask=mask))
    return " | ".join(f"{curve.mean():.4f}" for curve in curves)


def soft_mask(stack: ParticleStack) -> Mask:
    """The judge's automatic mask of the backprojection of all particles."""
    first, second = (backproject(stack[stack.half_set == k]) for k in (1, 2))
    return automatic_mask(first + second, stack.pixel_size)


def local_backprojection(mask: str) -> Callable[[ParticleStack, int], Map]:
    """Backprojection of all, zero outside a mask, each voxel inside at the local resolution of the half maps."""

    def volume(stack: ParticleStack, seed: int) -> Map:
        halves = [backproject(stack[stack.half_set == k]) for k in (1, 2)]
        grid = stack.pixel_size
        inside = soft_mask(stack) if mask == "auto" else spherical_mask(stack.box_size, grid)
        found = local_resolution(halves[0], halves[1], voxel_size=grid, mask=inside)
        return locally_filtered(backproject(stack), found.resolution, voxel_size=grid)

    return volume


def split(stack: ParticleStack) -> tuple[NormalEquations, NormalEquations]:
    held = np.arange(len(stack)) % 10 == 0
    return accumulate(stack[~held]), accumulate(stack[held])


def one_pass(n_gaussians: int | str) -> Callable[[ParticleStack, int], Map]:
    config = OnePass(n_gaussians=n_gaussians)  # type: ignore[arg-type]
    return lambda stack, seed: fit_one_pass(*split(stack), config, FitContext(3 * seed)).volume


def stochastic(preset: str) -> Callable[[ParticleStack, int], Map]:
    def volume(stack: ParticleStack, seed: int) -> Map:
        g = fit(stack, replace(PRESETS[preset], n_gaussians=N_GAUSSIANS), seed=3 * seed).gaussians
        return g.voxelize(stack.box_size, stack.pixel_size).numpy()

    return volume


METHODS: dict[str, Callable[[ParticleStack, int], Map]] = {
    "backprojection": lambda stack, seed: backproject(stack),
    "backprojection, locally filtered, in a sphere": local_backprojection("sphere"),
    "backprojection, locally filtered, in its mask": local_backprojection("auto"),
    "voxels": lambda stack, seed: solve_voxels(*split(stack), Voxels()).volume,
    f"one pass, {N_GAUSSIANS:,}": one_pass(N_GAUSSIANS),
    "one pass, auto": one_pass("auto"),
    f"stochastic, tuned, {N_GAUSSIANS:,}": stochastic("tuned"),
    f"stochastic, cryosplat, {N_GAUSSIANS:,}": stochastic("cryosplat"),
}


if __name__ == "__main__":
    main()
