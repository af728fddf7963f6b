"""Rasterising by tiles equals the one definition of a projection; thresholds, orders and compositing are as said."""

import numpy as np
import pytest
import torch

from gsworkbench.geometry.rotations import random_rotations
from gsworkbench.rendering import project, tiles
from gsworkbench.rendering.tiles import composite, list_length, project_tiled

BOX, PIXEL = 40, 2.0  # 40 is not a multiple of the tiles' 16


def mixture(n=60, seed=0):
    generator = torch.Generator().manual_seed(seed)
    means = 12 * torch.randn(n, 3, generator=generator)
    factor = 3.0 * torch.eye(3) + torch.randn(n, 3, 3, generator=generator)
    weights = 50 * torch.rand(n, generator=generator)
    views = torch.from_numpy(random_rotations(3, np.random.default_rng(seed))).float()
    return means, factor @ factor.mT, weights, views


def gradients(render, inputs, cotangent):
    inputs = [t.clone().requires_grad_() for t in inputs]
    image = render(*inputs)
    return image.detach(), torch.autograd.grad(image, inputs, cotangent)


@pytest.mark.parametrize("backward", ["gather", "scatter"])
@pytest.mark.parametrize("order", ["listed", "depth"])
def test_equals_the_projection_values_and_gradients(order, backward):
    inputs, grid = mixture(), {"box_size": BOX, "pixel_size": PIXEL, "cutoff": 7.0}
    cotangent = torch.randn(3, BOX, BOX, generator=torch.Generator().manual_seed(1))
    image, found = gradients(lambda *a: project_tiled(*a, order=order, backward=backward, **grid), inputs, cotangent)
    expected_image, expected = gradients(lambda *a: project(*a, **grid), inputs, cotangent)
    torch.testing.assert_close(image, expected_image, rtol=1e-4, atol=1e-6)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=5e-3, atol=2e-4 * float(b.abs().max()))


def test_contributions_below_the_threshold_are_skipped_pixel_by_pixel():
    means, covariances, weights, views = mixture(n=20)
    grid = {"box_size": BOX, "pixel_size": PIXEL, "cutoff": 7.0}
    skip = 0.02
    each = torch.stack([project(means[[i]], covariances[[i]], weights[[i]], views, **grid) for i in range(20)])
    expected = torch.where(each >= skip, each, 0).sum(0)
    found = project_tiled(means, covariances, weights, views, skip_below=skip, **grid)
    close = (found - expected).abs() < 1e-4
    assert close.float().mean() > 0.999  # a contribution equal to the threshold may round either way
    assert float((expected - each.sum(0)).abs().max()) > 0.01  # the threshold does something


def test_skipped_contributions_have_no_gradient():
    means, covariances, weights, views = mixture(n=1)
    weights = weights.clone().requires_grad_()
    grid = {"box_size": BOX, "pixel_size": PIXEL, "cutoff": 7.0}
    for backward in ("gather", "scatter"):
        image = project_tiled(means, covariances, weights, views, skip_below=1e9, backward=backward, **grid)
        (gradient,) = torch.autograd.grad(image.sum(), weights)
        assert not image.any() and not gradient.any()


def test_lists_hold_a_gaussian_once_for_each_tile_it_touches():
    one = torch.zeros(1, 3), torch.eye(3)[None], torch.eye(3)[None]
    # Standard deviation half a pixel, three of them: within the tile of pixels 16 to 31 around pixel 20.
    assert list_length(*one, box_size=BOX, pixel_size=PIXEL, cutoff=3.0) == 1
    assert list_length(*one, box_size=BOX, pixel_size=PIXEL, cutoff=12.0) == 4  # 14 .. 26 in x and y
    assert list_length(*one, box_size=BOX, pixel_size=PIXEL, cutoff=100.0) == 9


def blended(centres, conics, opacities, colours, depths, box):
    """The definition: all pixels, nearest first, alpha below 1/255 skipped. Stops are too rare to matter here."""
    y, x = torch.meshgrid(torch.arange(box), torch.arange(box), indexing="ij")
    light, image = torch.ones(box, box), torch.zeros(box, box)
    for i in torch.argsort(depths).tolist():
        dx, dy = x - centres[i, 0], y - centres[i, 1]
        power = -0.5 * (conics[i, 0] * dx**2 + 2 * conics[i, 1] * dx * dy + conics[i, 2] * dy**2)
        alpha = (opacities[i] * power.exp()).clamp_max(0.999)
        alpha = torch.where(alpha < 1 / 255, 0.0, alpha)
        image = image + colours[i] * alpha * light
        light = light * (1 - alpha)
    return image


def test_compositing_equals_its_definition_values_and_gradients():
    generator = torch.Generator().manual_seed(4)
    n = 15
    centres = 20 + 6 * torch.randn(n, 2, generator=generator)
    factor = 0.3 * torch.eye(2) + 0.1 * torch.randn(n, 2, 2, generator=generator)
    inverse = factor @ factor.mT
    conics = torch.stack([inverse[:, 0, 0], inverse[:, 0, 1], inverse[:, 1, 1]], -1)
    opacities, colours = (torch.rand(n, generator=generator) for _ in range(2))
    depths = torch.randn(n, generator=generator)
    cotangent = torch.randn(BOX, BOX, generator=generator)
    inputs = centres, conics, 0.05 + 0.4 * opacities, colours
    image, found = gradients(lambda *a: composite(*a, depths, BOX), inputs, cotangent)
    expected_image, expected = gradients(lambda *a: blended(*a, depths, BOX), inputs, cotangent)
    torch.testing.assert_close(image, expected_image, rtol=1e-4, atol=1e-5)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=2e-3 * float(b.abs().max()))


class Away(torch.Tensor):
    """A tensor that stands for one on a GPU, as does all that is computed from it, until it is brought to the CPU."""

    def cpu(self):
        return self.as_subclass(torch.Tensor)


def test_what_is_on_a_gpu_is_brought_to_the_cpu_before_cpp_gets_its_address(monkeypatch):
    address = tiles._pointers
    given = []
    monkeypatch.setattr(tiles, "_pointers", lambda *tensors: (given.extend(map(type, tensors)), address(*tensors))[1])
    inputs, grid = mixture(), {"box_size": BOX, "pixel_size": PIXEL, "cutoff": 3.0}
    away = [t.as_subclass(Away) for t in inputs]
    assert isinstance(away[0] @ away[3][0], Away)
    torch.testing.assert_close(
        project_tiled(*away, skip_below=1e-5, **grid), project_tiled(*inputs, skip_below=1e-5, **grid)
    )
    means, covariances, _, views = away
    assert list_length(means, covariances, views, **grid) == list_length(inputs[0], inputs[1], inputs[3], **grid)
    assert given and set(given) == {torch.Tensor}


def test_an_address_of_another_device_is_refused():
    with pytest.raises(TypeError, match="given a tensor on meta"):
        tiles._pointers(torch.empty(3), torch.empty(3, device="meta"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_values_and_gradients_on_a_gpu_are_those_of_the_cpu():
    inputs, grid = mixture(), {"box_size": BOX, "pixel_size": PIXEL, "cutoff": 3.0, "skip_below": 1e-3}
    cotangent = torch.randn(3, BOX, BOX, generator=torch.Generator().manual_seed(1))
    image, expected = gradients(lambda *a: project_tiled(*a, **grid), inputs, cotangent)
    on_gpu, found = gradients(lambda *a: project_tiled(*a, **grid), [t.cuda() for t in inputs], cotangent.cuda())
    torch.testing.assert_close(on_gpu.cpu(), image, rtol=1e-4, atol=1e-6)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.cpu(), b, rtol=5e-3, atol=2e-4 * float(b.abs().max()))
