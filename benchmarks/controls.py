"""Particles without a structure to find, by three methods: python benchmarks/controls.py [--particles 1000]

Pure noise, and particles whose poses are dealt out at random among them (64 px of 6 A, SNR 0.1). Half maps of an honest
method do not agree about noise beyond the errors of their FSC; about shuffled poses they agree on what is left of the
particles, their mean over all views. Prints the table of docs/measured/one_pass.md; z is the mean FSC of shells 2 to
Nyquist - 1 over its standard error, were the halves independent; signal is what held-out particles see of each half's
mixture, in standard errors.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gsworkbench.assessment.fsc import fourier_shell_correlation
from gsworkbench.methods.one_pass import OnePass
from gsworkbench.methods.one_pass_fit import FitContext, fit_one_pass
from gsworkbench.methods.stochastic import PRESETS
from gsworkbench.methods.stochastic_fit import fit
from gsworkbench.normal_equations.classical_map import backproject
from gsworkbench.normal_equations.equations import accumulate
from gsworkbench.particles.stack import ParticleStack
from gsworkbench.simulation.simulate import simulate
from gsworkbench.simulation.simulation_config import Simulation
from gsworkbench.system.provenance import machine

Result = tuple[NDArray[np.floating], str, int | None]  # map, what held-out particles say, number of Gaussians


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--particles", type=int, default=1000, metavar="N")
    options = parser.parse_args()
    print(f"{options.particles:,} particles, {machine()}.\n")
    print("| particles | method | half-map FSC, mean | z | Gaussians | signal |\n|---|---|---|---|---|---|")
    for name, snr, shuffled in (("pure noise", 0.0, False), ("poses shuffled", 0.1, True), ("as they are", 0.1, False)):
        with tempfile.TemporaryDirectory() as folder:
            config = Simulation(n_particles=options.particles, snr=snr)
            stack = simulate(config, folder).with_half_sets(0)
            order = np.random.default_rng(0).permutation(len(stack)) if shuffled else np.arange(len(stack))
            stack = replace(stack, rotations=stack.require_poses()[order])
            for method, run in METHODS.items():
                halves = [run(stack[stack.half_set == k], k) for k in (1, 2)]
                print(f"| {name} | {method} | {row(halves, stack.pixel_size)} |", flush=True)


def row(halves: list[Result], voxel_size: float) -> str:
    fsc = fourier_shell_correlation(halves[0][0], halves[1][0], voxel_size=voxel_size)
    shells = np.arange(2, fsc.box_size // 2 - 1)
    values = np.nan_to_num(fsc.values[shells])
    error = np.sqrt((1 / (2 * np.pi * shells**2)).sum()) / len(shells)  # 2 pi k^2 independent components in shell k
    numbers = ", ".join(f"{n:,}" for _, _, n in halves if n is not None)
    signal = ", ".join(said for _, said, _ in halves if said)
    return f"{values.mean():+.4f} | {values.mean() / error:+.1f} | {numbers} | {signal}"


def one_pass(n_gaussians: int | str) -> object:
    config = OnePass(n_gaussians=n_gaussians)  # type: ignore[arg-type]

    def half(stack: ParticleStack, seed: int) -> Result:
        held = np.arange(len(stack)) % 10 == 0
        found = fit_one_pass(accumulate(stack[~held]), accumulate(stack[held]), config, FitContext(seed))
        assert found.held_out is not None
        return found.volume, f"{found.held_out.signal:.1f}", len(found.gaussians)

    return half


def stochastic(stack: ParticleStack, seed: int) -> Result:
    g = fit(stack, replace(PRESETS["tuned"], n_gaussians=2048), seed=seed).gaussians
    return g.voxelize(stack.box_size, stack.pixel_size).numpy(), "", len(g)


METHODS: dict = {
    "backprojection": lambda stack, seed: (backproject(stack), "", None),
    "one pass, 3,000": one_pass(3000),
    "one pass, auto": one_pass("auto"),
    "stochastic, tuned": stochastic,
}


if __name__ == "__main__":
    main()
