"""Loss and gradient of the normal equations against sums over particles, written out in float64, no grid."""

import numpy as np
import pytest
import torch

from gsworkbench.normal_equations.equations import accumulate
from gsworkbench.rendering import project, voxelize
from gsworkbench.simulation import simulate
from gsworkbench.simulation.simulation_config import Simulation

BOX, PIXEL = 24, 16.0


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    return simulate.simulate(Simulation(n_particles=24, box_size=BOX, pixel_size=PIXEL, snr=0.5), folder)


def mixture(sigma):
    """Means, covariances, weights of Gaussians of `sigma` px well inside the box, on the scale of the images."""
    generator = torch.Generator().manual_seed(0)
    means = (PIXEL * 1.5 * torch.randn(12, 3, generator=generator, dtype=torch.float64)).clamp(-3 * PIXEL, 3 * PIXEL)
    weights = 4 * PIXEL**2 * torch.rand(12, generator=generator, dtype=torch.float64)
    covariances = (sigma * PIXEL) ** 2 * torch.eye(3, dtype=torch.float64).expand(12, 3, 3)
    return means.requires_grad_(), covariances, weights.requires_grad_()


def sampled(means, covariances, weights):
    return voxelize(means, covariances, weights, box_size=BOX, voxel_size=PIXEL, cutoff=None, backend="reference")


def wave(frequencies):
    """exp(-2 pi i k j / D) for places j from the origin D // 2, (number of frequencies, D)."""
    places = torch.arange(BOX, dtype=torch.float64) - BOX // 2
    return torch.exp(-2j * torch.pi / BOX * torch.as_tensor(frequencies)[:, None] * places)


def error_of(transforms, stack):
    """sum_i |C_i P_i - y_i|^2 over pixels, of what lies in the strict disc without k = 0.

    transforms: (n, m) of the projections.
    """
    k = simulate.half_disc(BOX)
    ctf = torch.from_numpy(simulate.transfer(stack.ctf, k / (BOX * PIXEL)))
    shifts = torch.from_numpy(stack.shifts_angstrom / (BOX * PIXEL)) @ torch.from_numpy(k.T).double()
    images = torch.from_numpy(stack.images()).to(torch.complex128)
    observed = torch.einsum("nyx,my,mx->nm", images, wave(k[:, 1]), wave(k[:, 0])) * torch.exp(-2j * torch.pi * shifts)
    twice = torch.from_numpy(np.where(k[:, 0] == 0, 1.0, 2.0) * k.any(1))
    return ((ctf * transforms - observed).abs().square() * twice).sum() / BOX**2


def slices(volume, stack):
    """(n, m) transforms of the projections of a volume: sums over its voxels, one particle at a time."""
    k = torch.from_numpy(simulate.half_disc(BOX)).double()
    rows = []
    for rotation in torch.from_numpy(stack.rotations):
        x, y, z = (rotation[:2].T @ k.T).unbind(0)
        in_plane = torch.einsum("zyx,mx->zym", volume.to(torch.complex128), wave(x))
        rows.append(PIXEL * torch.einsum("zym,my,mz->m", in_plane, wave(y), wave(z)))
    return torch.stack(rows)


def loss_and_gradient(sums, volume):
    """<V, K * V> - 2 <b, V> + energy, and 2 (K * V - b)."""
    kernel = sums.kernel(circular=False)
    shape = (2 * BOX,) * 3
    convolved = torch.fft.irfftn(torch.fft.rfftn(volume, s=shape) * kernel, s=shape)[:BOX, :BOX, :BOX]
    b = sums.b()
    return float((volume * (convolved - 2 * b)).sum()) + sums.energy, 2 * (convolved - b)


def distance(a, b):
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("sigma", [0.5, 1.0, 1.5])
def test_loss_and_gradient_are_direct_sums_over_central_slices(stack, sigma):
    """Of the map, and of means and weights. finufft is asked for 1e-9, the images come as float32."""
    means, covariances, weights = mixture(sigma)
    volume = sampled(means, covariances, weights)
    volume.retain_grad()
    direct = error_of(slices(volume, stack), stack)
    direct.backward()
    expected = [volume.grad, means.grad.clone(), weights.grad.clone()]
    means.grad = weights.grad = None
    loss, gradient = loss_and_gradient(accumulate(stack, engine="finufft"), volume.detach())
    sampled(means, covariances, weights).backward(gradient)
    assert loss == pytest.approx(float(direct.detach()), rel=1e-5)
    for found, true in zip([gradient, means.grad, weights.grad], expected, strict=True):
        assert distance(found, true) < 1e-5


def test_gridding_equals_finufft_to_a_thousandth(tmp_path):
    """Loss, and gradient of means and weights. Trilinear errors average out over particles: with 24, it is 4e-3."""
    config = Simulation(n_particles=1500, box_size=BOX, pixel_size=PIXEL, snr=0.1)
    stack = simulate.simulate(config, tmp_path)
    means, covariances, weights = mixture(1.0)
    found = []
    for engine in ("gridding", "finufft"):
        volume = sampled(means, covariances, weights)
        loss, gradient = loss_and_gradient(accumulate(stack, engine=engine), volume.detach())
        volume.backward(gradient)
        found.append((loss, means.grad.clone(), weights.grad.clone()))
        means.grad = weights.grad = None
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-3)
    assert distance(found[0][1], found[1][1]) < 1e-3
    assert distance(found[0][2], found[1][2]) < 1e-3


@pytest.mark.parametrize("sigma, of_means", [(1.5, 5e-5), (1.75, 1e-5)])
def test_loss_and_gradient_are_those_of_projected_gaussians_from_one_and_a_half_pixels(stack, sigma, of_means):
    """Two samplings of a mixture alias differently near Nyquist, where a gradient of means looks most: 3e-5 at 1.5."""
    means, covariances, weights = mixture(sigma)
    views = torch.from_numpy(stack.rotations)
    keywords = {"box_size": BOX, "pixel_size": PIXEL, "cutoff": None, "backend": "reference"}
    images = project(means, covariances, weights, views, **keywords)
    k = simulate.half_disc(BOX)
    transforms = torch.einsum("nyx,my,mx->nm", images.to(torch.complex128), wave(k[:, 1]), wave(k[:, 0]))
    direct = error_of(transforms, stack)
    direct.backward()
    expected = means.grad.clone(), weights.grad.clone()
    means.grad = weights.grad = None
    volume = sampled(means, covariances, weights)
    loss, gradient = loss_and_gradient(accumulate(stack, engine="finufft"), volume.detach())
    volume.backward(gradient)
    assert loss == pytest.approx(float(direct.detach()), rel=1e-5)
    assert distance(means.grad, expected[0]) < of_means
    assert distance(weights.grad, expected[1]) < 1e-5
