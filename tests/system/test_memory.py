"""Memory: what there is, what runs out, and what is said then."""

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from gsworkbench.cli.main import main
from gsworkbench.io.mrc import new_image_stack
from gsworkbench.methods.reconstruction_config import read_config
from gsworkbench.methods.registry import METHODS
from gsworkbench.particles.formats.relion import write_star
from gsworkbench.particles.read import read_particles
from gsworkbench.reconstruction.memory_needed import reconstruct_bytes
from gsworkbench.system import memory
from gsworkbench.system.memory import available_memory, is_out_of_memory

LIMITED = """
import resource, sys
import finufft, starfile, gsworkbench.normal_equations.classical_map, gsworkbench.cli.main
import gsworkbench.normal_equations.equations
import torch
torch.ones(8, 8) @ torch.ones(8, 8)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 100 * 2**20,) * 2)
sys.exit(gsworkbench.cli.main.main(sys.argv[1:]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux says how much memory there is")
def test_available_memory_is_what_is_free_or_what_the_group_may_take(tmp_path, monkeypatch):
    total = next(int(line.split()[1]) for line in Path("/proc/meminfo").read_text().splitlines() if "MemTotal" in line)
    free = available_memory()
    assert free is not None and 2**26 < free <= 1024 * total
    for name, text in {"max": "300000000", "current": "250000000", "stat": "anon 5\nfile 20000000\n"}.items():
        (tmp_path / f"memory.{name}").write_text(text)
    monkeypatch.setattr(memory, "CONTROL_GROUPS", tmp_path)
    groups = Path("/proc/self/cgroup").read_text()
    assert "0::/" not in groups or available_memory() == 70_000_000


def test_the_peak_is_this_programs_and_not_that_of_who_started_it():
    """Started by a process of 600 MB, or by one that has just imported Python."""
    say = "from gsworkbench.system.memory import peak_memory; print(peak_memory())"
    start = f"import subprocess, sys; {{}}; subprocess.run([sys.executable, '-c', {say!r}])"
    peaks = []
    for first in ("held = bytearray(600_000_000); held[::4096] = b'x' * len(held[::4096])", "pass"):
        ran = subprocess.run([sys.executable, "-c", start.format(first)], capture_output=True, text=True, check=True)
        peaks.append(int(ran.stdout))
    assert min(peaks) > 2**22 and max(peaks) < 2**28


def test_which_errors_mean_that_memory_ran_out():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(MemoryError()) and is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried"))
    assert not is_out_of_memory(RuntimeError("another")) and not is_out_of_memory(ValueError("out of memory"))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of address space as on Linux")
def test_out_of_memory_gives_advice_and_leaves_nothing(noisy_set, tmp_path):
    """A grid of sums takes 400 MB at this box, and there are 100 MB left."""
    file, stack = tmp_path / "particles.mrcs", read_particles(noisy_set.star)[:20]
    with new_image_stack(file, 20, 128, stack.pixel_size) as images:
        images[:] = np.random.default_rng(0).normal(size=images.shape)
    new = {"files": (file,), "file_index": np.zeros(20, int), "image_index": np.arange(20), "box_size": 128}
    write_star(tmp_path / "particles.star", dataclasses.replace(stack, **new))
    before = sorted(tmp_path.iterdir())
    command = ["accumulate", str(tmp_path / "particles.star"), "--out", str(tmp_path / "sums.npz"), "--threads", "1"]
    ran = subprocess.run([sys.executable, "-c", LIMITED, *command], capture_output=True, text=True, check=False)
    assert ran.returncode == 2, ran.stderr
    assert "there is not enough memory: bin the images" in ran.stderr and "Traceback" not in ran.stderr
    assert sorted(tmp_path.iterdir()) == before


def test_what_a_run_needs_is_said_beside_what_there_is(noisy_set, tmp_path, capsys, monkeypatch):
    command = ["reconstruct", str(noisy_set.star), "--out", str(tmp_path / "a"), "--n-gaussians", "64"]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert re.search(r"^memory: up to 0\.\d+ GB, of [\d.]+ GB free$", said, re.M), said
    monkeypatch.setattr("gsworkbench.reconstruction.memory_needed.available_memory", lambda: 10**8)
    assert main(["accumulate", str(noisy_set.star), "--out", str(tmp_path / "sums.npz")]) == 0
    assert "of 0.1 GB free; it may run out: bin the images" in capsys.readouterr().out


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory as Linux counts it")
@pytest.mark.parametrize("method", [name for name, row in METHODS.items() if row.bytes_per_voxel is not None])
def test_what_is_said_is_kept_to(noisy_set, tmp_path, method):
    """In a process of its own: a peak is one of a whole process."""
    out = tmp_path / "map"
    command = METHODS[method].command
    words = [command, *(["--method", method] if command == "reconstruct" else [])]
    words += ["--set", "n_epochs=1"] if method == "stochastic" else []
    command = [sys.executable, "-m", "gsworkbench", words[0], str(noisy_set.star), "--out", str(out), *words[1:]]
    subprocess.run(command, check=True, capture_output=True)
    record = json.loads((out / "run.json").read_text())
    needed = reconstruct_bytes(read_particles(noisy_set.star), read_config(record["config"]))
    assert record["peak_memory_bytes"] < needed < 2 * record["peak_memory_bytes"]
