"""3D Gaussian splatting off the shelf: what it renders is what gsplat would, and it is not a projection."""

import importlib.util

import numpy as np
import pytest
import torch

from gsworkbench.assessment.agreement import agreement
from gsworkbench.errors import NotRun
from gsworkbench.methods import splatting_3dgs_fit as blended
from gsworkbench.methods.splatting_3dgs import Splatting3dgs
from gsworkbench.methods.splatting_3dgs_fit import STAND_IN, as_density, begin, fit_splatting_3dgs, render

needs_gsplat = pytest.mark.skipif(importlib.util.find_spec("gsplat") is None, reason="gsplat is not installed")
FEW = Splatting3dgs(n_gaussians=100, n_steps=400, rate_means=1e-3)


def one(x=0.0, y=0.0, z=0.0, opacity=0.5, scale=0.05):
    return {
        "means": torch.tensor([[x, y, z]]),
        "log_scales": torch.full((1, 3), float(np.log(scale))),
        "quaternions": torch.tensor([[1.0, 0, 0, 0]]),
        "logit_opacities": torch.logit(torch.tensor([opacity])),
        "raw_colours": torch.tensor([0.5413]),  # softplus of it is 1
    }


def both(a, b):
    return {name: torch.cat([a[name], b[name]]) for name in a}


@needs_gsplat
def test_its_centre_is_between_pixels_and_its_height_the_opacity():
    image = render(one(opacity=0.5), torch.eye(3), 0.0, 32, STAND_IN)
    peak = image[15:17, 15:17]  # the four pixels around the centre of the box
    torch.testing.assert_close(peak, peak.mean().expand(2, 2))
    sigma = 0.05 * 32
    assert float(peak[0, 0]) == pytest.approx(0.5 * np.exp(-0.5 * 0.5 / sigma**2), rel=1e-3)


@needs_gsplat
def test_it_hides_what_lies_behind_where_a_projection_would_add():
    near, far = one(z=-0.2, opacity=0.9), one(z=0.2, opacity=0.9)
    alone = float(render(near, torch.eye(3), 0.0, 32, STAND_IN).max())
    together = float(render(both(near, far), torch.eye(3), 0.0, 32, STAND_IN).max())
    assert together < 1.2 * alone  # a sum would be twice as high


@needs_gsplat
def test_x_is_right_y_up_the_rows_and_the_rotation_ours():
    image = render(one(x=0.25), torch.eye(3), 0.0, 32, STAND_IN)
    assert int(image.argmax()) % 32 in (23, 24) and int(image.argmax()) // 32 in (15, 16)
    turned = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])  # takes x to y
    image = render(one(x=0.25), turned, 0.0, 32, STAND_IN)
    assert int(image.argmax()) // 32 in (23, 24) and int(image.argmax()) % 32 in (15, 16)


@needs_gsplat
def test_it_learns_and_says_by_what_it_was_rendered(clean_set):
    fitted = fit_splatting_3dgs(clean_set.stack, FEW)
    assert fitted.losses[-1] < fitted.losses[0]
    assert "gsplat" in fitted.rendered_by and (torch.cuda.is_available() or "no GPU" in fitted.rendered_by)
    found = agreement(fitted.volume, clean_set.truth)
    assert found.correlation > 0.4
    total = float(fitted.volume.sum()) * 12.0**3
    assert total == pytest.approx(float(clean_set.truth.sum()) * 12.0**3, rel=0.3)


def test_density_is_as_high_as_opacity_times_colour():
    model = as_density({k: v for k, v in both(one(scale=0.05), one(scale=0.1)).items()}, edge=100.0, weight=1.0)
    heights = model.weights / (model.scales.prod(1) * (2 * np.pi) ** 1.5)
    assert float(heights[0]) == pytest.approx(float(heights[1]), rel=1e-4)
    assert float(model.weights.sum()) == pytest.approx(1.0)


def test_it_begins_as_it_says():
    parameters = begin(Splatting3dgs(n_gaussians=50), seed=1)
    assert float(torch.sigmoid(parameters["logit_opacities"]).detach().mean()) == pytest.approx(0.1)
    assert all(p.requires_grad for p in parameters.values())


def test_without_gsplat_it_is_not_run(clean_set, monkeypatch):
    monkeypatch.setattr(blended.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(NotRun, match="gsplat is not installed"):
        fit_splatting_3dgs(clean_set.stack, FEW)
