"""The simulator by physics: where an atom lands, what a slice is, which way a shift goes, what the SNR is."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from gsworkbench.errors import InputError
from gsworkbench.geometry.rotations import random_rotations
from gsworkbench.imaging.ctf import contrast_transfer, ctf_grid
from gsworkbench.io.mrc import read_map
from gsworkbench.molecules import Molecule
from gsworkbench.particles.read import read_particles
from gsworkbench.particles.stack import CtfParameters, ParticleStack
from gsworkbench.simulation import simulate as simulator
from gsworkbench.simulation.simulate import (
    OPTICS,
    central_slices,
    form_images,
    half_disc,
    potential,
    project,
    simulate,
    transfer,
)
from gsworkbench.simulation.simulation_config import Simulation

FLAT = {"defocus_u": 0.0, "defocus_v": 0.0, "spherical_aberration_mm": 0.0, "amplitude_contrast": 1.0}  # CTF = 1


def ctf_parameters(n: int = 1, **changes: float) -> CtfParameters:
    values = {
        "defocus_u": 15000.0, "defocus_v": 14000.0, "defocus_angle": 30.0, "voltage_kv": 300.0,
        "spherical_aberration_mm": 2.7, "amplitude_contrast": 0.1, "phase_shift": 0.0, "b_factor": 0.0, "scale": 1.0,
    } | changes  # fmt: skip
    return CtfParameters(**{name: np.full(n, value) for name, value in values.items()})


def stack(
    rotations: np.ndarray, shifts: np.ndarray, ctf: CtfParameters, box_size: int, pixel_size: float
) -> ParticleStack:
    n = len(rotations)
    zeros = np.zeros(n, np.int64)
    return ParticleStack(
        (), zeros, np.arange(n), box_size, pixel_size, ctf, rotations, shifts, zeros.astype(np.int8),
        np.ones(n, np.int8), None, zeros,
    )  # fmt: skip


def one_atom(position: tuple[float, float, float], element: int = 6) -> Molecule:
    return Molecule(np.array([position], float), np.array([element], np.uint8), np.array(["A"]))


def random_molecule(n: int = 40, radius: float = 15.0, seed: int = 3) -> Molecule:
    rng = np.random.default_rng(seed)
    directions = rng.standard_normal((n, 3))
    directions *= radius * rng.uniform(0, 1, (n, 1)) ** (1 / 3) / np.linalg.norm(directions, axis=1, keepdims=True)
    return Molecule(directions, rng.choice([6, 7, 8, 15], n).astype(np.uint8), np.array(["A"] * n))


# --- the truth ---------------------------------------------------------------------------------------------------


def test_potential_is_the_direct_sum_over_atoms():
    molecule, box_size, pixel_size, b_factor = random_molecule(), 12, 3.0, 25.0
    volume = potential(molecule, box_size=box_size, pixel_size=pixel_size, b_factor=b_factor)
    transform = np.fft.fftn(np.fft.ifftshift(volume)) * pixel_size**3
    k = np.fft.fftfreq(box_size, 1 / box_size)
    for iz, iy, ix in [(0, 0, 0), (1, 2, 3), (-2, 3, -1), (0, -5, 0), (3, 3, 4), (0, 0, -6), (4, 4, 4)]:
        frequency = np.array([k[ix], k[iy], k[iz]]) / (box_size * pixel_size)
        s2 = frequency @ frequency
        factors = np.array([simulator.form_factor(int(z), np.array([s2]))[0] for z in molecule.elements])
        expected = (factors * np.exp(-2j * np.pi * molecule.coordinates @ frequency)).sum() * np.exp(-b_factor * s2 / 4)
        inside = k[ix] ** 2 + k[iy] ** 2 + k[iz] ** 2 < (box_size / 2) ** 2
        assert abs(transform[iz, iy, ix] - expected * inside) < 1e-6 * factors.sum()


def test_form_factors_are_those_of_the_international_tables():
    # Table 4.3.2.2 gives carbon .0893 + .2563 + .7570 + 1.0487 + .3575 at the origin.
    assert simulator.form_factor(6, np.zeros(1))[0] == pytest.approx(2.5088, abs=1e-5)
    s = 1.0  # 1/A; the table's variable is sin(theta) / lambda = s / 2
    five_gaussians = [(0.0893, 0.2465), (0.2563, 1.71), (0.7570, 6.4094), (1.0487, 18.6113), (0.3575, 50.2523)]
    expected = sum(a * math.exp(-b * (s / 2) ** 2) for a, b in five_gaussians)
    assert simulator.form_factor(6, np.array([s**2]))[0] == pytest.approx(expected, abs=1e-5)


def test_an_atom_lies_where_it_is_z_y_x():
    volume = potential(one_atom((4.0, -6.0, 8.0)), box_size=24, pixel_size=2.0, b_factor=200.0)
    assert np.unravel_index(volume.argmax(), volume.shape) == (12 + 4, 12 - 3, 12 + 2)


def test_a_molecule_larger_than_the_box_is_refused():
    with pytest.raises(InputError, match="does not fit"):
        potential(one_atom((0, 25.0, 0)), box_size=16, pixel_size=3.0, b_factor=0.0)


# --- projection --------------------------------------------------------------------------------------------------


def test_slices_are_the_direct_sum_over_voxels():
    rng = np.random.default_rng(0)
    box_size = 8
    volume = rng.standard_normal((box_size,) * 3)
    rotations = random_rotations(5, rng)
    j = np.arange(box_size) - box_size // 2
    z, y, x = np.meshgrid(j, j, j, indexing="ij")
    grid = np.stack([x, y, z], axis=-1).reshape(-1, 3)
    k = half_disc(box_size)
    k3 = np.concatenate([k, np.zeros((len(k), 1))], axis=1)
    slices = central_slices(volume, rotations)
    for rotation, values in zip(rotations, slices, strict=True):
        expected = np.exp(-2j * np.pi / box_size * (k3 @ rotation) @ grid.T) @ volume.ravel()  # rows of k3 A are A^T k
        assert np.abs(values - expected).max() < 1e-6 * np.linalg.norm(expected)


@pytest.mark.parametrize("box_size", [16, 20])  # 6^2 + 8^2 = 10^2 lies on the circle of the second
def test_half_disc_is_strict_and_complete(box_size):
    half = {(x, y) for x, y in half_disc(box_size).tolist()}
    inside = range(-box_size // 2, box_size // 2 + 1)
    full = {(x, y) for x in inside for y in inside if x * x + y * y < box_size**2 / 4}
    assert min(x for x, _ in half) == 0
    assert half | {(-x, -y) for x, y in half} == full


def test_an_atom_at_the_centre_stays_there_and_one_off_it_lands_at_a_x():
    rng = np.random.default_rng(2)
    box_size, pixel_size, position = 32, 2.0, np.array([9.0, -5.0, 12.0])
    rotations = random_rotations(20, rng)
    grid = {"box_size": box_size, "pixel_size": pixel_size}
    centre = project(potential(one_atom((0, 0, 0)), **grid, b_factor=80.0), rotations, pixel_size=pixel_size)
    assert (centre.reshape(20, -1).argmax(1) == 16 * box_size + 16).all()
    smooth = potential(one_atom(tuple(position)), **grid, b_factor=800.0)  # no ringing that the box would cut
    images = project(smooth, rotations, pixel_size=pixel_size)
    transform = np.fft.fft2(np.fft.ifftshift(images, axes=(1, 2)))
    found = -np.angle(np.stack([transform[:, 0, 1], transform[:, 1, 0]], axis=-1)) * box_size * pixel_size / (2 * np.pi)
    np.testing.assert_allclose(found, (rotations @ position)[:, :2], atol=1e-4)


def test_images_are_line_integrals():
    volume = potential(random_molecule(), box_size=24, pixel_size=2.5, b_factor=40.0)
    images = project(volume, random_rotations(4, np.random.default_rng(5)), pixel_size=2.5)
    np.testing.assert_allclose(images.sum((1, 2)) * 2.5**2, volume.sum() * 2.5**3, rtol=1e-6)
    unturned = project(volume, np.eye(3)[None], pixel_size=2.5)[0]
    np.testing.assert_allclose(unturned, volume.sum(0) * 2.5, atol=1e-6 * unturned.max())


def test_a_positive_origin_moves_an_observed_image_to_the_centre():
    volume = potential(random_molecule(), box_size=24, pixel_size=2.5, b_factor=40.0)
    rotations = random_rotations(1, np.random.default_rng(5))
    centred = project(volume, rotations, pixel_size=2.5)[0]
    origin = np.array([[3 * 2.5, -2 * 2.5]])  # +3 px in x, -2 px in y
    observed = form_images(volume, stack(rotations, origin, ctf_parameters(**FLAT), 24, 2.5))[0]
    np.testing.assert_allclose(np.roll(observed, (-2, 3), axis=(0, 1)), centred, atol=1e-6 * centred.max())


def test_images_carry_the_ctf_on_the_whole_disc():
    ctf = ctf_parameters(defocus_u=12000.0, defocus_v=7000.0)
    volume = potential(one_atom((1.0, 2.0, 3.0)), box_size=32, pixel_size=2.0, b_factor=0.0)
    rotations = random_rotations(1, np.random.default_rng(5))
    plain = np.fft.rfft2(project(volume, rotations, pixel_size=2.0))
    filtered = np.fft.rfft2(form_images(volume, stack(rotations, np.zeros((1, 2)), ctf, 32, 2.0)))
    grid = ctf_grid(ctf, 32, 2.0, dtype=torch.float64).numpy()
    inside = np.hypot(np.fft.fftfreq(32, 1 / 32)[:, None], np.arange(17)) < 16
    np.testing.assert_allclose(filtered[:, inside], (grid * plain)[:, inside], atol=1e-5 * np.abs(plain).max())
    assert np.abs(filtered[:, ~inside]).max() < 1e-9 * np.abs(plain).max()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [0.69088466, 0.12054256, -0.27596143, -0.95401405]),
        (
            {"voltage_kv": 200.0, "spherical_aberration_mm": 0.01, "amplitude_contrast": 0.07, "phase_shift": 90.0,
             "b_factor": 50.0, "scale": 0.9},
            [-0.86029196, 0.59137195, 0.29776255, -0.09155626],
        ),
    ],
)  # fmt: skip
def test_transfer_has_the_values_of_relion(changes, expected):
    s, theta = np.array([[0.05, 0.0], [0.1, np.pi / 4], [0.2, np.pi / 2], [0.3, 1.0]]).T
    values = transfer(ctf_parameters(**changes), np.stack([s * np.cos(theta), s * np.sin(theta)], axis=-1))
    np.testing.assert_allclose(values[0], expected, atol=1e-6)


def test_transfer_agrees_with_the_trainers_ctf():
    ctf = simulator.draw_ctf(
        dataclasses.replace(OPTICS["empiar_10180"], astigmatism=3000.0), 9, np.random.default_rng(0)
    )
    frequencies = np.random.default_rng(1).uniform(-0.3, 0.3, (200, 2))
    kx, ky = (torch.from_numpy(c) for c in frequencies.T.copy())
    np.testing.assert_allclose(transfer(ctf, frequencies), contrast_transfer(ctf, kx, ky).numpy(), atol=1e-8)


# --- what is drawn -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPTICS)
def test_defocus_has_the_quantiles_of_the_data_set(name):
    ctf = simulator.draw_ctf(OPTICS[name], 100_000, np.random.default_rng(0))
    mean = (ctf.defocus_u + ctf.defocus_v) / 2e4
    np.testing.assert_allclose(np.quantile(mean, [0.05, 0.5, 0.95]), OPTICS[name].defocus_um, atol=0.015)
    assert ctf.defocus_v.min() > 0 and (ctf.defocus_u >= ctf.defocus_v).all()
    assert np.std(np.concatenate([ctf.defocus_u - ctf.defocus_v, ctf.defocus_v - ctf.defocus_u])) / 2 == pytest.approx(
        200, rel=0.02
    )


def test_noise_is_white_or_has_the_spectrum_of_the_file(tmp_path):
    box_size, n = 32, 400
    power = 1 / (1 + np.arange(17.0)) ** 2
    np.save(tmp_path / "power.npy", power)
    shell = np.rint(np.hypot(np.fft.fftfreq(box_size, 1 / box_size)[:, None], np.fft.fftfreq(box_size, 1 / box_size)))
    for noise, expected in [("white", np.ones(17)), (str(tmp_path / "power.npy"), power)]:
        amplitudes = simulator.noise_amplitudes(noise, box_size)
        images = np.stack([simulator.draw_noise(0, i, box_size, amplitudes) for i in range(n)])
        spectrum = (np.abs(np.fft.fft2(images)) ** 2).mean(0)
        measured = np.array([spectrum[shell == s].mean() for s in range(17)])
        # Shell s holds about 2 pi s n / 2 independent powers, each as uncertain as it is large.
        uncertainty = 5 / np.sqrt(n / 2 * np.maximum(2 * np.pi * np.arange(17), 1))
        assert (
            np.abs(measured[1:] / measured[8] / (expected[1:] / expected[8]) - 1) < uncertainty[1:] + uncertainty[8]
        ).all()
        assert images.var() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("power", [np.ones(5), np.ones((20, 2)), -np.ones(20), np.zeros(20), np.full(20, np.nan)])
def test_unusable_noise_spectra_are_refused_by_name(tmp_path, power):
    np.save(tmp_path / "power.npy", power)
    with pytest.raises(InputError, match=r"power\.npy"):
        simulator.noise_amplitudes(str(tmp_path / "power.npy"), 32)


def test_streams_are_independent_of_each_other_and_of_the_number_of_particles():
    config = Simulation(n_particles=50, box_size=16)
    first, other = (
        simulator.draw_particles(c, None) for c in (config, dataclasses.replace(config, optics="empiar_10180"))
    )
    np.testing.assert_array_equal(first.rotations, other.rotations)
    np.testing.assert_array_equal(first.shifts_angstrom, other.shifts_angstrom)
    assert (first.ctf.defocus_u != other.ctf.defocus_u).all()
    assert np.bincount(first.half_set).tolist() == [0, 25, 25]
    again = simulator.draw_particles(dataclasses.replace(config, seed=1), None)
    assert np.abs(first.rotations - again.rotations).max() > 0.1


# --- the files ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def molecule_file(tmp_path_factory):
    molecule = random_molecule(60, 22.0)
    path = tmp_path_factory.mktemp("molecule") / "random.pdb"
    symbols = {6: "C", 7: "N", 8: "O", 15: "P"}
    lines = []
    for i, (z, (x, y, w)) in enumerate(zip(molecule.elements, molecule.coordinates, strict=True), 1):
        name = symbols[int(z)]
        lines.append(f"ATOM  {i:5d}  {name:3s} GLY A{i:4d}    {x:8.3f}{y:8.3f}{w:8.3f}  1.00  0.00          {name:>2s}")
    path.write_text("\n".join(lines) + "\nEND\n")
    return path


@pytest.fixture(scope="module")
def config(molecule_file):
    return Simulation(molecule=str(molecule_file), n_particles=400, box_size=24, pixel_size=3.0, snr=0.2, seed=7)


@pytest.fixture(scope="module")
def noisy(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("noisy")
    return folder, simulate(config, folder)


@pytest.fixture(scope="module")
def clean(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("clean")
    return folder, simulate(dataclasses.replace(config, snr=math.inf), folder)


def test_signal_noise_and_their_ratio_are_as_asked_for(noisy, clean, config):
    images, signal = noisy[1].images().astype(float), clean[1].images().astype(float)
    slope = (images * signal).sum() / (signal**2).sum()
    residual = images - slope * signal
    n = images.size
    assert abs(residual.std() - 1) < 5 / math.sqrt(2 * n)
    assert abs(residual.mean()) < 5 / math.sqrt(n)
    snr = slope**2 * signal.var() / residual.var()
    slope_error = 1 / math.sqrt((signal**2).sum())
    assert abs(snr / config.snr - 1) < 5 * (2 * slope_error / slope + math.sqrt(2 / n))
    record = json.loads((noisy[0] / "run.json").read_text())
    scale = record["results"]["signal_scale"]
    assert scale == pytest.approx(slope, abs=5 * slope_error)
    assert scale**2 * signal.var() == pytest.approx(config.snr, rel=1e-6)
    assert record["results"]["signal_variance"] == pytest.approx(config.snr)
    assert "variance of the CTF-filtered" in record["results"]["snr_definition"]


def test_the_written_truth_is_the_signal_in_the_images(noisy, clean):
    for (folder, particles), tolerance in ((clean, 1e-5), (noisy, None)):
        truth, voxel_size = read_map(folder / "truth.mrc")
        assert voxel_size == pytest.approx(3.0)
        signal = form_images(truth.astype(float), particles)
        slope = (particles.images() * signal).sum() / (signal**2).sum()
        assert slope == pytest.approx(1, abs=tolerance or 5 / math.sqrt((signal**2).sum()))


def test_pure_noise_has_the_unscaled_truth(config, clean, tmp_path):
    particles = simulate(dataclasses.replace(config, snr=0.0), tmp_path)
    images = particles.images()
    assert abs(images.std() - 1) < 5 / math.sqrt(2 * images.size)
    assert (tmp_path / "truth.mrc").read_bytes() == (clean[0] / "truth.mrc").read_bytes()
    signal = clean[1].images()
    assert abs((images * signal).sum()) < 5 * np.linalg.norm(signal)


def test_two_runs_give_the_same_bytes_whatever_the_chunks(config, noisy, tmp_path):
    simulate(config, tmp_path / "again")
    simulate(config, tmp_path / "chunks", max_bytes=64 * 24**2 * 7)
    for name in ("particles.mrcs", "truth.mrc", "particles.star"):
        reference = (noisy[0] / name).read_bytes()
        assert (tmp_path / "again" / name).read_bytes() == reference
        assert (tmp_path / "chunks" / name).read_bytes() == reference


def test_the_star_file_reads_back(noisy):
    folder, written = noisy
    read = read_particles(folder / "particles.star")
    assert (read.box_size, read.pixel_size, len(read)) == (24, 3.0, 400)
    np.testing.assert_allclose(read.rotations, written.rotations, atol=1e-6)
    np.testing.assert_allclose(read.shifts_angstrom, written.shifts_angstrom, atol=1e-4)
    np.testing.assert_array_equal(read.half_set, written.half_set)
    for field in dataclasses.fields(CtfParameters):
        np.testing.assert_allclose(
            getattr(read.ctf, field.name), getattr(written.ctf, field.name), atol=1e-2, rtol=1e-6
        )
    np.testing.assert_array_equal(read.images(), written.images())


def test_poses_can_be_drawn_from_a_file_whose_images_are_elsewhere(noisy, config, tmp_path):
    (tmp_path / "poses.star").write_bytes((noisy[0] / "particles.star").read_bytes())
    changed = dataclasses.replace(config, poses=str(tmp_path / "poses.star"), n_particles=30)
    particles = simulate(changed, tmp_path / "out")
    distances = np.abs(particles.rotations[:, None] - noisy[1].rotations[None]).max((-1, -2)).min(1)
    assert distances.max() < 1e-6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"snr": -1.0}, "snr"), ({"snr": math.nan}, "snr"), ({"box_size": 25}, "even"),
        ({"n_particles": 1}, "n_particles"),
        ({"optics": "empiar_0"}, "empiar_10028"), ({"molecule": "water"}, "ribosome"), ({"noise": "pink"}, "pink"),
        ({"poses": "nowhere.star"}, "nowhere"), ({"seed": -1}, "seed"), ({"pixel_size": 1.0}, "does not fit"),
    ],
)  # fmt: skip
def test_bad_settings_are_refused_and_nothing_is_written(config, tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        simulate(dataclasses.replace(config, **changes), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_run_that_fails_leaves_what_was_there(config, tmp_path, monkeypatch):
    simulate(dataclasses.replace(config, n_particles=4), tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(simulator, "_add_noise", fail)
    with pytest.raises(OSError, match="no space"):
        simulate(config, tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
