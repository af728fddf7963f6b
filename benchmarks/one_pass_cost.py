"""What the one-pass fit costs: python benchmarks/one_pass_cost.py relion|growth|sampling [--folder DIR]

relion: beside relion_reconstruct (Debian's package relion) on the same 10,000 simulated particles of 128^2, one thread.
growth: particles x10, time and memory of the pass and of the fit. sampling: how far a mixture sampled on voxels is from
the same mixture projected onto pixels. Prints tables for docs/measured/one_pass.md. Seconds are user plus system.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import torch

from gsworkbench.assessment.fsc import fourier_shell_correlation
from gsworkbench.assessment.masks import automatic_mask, spherical_mask
from gsworkbench.gaussians.mixture import random_gaussians
from gsworkbench.geometry.rotations import random_rotations
from gsworkbench.imaging.fourier import disc
from gsworkbench.io.mrc import read_map
from gsworkbench.rendering import project, voxelize
from gsworkbench.simulation import simulate
from gsworkbench.simulation.simulation_config import Simulation
from gsworkbench.system.provenance import machine

ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TQDM_DISABLE": "1"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    tables = {"relion": relion, "growth": growth, "sampling": sampling}
    parser.add_argument("table", choices=tables)
    parser.add_argument("--folder", type=Path, help="where particles are made, or lie from an earlier call")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        tables[options.table](options.folder or Path(scratch), Path(scratch))


def relion(folder: Path, scratch: Path) -> None:
    """The full map and both half maps of each program, from the same files."""
    _simulated(folder, n_particles=10_000, box_size=128, pixel_size=3.0, snr=0.1)
    ours = [sys.executable, "-m", "gsworkbench"]
    options = ["--n-gaussians", "30000", "--mask", "none", "--threads", "1"]
    commands = {
        f"relion_reconstruct --ctf {' '.join(subset)}".strip(): [
            *("relion_reconstruct", "--i", "particles.star", "--ctf", *subset),
            *("--o", str(scratch / f"relion{subset[-1] if subset else ''}.mrc")),
        ]
        for subset in ([], ["--subset", "1"], ["--subset", "2"])
    }
    for half in ("1", "2"):
        accumulated = ["particles.star", "--out", str(scratch / f"{half}.npz"), "--half-set", half, "--threads", "1"]
        commands[f"gsworkbench accumulate --half-set {half}"] = [*ours, "accumulate", *accumulated]
    halves = [str(scratch / f"{half}.npz") for half in "12"]
    commands["gsworkbench combine"] = [*ours, "combine", *halves, "--out", str(scratch / "all.npz")]
    commands["gsworkbench reconstruct"] = [
        *(*ours, "reconstruct", "particles.star", "--out", str(scratch / "fit"), *options)
    ]
    print(
        f"\n10,000 x 128^2 at 3 A, SNR 0.1, {machine()}, one thread.\n\n| command | CPU s | of them system | peak GB |"
    )
    print("|---|---|---|---|")
    spent = {}
    for name, command in commands.items():
        user, system, peak = _run(command, folder)
        spent[name] = user + system
        print(f"| {name} | {user + system:.1f} | {system:.1f} | {peak / 2**30:.2f} |", flush=True)
    classical = sum(s for name, s in spent.items() if name.startswith("relion"))
    once = sum(s for name, s in spent.items() if "accumulate" in name or "combine" in name)
    print(f"\naccumulate and combine / RELION: {once / classical:.3f}")
    print(f"reconstruct / RELION: {spent['gsworkbench reconstruct'] / classical:.3f}")
    truth, voxel_size = read_map(folder / "truth.mrc")
    masks = {"no mask": None, "in a sphere": spherical_mask(len(truth), voxel_size)}
    masks["in a tight mask made from the truth"] = automatic_mask(truth, voxel_size, dilation=3.0, edge=9.0)
    print(f"\n| mean FSC to the truth | {' | '.join(masks)} |\n|---|---|---|---|")
    for name, file in (("relion_reconstruct", "relion.mrc"), ("gsworkbench", "fit/run_class001.mrc")):
        volume = read_map(scratch / file)[0]
        curves = (fourier_shell_correlation(volume, truth, voxel_size=voxel_size, mask=mask) for mask in masks.values())
        print(f"| {name} | {' | '.join(f'{curve.mean():.4f}' for curve in curves)} |")


def growth(folder: Path, scratch: Path) -> None:
    """One process for each number of particles: the pass, then two fits of 3,000 Gaussians, the quicker of them.

    More particles than the 5,000 simulated ones are these again in other poses: wrong, and as much work.
    """
    program = textwrap.dedent("""
        import dataclasses, resource, sys, time
        from gsworkbench.system.memory import keep_freed_memory
        keep_freed_memory()
        import numpy as np
        from gsworkbench.methods.one_pass import OnePass
        from gsworkbench.methods.one_pass_fit import fit_one_pass
        from gsworkbench.geometry.rotations import random_rotations
        from gsworkbench.normal_equations.equations import accumulate
        from gsworkbench.particles.read import read_particles
        once, n = read_particles(sys.argv[1]), int(sys.argv[2])
        stack = once[np.arange(n) % len(once)]
        rotations = stack.rotations.copy()
        rotations[len(once) :] = random_rotations(max(0, n - len(once)), np.random.default_rng(0))
        stack = dataclasses.replace(stack, rotations=rotations)
        held = np.arange(n) % 10 == 0
        start = time.process_time()
        parts = [accumulate(stack[~held], threads=1), accumulate(stack[held], threads=1)]
        spent = [time.process_time() - start]
        for _ in range(2):
            start = time.process_time()
            fit_one_pass(*parts, OnePass(n_gaussians=3000))
            spent.append(time.process_time() - start)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"{spent[0]:.2f} | {1e3 * spent[0] / n:.3f} | {min(spent[1:]):.2f} | {peak:.2f}")
    """)
    _simulated(folder, n_particles=5000)
    print(f"\n64^2, SNR 0.1, 3,000 Gaussians, {machine()}, one thread.\n")
    print("| particles | pass, CPU s | ms per particle | fit, CPU s | peak memory, GB |\n|---|---|---|---|---|")
    for n in (1_000, 10_000, 100_000):
        command = [sys.executable, "-c", program, str(folder / "particles.star"), str(n)]
        told = subprocess.run(command, env=os.environ | ONE_THREAD, text=True, capture_output=True)
        print(f"| {n:,} | {told.stdout.strip() or told.stderr} |", flush=True)


def sampling(*_: Path) -> None:
    """Exact central slices of a mixture sampled on voxels against the same mixture sampled on pixels, |k| < D/2."""
    box_size, views = 48, random_rotations(20, simulate._generator(0, 0))
    model = random_gaussians(200, spread=0.08, scale=1.0, total_weight=1.0, seed=0)
    means = model.means.double() * box_size
    weights = torch.randn(len(means), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    print("\n| standard deviation, px | relative difference of images |\n|---|---|")
    for sigma in (0.5, 0.7, 1.0, 1.5):
        covariances = sigma**2 * torch.eye(3, dtype=torch.float64).expand(len(means), 3, 3)
        mixture = (means, covariances, weights)
        volume = voxelize(*mixture, box_size=box_size, voxel_size=1.0, cutoff=None)
        images = project(*mixture, torch.from_numpy(views), box_size=box_size, pixel_size=1.0, cutoff=None)
        slices = torch.from_numpy(simulate.project(volume.numpy(), views, pixel_size=1.0))
        exact, thin = (torch.fft.rfft2(x)[:, disc(box_size)] for x in (slices, images))
        print(f"| {sigma:g} | {float((exact - thin).norm() / thin.norm()):.1e} |")


def _simulated(folder: Path, **settings: float) -> Path:
    """A folder with simulated particles, made unless they are there."""
    if not (folder / "particles.star").exists():
        simulate.simulate(Simulation(**settings), folder)  # type: ignore[arg-type]
    return folder


def _run(command: list[str], folder: Path) -> tuple[float, float, int]:
    """User and system seconds and peak resident bytes of a command run in `folder`."""
    process = subprocess.Popen(command, cwd=folder, env=os.environ | ONE_THREAD, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return usage.ru_utime, usage.ru_stime, 1024 * usage.ru_maxrss


if __name__ == "__main__":
    main()
