"""The data term equals the squared error spelled out, image by image; shifts and total weight by physics."""

import numpy as np
import pytest
import torch

from gsworkbench.imaging.fourier import centred_rfft2, crop_half_plane, disc, half_plane_frequencies
from gsworkbench.imaging.residual import data_term, form_images, squared_error, total_weight
from gsworkbench.imaging.transfer import shift_phases


def test_loss_and_gradient_equal_the_direct_squared_error(noisy_set):
    stack = noisy_set.stack[np.arange(6)]
    projections = torch.randn(6, 32, 32, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
    # Band-limit data and model to the disc, then take the plain mean square of their difference less its mean.
    images = torch.from_numpy(stack.images()).double()
    kept = torch.fft.irfft2(torch.fft.rfft2(images) * disc(32), s=(32, 32))
    difference = form_images(projections, stack) - kept
    direct = ((difference - difference.mean((1, 2), keepdim=True)) ** 2).mean()
    (expected,) = torch.autograd.grad(direct, projections)
    kernel, filtered, energy = data_term(stack).batch(np.arange(6))
    loss, gradient = squared_error(projections.float(), kernel, filtered, energy)
    assert float(loss) == pytest.approx(direct.item(), rel=1e-5)
    torch.testing.assert_close(gradient.double(), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_streaming_from_disk_equals_keeping_in_memory(noisy_set):
    stack = noisy_set.stack
    indices = np.array([17, 3, 250])
    for kept, streamed in zip(
        data_term(stack, boost=2.0).batch(indices),
        data_term(stack, boost=2.0, max_cache_bytes=0).batch(indices),
        strict=True,
    ):
        torch.testing.assert_close(kept, streamed, rtol=1e-5, atol=1e-5)


def test_shifting_moves_content_by_plus_the_shift():
    image = torch.zeros(1, 16, 16)
    image[0, 8, 8] = 1
    ky, kx = half_plane_frequencies(16)
    phases = shift_phases([[3 * 2.0, -2 * 2.0]], 16 * 2.0, kx, ky)
    moved = torch.fft.irfft2(torch.fft.rfft2(image) * phases, s=(16, 16))
    assert moved[0].argmax() == (8 - 2) * 16 + 8 + 3  # x to the right, y up the rows


def test_images_are_formed_as_the_simulator_forms_them(clean_set):
    """Two programs, one image: line integral of the truth, CTF and shift, by the simulator's own code and by ours."""
    from gsworkbench.simulation import simulate

    stack = clean_set.stack[np.arange(20)]
    truth = clean_set.truth.astype(float)
    expected = simulate.form_images(truth, stack)
    projections = torch.from_numpy(simulate.project(truth, stack.rotations, pixel_size=stack.pixel_size)).double()
    ours = form_images(projections, stack)
    assert np.abs(ours.numpy() - expected).max() < 1e-4 * np.abs(expected).max()


def test_total_weight_is_found_and_dark_protein_is_told(clean_set):
    truth = float(clean_set.truth.sum()) * 12.0**3
    weight, error = total_weight(clean_set.stack)
    assert weight == pytest.approx(truth, rel=0.25)
    dark = clean_set.stack.__class__(**{**clean_set.stack.__dict__, "data_sign": -clean_set.stack.data_sign})
    weight, error = total_weight(dark)
    assert weight < -3 * error


def test_cropping_keeps_pixel_values():
    axis = torch.arange(32) - 16
    smooth = torch.exp(-(axis[:, None] ** 2 + (axis - 2.0) ** 2) / (2 * 3.0**2))
    small = torch.fft.fftshift(torch.fft.irfft2(crop_half_plane(centred_rfft2(smooth), 16), s=(16, 16)))
    torch.testing.assert_close(small, smooth[::2, ::2], rtol=0, atol=1e-4)
