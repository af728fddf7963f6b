"""Sums by many jobs: a chunk that dies is repeated alone, and the result is the same to the last bit; on Slurm too.

Jobs are made to die by a sitecustomize.py on their PYTHONPATH, which stops the one that it finds in `die.txt` once it
has written a checkpoint. The Slurm test starts daemons and writes /etc/slurm/slurm.conf: it runs where
GSWORKBENCH_SLURM=1 allows it.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import slurm_cluster
import yaml

from gsworkbench.cli import main as cli
from gsworkbench.experiments import resources
from gsworkbench.experiments.plan import ROOT, read_registry
from gsworkbench.io.mrc import new_image_stack
from gsworkbench.normal_equations.equations import accumulate
from gsworkbench.particles.formats.relion import write_star
from gsworkbench.particles.image_statistics import kept, make_plan, measure_images
from gsworkbench.particles.read import read_particles
from gsworkbench.simulation.simulate import draw_particles
from gsworkbench.simulation.simulation_config import Simulation

WORKFLOW = ROOT / "gsworkbench" / "experiments" / "accumulate.smk"

# Of the jobs whose command line has the words of die.txt the first stops itself when its checkpoint is there.
SABOTAGE = """\
import os, signal, sys, threading, time
from pathlib import Path
folder = Path({folder!r})
line = " ".join(sys.orig_argv)
if "gsworkbench accumulate" in line and (folder / "die.txt").read_text() in line:
    try:
        os.close(os.open(folder / "stopped", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        pass
    else:
        out = Path(sys.orig_argv[sys.orig_argv.index("--out") + 1])
        checkpoint = out.with_name("." + out.name + ".unfinished")
        def watch():
            while not checkpoint.exists():
                time.sleep(0.001)
            (folder / "stopped").write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGSTOP)
        threading.Thread(target=watch, daemon=True).start()
"""


@pytest.fixture(scope="module")
def particles(tmp_path_factory) -> Path:
    """2,400 images of noise of 64^2 in random poses: a half set in two parts is read in three pieces each."""
    return _particles(tmp_path_factory.mktemp("particles"), Simulation(n_particles=2400))


def _particles(folder: Path, config: Simulation) -> Path:
    stack = draw_particles(config, folder / "particles.mrcs")
    with new_image_stack(folder / "particles.mrcs", len(stack), stack.box_size, stack.pixel_size) as images:
        images[:] = np.random.default_rng(0).standard_normal(images.shape)
    write_star(folder / "particles.star", stack)
    return folder / "particles.star"


@pytest.fixture(scope="module")
def expected(particles, tmp_path_factory) -> dict[int, bytes]:
    """half set -> the file of its sums, made in one go."""
    stack = read_particles(particles)
    found = {}
    for half in (1, 2):
        file = tmp_path_factory.mktemp("whole") / "sums.npz"
        part = stack[stack.half_set == half]
        accumulate(kept(part, measure_images(part, make_plan(stack)))).save(file)
        found[half] = file.read_bytes()
    return found


def test_any_number_of_chunks_gives_the_same_file(tmp_path):
    """What the rules call, for 1, 2, 7 and 64 chunks of 300 particles of 16^2."""
    star = _particles(tmp_path, Simulation(n_particles=300, box_size=16, pixel_size=24.0))
    files = {}
    for chunks in (1, 2, 7, 64):
        parts = [str(tmp_path / f"{part}of{chunks}.npz") for part in range(1, chunks + 1)]
        for part, out in enumerate(parts, 1):
            assert (
                cli.main(["accumulate", str(star), "--half-set", "1", "--part", f"{part}/{chunks}", "--out", out]) == 0
            )
        assert cli.main(["combine", *parts, "--out", str(tmp_path / "half1.npz")]) == 0
        files[chunks] = (tmp_path / "half1.npz").read_bytes()
    assert len(set(files.values())) == 1


class Sums:
    """A call of the workflow in a folder of its own, with one job that stops in the middle."""

    def __init__(self, folder: Path, particles: Path, chunks: int, die: str) -> None:
        (folder / "bin").mkdir()
        (folder / "bin" / "sitecustomize.py").write_text(SABOTAGE.format(folder=str(folder)))
        (folder / "die.txt").write_text(die)
        self.folder, self.chunks = folder, chunks
        self.config = [f"particles={particles}", f"chunks={chunks}", "options=--checkpoint-every 0"]
        self.environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(folder / "bin"), str(ROOT), os.environ.get("PYTHONPATH", "")]),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
        }

    def start(self, *options: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "snakemake", "-s", str(WORKFLOW), "-d", str(self.folder), *options]
        with open(self.folder / "snakemake.log", "w") as log:
            return subprocess.Popen(
                [*command, "--config", *self.config], env=self.environment, stdout=log, stderr=log, cwd=self.folder
            )

    def wait_until_stopped(self, process: subprocess.Popen, seconds: float = 300) -> int:
        """The process of the job that has stopped itself."""
        flag, deadline = self.folder / "stopped", time.monotonic() + seconds
        while not (flag.exists() and flag.read_text()):
            assert process.poll() is None and time.monotonic() < deadline, self.said()
            time.sleep(0.05)
        return int(flag.read_text())

    def said(self) -> str:
        return (self.folder / "snakemake.log").read_text()

    def result(self, half: int) -> bytes:
        return (self.folder / "sums" / f"half{half}.npz").read_bytes()


def test_a_chunk_that_is_killed_is_repeated_alone_and_nothing_changes(particles, expected, tmp_path):
    sums = Sums(tmp_path, particles, 2, "--half-set 1 --part 2/2")
    process = sums.start("--cores", "2")
    os.kill(sums.wait_until_stopped(process), signal.SIGKILL)
    assert process.wait(300) == 0, sums.said()
    for half in (1, 2):
        assert sums.result(half) == expected[half]
    made = re.findall(r"rule accumulate:\n.*\n    output: (\S+)", sums.said())
    again = "sums/parts/half1-2of2.npz"
    assert sorted(made) == sorted([*(f"sums/parts/half{h}-{p}of2.npz" for h in (1, 2) for p in (1, 2)), again])
    assert not (tmp_path / "sums" / "parts").exists()  # neither chunks nor checkpoints stay


@pytest.mark.skipif("GSWORKBENCH_SLURM" not in os.environ, reason="GSWORKBENCH_SLURM=1 allows to start a Slurm")
@pytest.mark.parametrize("chunks", [2])
def test_a_job_cancelled_on_slurm_is_submitted_again_and_the_bits_are_the_same(particles, expected, tmp_path, chunks):
    pytest.importorskip("snakemake_executor_plugin_slurm", reason="the extra `slurm` is not installed")
    if reason := slurm_cluster.why_not():
        pytest.skip(reason)
    with slurm_cluster.one_node(tmp_path / "slurm"):
        sums = Sums(tmp_path, particles, chunks, f"--half-set 1 --part 2/{chunks}")
        profile = ["--profile", str(ROOT / "env" / "profiles" / "slurm"), "--slurm-status-command", "squeue"]
        quick = ["--slurm-init-seconds-before-status-checks", "2", "--slurm-no-account", "--latency-wait", "5"]
        small = ["--default-resources", "slurm_partition=debug", "mem_mb=1000", "runtime=10"]
        sums.config.append("mem_mb=1000")
        process = sums.start(*profile, *quick, *small)
        job = _job_of(sums.wait_until_stopped(process))
        subprocess.run(["scancel", job], check=True)
        assert process.wait(400) == 0, sums.said()
        history = subprocess.run(["scontrol", "show", "job", "-o"], capture_output=True, text=True, check=True).stdout
    states = re.findall(r"JobId=(\d+) .*?JobState=(\w+)", history)
    assert [number for number, state in states if state == "CANCELLED"] == [job], history
    assert sum(state == "COMPLETED" for _, state in states) == 2 * chunks + 2  # accumulate and combine
    for half in (1, 2):
        assert sums.result(half) == expected[half]


def _job_of(pid: int) -> str:
    """The Slurm job that a process belongs to."""
    environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return next(v for v in environment if v.startswith(b"SLURM_JOB_ID=")).decode().partition("=")[2]


# --- what to ask for ---------------------------------------------------------------------------------------------


def test_a_profile_asks_for_what_earlier_runs_took_with_a_margin(tmp_path):
    registry = read_registry("smoke")
    first, second = registry.owned["fig3"][:2]
    for run, peak, seconds in ((first, 400, 100.0), (second, 1000, 1100.0)):
        folder = tmp_path / "runs" / run.name
        folder.mkdir(parents=True)
        record = {"peak_memory_bytes": peak * 2**20, "seconds": {"fit": seconds / 2, "assess": seconds / 2}}
        (folder / "run.json").write_text(json.dumps(record))
    needs = resources.measured(registry, tmp_path)
    assert needs == {"runs_fig3": {"mem_mb": 1500, "runtime": 60}}
    resources.write_profile(tmp_path / "profile", needs)
    profile = yaml.safe_load((tmp_path / "profile" / "config.yaml").read_text())
    assert profile["executor"] == "slurm" and profile["set-resources"] == needs


def test_a_rule_that_was_never_run_keeps_the_default(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["resources", "smoke", str(tmp_path), str(tmp_path / "profile")])
    assert resources.main() == 2
    assert "no finished run was found" in capsys.readouterr().err
    assert not (tmp_path / "profile").exists()
