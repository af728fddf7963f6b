"""The compiled steps of the papers' trainer against the loop in Python, which is the reference."""

import ctypes
from dataclasses import replace

import numpy as np
import pytest
import torch

from gsworkbench.imaging.ctf import ctf_grid, phase_factors
from gsworkbench.imaging.fourier import disc
from gsworkbench.imaging.residual import data_term
from gsworkbench.kernels import KERNELS
from gsworkbench.methods import compiled_steps, stochastic_fit
from gsworkbench.methods.as_published import off_the_grid
from gsworkbench.methods.stochastic import PRESETS, Stochastic
from gsworkbench.methods.stochastic_fit import fit, loss_and_gradients, optimiser_of
from gsworkbench.system.compiler import library

SMALL = {"n_gaussians": 40, "n_steps": 30, "cutoff": 4.0}
SETTINGS = {
    **{name: replace(preset, **SMALL, start="normal", initial_scale=0.05) for name, preset in PRESETS.items()},
    "batch of 7": Stochastic(**SMALL, initial_scale=0.05, batch_size=7),
    "normalisation": Stochastic(**SMALL, initial_scale=0.05, view_normalisation=False),
    "normalisation, batch": Stochastic(**SMALL, initial_scale=0.05, view_normalisation=False, batch_size=3),
    "threshold, batch": Stochastic(**SMALL, initial_scale=0.05, skip_below=1e-3, batch_size=3),
    "threshold, normalisation": Stochastic(**SMALL, initial_scale=0.05, skip_below=1e-4, view_normalisation=False),
    "grid": Stochastic(**SMALL, initial_scale=0.05, grid_offset=0.5),
    "blur, boost": Stochastic(**SMALL, initial_scale=0.05, blur_y=0.5, boost=1.0, batch_size=2),
    "peak, floor": Stochastic(**SMALL, initial_scale=0.05, amplitude="peak", floor_pixels=0.7),
    "doubled": Stochastic(**(SMALL | {"n_steps": None}), initial_scale=0.05, n_epochs=2, double_after_epochs=(1,)),
}


@pytest.fixture
def by_python(monkeypatch):
    """Call what is given to it with the loop in Python."""

    def call(made):
        with monkeypatch.context() as patch:
            patch.setattr(compiled_steps, "serves", lambda *_: False)
            return made()

    return call


def shaken(optimizer, config):
    """Gaussians of all shapes: a sphere has no gradient by its orientation."""
    moved = 0.1 * torch.randn(optimizer.memory[0].shape, generator=torch.Generator().manual_seed(0))
    if config.shape == "isotropic":
        moved[:, 4:6] = moved[:, 3:4]
    optimizer.memory[0].add_(moved)
    return optimizer


@pytest.mark.parametrize("name", SETTINGS)
def test_one_step_has_the_loss_and_the_gradients_of_the_loop_in_python(noisy_set, name):
    stack, config, scale = noisy_set.stack[np.arange(60)], SETTINGS[name], 3.0
    stack = off_the_grid(stack, config.grid_offset)
    rotations = torch.from_numpy(stack.rotations).float()
    term = data_term(stack, boost=config.boost, band=config.band)
    ours, theirs = (shaken(optimiser_of(config, stack), config) for _ in range(2))
    some = np.arange(5, 5 + config.batch_size)
    total = compiled_steps.compiled_steps(ours, term, rotations, config, scale).run(some, [1e-3])
    loss, gradients = loss_and_gradients(theirs.mixture(), term, rotations, some, scale, config)
    theirs.step(gradients, 1e-3)
    assert total / len(some) == pytest.approx(float(loss), rel=1e-5)
    assert ours.steps == theirs.steps == 1
    blocks = zip(*(o.memory[1].transpose(0, 1).reshape(11, -1)[:, : o.n] for o in (ours, theirs)), strict=True)
    for row, (mine, reference) in enumerate(blocks):  # of Adam's first moments: a tenth of the gradients
        assert float((mine - reference).norm()) <= 2e-5 * float(reference.norm()), row


@pytest.mark.parametrize("name", SETTINGS)
def test_fits_end_where_those_of_the_loop_in_python_do(noisy_set, by_python, name):
    """Adam's first steps depend on the sign of gradients alone: where one is nothing but rounding, they differ."""
    stack = noisy_set.stack[np.arange(60)]
    ours = fit(stack, SETTINGS[name], seed=3)
    theirs = by_python(lambda: fit(stack, SETTINGS[name], seed=3))
    assert np.allclose(ours.losses, theirs.losses, rtol=5e-4)
    volumes = [found.gaussians.voxelize(stack.box_size, stack.pixel_size) for found in (ours, theirs)]
    assert float((volumes[0] - volumes[1]).norm() / volumes[1].norm()) < 0.05


def test_images_may_come_from_their_files(noisy_set, monkeypatch):
    stack = noisy_set.stack[np.arange(60)]
    config = Stochastic(**(SMALL | {"n_steps": None}), initial_scale=0.05, n_epochs=2, batch_size=4)
    held = fit(stack, config, seed=1)

    def streamed(*given, **settings):
        return replace(data_term(*given, **settings), filtered=None, energy=None)

    monkeypatch.setattr(stochastic_fit, "data_term", streamed)
    monkeypatch.setattr(compiled_steps, "_BYTES", 5 * 4 * stack.box_size**2)  # one batch at a time
    read = fit(stack, config, seed=1)
    assert np.allclose(held.losses, read.losses, rtol=1e-5)
    assert torch.allclose(held.gaussians.means, read.gaussians.means, atol=1e-3 * stack.pixel_size)


def test_numbers_that_are_not_finite_are_named(noisy_set):
    config = replace(PRESETS["cryosplat"], **SMALL, learning_rate=1e30)
    with pytest.raises(ValueError, match="finite"):
        fit(noisy_set.stack[np.arange(60)], config)


@pytest.mark.parametrize("box", [16, 30, 34, 48, 62, 98, 110])
@pytest.mark.parametrize("band", ["disc", "square"])
def test_the_filter_is_that_of_torch(noisy_set, box, band):
    """Every prime factor up to 31, every ablation of the band: CTF^2 times the transform, and back."""
    ctf = noisy_set.stack[np.arange(1)].ctf
    ctf = replace(ctf, scale=np.array([0.9]), b_factor=np.array([60.0]), defocus_v=ctf.defocus_u * 0.8)
    spectrum = (disc(box) if band == "disc" else torch.ones(box, box // 2 + 1)).float().contiguous().clone()
    spectrum[0, 0] = 0
    image = torch.randn(box, box, generator=torch.Generator().manual_seed(box))
    expected = torch.fft.irfft2(ctf_grid(ctf, box, 3.0)[0].square() * spectrum * torch.fft.rfft2(image), s=(box, box))
    filtered = library(KERNELS / "training.cpp").filter_image
    pointer, real = ctypes.c_void_p, ctypes.c_double
    filtered.argtypes = [pointer, ctypes.c_int, pointer, pointer, real, real, ctypes.c_float, pointer]
    found, phase = torch.empty(box, box), phase_factors(ctf, box * 3.0)
    decay = 60.0 / (4 * (box * 3.0) ** 2)
    pointers = image.data_ptr(), box, spectrum.data_ptr(), phase.ctypes.data
    filtered(*pointers, 0.9, decay, 0.0, found.data_ptr())
    assert float((found - expected).norm() / expected.norm()) < 3e-6
