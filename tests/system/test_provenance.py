"""run.json says what was run, on what, with what; a run from Python can be repeated from it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gsworkbench.config import from_mapping
from gsworkbench.io.files import sha256
from gsworkbench.io.mrc import new_image_stack
from gsworkbench.lab.opened_run import particles_of, read_run
from gsworkbench.methods.reconstruction_config import ReconstructionConfig
from gsworkbench.particles.formats.cryodrgn import write_cryodrgn_pickles
from gsworkbench.particles.formats.relion import write_star
from gsworkbench.particles.read import read_particles
from gsworkbench.reconstruction.run import reconstruct
from gsworkbench.system import provenance
from gsworkbench.system.provenance import RunRecord

QUICK = ReconstructionConfig(method="backprojection", mask="none")


def record_of(folder):
    return json.loads((folder / "run.json").read_text())


def test_every_field_that_is_promised_is_filled(noisy_set, tmp_path):
    reconstruct(noisy_set.stack, tmp_path, QUICK, truth=noisy_set.truth_file)
    record = record_of(tmp_path)
    assert from_mapping(ReconstructionConfig, record["config"]) == QUICK
    assert record["seeds"] == {"all": 0, "half 1": 1, "half 2": 2}
    assert record["inputs"][str(noisy_set.star)]["sha256"] == sha256(noisy_set.star)
    assert record["inputs"][str(noisy_set.truth_file)]["bytes"] == noisy_set.truth_file.stat().st_size
    assert {"python", "gsworkbench", "torch", "numpy", "mrcfile"} <= set(record["versions"])
    assert record["started"] <= record["ended"] and record["ended"].endswith("+00:00")
    assert record["device"] == "cpu" and record["threads"] >= 1 and record["peak_memory_bytes"] > 1e7
    assert record["command"] and record["seconds"] and record["cpu_seconds"]
    assert record["particles"] == {"data_sign": 1, "pixel_size": 12.0, "box_size": 32}


def test_files_that_settings_name_are_among_the_inputs(noisy_set, tmp_path):
    noise, mask = tmp_path / "noise.npy", tmp_path / "mask.mrc"
    np.save(noise, np.ones(17))
    from gsworkbench.io.mrc import write_map

    write_map(mask, np.ones((32, 32, 32), np.float32), 12.0)
    reconstruct(noisy_set.stack, tmp_path / "out", replace(QUICK, noise_spectrum=str(noise), mask=str(mask)))
    assert {str(noise), str(mask)} <= set(record_of(tmp_path / "out")["inputs"])


def test_pickles_are_among_the_inputs(noisy_set, tmp_path):
    poses, ctf = tmp_path / "poses.pkl", tmp_path / "ctf.pkl"
    write_cryodrgn_pickles(poses, ctf, noisy_set.stack)
    stack = read_particles(noisy_set.star, poses=poses, ctf=ctf)
    reconstruct(stack, tmp_path / "out", QUICK)
    assert {str(poses), str(ctf)} <= set(record_of(tmp_path / "out")["inputs"])


def test_a_sign_given_in_python_is_found_again(noisy_set, tmp_path):
    with new_image_stack(tmp_path / "dark.mrcs", 600, 32, 12.0) as images:
        images[:] = -noisy_set.stack.images()
    write_star(tmp_path / "dark.star", replace(noisy_set.stack, files=(tmp_path / "dark.mrcs",)))
    reconstruct(read_particles(tmp_path / "dark.star", data_sign=-1), tmp_path / "out", QUICK)
    assert record_of(tmp_path / "out")["particles"]["data_sign"] == -1
    stack, words = particles_of(read_run(tmp_path / "out"))
    assert (stack.data_sign == -1).all() and words == ("--sign", "-1")


def test_without_git_there_is_no_commit_and_no_error(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    record = RunRecord.start({}, [])
    assert "git" not in record.versions and "torch" in record.versions


@pytest.mark.parametrize("ours", [True, False])
def test_the_commit_is_of_our_checkout_or_none(tmp_path, ours, monkeypatch):
    """A package installed below somebody's repository is not of its commit."""
    checkout = tmp_path / "src"
    (checkout / (".git" if ours else "lib")).mkdir(parents=True)
    asked = []

    def git(command, **_):
        asked.append(Path(command[2]))
        return type("Result", (), {"returncode": 0, "stdout": "abc1234-dirty\n"})

    monkeypatch.setattr(provenance.subprocess, "run", git)
    assert provenance._commit(checkout) == ("abc1234-dirty" if ours else None)
    assert asked == ([checkout] if ours else [])
