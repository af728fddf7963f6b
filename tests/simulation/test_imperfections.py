"""Errors on purpose are as large as asked for, and of the truth the images know nothing."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from gsworkbench.errors import InputError
from gsworkbench.geometry.rotations import random_rotations
from gsworkbench.io.mrc import read_map
from gsworkbench.molecules import Molecule, load_molecule
from gsworkbench.particles.read import read_particles
from gsworkbench.simulation import simulate as simulator
from gsworkbench.simulation.imperfections import preferred_views, random_phases, turned
from gsworkbench.simulation.simulate import potential, simulate
from gsworkbench.simulation.simulation_config import Simulation

RNG = np.random.default_rng
SETTINGS = Simulation(n_particles=40, box_size=32, pixel_size=12.0, seed=4)


def angles(first, second):
    trace = np.einsum("nij,nij->n", first, second)
    return np.degrees(np.arccos(np.clip((trace - 1) / 2, -1, 1)))


def test_rotations_are_turned_by_as_much_as_asked_for():
    rotations = random_rotations(4000, RNG(0))
    found = turned(rotations, 3.0, RNG(1))
    assert np.sqrt((angles(rotations, found) ** 2).mean()) == pytest.approx(3.0, rel=0.05)
    assert np.allclose(found @ found.transpose(0, 2, 1), np.eye(3), atol=1e-12)
    forgotten = angles(rotations, turned(rotations, np.inf, RNG(1)))
    assert forgotten.mean() == pytest.approx(126.5, abs=2)  # 90 + 180 / (2 pi / 2) * 2 / pi: of uniform rotations


def test_preferred_views_lie_about_the_z_axis_of_the_map():
    rotations = preferred_views(random_rotations(4000, RNG(0)), 0.9, RNG(1))
    views = rotations[:, 2, :]  # the direction along which a particle is seen, in the map
    along = views[:, 2] > np.cos(np.radians(20))
    assert along.mean() == pytest.approx(0.9 + 0.1 * (1 - np.cos(np.radians(20))) / 2, abs=0.02)
    assert np.abs(views[along][:, :2].mean(0)).max() < 0.02
    assert np.allclose(rotations @ rotations.transpose(0, 2, 1), np.eye(3), atol=1e-12)


def test_random_phases_keep_amplitudes_and_what_is_below():
    image = RNG(0).standard_normal((16, 16))
    found, before = (np.fft.fft2(x) for x in (random_phases(image, 4, RNG(1)), image))
    k = np.fft.fftfreq(16, 1 / 16)
    below = np.hypot(k[:, None], k) < 4
    assert np.allclose(found[below], before[below])
    assert np.allclose(np.abs(found), np.abs(before))
    beyond = ~below
    agree = (found * before.conj())[beyond].real.sum() / (np.abs(before[beyond]) ** 2).sum()
    assert abs(agree) < 0.2


def test_errors_of_poses_are_in_the_star_file_alone(tmp_path):
    simulate(SETTINGS, tmp_path / "right")
    wrong = dataclasses.replace(SETTINGS, pose_error_degrees=5.0, shift_error_pixels=2.0)
    simulate(wrong, tmp_path / "wrong")
    right, off = (read_particles(tmp_path / name / "particles.star") for name in ("right", "wrong"))
    assert np.array_equal(right.images(slice(0, 40)), off.images(slice(0, 40)))
    assert 2 < angles(right.rotations, off.rotations).std() + angles(right.rotations, off.rotations).mean() < 15
    assert (off.shifts_angstrom - right.shifts_angstrom).std() == pytest.approx(2 * 12.0, rel=0.3)


def test_a_second_state_lacks_its_chains_and_stays_in_place(tmp_path):
    mixed = dataclasses.replace(SETTINGS, snr=np.inf, absent_chains=("S",), absent_fraction=0.5)
    simulate(mixed, tmp_path)
    first, second = (read_map(tmp_path / name)[0] for name in ("truth.mrc", "truth_state2.mrc"))
    whole = read_map(_simulated(tmp_path / "whole", dataclasses.replace(SETTINGS, snr=np.inf)) / "truth.mrc")[0]
    assert np.array_equal(first, whole)
    assert 0.5 < second.sum() / first.sum() < 0.75  # the large subunit has most of the mass
    whole_molecule = load_molecule("ribosome")
    small = np.char.startswith(whole_molecule.chains, "S")
    absent = Molecule(whole_molecule.coordinates[small], whole_molecule.elements[small], whole_molecule.chains[small])
    missing = potential(absent, box_size=32, pixel_size=12.0, b_factor=SETTINGS.b_factor)
    assert np.allclose(first - second, missing, atol=1e-5 * first.max())  # nothing moved
    assert 10 < json.loads((tmp_path / "run.json").read_text())["results"]["n_of_states"][1] < 30


def test_states_come_in_the_proportions_asked_for_and_each_image_shows_its_own(tmp_path):
    chains = ("S", "L", "L70 LD0")
    mixed = dataclasses.replace(SETTINGS, snr=np.inf, absent_chains=chains, absent_fraction=0.6, n_particles=1000)
    state = simulator._draw_states(mixed)
    assert np.abs(np.bincount(state) / 1000 - [0.4, 0.2, 0.2, 0.2]).max() < 0.05
    few = dataclasses.replace(mixed, n_particles=30)
    images = simulate(few, tmp_path).images()
    truths = [read_map(tmp_path / f"truth{s}.mrc")[0] for s in ("", "_state2", "_state3", "_state4")]
    assert len({truth.sum() for truth in truths}) == 4 and truths[3].sum() > 0.9 * truths[0].sum()
    particles = simulator.draw_particles(few, tmp_path / "particles.mrcs")
    state = simulator._draw_states(few)
    assert json.loads((tmp_path / "run.json").read_text())["results"]["n_of_states"] == np.bincount(state).tolist()
    for k in range(4):
        here = np.flatnonzero(state == k)
        expected = simulator.form_images(truths[k].astype(np.float64), particles[here])
        assert np.abs(images[here] - expected).max() < 1e-4 * np.abs(expected).max()


def _simulated(folder, config):
    simulate(config, folder)
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"absent_fraction": 0.5, "absent_chains": ("S", "Q")}, "names no chain"),
        ({"absent_fraction": 0.5, "absent_chains": ("",)}, "names every chain"),
        ({"absent_fraction": 0.5}, "absent_chains must name chains"),
        ({"absent_fraction": 2.0}, "absent_fraction must be between 0 and 1"),
        ({"pose_error_degrees": -1.0}, "pose_error_degrees must be 0 or above"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        simulate(dataclasses.replace(SETTINGS, **changes), tmp_path)
