"""One writer at a time, no lock that outlives its holder, and nothing in the way of the next start."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import subprocess
import sys

import pytest

from gsworkbench.experiments.plan import ROOT
from gsworkbench.io.files import appear_together, atomic_path, write_text
from gsworkbench.io.locks import held, lock_file, lock_folder
from gsworkbench.methods.reconstruction_config import ReconstructionConfig
from gsworkbench.reconstruction.run import make_maps, reconstruct
from gsworkbench.simulation.simulate import simulate
from gsworkbench.simulation.simulation_config import Simulation

HOLD = """
import sys, time
from pathlib import Path
from gsworkbench.io.locks import lock_folder, lock_file
with (lock_file if sys.argv[2] == "file" else lock_folder)(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@contextlib.contextmanager
def another_process(path, kind="folder"):
    """A process that holds a folder or a file."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path), kind], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_the_second_is_refused_with_the_name_of_the_first_and_a_dead_one_holds_nothing(noisy_set, tmp_path, capsys):
    from gsworkbench.cli.main import main

    fit = ["backproject", str(noisy_set.star), "--out", str(tmp_path), "--mask", "none"]
    simulated = Simulation(n_particles=4, box_size=16, pixel_size=24.0)
    with another_process(tmp_path) as process:
        assert main(fit) == 2
        said = capsys.readouterr().err
        assert said.startswith(
            f"gsworkbench: {tmp_path}: process {process.pid} on {os.uname().nodename} is writing there"
        )
        assert said.count("\n") == 1
        for work in (
            lambda: simulate(simulated, tmp_path),
            lambda: make_maps(noisy_set.stack, tmp_path, ReconstructionConfig(method="backprojection")),
            lambda: reconstruct(noisy_set.stack, tmp_path, ReconstructionConfig(method="backprojection")),
        ):
            with pytest.raises(BlockingIOError, match="is writing there"):
                work()
        assert [p.name for p in tmp_path.iterdir()] == [".lock"]
    assert (tmp_path / ".lock").exists()  # of the dead process
    assert main(fit) == 0
    assert not (tmp_path / ".lock").exists() and (tmp_path / "run.json").exists()


def test_a_file_is_held_too(noisy_set, tmp_path, capsys):
    from gsworkbench.cli.main import main

    command = ["accumulate", str(noisy_set.star), "--out", str(tmp_path / "sums.npz")]
    with another_process(tmp_path / "sums.npz", "file"):
        assert main(command) == 2
        assert "is writing there" in capsys.readouterr().err
    assert main(command) == 0
    assert [p.name for p in tmp_path.iterdir()] == ["sums.npz"]


def test_who_waits_gets_it_when_the_holder_dies(tmp_path):
    with another_process(tmp_path) as process:
        assert str(process.pid) in (tmp_path / ".lock").read_text()
        process.kill()
        with held(tmp_path / ".lock", tmp_path, wait=True):
            assert f"process {os.getpid()} on" in (tmp_path / ".lock").read_text()


def test_one_that_was_let_go_of_meanwhile_is_not_mistaken_for_the_lock(tmp_path, monkeypatch):
    """Another removes the lock file between our opening and locking it: what we then hold is no name any more."""
    calls, flock = [], fcntl.flock

    def late(file, how):
        if not calls:
            (tmp_path / ".lock").unlink()
        calls.append(how)
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with held(tmp_path / ".lock", tmp_path):
        assert len(calls) == 2 and (tmp_path / ".lock").exists()


def test_a_file_system_without_locks_is_told_of_and_used(tmp_path, monkeypatch):
    def none(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    with pytest.warns(UserWarning, match="no locks"), lock_folder(tmp_path / "x"):
        write_text(tmp_path / "x" / "a", "a")
    assert (tmp_path / "x" / "a").exists()


def test_what_dead_processes_left_goes_at_the_next_start_and_nothing_else(tmp_path):
    for name in (".a-abcdefgh.part.mrc", "checkpoints/.all-01234567.part.pt", "a.mrc", ".hidden"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    with lock_folder(tmp_path, "checkpoints"):
        pass
    assert sorted(p.name for p in tmp_path.rglob("*")) == [".hidden", "a.mrc", "checkpoints"]
    (tmp_path / ".sums-abcdefgh.part.npz").touch()
    (tmp_path / ".other-abcdefgh.part.npz").touch()
    with lock_file(tmp_path / "sums.npz"):
        assert not (tmp_path / ".sums-abcdefgh.part.npz").exists()
    assert (tmp_path / ".other-abcdefgh.part.npz").exists()


def test_a_folder_that_stays_empty_is_not_left(tmp_path):
    with pytest.raises(KeyError), lock_folder(tmp_path / "a" / "b"):
        raise KeyError
    assert not (tmp_path / "a").exists()


def test_together_is_all_or_nothing(tmp_path):
    old, new, gone = (tmp_path / name for name in ("old", "new", "gone"))
    for path in (old, gone):
        path.write_text("before")
    with pytest.raises(KeyError), appear_together(instead_of=[old, gone]):
        write_text(old, "after")
        write_text(new, "after")
        raise KeyError
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"old": "before", "gone": "before"}
    with appear_together(instead_of=[old, gone]):
        write_text(old, "after")
        write_text(new, "after")
        assert old.read_text() == "before" and not new.exists()
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"old": "after", "new": "after"}


def test_a_failed_file_is_not_among_those_that_appear_together(tmp_path):
    with appear_together():
        write_text(tmp_path / "a", "a")
        with contextlib.suppress(KeyError), atomic_path(tmp_path / "b") as temporary:
            temporary.write_text("b")
            raise KeyError
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
