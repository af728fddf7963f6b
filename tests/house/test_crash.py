"""kill -9 at random moments, resume, same bits. GSWORKBENCH_KILLS=50 makes it kill more often."""

import json
import os
import subprocess
import sys
import time

import pytest

from gsworkbench.experiments.plan import ROOT
from gsworkbench.normal_equations.equations import NormalEquations
from gsworkbench.simulation.simulate import simulate
from gsworkbench.simulation.simulation_config import Simulation

KILLS = int(os.environ.get("GSWORKBENCH_KILLS", "3"))
CORE = ("simulate", "accumulate", "one-pass fit", "stochastic fit")


@pytest.fixture(scope="module")
def star(tmp_path_factory):
    """Enough particles for several chunks, each followed by a checkpoint."""
    folder = tmp_path_factory.mktemp("many")
    simulate(Simulation(n_particles=4000, box_size=32, pixel_size=12.0), folder)
    return folder / "particles.star"


@pytest.fixture(scope="module")
def core():
    return killed(*CORE)


def killed(*stages):
    """What benchmarks/kills.py found; it names the stages that did not come through in what it prints."""
    command = [sys.executable, ROOT / "benchmarks/kills.py", "--json", "--kills", str(KILLS), "--stages", *stages]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.stdout, result.stderr
    return json.loads(result.stdout)


@pytest.mark.parametrize("stage", CORE)
def test_nothing_is_lost(core, stage):
    _nothing_is_lost(core[stage])


@pytest.mark.parametrize("stage", ["notebook", "workflow"])
def test_nothing_is_lost_of_what_runs_commands(stage):
    _nothing_is_lost(killed(stage)[stage])


def _nothing_is_lost(outcome):
    assert outcome["survived"] == outcome["kills"] >= KILLS, outcome["problems"]
    assert outcome["lost"] == outcome["damaged"] == outcome["left"] == 0, outcome


def start(command):
    program = [sys.executable, "-m", "gsworkbench", *map(str, command), "--checkpoint-every", "0", "--threads", "1"]
    return subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def test_a_run_killed_while_fitting_has_all_its_sums_on_disk(star, tmp_path):
    """What is lost are the seconds of the fit; the particles need not be added up again."""
    command = ["reconstruct", star, "--out", tmp_path, "--n-gaussians", "100", "--no-particle-scales"]
    command += ["--set", "n_steps=100000"]
    process = start(command)
    files = [tmp_path / "checkpoints" / f"half{k}{what}.sums.npz" for k in (1, 2) for what in ("sums", "heldout")]
    while not all(file.exists() and NormalEquations.load(file).n_particles in (1800, 200) for file in files):
        assert process.poll() is None
        time.sleep(0.1)
    time.sleep(0.5)
    process.kill()
    process.wait()
    read = "import sys; from gsworkbench.normal_equations import equations; from gsworkbench.cli.main import main"
    read += "; equations._Pass.add = None; sys.exit(main())"
    steps = [*map(str, command[:-1]), "n_steps=10", "--resume"]
    assert subprocess.run([sys.executable, "-c", read, *steps], stdout=subprocess.DEVNULL).returncode == 0
