"""Deposited poses and CTF: drawn row by row, in A, from the known files alone; and what is said without them."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path

import numpy as np
import pytest

from gsworkbench.errors import InputError, NotRun
from gsworkbench.geometry.rotations import random_rotations
from gsworkbench.io.files import sha256
from gsworkbench.simulation import deposited_poses as deposited
from gsworkbench.simulation import simulate as simulator
from gsworkbench.simulation.deposited_poses import FILES, Deposited, read_deposited
from gsworkbench.simulation.simulate import OPTICS, simulate
from gsworkbench.simulation.simulation_config import Simulation

CONFIG = Simulation(n_particles=12, box_size=16, pixel_size=24.0, poses="deposited", optics="empiar_10180")
SHIFTS = 0.1 * np.random.default_rng(1).standard_normal((30, 2)).clip(-3, 3)
DEFOCUS = 1e4 + np.arange(30.0)


@pytest.fixture
def rows(tmp_path, monkeypatch):
    """30 made-up particles of 256 px at 2 A in the place of 10180's; what stands for the package's folder."""
    monkeypatch.setattr(deposited, "_places", lambda entry: [tmp_path / Path(name).name for name in FILES[entry]])
    rotations = random_rotations(30, np.random.default_rng(0))
    constants = np.tile([30.0, 300, 2.7, 0.1, 0], (30, 1))
    table = np.column_stack([np.tile([256, 2.0], (30, 1)), DEFOCUS, DEFOCUS - 100, constants])
    files = {"poses_10180.pkl": (rotations, SHIFTS), "ctf_10180.pkl": table}
    for name, value in files.items():
        (tmp_path / name).write_bytes(pickle.dumps(value))
    sums = {name: sha256(tmp_path / Path(name).name) for name in FILES["empiar_10180"]}
    monkeypatch.setitem(deposited.FILES, "empiar_10180", sums)
    return rotations


def test_pose_shift_and_ctf_of_a_particle_stay_together(rows, tmp_path):
    drawn = simulator.draw_particles(CONFIG, None)
    row = (drawn.ctf.defocus_u - 1e4).round().astype(int)
    assert len(set(row)) == 12  # each once
    np.testing.assert_array_equal(drawn.rotations, rows[row])
    np.testing.assert_allclose(drawn.shifts_angstrom, 256 * 2.0 * SHIFTS[row])
    many = simulator.draw_particles(dataclasses.replace(CONFIG, n_particles=100), None)
    assert len(many) == 100


def test_the_files_are_named_in_the_record(rows, tmp_path):
    stack = simulate(CONFIG, tmp_path / "out")
    assert len(stack) == 12
    assert "ctf_10180.pkl" in (tmp_path / "out" / "run.json").read_text()


def test_another_file_of_that_name_is_not_read(rows, tmp_path):
    (tmp_path / "poses_10180.pkl").write_bytes(b"something else")
    with pytest.raises(InputError, match=r"poses_10180\.pkl: not the file that is known here"):
        simulate(CONFIG, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_without_the_package_the_data_set_is_not_run_and_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr(deposited, "PACKAGE", "a_package_that_nobody_has")
    assert not deposited.is_installed()
    with pytest.raises(NotRun, match="not run, because the deposited poses and CTF of empiar_10180 are not installed"):
        simulate(CONFIG, tmp_path / "out")
    with pytest.raises(InputError, match="no deposited poses of 'empiar_10028' are at hand"):
        simulate(dataclasses.replace(CONFIG, optics="empiar_10028"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("entry", "n", "edge"), [("empiar_10076", 131_899, 419.2), ("empiar_10180", 327_490, 543.68)])
def test_the_real_ones_have_the_defocus_that_stands_in_for_them(entry, n, edge):
    if not deposited.is_installed():
        pytest.skip(f"optional data: {deposited.REMEDY}")
    found = read_deposited(entry)
    assert isinstance(found, Deposited) and len(found) == n
    mean = (found.ctf.defocus_u + found.ctf.defocus_v) / 2e4
    np.testing.assert_allclose(np.quantile(mean, [0.05, 0.5, 0.95]), OPTICS[entry].defocus_um, atol=0.01)
    assert np.abs(found.shifts_angstrom).max() < edge
