"""What size costs: python benchmarks/scale.py costs|memory|hundred-thousand [--folder DIR]

costs: CPU seconds and memory of the pass over the particles and of a step of the fit, at small sizes; constants per
particle-pixel, per node of the grid, per voxel and per Gaussian; what they predict at three larger sizes beside what
these took; and what they predict for 10^6 particles of 512^2 and 10^6 Gaussians. memory: what commands say that they
will take (reconstruction/memory_needed.py) beside what they take. hundred-thousand: 100,000 particles of 256^2 through
the command line (500 images, each again and again in other poses, so that no 26 GB are needed), then a fit of 30,000
Gaussians to the sums. Prints tables for docs/measured/scale.md. One thread, but for the command line's two.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gsworkbench.system.memory import keep_freed_memory, peak_memory
from gsworkbench.system.provenance import machine

IMAGES = 500
EDGE = 384.0  # A, of every box
GIB = 2**30
Measured = tuple[float, float]  # CPU seconds, peak bytes of the process


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    tables: dict[str, Callable[[Path], None]] = {
        "costs": costs, "memory": memory, "hundred-thousand": hundred_thousand,
    }  # fmt: skip
    parser.add_argument("table", choices=tables)
    parser.add_argument("--folder", type=Path, help="where particles are made, or lie from an earlier call")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        tables[options.table](options.folder or Path(scratch))


def costs(folder: Path) -> None:
    """Constants from small sizes, what they predict at larger ones, and what follows for 10^6 particles."""
    print(f"\n{machine()}, one thread, user and system seconds.\n")
    print("| pass over | CPU s | ms per particle | peak memory, GiB |\n|---|---|---|---|")
    passes = {}
    for n, box_size in ((500, 128), (3000, 128), (250, 256), (1500, 256)):
        passes[n, box_size] = _print_pass(folder, n, box_size)
    print("\n| fit, 40 steps | CPU s | peak memory, GiB |\n|---|---|---|")
    fits = {}
    for n_gaussians, box_size in ((2000, 128), (30_000, 128), (2000, 256)):
        fits[n_gaussians, box_size] = _print_fit(folder, n_gaussians, box_size)
    small = (passes[3000, 128][0] - passes[500, 128][0]) / (2500 * 128**2)
    large = (passes[1500, 256][0] - passes[250, 256][0]) / (1250 * 256**2)
    more = 256**3 - 128**3
    voxel = (fits[2000, 256][0] - fits[2000, 128][0]) / (40 * more)
    cost = Cost(
        pixel=large,
        growth=max(0.0, math.log2(large / small)),
        node=max(0.0, passes[250, 256][0] - 250 * 256**2 * large) / 256**3,
        gaussian=(fits[30_000, 128][0] - fits[2000, 128][0]) / (28_000 * 40),
        voxel=voxel,
        start=max(0.0, fits[2000, 128][0] - 40 * voxel * 128**3),
        pass_bytes=(passes[250, 256][1] - passes[500, 128][1]) / more,
        fit_bytes=(fits[2000, 256][1] - fits[2000, 128][1]) / more,
    )
    print(f"\nper particle-pixel at 256 px {1e9 * cost.pixel:.1f} ns, growing with box^{cost.growth:.2f}; per voxel of "
          f"the map, once {1e9 * cost.node:.0f} ns; per Gaussian and step {1e6 * cost.gaussian:.2f} us; per voxel and "
          f"step {1e9 * cost.voxel:.1f} ns; memory per voxel {cost.pass_bytes:.0f} bytes for the pass, "
          f"{cost.fit_bytes:.0f} for the fit")  # fmt: skip
    print("\n| | predicted, CPU s | measured, CPU s | predicted, GiB | measured, GiB |\n|---|---|---|---|---|")
    for n, box_size in ((2000, 96), (2000, 192), (1000, 320)):
        measured, used = _apart(_pass, folder, n, box_size)
        memory = passes[500, 128][1] + cost.pass_bytes * (box_size**3 - 128**3)
        _print_check(f"pass over {n:,} of {box_size}^2", cost.of_pass(n, box_size), measured, memory, used)
    for n_gaussians, box_size in ((8000, 96), (30_000, 192), (30_000, 256)):
        measured, used = _apart(_fit, folder, n_gaussians, box_size)
        memory = fits[2000, 128][1] + cost.fit_bytes * (box_size**3 - 128**3)
        label = f"40 steps, {n_gaussians:,} Gaussians, {box_size}^3"
        _print_check(label, cost.of_fit(40, n_gaussians, box_size), measured, memory, used)
    _print_extrapolation(cost)


@dataclass(frozen=True)
class Cost:
    """CPU seconds of one core per particle-pixel (at 256 px, and the exponent of its growth with the box, as the grid
    leaves the caches), per voxel of the map (node), per Gaussian and step, per voxel and
    step, and once a fit. Bytes of memory per voxel."""

    pixel: float
    growth: float
    node: float
    gaussian: float
    voxel: float
    start: float
    pass_bytes: float
    fit_bytes: float

    def of_pass(self, n: int, box_size: int) -> float:
        return self.pixel * (box_size / 256) ** self.growth * n * box_size**2 + self.node * box_size**3

    def of_fit(self, steps: int, n_gaussians: int, box_size: int) -> float:
        return self.start + steps * (self.gaussian * n_gaussians + self.voxel * box_size**3)


# Name, cores, chunks that the particles are read in at a time, what a disk gives them together in bytes/s.
MACHINES = (
    ("laptop", 2, 1, 2e9), ("workstation", 32, 8, 5e9), ("100 nodes of 32 cores, shared disk", 3200, 400, 20e9),
)  # fmt: skip
HBM, PCIE = 4.8e12, 50e9  # bytes/s of an H200: its own memory and the bus, from its data sheet
GPU_BYTES = 100  # that a pass moves per particle-pixel at the least: a transform each way, and 8 nodes of 12 bytes


def _print_extrapolation(cost: Cost) -> None:
    """10^6 particles of 512^2, and a fit of 10^6 Gaussians by 400 steps."""
    n, box_size, n_gaussians, steps = 10**6, 512, 10**6, 400
    stack, voxels = 4 * n * box_size**2, box_size**3
    sums = 52 * voxels
    compute, fit = cost.of_pass(n, box_size), cost.of_fit(steps, n_gaussians, box_size)
    print("\n| 10^6 particles of 512^2, 10^6 Gaussians | pass: computing, h | reading, h | memory of the pass, GiB | "
          "files of sums, GiB | fit of 400 steps, h | its memory, GiB |\n|---|---|---|---|---|---|---|")  # fmt: skip
    for name, cores, chunks, disk in MACHINES:
        at_once = min(cores, 32)  # threads of one process share a fit
        print(f"| {name} | {compute / cores / 3600:.2g} | {stack / disk / 3600:.2g} | "
              f"{chunks} x {cost.pass_bytes * voxels / GIB:.0f} | {chunks * sums / GIB:.0f} | "
              f"{fit / at_once / 3600:.2g} | {cost.fit_bytes * voxels / GIB:.0f} |")  # fmt: skip
    for name, gpus in (("one H200, not measured: at the least", 1), ("8 H200, likewise", 8)):
        moved = GPU_BYTES * n * box_size**2 / HBM / gpus
        evaluated = steps * 2 * (n_gaussians * 44 + 64 * voxels) / HBM
        print(f"| {name} | {moved / 3600:.2g} | {stack / PCIE / gpus / 3600:.2g} | {gpus} x "
              f"{cost.pass_bytes * voxels / GIB:.0f} | {gpus * sums / GIB:.0f} | {evaluated / 3600:.2g} | "
              f"{cost.fit_bytes * voxels / GIB:.0f} |")  # fmt: skip
    print(f"\nImages: {stack / 1e12:.2f} TB, half of that in half precision; read once.")


def memory(folder: Path) -> None:
    """Peaks of `gsworkbench accumulate` and `reconstruct`, as said and as measured."""
    from gsworkbench.methods.reconstruction_config import ReconstructionConfig
    from gsworkbench.methods.registry import METHODS
    from gsworkbench.particles.read import read_particles
    from gsworkbench.reconstruction.memory_needed import accumulate_bytes, reconstruct_bytes

    few_steps = {
        "one-pass": ["--n-gaussians", "16000", "--set", "n_steps=5", "--set", "n_boosted_steps=5"],
        "stochastic": ["--n-gaussians", "16000", "--set", "n_epochs=1"],
        "voxels": ["--set", "n_steps=3"],
        "backprojection": [],
    }
    print(f"\n{machine()}, two threads.\n\n| box, px | command | said, GB | taken, GB |\n|---|---|---|---|")
    for box_size in (64, 128, 192, 256):
        star, out = _simulated(folder, box_size), folder / "out"
        command: list[Any] = [sys.executable, "-m", "gsworkbench", "accumulate", star, "--out", folder / "sums.npz"]
        _, _, peak = _run([*command, "--threads", "2"])
        print(f"| {box_size} | accumulate | {accumulate_bytes(box_size) / 1e9:.2f} | {peak / 1e9:.2f} |", flush=True)
        for method, settings in few_steps.items():
            usual = METHODS[method].default
            chosen = dataclasses.replace(usual, n_gaussians=16_000) if hasattr(usual, "n_gaussians") else usual
            said = reconstruct_bytes(read_particles(star), ReconstructionConfig(method, chosen)) or 0
            command = [sys.executable, "-m", "gsworkbench", "reconstruct", star, "--out", out, "--method", method]
            if method == "backprojection":
                command = [sys.executable, "-m", "gsworkbench", "backproject", star, "--out", out]
            _, _, peak = _run([*command, *settings, "--threads", "2"])
            print(f"| {box_size} | {method} | {said / 1e9:.2f} | {peak / 1e9:.2f} |", flush=True)


def hundred_thousand(folder: Path) -> None:
    """100,000 x 256^2 by `gsworkbench accumulate`, beside 10,000 x 128^2; then the fit."""
    print(f"\n{machine()}, two threads, user and system seconds.\n")
    print("| | wall, s | CPU s | ns per particle-pixel | peak memory, GiB |\n|---|---|---|---|---|")
    for n, box_size in ((10_000, 128), (100_000, 256)):
        star = _listed(folder, n, box_size)
        out = folder / f"sums_{n}_{box_size}.npz"
        command = [sys.executable, "-m", "gsworkbench", "accumulate", star, "--out", out, "--threads", "2"]
        wall, cpu, peak = _run(command)
        each = 1e9 * cpu / (n * box_size**2)
        print(f"| {n:,} x {box_size}^2 | {wall:.0f} | {cpu:.0f} | {each:.0f} | {peak / GIB:.2f} |", flush=True)
    spent, used = _apart(_fit_to, folder / "sums_100000_256.npz")
    print(f"\nFit of 30,000 Gaussians to {256}^3, 400 steps: {spent:.0f} CPU s, {used / GIB:.2f} GiB")


def _print_pass(folder: Path, n: int, box_size: int) -> Measured:
    cpu, peak = _apart(_pass, folder, n, box_size)
    print(f"| {n:,} of {box_size}^2 | {cpu:.2f} | {1e3 * cpu / n:.3f} | {peak / GIB:.2f} |", flush=True)
    return cpu, peak


def _print_check(label: str, predicted: float, measured: float, memory: float, used: float) -> None:
    print(f"| {label} | {predicted:.1f} | {measured:.1f} | {memory / GIB:.1f} | {used / GIB:.1f} |", flush=True)


def _print_fit(folder: Path, n_gaussians: int, box_size: int) -> Measured:
    cpu, peak = _apart(_fit, folder, n_gaussians, box_size)
    print(f"| {n_gaussians:,} Gaussians, {box_size}^3 | {cpu:.2f} | {peak / GIB:.2f} |", flush=True)
    return cpu, peak


def _apart(work: Callable[..., float], *arguments: Any) -> Measured:
    """CPU seconds that a function returns, and the peak memory of the process of its own that it runs in."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_with_peak, work, *arguments).result()


def _with_peak(work: Callable[..., float], *arguments: Any) -> Measured:
    import torch

    keep_freed_memory()
    torch.set_num_threads(1)
    cpu = work(*arguments)
    return cpu, float(peak_memory())


def _pass(folder: Path, n: int, box_size: int) -> float:
    from gsworkbench.normal_equations.equations import accumulate

    stack = _repeated(folder, n, box_size)
    start = time.process_time()
    accumulate(stack, threads=1)
    return time.process_time() - start


def _fit(folder: Path, n_gaussians: int, box_size: int) -> float:
    """40 steps, from sums over all images."""
    from gsworkbench.methods.one_pass import OnePass
    from gsworkbench.methods.one_pass_fit import preview
    from gsworkbench.normal_equations.equations import accumulate

    sums = accumulate(_repeated(folder, IMAGES, box_size), threads=1)
    settings = OnePass(n_boosted_steps=20, n_steps=20)
    start = time.process_time()
    preview(sums, settings, n_gaussians=n_gaussians)
    return time.process_time() - start


def _fit_to(file: Path) -> float:
    from gsworkbench.methods.one_pass import OnePass
    from gsworkbench.methods.one_pass_fit import fit_one_pass
    from gsworkbench.normal_equations.equations import NormalEquations

    start = time.process_time()
    settings = OnePass(n_gaussians=30_000, background=False, n_boosted_steps=200, n_steps=200)
    fit_one_pass(NormalEquations.load(file), None, settings)
    return time.process_time() - start


def _repeated(folder: Path, n: int, box_size: int) -> Any:
    """n particles: the simulated ones, and these again in other poses; wrong, and as much work."""
    from gsworkbench.geometry.rotations import random_rotations
    from gsworkbench.particles.read import read_particles

    once = read_particles(_simulated(folder, box_size))
    rotations = random_rotations(n, np.random.default_rng(0))
    return dataclasses.replace(once[np.arange(n) % len(once)], rotations=rotations)


def _listed(folder: Path, n: int, box_size: int) -> Path:
    """A STAR file of n particles: rows of the simulated one, again and again, in other orientations."""
    import starfile

    star = _simulated(folder, box_size)
    tables = starfile.read(star)
    rows = tables["particles"].iloc[np.arange(n) % IMAGES].copy()
    draw = np.random.default_rng(0)
    rows["rlnAngleRot"], rows["rlnAnglePsi"] = draw.uniform(-180, 180, (2, n))
    rows["rlnAngleTilt"] = np.degrees(np.arccos(draw.uniform(-1, 1, n)))
    listed = star.with_name(f"particles_{n}.star")
    starfile.write({**tables, "particles": rows}, listed, overwrite=True)
    return listed


def _simulated(folder: Path, box_size: int) -> Path:
    from gsworkbench.simulation.simulate import simulate
    from gsworkbench.simulation.simulation_config import Simulation

    made = folder / f"box_{box_size}"
    if not (made / "particles.star").exists():
        simulate(Simulation(n_particles=IMAGES, box_size=box_size, pixel_size=EDGE / box_size), made)
    return made / "particles.star"


def _run(command: list[Any]) -> tuple[float, float, int]:
    """Wall and CPU seconds and peak resident bytes of a command."""
    start = time.perf_counter()
    process = subprocess.Popen(list(map(str, command)), env=os.environ | {"TQDM_DISABLE": "1"})
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command} ended with {process.returncode}")
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime, 1024 * usage.ru_maxrss


if __name__ == "__main__":
    main()
