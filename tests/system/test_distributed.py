"""Several processes under torchrun against one: the same sums to the bit, the same fit to rounding."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gsworkbench.cli.main import main
from gsworkbench.io.mrc import read_map
from gsworkbench.simulation.simulate import simulate
from gsworkbench.simulation.simulation_config import Simulation
from gsworkbench.system import distributed

ROOT = Path(__file__).parents[2]
FIT = ["--method", "stochastic", "--n-gaussians", "64", "--set", "n_epochs=2", "--set", "batch_size=16", "--mask=none"]


@pytest.fixture(scope="module")
def star(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shared")
    simulate(Simulation(n_particles=101, box_size=24, pixel_size=16.0, snr=1.0), folder)
    return folder / "particles.star"


@pytest.fixture(scope="module")
def alone(star):
    assert main(["accumulate", str(star), "--out", str(star.parent / "sums.npz")]) == 0
    assert main(["reconstruct", str(star), "--out", str(star.parent / "fit"), *FIT]) == 0
    return star.parent


def together(n, *commands):
    """Run commands one after the other, all by the same n processes."""
    program = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n}", "--no-python"]
    words = [[str(word) for word in command] for command in commands]
    code = f"""import sys
from gsworkbench.cli.main import main
from gsworkbench.system import distributed
with distributed.processes():
    sys.exit(max(main(command) for command in {words}))"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run([*program, sys.executable, "-c", code], capture_output=True, text=True, env=environment)


@pytest.fixture(scope="module", params=[2, 4])
def several(star, tmp_path_factory, request):
    """What that many processes made of the commands of `alone`."""
    folder = tmp_path_factory.mktemp("several")
    accumulate = ["accumulate", star, "--out", folder / "sums.npz"]
    done = together(request.param, accumulate, ["reconstruct", star, "--out", folder / "fit", *FIT])
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("sums of 101 particles") == 1  # one process speaks for all
    return folder


def test_sums_are_the_same_to_the_bit(alone, several):
    assert (several / "sums.npz").read_bytes() == (alone / "sums.npz").read_bytes()


def test_the_stochastic_fit_is_the_same_to_rounding(alone, several):
    """Of the map: of Gaussians that are round, rounding turns the axes. One process makes its steps in compiled code,
    several one by one: they round otherwise too."""
    one, together, half = (
        read_map(folder / "fit" / name)[0]
        for folder, name in [
            (alone, "run_class001.mrc"), (several, "run_class001.mrc"), (alone, "run_half1_class001.mrc")
        ]
    )  # fmt: skip
    norm = np.linalg.norm(one)
    assert np.linalg.norm(one - together) < 5e-3 * norm
    assert np.linalg.norm(one - half) > 2e-2 * norm  # another fit is not that near


def test_one_pass_shares_the_reading_and_gives_the_same_map(star, tmp_path):
    command = ["reconstruct", star, "--n-gaussians", "64", "--threads", "1", "--noise-substitute-beyond", "120"]
    assert main([*map(str, command), "--out", str(tmp_path / "one")]) == 0
    done = together(2, [*command, "--out", tmp_path / "two"])
    assert done.returncode == 0, done.stderr
    for name in ("run_class001.mrc", "half_map_1_substituted.mrc"):
        assert np.array_equal(*(read_map(tmp_path / folder / name)[0] for folder in ("one", "two")))


def test_what_runs_in_one_process_is_refused(star, tmp_path):
    done = together(2, ["reconstruct", star, "--method", "neural-field", "--out", tmp_path / "fit"])
    assert done.returncode != 0
    assert "the method neural-field runs in one process" in done.stderr
    assert not (tmp_path / "fit").exists()


def test_alone_there_is_nothing_to_share():
    rows = np.arange(7)
    with distributed.processes():
        assert distributed.size() == 1 and distributed.is_first()
        assert np.array_equal(distributed.share(rows), rows)
