"""The neural field: hand, centre and scale against the truth in both domains; its symmetry, its gradient, its seeds."""

import dataclasses

import numpy as np
import pytest
import torch

from gsworkbench.assessment.agreement import agreement
from gsworkbench.imaging.fourier import centred_rfft2
from gsworkbench.methods.neural_field import NeuralField
from gsworkbench.methods.neural_field_fit import (
    Field,
    components,
    encoding_factors,
    fit_neural_field,
    sample,
    transform,
)

SMALL = NeuralField(width=64, n_layers=2, n_epochs=3, n_components=96, learning_rate=3e-3)


@pytest.mark.parametrize("domain", ["hartley", "fourier"])
def test_hand_centre_and_scale(clean_set, domain):
    fitted = fit_neural_field(clean_set.stack, dataclasses.replace(SMALL, domain=domain))
    found = agreement(fitted.volume, clean_set.truth)
    assert found.correlation > 0.8 and found.correlation > found.mirrored_correlation + 0.15
    assert np.abs(found.shift_voxels).max() < 0.1
    assert found.slope == pytest.approx(1, abs=0.3)
    assert fitted.losses[-1] < fitted.losses[0]


@pytest.mark.parametrize("domain", ["hartley", "fourier"])
def test_a_map_has_the_slices_of_its_field(domain):
    """What the loss compares with data is the transform of the map that comes out, at the map's own frequencies."""
    config, box = dataclasses.replace(SMALL, domain=domain), 16
    torch.manual_seed(0)
    field = Field(box, config)
    slice_ = centred_rfft2(sample(field, box, config).sum(0))  # the sum along z is the slice kz = 0
    for kx, ky in ((3, 0), (2, -5), (0, 4), (1, 6)):
        k = torch.tensor([[kx, ky, 0.0]]) / box
        with torch.no_grad():
            value = transform(field, k, config)[0]
        expected = slice_[ky, kx]
        if domain == "hartley":
            expected = expected.real - expected.imag
        if kx:  # on the plane x = 0 an inverse transform averages k and -k
            torch.testing.assert_close(value, expected, rtol=1e-3, atol=1e-4)


def test_components_are_those_of_the_images_without_noise(clean_set):
    """The truth's own slices, times the CTF, match the data: frequencies, CTF and shifts belong together."""
    config = dataclasses.replace(SMALL, domain="fourier", n_components=None)
    part = clean_set.stack[np.arange(40)]
    k, ctf, data = components(part, config, np.random.default_rng(0))
    truth = torch.from_numpy(clean_set.truth.astype(np.float64))
    at = 32 * k.double()
    low = at.norm(dim=1) < 4
    axis = torch.arange(32) - 16
    turns = [torch.exp(-2j * torch.pi * at[low][:, [i]] * axis / 32) for i in range(3)]
    slices = torch.einsum("zyx,mx,my,mz->m", truth.to(torch.complex128), *turns) * part.pixel_size
    predicted = slices * ctf[low]
    correlation = (predicted.conj() * data[low]).sum().real / (predicted.norm() * data[low].norm())
    assert float(correlation) > 0.98


def test_encoding_runs_from_a_wave_per_box_to_nyquist():
    factors = encoding_factors(64)
    assert float(factors[0]) == pytest.approx(np.pi * 64)
    assert float(factors[-1]) == pytest.approx(2 * np.pi)
    assert len(factors) == 32


def test_the_same_seed_gives_the_same_bits(noisy_set):
    few, config = noisy_set.stack[np.arange(40)], dataclasses.replace(SMALL, n_epochs=1)
    first, again, other = (fit_neural_field(few, config, seed=s).volume for s in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_as_published_it_has_the_published_size():
    field = Field(128, NeuralField(width=1024, n_layers=3))
    inputs = 3 * 128  # sine and cosine of D / 2 wavelengths along three axes
    assert sum(p.numel() for p in field.parameters()) == (inputs + 1) * 1024 + 3 * 1025 * 1024 + 1025
