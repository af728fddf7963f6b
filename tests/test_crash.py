"""kill -9 at random moments, resume, same bits. GSWORKBENCH_KILLS=50 pytest tests/test_crash.py kills more often."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from gsworkbench.config import SimulationConfig
from gsworkbench.normal_equations import NormalEquations
from gsworkbench.simulate import simulate

KILLS = int(os.environ.get("GSWORKBENCH_KILLS", "3"))


@pytest.fixture(scope="module")
def star(tmp_path_factory):
    """Enough particles for several chunks, each followed by a checkpoint."""
    folder = tmp_path_factory.mktemp("many")
    simulate(SimulationConfig(n_particles=4000, box_size=32, pixel_size=12.0), folder)
    return folder / "particles.star"


def start(command):
    program = [sys.executable, "-m", "gsworkbench", *map(str, command), "--checkpoint-every", "0", "--threads", "1"]
    return subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def finish(command):
    """Seconds that the whole run takes."""
    began = time.monotonic()
    assert start(command).wait() == 0
    return time.monotonic() - began


def kill_now_and_then(command, seconds, after_each):
    draw = random.Random(1)
    for _ in range(KILLS):
        process = start([*command, "--resume"])
        try:
            process.wait(draw.uniform(0.2, 1.0) * seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
        after_each()
    finish([*command, "--resume"])


def test_accumulate(star, tmp_path):
    seconds = finish(["accumulate", star, "--out", tmp_path / "whole.npz"])
    out, unfinished = tmp_path / "killed.npz", tmp_path / ".killed.npz.unfinished"
    reached = [0]

    def checkpoints_are_whole_and_grow():
        if unfinished.exists():
            reached.append(NormalEquations.load(unfinished).n_particles)
            assert reached[-1] >= reached[-2] or out.exists()

    kill_now_and_then(["accumulate", star, "--out", out], seconds, checkpoints_are_whole_and_grow)
    assert out.read_bytes() == (tmp_path / "whole.npz").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["killed.npz", "whole.npz"]


def test_reconstruct(star, tmp_path):
    settings = ["--n-gaussians", "100", "--mask", "none", "--noise-substitute-beyond", "60"]
    settings += [f"--set={name}=20" for name in ("n_boosted_steps", "n_steps", "n_final_steps")]
    seconds = finish(["reconstruct", star, "--out", tmp_path / "whole", *settings])
    kill_now_and_then(["reconstruct", star, "--out", tmp_path / "killed", *settings], seconds, lambda: None)
    maps = sorted(p.name for p in (tmp_path / "whole").glob("*.mrc"))
    assert len(maps) == 6
    for name in (*maps, "gaussians.npz", "fsc.csv", "held_out.csv"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert not (tmp_path / "killed" / "checkpoints").exists()


def test_a_run_killed_while_fitting_has_all_its_sums_on_disk(star, tmp_path):
    """What is lost are the seconds of the fit; the particles need not be read again."""
    command = ["reconstruct", star, "--out", tmp_path, "--n-gaussians", "100", "--set", "n_steps=100000"]
    process = start(command)
    files = [tmp_path / "checkpoints" / f"half{k}{what}.sums.npz" for k in (1, 2) for what in ("sums", "heldout")]
    while not all(file.exists() and NormalEquations.load(file).n_particles in (1800, 200) for file in files):
        assert process.poll() is None
        time.sleep(0.1)
    time.sleep(0.5)
    process.kill()
    process.wait()
    read = "import sys; from gsworkbench import normal_equations as n, cli; n._Pass.add = None; sys.exit(cli.main())"
    steps = [*map(str, command[:-1]), "n_steps=10", "--resume"]
    assert subprocess.run([sys.executable, "-c", read, *steps], stdout=subprocess.DEVNULL).returncode == 0
