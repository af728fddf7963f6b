"""The same seed gives the same bits: again in one process, in another process, and where promised with more threads."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from quick_methods import own_methods, quick

from gsworkbench.experiments.plan import ROOT
from gsworkbench.normal_equations.equations import accumulate
from gsworkbench.particles.read import read_particles
from gsworkbench.reconstruction.run import reconstruct
from gsworkbench.simulation.simulate import simulate
from gsworkbench.simulation.simulation_config import Simulation

SET = Simulation(n_particles=120, box_size=16, pixel_size=24.0, snr=1.0, seed=3)
METHODS = {
    name: quick(name, mask="none", seed=5, noise_substitute_beyond=120.0 if name == "one-pass" else None)
    for name in own_methods()
}
SUMS = ("simulate", "accumulate")


def hashes(folder, methods=METHODS, threads=1):
    """SHA-256 of every file that a run makes, but for run.json, by "what/file"."""
    torch.set_num_threads(threads)
    try:
        simulate(SET, folder / "simulate")
        stack = read_particles(folder / "simulate" / "particles.star")
        accumulate(stack, threads=threads, chunk_bytes=2**14).save(folder / "accumulate" / "sums.npz")
        for method in methods:
            reconstruct(stack, folder / method, methods[method], truth=folder / "simulate" / "truth.mrc")
    finally:
        torch.set_num_threads(1)
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("run.json", "run_data.star") and path.suffix != ".pt"
    }


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    return hashes(tmp_path_factory.mktemp("first"))


def test_everything_that_is_written_is_looked_at(first):
    assert {name.split("/")[0] for name in first} == {*SUMS, *METHODS}
    for method in METHODS:
        made = {name.split("/")[1] for name in first if name.startswith(f"{method}/")}
        assert {"run_class001.mrc", "run_half1_class001.mrc", "fsc.csv", "fsc.png", "fsc.svg"} <= made


def test_the_same_bits_again_in_one_process(first, tmp_path):
    assert hashes(tmp_path) == first


def test_the_same_bits_in_another_process(first, tmp_path):
    """Whatever its environment: hashes of strings differ between processes, and so may the order of sets."""
    here = Path(__file__).parent
    script = "import json, sys; from pathlib import Path; sys.path[:0] = sys.argv[1:3]; import test_determinism as t"
    script += "; print(json.dumps(t.hashes(Path(sys.argv[3]))))"
    environment = os.environ | {"PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    command = [sys.executable, "-c", script, str(here), str(here.parent), str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=ROOT)
    assert json.loads(result.stdout.splitlines()[-1]) == first


def test_particles_and_sums_are_the_same_bits_with_any_number_of_threads(first, tmp_path):
    promised = {name: digest for name, digest in first.items() if name.split("/")[0] in SUMS}
    assert hashes(tmp_path, methods={}, threads=2) == promised


def test_another_seed_gives_other_bits(first, tmp_path):
    """Else the tests above would see nothing."""
    stack = simulate(SET, tmp_path / "simulate")
    config = quick("stochastic", mask="none", seed=6)
    reconstruct(stack, tmp_path / "other", config)
    found = hashlib.sha256((tmp_path / "other" / "run_class001.mrc").read_bytes()).hexdigest()
    assert found != first["stochastic/run_class001.mrc"]
