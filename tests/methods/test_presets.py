"""Recipes of the papers as rows: every preset's gradient is that of its error, and each option does what it says."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from gsworkbench.assessment.agreement import agreement
from gsworkbench.gaussians.mixture import Gaussians, random_gaussians
from gsworkbench.gaussians.optimiser import mixture_of
from gsworkbench.gaussians.parameters import Parameterisation, from_parameters, to_parameters
from gsworkbench.geometry.rotations import random_rotations
from gsworkbench.imaging.residual import data_term, squared_error
from gsworkbench.methods.as_published import blurred_in_y, off_the_grid, projections
from gsworkbench.methods.starts import nearest_distances
from gsworkbench.methods.stochastic import PRESETS, Stochastic
from gsworkbench.methods.stochastic_fit import _gaussians, _learning_rate, _parameters, fit, loss_and_gradients, start

N = 12


def rotations(n, dtype=torch.float64):
    return torch.from_numpy(random_rotations(n, np.random.default_rng(3))).to(dtype)


def wide_mixture(dtype=torch.float64):
    """A few Gaussians about two pixels wide in a box of 32, all different."""
    torch.manual_seed(1)
    model = random_gaussians(N, spread=0.1, scale=0.06, total_weight=0.5, seed=2)
    scales = 0.06 * (0.7 + 0.6 * torch.rand(N, 3))
    return Gaussians(model.means.to(dtype), scales.to(dtype), torch.randn(N, 4, dtype=dtype), model.weights.to(dtype))


def in_preset(name, **changes):
    return dataclasses.replace(PRESETS[name], n_gaussians=N, **changes)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_gradient_is_that_of_the_error(clean_set, preset):
    """Finite differences along a random direction of each type of parameter; footprints wide, so that they are smooth.

    Where a preset blurs images in y, the error is a different function than the one differentiated (the release's
    defect): there it is the gradient handed to the sharp images that is held against finite differences.
    """
    config = in_preset(preset, cutoff=6.0, skip_below=min(PRESETS[preset].skip_below, 1e-12))
    stack, scale, rows = clean_set.stack, 50.0, np.arange(3)
    term = data_term(stack, boost=config.boost, band=config.band)
    views = torch.from_numpy(stack.rotations)
    parameters = _parameters(wide_mixture(), config, 32)
    mixture = mixture_of(_gaussians(parameters, config, 32))
    _, gradients = loss_and_gradients(mixture, term, views, rows, scale, config)
    torch.autograd.backward(mixture, gradients)

    with torch.no_grad():
        images = projections(mixture, views[rows], config, 32)
    kernel, filtered, energy = term.batch(rows)
    _, cotangent = squared_error(blurred_in_y(images, config.blur_y), kernel, filtered / scale, energy / scale**2)

    def moved(name, direction, amount):
        with torch.no_grad():
            other = {k: p + amount * direction if k == name else p for k, p in parameters.items()}
            return float(
                (projections(mixture_of(_gaussians(other, config, 32)), views[rows], config, 32) * cotangent).sum()
            )

    single = config.skip_below > 0  # these images are float32
    step = 1e-2 if single else 1e-5
    for name, parameter in parameters.items():
        direction = torch.randn_like(parameter) * (0.1 if name == "means" and single else 1.0)
        direction = direction * (0.02 if name == "means" else 1.0)
        expected = (moved(name, direction, step) - moved(name, direction, -step)) / (2 * step)
        found = float((parameter.grad * direction).sum())
        size = float(parameter.grad.norm() * direction.norm())
        assert found == pytest.approx(expected, rel=2e-3 if single else 1e-5, abs=1e-3 * size + 1e-9), name


# Batches, steps and widths that suit 1,000 images of 32 px; what a recipe does to the forward model stays.
SMALL = {
    "cryosplat": {"batch_size": 8, "learning_rate": 8e-3, "initial_scale": 0.03, "gamma": 0.5},
    "cryosplat_as_released": {"batch_size": 8, "learning_rate": 8e-3, "initial_scale": 0.03, "gamma": 0.5},
    "gem": {"n_steps": 250, "batch_size": 8, "learning_rate": 2e-3},
    "cryogs": {},
    "isotropic": {"n_gaussians": 500, "n_epochs": 6},
}


@pytest.mark.parametrize("preset", SMALL)
def test_every_recipe_makes_a_map_that_lies_as_the_truth_does(clean_set, preset):
    changes = {"n_gaussians": 200, "n_epochs": 3} | SMALL[preset]
    g = fit(clean_set.stack, dataclasses.replace(PRESETS[preset], **changes)).gaussians
    volume = g.voxelize(32, 12.0).numpy()
    found = agreement(volume, clean_set.truth)
    assert found.correlation > 0.85 > found.mirrored_correlation
    assert np.abs(found.shift_voxels).max() < 0.2
    if preset == "isotropic":
        assert torch.equal(g.scales, g.scales[:, :1].expand(-1, 3))


def test_steps_end_the_fit_and_the_rate_falls_by_gamma_over_it(noisy_set):
    config = dataclasses.replace(PRESETS["gem"], n_gaussians=32, n_steps=750)
    few = noisy_set.stack[np.arange(60)]
    losses = fit(few, dataclasses.replace(config, n_steps=75)).losses
    assert len(losses) == 2  # an epoch and a quarter
    assert _learning_rate(config, 600, 0, 0.0) == config.learning_rate
    assert _learning_rate(config, 600, 1, 0.25) == pytest.approx(config.learning_rate * config.gamma)
    halfway = _learning_rate(config, 600, 0, 0.625)
    assert halfway == pytest.approx(config.learning_rate * math.sqrt(config.gamma))


def test_starts(clean_set):
    def begun(**changes):
        return start(Stochastic(n_gaussians=500, **changes), clean_set.stack, 0)

    uniform = begun(start="uniform", initial_spread=0.5, initial_scale="nearest")
    assert float(uniform.means.abs().max()) <= 0.5
    assert float(uniform.means.std()) == pytest.approx(1 / math.sqrt(12), rel=0.05)
    distances = torch.cdist(uniform.means, uniform.means).fill_diagonal_(9).min(1).values
    torch.testing.assert_close(uniform.scales[:, 0], distances)
    data = begun(start="data")
    # Centres drawn from the data lie where the truth is; its radius of gyration is far below a uniform cube's.
    voxel = (data.means * 32 + 16).round().long().clamp(0, 31)
    x, y, z = voxel.T
    assert clean_set.truth[z, y, x].mean() > 3 * clean_set.truth.clip(0).mean()
    for model in (uniform, data, begun()):
        assert float(model.weights.sum()) == pytest.approx(0.5, rel=1e-5)


def test_nearest_distances_of_one_and_of_two_alike():
    assert len(nearest_distances(torch.zeros(1, 3))) == 1
    assert float(nearest_distances(torch.zeros(2, 3)).min()) > 0


@pytest.mark.parametrize("peak", [False, True])
@pytest.mark.parametrize("isotropic", [False, True])
def test_parameters_come_back(peak, isotropic):
    model = random_gaussians(9, spread=0.1, scale=0.03, total_weight=0.5, seed=0)
    parameters = to_parameters(model, Parameterisation(peak=peak), isotropic=isotropic)
    assert parameters["scales"].shape == (9, 1 if isotropic else 3)
    back = from_parameters(parameters, Parameterisation(peak=peak))
    torch.testing.assert_close(back.weights, model.weights)
    torch.testing.assert_close(back.scales, model.scales)


def test_a_peak_is_the_height_of_the_map_whatever_the_width():
    heights = []
    for scale in (0.04, 0.06):
        one = Gaussians(torch.zeros(1, 3), torch.full((1, 3), scale), torch.eye(4)[:1], torch.ones(1))
        parameters = to_parameters(one, Parameterisation(peak=True))
        with torch.no_grad():
            parameters["weights"].fill_(2.0)
            model = from_parameters(parameters, Parameterisation(peak=True))
            volume = model.voxelize(32, 1 / 32)
        heights.append(float(volume.max()))
    assert heights[0] == pytest.approx(math.log1p(math.exp(2.0)), rel=1e-5) == heights[1]


def test_the_released_blur_is_a_wider_gaussian_in_y_alone():
    """Adding v to the y variance of a Gaussian at rest equals blurring its image, at widths that pixels can hold."""
    config, box = Stochastic(cutoff=6.0), 32
    cov = torch.diag_embed(torch.tensor([[0.004, 0.003, 0.004]], dtype=torch.float64))
    args = torch.zeros(1, 3, dtype=torch.float64), cov, torch.ones(1, dtype=torch.float64)
    from gsworkbench.rendering import project

    def image(variance):
        wider = cov + torch.diag(torch.tensor([0, variance / box**2, 0], dtype=torch.float64))
        view = torch.eye(3, dtype=torch.float64)[None]
        return project(args[0], wider, args[2], view, box_size=box, pixel_size=1 / box, cutoff=config.cutoff)

    torch.testing.assert_close(blurred_in_y(image(0.0), 0.3), image(0.3), atol=1e-5, rtol=1e-4)
    assert float((image(0.3) - image(0.0)).abs().max()) > 0.01 * float(image(0.0).max())


def test_the_square_band_has_the_corners(clean_set):
    square = data_term(clean_set.stack, band="square").spectrum.flatten()
    assert float(square[0]) == 0.0 and float(square[1:].min()) == 1.0  # k = 0 is the images' background
    assert float(data_term(clean_set.stack).spectrum.min()) == 0.0


def test_half_a_pixel_off_the_grid_costs_high_frequencies(clean_set):
    shifted = off_the_grid(clean_set.stack, 0.5)
    np.testing.assert_allclose(shifted.shifts_angstrom - clean_set.stack.shifts_angstrom, 6.0)
    config = dataclasses.replace(PRESETS["tuned"], n_gaussians=200, n_epochs=2)
    from gsworkbench.assessment.fsc import fourier_shell_correlation

    high = []
    for offset in (0.0, 0.5):
        g = fit(clean_set.stack, dataclasses.replace(config, grid_offset=offset)).gaussians
        volume = g.voxelize(32, 12.0).numpy()
        high.append(fourier_shell_correlation(volume, clean_set.truth, voxel_size=12.0).values[8:15].mean())
    assert high[1] < high[0] - 0.05


def test_without_view_normalisation_a_long_gaussian_is_as_high_in_every_view():
    long = Gaussians(torch.zeros(1, 3), torch.tensor([[0.04, 0.04, 0.12]]), torch.eye(4)[:1], torch.ones(1))
    side = torch.tensor([[0.0, 0, -1], [0, 1, 0], [1, 0, 0]])
    views = torch.stack([torch.eye(3), side])

    def heights(**changes):
        return projections(mixture_of(long), views, Stochastic(**changes), 64).amax((1, 2))

    end_on, across = heights()
    assert float(end_on / across) == pytest.approx(3, rel=1e-4)
    end_on, across = heights(view_normalisation=False)
    assert float(end_on / across) == pytest.approx(1, rel=1e-4)
    ball = dataclasses.replace(long, scales=torch.full((1, 3), 0.06))
    a, b = (projections(mixture_of(ball), views, Stochastic(view_normalisation=v), 64) for v in (True, False))
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_every_preset_says_what_it_fits():
    """Isotropic shapes do not turn, and what is skipped is skipped by cutoffs that papers print."""
    assert PRESETS["isotropic"] == dataclasses.replace(PRESETS["tuned"], shape="isotropic", rate_quaternions=0.0)
    released = PRESETS["cryosplat_as_released"]
    changes = {"gamma": 0.2, "band": "square", "blur_y": 0.3}
    assert released == dataclasses.replace(PRESETS["cryosplat"], **changes)
    gem = PRESETS["gem"]
    rates = [gem.learning_rate * r for r in (2.0, gem.rate_scales, gem.rate_quaternions, gem.rate_weights)]
    assert rates == pytest.approx([2e-4, 5e-3, 1e-3, 1e-2])  # means in half boxes
    assert (gem.n_steps, gem.n_gaussians, gem.skip_below) == (30_000, 50_000, 1e-5)
