"""The B factor of `postprocess`: fitted where there is signal, past filters, and never beyond what maps have."""

import numpy as np
import pytest

from gsworkbench.assessment.fsc import fourier_shell_correlation, shell_indices
from gsworkbench.assessment.sharpening import STRONGEST, sharpen

BOX = 64


def shaped(seed, gain):
    white = np.fft.rfftn(np.random.default_rng(seed).standard_normal((BOX,) * 3))
    return np.fft.irfftn(white * gain(shell_indices(BOX)), s=(BOX,) * 3, axes=(0, 1, 2))


def half_maps(voxel_size, b_factor, noise, seed=0, gain=lambda s: np.ones(s.shape)):
    """Signal that decays by a B factor, white noise of the given amplitude, and a filter over both."""

    def decay(s):
        return np.exp(b_factor / 4 * (s / (BOX * voxel_size)) ** 2)

    def filtered(volume):
        transform = np.fft.rfftn(volume) * gain(shell_indices(BOX))
        return np.fft.irfftn(transform, s=volume.shape, axes=(0, 1, 2))

    signal = shaped(seed, decay)
    return [filtered(signal + noise * shaped(seed + k, np.ones_like)) for k in (1, 2)], signal


def sharpened(halves, voxel_size, **settings):
    curve = fourier_shell_correlation(*halves, voxel_size=voxel_size)
    return sharpen((halves[0] + halves[1]) / 2, curve, unmasked=curve, **settings)


@pytest.mark.parametrize(("voxel_size", "b_factor"), [(1.5, -80.0), (2.0, -200.0), (1.2, -60.0)])
@pytest.mark.parametrize("seed", [0, 10])
def test_the_b_factor_of_a_signal_in_noise_is_found(voxel_size, b_factor, seed):
    halves, _ = half_maps(voxel_size, b_factor, 0.1, seed)
    found = sharpened(halves, voxel_size)
    assert found.b_factor == pytest.approx(b_factor, abs=0.15 * abs(b_factor) + 10)
    assert "fitted from 10 A to" in found.note and "filtered" not in found.note


@pytest.mark.parametrize("fall", [8, 12])
def test_a_wiener_filter_in_the_half_maps_is_not_taken_for_decay(fall):
    voxel_size, b_factor = 2.0, -100.0
    halves, signal = half_maps(voxel_size, b_factor, 0.4, gain=lambda s: 1 / (1 + np.exp((s - 20) / fall * 3)))
    found, relions = sharpened(halves, voxel_size), sharpened(halves, voxel_size, to_nyquist=True)
    assert relions.b_factor < 2 * b_factor  # the filter, taken for decay
    assert found.b_factor == pytest.approx(b_factor, abs=50) and "they were filtered" in found.note
    plain = sharpened(halves, voxel_size, b_factor=0.0)

    def likeness(result):
        return np.corrcoef(result.volume.ravel(), signal.ravel())[0, 1]

    assert likeness(found) > likeness(plain) - 0.03 and likeness(found) > likeness(relions)


def test_no_fit_where_the_resolution_leaves_no_room_for_one():
    for voxel_size, noise, words in ((6.0, 0.1, "fewer than 3 shells"), (4.0, 0.1, "coarser than 7 A")):
        halves, _ = half_maps(voxel_size, -100.0, noise)
        found = sharpened(halves, voxel_size)
        assert found.b_factor == 0 and found.fit is None and words in found.note
        assert sharpened(halves, voxel_size, b_factor=-120.0).b_factor == -120


def test_a_b_factor_that_maps_do_not_have_is_brought_back_and_said():
    halves, _ = half_maps(2.4, -800.0, 1e-4)
    found = sharpened(halves, 2.4)
    assert found.b_factor == STRONGEST and "-500.0 A^2 is applied" in found.note and "the fit says -" in found.note
    halves, _ = half_maps(2.0, 60.0, 0.05)
    found = sharpened(halves, 2.0)
    assert found.b_factor == 0 and "0.0 A^2 is applied" in found.note
