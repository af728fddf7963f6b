"""A disk that is full, or that cannot be written: one sentence, exit code 2, and what was there before stays."""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
import subprocess
import sys

import pytest

from gsworkbench.experiments.plan import ROOT
from gsworkbench.io.mrc import new_image_stack

COMMANDS = {
    "simulate": ["simulate", "--n-particles", "60", "--box-size", "32", "--pixel-size", "12"],
    "accumulate": ["accumulate", "PARTICLES"],
    "combine": ["combine", "SUMS"],
    "one pass": ["reconstruct", "PARTICLES", "--n-gaussians", "20", "--set", "n_steps=2", "--mask", "none"],
    "stochastic": ["reconstruct", "PARTICLES", "--method", "stochastic", "--n-gaussians", "20", "--set", "n_epochs=1"],
    "backproject": ["backproject", "PARTICLES"],
    "fsc": ["fsc", "FOLDER"],
    "postprocess": ["postprocess", "FOLDER"],
    "localres": ["localres", "FOLDER"],
    "directional": ["directional", "FOLDER"],
}
SMALL = {"accumulate": 2**18, "combine": 2**18, "fsc": 2**13, "postprocess": 2**13, "directional": 2**12}
# Every command in one process, after a result of an earlier one was laid out; nothing is imported twice.
SCRIPT = """
import json, os, resource, sys
from gsworkbench.cli.main import main
jobs, limited = json.load(open(sys.argv[1])), sys.argv[2] == "limited"
before = resource.getrlimit(resource.RLIMIT_FSIZE)
for name, (command, most) in jobs.items():
    if limited:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    print(f"=== {name}", file=sys.stderr, flush=True)
    code = main(command)
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    print(f"=== {code}", file=sys.stderr, flush=True)
"""


def state(folder):
    """Files by name; checkpoints, which may be there besides, aside."""
    files = (p for p in sorted(folder.rglob("*")) if p.is_file() and p.parent.name != "checkpoints")
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


@pytest.fixture(scope="module")
def data(noisy_set, tmp_path_factory):
    """A finished run, its sums, and a folder with something in it for each command."""
    from gsworkbench.cli.main import main

    folder = tmp_path_factory.mktemp("full")
    assert main(["backproject", str(noisy_set.star), "--out", str(folder / "run")]) == 0
    assert main(["accumulate", str(noisy_set.star), "--out", str(folder / "sums.npz")]) == 0
    return {"PARTICLES": noisy_set.star, "FOLDER": folder / "run", "SUMS": folder / "sums.npz"}


def jobs_in(folder, data, make):
    """A command line for each, whose output `make` lays out, and the size of file that it may write."""
    jobs = {}
    for name, words in COMMANDS.items():
        out = folder / name.replace(" ", "_")
        shutil.copytree(data["FOLDER"], out)
        make(out)
        target = out / "sums.npz" if name in ("accumulate", "combine") else out
        jobs[name] = [[*(str(data.get(w, w)) for w in words), "--out", str(target)], SMALL.get(name, 2**14)]
    return jobs


def run_all(jobs, folder, how, **more):
    import json

    (folder / "jobs.json").write_text(json.dumps(jobs))
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TQDM_DISABLE": "1"}
    command = [sys.executable, "-c", SCRIPT, str(folder / "jobs.json"), how]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, **more)
    assert result.returncode == 0, result.stderr[-3000:]
    blocks = result.stderr.split("=== ")[1:]
    said = {blocks[i].split("\n", 1)[0]: blocks[i].split("\n", 1)[1] for i in range(0, len(blocks), 2)}
    codes = {blocks[i].split("\n", 1)[0]: int(blocks[i + 1]) for i in range(0, len(blocks), 2)}
    return said, codes


def outcomes(folder, data, how, make=lambda out: None, **more):
    """What every command said, its exit code, and the state of its folder before and after."""
    jobs = jobs_in(folder, data, make)
    places = {name: folder / name.replace(" ", "_") for name in jobs}
    before = {name: state(place) for name, place in places.items()}
    said, codes = run_all(jobs, folder, how, **more)
    return said, codes, before, {name: state(place) for name, place in places.items()}


@pytest.fixture(scope="module")
def full(data, tmp_path_factory):
    """Outcomes where no file can grow beyond a few kB, as under a quota."""
    return outcomes(tmp_path_factory.mktemp("limited"), data, "limited")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_disk_that_is_full_leaves_the_previous_state(full, name):
    said, codes, before, after = full
    assert codes[name] == 2
    assert said[name].count("\n") == 1 and "cannot be written (File too large); make room" in said[name], said[name]
    assert after[name] == before[name]


@pytest.fixture(scope="module")
def read_only(data, tmp_path_factory):
    """Outcomes in folders that may not be written, by a process that root's right to ignore that was taken from."""
    folder = tmp_path_factory.mktemp("locked")
    found = outcomes(folder, data, "free", lambda out: out.chmod(0o555), preexec_fn=_obeys_modes)
    for name in COMMANDS:
        (folder / name.replace(" ", "_")).chmod(0o755)
    return found


def _obeys_modes():
    if os.geteuid() == 0:
        drop, override, read_search = 24, 1, 2  # PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        for capability in (override, read_search):
            ctypes.CDLL(None).prctl(drop, capability, 0, 0, 0)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="capabilities are Linux's")
@pytest.mark.parametrize("name", COMMANDS)
def test_a_folder_that_cannot_be_written_is_named(read_only, name):
    said, codes, before, after = read_only
    assert codes[name] == 2
    assert said[name].count("\n") == 1 and "cannot be written (Permission denied)" in said[name], said[name]
    assert after[name] == before[name]


def test_space_for_an_image_stack_is_taken_before_it_is_mapped(tmp_path):
    """A full disk under a memory map would end the process without a word."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, before[1]))
    try:
        with pytest.raises(OSError, match="cannot be written"), new_image_stack(tmp_path / "x.mrcs", 100, 32, 1.0):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    with new_image_stack(tmp_path / "x.mrcs", 100, 32, 1.0):
        size = next(tmp_path.glob(".x-*.part.mrcs")).stat()
        assert size.st_blocks * 512 >= 100 * 32 * 32 * 4
    assert [p.name for p in tmp_path.iterdir()] == ["x.mrcs"]


def test_a_real_file_system_that_is_full(tmp_path, noisy_set):
    """The same on 3 MB of memory as a file system, where one can be mounted."""
    tmp_path = tmp_path / "disk"
    tmp_path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(tmp_path)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    try:
        command = [sys.executable, "-m", "gsworkbench", "simulate", "--out", str(tmp_path / "a"), "--box-size", "32"]
        command += ["--pixel-size", "12", "--n-particles"]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "TQDM_DISABLE": "1"}
        assert subprocess.run([*command, "50"], env=environment, capture_output=True, check=False).returncode == 0
        before = state(tmp_path)
        result = subprocess.run([*command, "5000"], env=environment, capture_output=True, text=True, check=False)
        assert result.returncode == 2 and "No space left on device" in result.stderr, result.stderr
        assert result.stderr.count("\n") == 1
        assert state(tmp_path) == before
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
