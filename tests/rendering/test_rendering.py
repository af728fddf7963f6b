"""project() and voxelize(): the reference by closed forms and physics, every other backend against the reference."""

import math

import numpy as np
import pytest
import torch

from gsworkbench import rendering
from gsworkbench.gaussians.mixture import covariances
from gsworkbench.geometry.rotations import random_rotations
from gsworkbench.rendering import available_backends
from gsworkbench.rendering.backends import gpu

WORKING = [name for name, reason in available_backends().items() if reason is None]
FAST = [name for name in WORKING if name != "reference"]
BOX, PIXEL = 20, 1.7


def home(backend):
    """The device that a backend works on. The GPU's works on the CPU too, in Triton's interpreter."""
    return "cuda" if backend == "gpu" and not gpu.supports(torch.zeros(1)) else "cpu"


def project(*tensors, backend=None, **keywords):
    tensors = [t.to(home(backend)) for t in tensors]
    return rendering.project(*tensors, backend=backend, **keywords).cpu()


def voxelize(*tensors, backend=None, **keywords):
    tensors = [t.to(home(backend)) for t in tensors]
    return rendering.voxelize(*tensors, backend=backend, **keywords).cpu()


def mixture(n=7, dtype=torch.float64, seed=0, spread=5.0):
    """Means, covariances and weights of n Gaussians of 0.5 to 3 px, some of negative weight, some off the box."""
    g = torch.Generator().manual_seed(seed)
    means = spread * torch.randn(n, 3, generator=g, dtype=torch.float64)
    scales = PIXEL * (0.5 + 2.5 * torch.rand(n, 3, generator=g, dtype=torch.float64))
    quaternions = torch.randn(n, 4, generator=g, dtype=torch.float64)
    weights = torch.randn(n, generator=g, dtype=torch.float64)
    return means.to(dtype), covariances(scales, quaternions).to(dtype), weights.to(dtype)


def rotations(n, dtype=torch.float64, seed=1):
    return torch.from_numpy(random_rotations(n, np.random.default_rng(seed))).to(dtype)


def test_one_gaussian_in_closed_form():
    """An axis-aligned Gaussian seen along z, value by value."""
    mean, sigma = (
        torch.tensor([[2.0, -3.0, 4.0]], dtype=torch.float64),
        torch.tensor([1.5, 2.0, 3.0], dtype=torch.float64),
    )
    image = project(
        mean, torch.diag(sigma**2)[None], torch.tensor([5.0]).double(), torch.eye(3).double(),
        box_size=BOX, pixel_size=PIXEL, cutoff=None, backend="reference",
    )  # fmt: skip
    x = (torch.arange(BOX) - BOX // 2) * PIXEL
    gx = torch.exp(-((x - 2.0) ** 2) / (2 * 1.5**2)) / (1.5 * math.sqrt(2 * math.pi))
    gy = torch.exp(-((x + 3.0) ** 2) / (2 * 2.0**2)) / (2.0 * math.sqrt(2 * math.pi))
    torch.testing.assert_close(image, 5.0 * gy[:, None] * gx[None, :].double(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("backend", WORKING)
def test_total_weight_and_units(backend):
    """sum(image) p^2 = sum(volume) v^3 = sum(weights)."""
    means, cov, weights = mixture(spread=2.0)
    cov = cov / 4 + PIXEL**2 * torch.eye(3)
    image = project(means, cov, weights, rotations(1)[0], box_size=48, pixel_size=PIXEL, cutoff=None, backend=backend)
    volume = voxelize(means, cov, weights, box_size=32, voxel_size=PIXEL, cutoff=None, backend=backend)
    assert image.sum().item() * PIXEL**2 == pytest.approx(weights.sum().item(), rel=1e-6)
    assert volume.sum().item() * PIXEL**3 == pytest.approx(weights.sum().item(), rel=1e-5)


@pytest.mark.parametrize("backend", WORKING)
def test_a_point_lands_where_the_rotation_sends_it(backend):
    """Centre of mass of the projection of one Gaussian is the xy part of A m; volumes put it at z, y, x."""
    mean = torch.tensor([[6.0, -4.0, 3.0]], dtype=torch.float64)
    cov = 4.0 * torch.eye(3, dtype=torch.float64)[None]
    weight = torch.ones(1, dtype=torch.float64)
    axis = (torch.arange(40, dtype=torch.float64) - 20) * PIXEL
    for rotation in rotations(5):
        image = project(mean, cov, weight, rotation, box_size=40, pixel_size=PIXEL, cutoff=None, backend=backend)
        image = image / image.sum()
        centre = torch.stack([(image * axis[None, :]).sum(), (image * axis[:, None]).sum()])
        torch.testing.assert_close(centre, (rotation @ mean[0])[:2], rtol=0, atol=1e-6)
    volume = voxelize(mean, cov, weight, box_size=40, voxel_size=PIXEL, cutoff=None, backend=backend)
    volume = volume / volume.sum()
    centre = torch.stack([(volume.sum(other) * axis).sum() for other in ((0, 1), (0, 2), (1, 2))])
    torch.testing.assert_close(centre, mean[0], rtol=0, atol=1e-6)


def test_a_projection_is_the_line_integral_of_the_volume():
    means, cov, weights = mixture(spread=2.0)
    cov = cov / 9 + 2 * PIXEL**2 * torch.eye(3)
    image = project(means, cov, weights, torch.eye(3).double(), box_size=48, pixel_size=PIXEL, cutoff=None)
    volume = voxelize(means, cov, weights, box_size=48, voxel_size=PIXEL, cutoff=None)
    torch.testing.assert_close(volume.sum(0) * PIXEL, image, rtol=0, atol=1e-6 * image.abs().max().item())


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("cutoff", [2.0, 3.5, None])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
def test_backends_equal_the_reference_values_and_gradients(backend, cutoff, dtype, tolerance):
    """Against the reference in float64 on the same numbers; covariance gradients five times looser."""
    inputs = [*mixture(40, dtype, spread=9.0), rotations(3, dtype)]
    for render, arguments, keywords in (
        (project, inputs, {"pixel_size": PIXEL}),
        (voxelize, inputs[:3], {"voxel_size": PIXEL}),
    ):
        results = []
        for name, kind in (("reference", torch.float64), (backend, dtype)):
            leaves = [t.detach().to(kind).requires_grad_() for t in arguments]
            output = render(*leaves, box_size=BOX, cutoff=cutoff, backend=name, **keywords)
            cotangent = torch.randn(output.shape, generator=torch.Generator().manual_seed(2))
            gradients = list(torch.autograd.grad(output, leaves, cotangent.to(kind)))
            gradients[1] = gradients[1] + gradients[1].mT  # only the symmetric part is defined
            results.append([output.detach(), *gradients])
        tolerances = [tolerance, tolerance, 5 * tolerance, tolerance, tolerance]
        for expected, got, allowed in zip(*results, tolerances, strict=False):
            torch.testing.assert_close(got.double(), expected, rtol=0, atol=allowed * expected.abs().max().item())


@pytest.mark.parametrize("backend", WORKING)
def test_gradcheck(backend):
    means, cov, weights = mixture(3)
    leaves = [t.requires_grad_() for t in (means, cov, weights, rotations(2))]

    def image(m, c, w, r):
        return project(m, (c + c.mT) / 2, w, r, box_size=8, pixel_size=PIXEL, cutoff=None, backend=backend)

    def volume(m, c, w):
        return voxelize(m, (c + c.mT) / 2, w, box_size=6, voxel_size=PIXEL, cutoff=None, backend=backend)

    assert torch.autograd.gradcheck(image, leaves)
    assert torch.autograd.gradcheck(volume, leaves[:3])


@pytest.mark.parametrize("backend", WORKING)
def test_order_does_not_matter_and_projection_is_linear(backend):
    means, cov, weights = mixture(12)
    r = rotations(1)
    arguments = {"box_size": BOX, "pixel_size": PIXEL, "backend": backend}
    whole = project(means, cov, weights, r, **arguments)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(project(means[order], cov[order], weights[order], r, **arguments), whole)
    parts = project(means[:5], cov[:5], weights[:5], r, **arguments) + project(
        means[5:], cov[5:], weights[5:], r, **arguments
    )
    torch.testing.assert_close(parts, whole)


@pytest.mark.parametrize("backend", WORKING)
def test_empty_off_box_and_enormous(backend):
    means, cov, weights = mixture(4)
    arguments = {"box_size": BOX, "pixel_size": PIXEL, "backend": backend}
    assert not project(means[:0], cov[:0], weights[:0], rotations(2), **arguments).any()
    assert project(means, cov, weights, rotations(0), **arguments).shape == (0, BOX, BOX)
    assert not project(means + 1e4, cov, weights, rotations(2), **arguments).any()
    assert not voxelize(means + 1e4, cov, weights, box_size=BOX, voxel_size=PIXEL, backend=backend).any()
    wide = project(means, 1e8 * cov, weights, rotations(2), **arguments)
    assert torch.isfinite(wide).all()
    thin = project(means, 1e-10 * cov, weights, rotations(2), **arguments)  # falls between the pixels
    assert torch.isfinite(thin).all()


def test_leading_dimensions_of_rotations():
    means, cov, weights = mixture(4)
    r = rotations(6).reshape(2, 3, 3, 3)
    batch = project(means, cov, weights, r, box_size=BOX, pixel_size=PIXEL)
    assert batch.shape == (2, 3, BOX, BOX)
    torch.testing.assert_close(batch[1, 2], project(means, cov, weights, r[1, 2], box_size=BOX, pixel_size=PIXEL))


def test_bad_arguments_are_named():
    means, cov, weights = mixture(4)
    arguments = {"box_size": BOX, "pixel_size": PIXEL}
    means[2, 1] = math.nan
    with pytest.raises(ValueError, match="Gaussian 2 is not finite"):
        project(means, cov, weights, rotations(1), **arguments)
    with pytest.raises(ValueError, match="no backend 'cuda9'"):
        project(means[:2], cov[:2], weights[:2], rotations(1), backend="cuda9", **arguments)
    with pytest.raises(ValueError, match="must be"):
        project(means[:2], cov, weights, rotations(1), **arguments)


def test_a_projection_is_the_central_slice_of_the_volume_for_wide_gaussians():
    """Inside the disc |k| < D/2, at 1.5 px: two samplings of the same mixture, which alias by 2e-6 (1e-5 asked for)."""
    from gsworkbench.imaging.fourier import disc
    from gsworkbench.simulation import simulate

    means, _, weights = mixture(30, spread=5.0)
    cov = (1.5 * PIXEL) ** 2 * torch.eye(3, dtype=torch.float64).expand(30, 3, 3)
    views = rotations(4)
    volume = voxelize(means, cov, weights, box_size=32, voxel_size=PIXEL, cutoff=None)
    slices = torch.fft.rfft2(torch.from_numpy(simulate.project(volume.numpy(), views.numpy(), pixel_size=PIXEL)))
    images = torch.fft.rfft2(project(means, cov, weights, views, box_size=32, pixel_size=PIXEL, cutoff=None))
    inside = disc(32)
    difference = (slices - images)[:, inside].abs().square().sum() / images[:, inside].abs().square().sum()
    assert float(difference.sqrt()) < 1e-5
