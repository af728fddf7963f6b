"""Runs are made once, in processes of their own; what was killed goes on; the same run is the same bits."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from gsworkbench.experiments import make_runs, run_keys
from gsworkbench.experiments.expected import differences, read_expected, write_expected
from gsworkbench.experiments.make_runs import make_runs_apart
from gsworkbench.experiments.plan import ROOT, Run, RunConfig
from gsworkbench.experiments.run_keys import run_key
from gsworkbench.experiments.store import KEY, made
from gsworkbench.methods.reconstruction_config import ReconstructionConfig
from gsworkbench.methods.registry import METHODS
from gsworkbench.particles.entry_card import EntryParticles
from gsworkbench.simulation import deposited_poses as deposited
from gsworkbench.simulation.simulation_config import Simulation

DATA = Simulation(n_particles=40, box_size=16, pixel_size=24.0, snr=1.0)


def run_of(name: str, method: str = "backprojection", **settings) -> Run:
    tiny = {"n_gaussians": 16, "n_epochs": 1} if method == "stochastic" else {}
    reconstruction = ReconstructionConfig(method, dataclasses.replace(METHODS[method].default, **tiny, **settings))
    return Run(name, "blob-s0", method, None, None, 0, RunConfig(DATA, reconstruction), {})


def make_dataset(config, folder):
    """As the workflow calls it, in a process of its own: it forks, and this one has threads of other tests."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(make_runs.make_dataset, config, folder).result()


def test_a_folder_is_made_once_per_key(tmp_path):
    calls = []

    def make(folder):
        calls.append(folder)
        (folder / "x").write_text("x")

    folder = tmp_path / "a"
    assert made(folder, "k1", make) and not made(folder, "k1", make)
    assert made(folder, "k2", make) and len(calls) == 2


def test_images_that_were_deleted_come_again_where_a_run_needs_them(tmp_path):
    """As the workflow deletes them at the large scales; a run that is made needs none."""
    folder = tmp_path / "datasets" / "blob-s0"
    images = folder / "particles.mrcs"
    assert make_dataset(DATA, folder) == "" and images.stat().st_size > 40 * 16**2 * 4
    before = images.read_bytes()
    assert make_runs_apart([run_of("a")], tmp_path) == {}
    images.unlink()
    assert make_runs_apart([run_of("a")], tmp_path) == {} and not images.exists()
    assert make_runs_apart([run_of("a"), run_of("b")], tmp_path) == {}
    assert images.read_bytes() == before


def test_a_data_set_that_cannot_be_made_here_has_an_empty_file_of_images_and_runs_say_why(tmp_path):
    config = EntryParticles(10492, 256)
    assert make_dataset(config, tmp_path / "datasets" / "blob-s0") == ""
    assert (tmp_path / "datasets" / "blob-s0" / "particles.mrcs").read_bytes() == b""
    run = run_of("a")
    run = dataclasses.replace(run, config=dataclasses.replace(run.config, dataset=config))
    assert make_runs_apart([run], tmp_path) == {}
    assert "its files are not known here" in (tmp_path / "runs" / "a" / "not_run.txt").read_text()


def test_what_a_broken_attempt_left_is_kept_for_the_same_key_alone(tmp_path):
    folder = tmp_path / "a"

    def breaks(out):
        (out / "checkpoint").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made(folder, "k1", breaks)
    assert not (folder / KEY).exists()
    seen = []
    made(folder, "k1", lambda out: seen.append((out / "checkpoint").exists()))
    with pytest.raises(KeyboardInterrupt):
        made(folder, "k2", breaks)
    made(folder, "k3", lambda out: seen.append((out / "checkpoint").exists()))
    assert seen == [True, False]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    assert make_runs_apart([run_of("one"), run_of("two", "stochastic")], folder) == {}
    return folder


def test_the_same_run_is_the_same_bits_whatever_was_run_before(folder, tmp_path):
    assert make_runs_apart([run_of("two", "stochastic")], tmp_path) == {}
    for name in ("run_class001.mrc", "run_half1_class001.mrc", "gaussians.npz"):
        first, second = (f / "runs" / "two" / name for f in (folder, tmp_path))
        assert first.read_bytes() == second.read_bytes()
    first, second = (f / "datasets" / "blob-s0" / "particles.mrcs" for f in (folder, tmp_path))
    assert first.read_bytes() == second.read_bytes()


def test_editing_one_run_makes_that_one_anew(folder):
    before = {name: _stamp(folder, name) for name in ("one", "two")}
    assert make_runs_apart([run_of("one"), run_of("two", "stochastic", gamma=0.5)], folder) == {}
    assert _stamp(folder, "one") == before["one"]
    assert _stamp(folder, "two") > before["two"]


def test_a_run_of_other_code_is_made_anew_and_one_of_the_same_is_not(folder):
    before = _stamp(folder, "one")
    make_runs_apart([run_of("one")], folder)
    assert _stamp(folder, "one") == before
    (folder / "runs" / "one" / KEY).write_text("a digest of other code")
    make_runs_apart([run_of("one")], folder)
    assert _stamp(folder, "one") > before


def test_one_that_fails_takes_no_other_with_it(folder, capfd):
    failing = dataclasses.replace(run_of("bad"), config=RunConfig(DATA, ReconstructionConfig(backend="abacus")))
    white = ReconstructionConfig("stochastic", noise_spectrum="measured")  # a method that knows white noise only
    refused = dataclasses.replace(run_of("also bad"), config=RunConfig(DATA, white))
    failed = make_runs_apart([failing, refused, run_of("three")], folder)
    assert (folder / "runs" / "three" / "run.json").is_file()
    reasons = {name: folder / "runs" / name / "not_run.txt" for name in ("bad", "also bad")}
    assert set(failed) | {name for name, file in reasons.items() if file.is_file()} == {"bad", "also bad"}


def test_memory_is_that_of_the_run_alone(folder):
    record = json.loads((folder / "runs" / "one" / "run.json").read_text())
    assert 50e6 < record["peak_memory_bytes"] < 4e9
    assert record["threads"] == 1 or "OMP_NUM_THREADS" not in os.environ


SCRIPT = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_make_runs import run_of
from gsworkbench.experiments import make_runs as runs
whole = runs.make_maps
def slow(stack, out, *rest, **named):
    if out.name == "second":
        (Path({folder!r}) / "reached").touch()
        time.sleep(600)
    return whole(stack, out, *rest, **named)
runs.make_maps = slow
runs.make_runs([run_of("first"), run_of("second")], Path({folder!r}))
"""


def test_killed_half_way_it_resumes_without_losing_finished_runs(tmp_path):
    script = SCRIPT.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, start_new_session=True)
    deadline = time.monotonic() + 300
    while not (tmp_path / "reached").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert (tmp_path / "reached").exists()
    before = _stamp(tmp_path, "first")
    assert not (tmp_path / "runs" / "second" / KEY).exists()
    assert make_runs_apart([run_of("first"), run_of("second")], tmp_path) == {}
    assert _stamp(tmp_path, "first") == before
    assert (tmp_path / "runs" / "second" / "run.json").is_file()


def test_a_run_whose_data_are_not_installed_says_so_and_is_made_once_they_are(tmp_path, monkeypatch):
    config = dataclasses.replace(DATA, poses="deposited", optics="empiar_10180")
    run = dataclasses.replace(run_of("real"), config=RunConfig(config, ReconstructionConfig()))
    monkeypatch.setattr("gsworkbench.simulation.deposited_poses.PACKAGE", "a_package_that_nobody_has")
    make_runs._dataset(config, tmp_path / "data")
    make_runs._run(run, tmp_path / "data", tmp_path / "run")
    assert "are not installed here" in (tmp_path / "run" / "not_run.txt").read_text()
    before = run_keys.dataset_key(config)
    monkeypatch.setattr(run_keys, "is_installed", lambda: not deposited.is_installed())
    assert run_keys.dataset_key(config) != before


def test_a_key_is_of_settings_data_and_code(monkeypatch):
    first, other = run_of("x", "stochastic"), run_of("y", "stochastic", gamma=0.7)
    assert run_key(first) == run_key(dataclasses.replace(first, name="z")) != run_key(other)


def _stamp(folder: Path, name: str) -> int:
    return (folder / "runs" / name / KEY).stat().st_mtime_ns


def test_numbers_that_move_are_named(tmp_path):
    expected = {("a", "fsc_truth_mean"): 0.5, ("b", "fsc_truth_mean"): 0.5, ("c", "fsc_truth_mean"): 0.5}
    write_expected(expected, tmp_path / "x.csv")
    assert read_expected(tmp_path / "x.csv") == expected
    found = {("a", "fsc_truth_mean"): 0.5015, ("b", "fsc_truth_mean"): 0.5025, ("d", "fsc_truth_mean"): 0.5}
    said = differences(found, read_expected(tmp_path / "x.csv"))
    assert [line.split(":")[0] for line in said] == ["c", "b"]
    assert differences({("a", "fsc_truth_mean"): float("nan")}, {("a", "fsc_truth_mean"): 0.5})
