"""ctf.py against RELION's values, against the textbook formula, and against the simulator's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gsworkbench.imaging.ctf import contrast_transfer, ctf_grid, wavelength
from gsworkbench.particles.stack import CtfParameters


def ctf_parameters(n: int = 1, **changes: float) -> CtfParameters:
    """n particles of one CTF: the first row of golden values, with `changes`."""
    values = {
        "defocus_u": 15000.0, "defocus_v": 14000.0, "defocus_angle": 30.0, "voltage_kv": 300.0,
        "spherical_aberration_mm": 2.7, "amplitude_contrast": 0.1, "phase_shift": 0.0, "b_factor": 0.0, "scale": 1.0,
    } | changes  # fmt: skip
    return CtfParameters(**{name: np.full(n, value) for name, value in values.items()})


# Values of RELION 5's CTF at |k| (1/A) and angle of k (rad).
POINTS = np.array([[0.05, 0.0], [0.1, np.pi / 4], [0.2, np.pi / 2], [0.3, 1.0]])
PHASE_PLATE = {
    "voltage_kv": 200.0, "spherical_aberration_mm": 0.01, "amplitude_contrast": 0.07, "phase_shift": 90.0,
    "b_factor": 50.0, "scale": 0.9,
}  # fmt: skip
GOLDEN = [
    ({}, 0.0196876153, [0.69088466, 0.12054256, -0.27596143, -0.95401405]),
    (PHASE_PLATE, 0.0250794936, [-0.86029196, 0.59137195, 0.29776255, -0.09155626]),
]


def at(parameters: CtfParameters, points: np.ndarray, dtype: torch.dtype = torch.float64) -> np.ndarray:
    kx, ky = (torch.from_numpy(points[:, 0] * f(points[:, 1])) for f in (np.cos, np.sin))
    return contrast_transfer(parameters, kx, ky, dtype=dtype).numpy()


@pytest.mark.parametrize(("changes", "expected_wavelength", "expected"), GOLDEN)
def test_golden_values_of_relion(changes, expected_wavelength, expected):
    parameters = ctf_parameters(**changes)
    np.testing.assert_allclose(wavelength(parameters.voltage_kv), expected_wavelength, rtol=1e-8)
    np.testing.assert_allclose(at(parameters, POINTS)[0], expected, atol=1e-6)


def test_origin_is_plus_amplitude_contrast():
    assert at(ctf_parameters(), np.zeros((1, 2))).item() == pytest.approx(0.1, abs=1e-12)


def test_agrees_with_the_formula_as_printed_particle_by_particle():
    rng = np.random.default_rng(1)
    n = 7
    p = CtfParameters(
        defocus_u=rng.uniform(3e3, 4e4, n), defocus_v=rng.uniform(3e3, 4e4, n), defocus_angle=rng.uniform(-180, 180, n),
        voltage_kv=rng.choice([120.0, 200.0, 300.0], n), spherical_aberration_mm=rng.uniform(0, 3, n),
        amplitude_contrast=rng.uniform(0, 0.3, n), phase_shift=rng.uniform(0, 180, n), b_factor=rng.uniform(0, 99, n),
        scale=rng.uniform(0.5, 1.5, n),
    )  # fmt: skip
    points = np.stack([rng.uniform(0, 0.4, 50), rng.uniform(-np.pi, np.pi, 50)], axis=-1)
    expected = np.empty((n, len(points)))
    for i in range(n):
        s, theta = points.T
        length = wavelength(p.voltage_kv[i])
        dz = (p.defocus_u[i] + p.defocus_v[i]) / 2
        dz = dz + (p.defocus_u[i] - p.defocus_v[i]) / 2 * np.cos(2 * (theta - np.deg2rad(p.defocus_angle[i])))
        phase = np.pi * length * dz * s**2 - np.pi / 2 * p.spherical_aberration_mm[i] * 1e7 * length**3 * s**4
        phase = phase + np.deg2rad(p.phase_shift[i]) + np.arcsin(p.amplitude_contrast[i])
        expected[i] = np.sin(phase) * p.scale[i] * np.exp(-p.b_factor[i] * s**2 / 4)
    np.testing.assert_allclose(at(p, points), expected, atol=1e-9)


def test_single_precision_holds_at_phases_of_hundreds_of_radians():
    parameters = ctf_parameters(defocus_u=60000.0, defocus_v=50000.0)
    double = ctf_grid(parameters, 256, 1.0, dtype=torch.float64)
    single = ctf_grid(parameters, 256, 1.0)
    assert single.dtype == torch.float32
    assert (single - double).abs().max() < 1e-6


def test_grid_has_the_layout_of_rfft2():
    parameters = ctf_parameters(2, defocus_u=9000.0)
    grid = ctf_grid(parameters, 16, 3.0, dtype=torch.float64)
    assert grid.shape == (2, 16, 9)
    iy, ix = 13, 4  # ky = -3, kx = 4
    kx, ky = torch.tensor(4 / 48.0, dtype=torch.float64), torch.tensor(-3 / 48.0, dtype=torch.float64)
    torch.testing.assert_close(grid[:, iy, ix], contrast_transfer(parameters, kx, ky))
    assert not torch.allclose(grid[:, 3, 4], grid[:, 13, 4])  # astigmatism tells ky from -ky


def test_v_above_u_is_the_same_as_turning_the_axes():
    swapped = ctf_parameters(defocus_u=14000.0, defocus_v=15000.0, defocus_angle=120.0)
    np.testing.assert_allclose(at(swapped, POINTS), at(ctf_parameters(), POINTS), atol=1e-12)
