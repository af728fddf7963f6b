"""The strength of each particle's signal, measured beside maps of other particles."""

import dataclasses

import numpy as np
import pytest

from gsworkbench.io.mrc import new_image_stack
from gsworkbench.methods.particle_scales import interpolate, measure_scales, padded_transform, with_scales
from gsworkbench.normal_equations.insertion import PADDING, positions
from gsworkbench.particles.image_statistics import measure_images, normalised
from gsworkbench.simulation.simulate import central_slices, half_disc

BOX = 32


@pytest.fixture
def scaled(clean_set, tmp_path):
    """A function that makes a normalised stack of clean_set's images, times (n,) factors, plus noise."""

    def make(factors, noise=3.0):
        stack = clean_set.stack
        rng = np.random.default_rng(2)
        with new_image_stack(tmp_path / "scaled.mrcs", len(stack), BOX, stack.pixel_size) as images:
            images[:] = factors[:, None, None] * stack.images() + noise * rng.standard_normal((len(stack), BOX, BOX))
        changed = dataclasses.replace(stack, files=(tmp_path / "scaled.mrcs",))
        return normalised(changed, measure_images(changed))

    return make


def test_slices_are_those_of_the_map(clean_set):
    """Against exact central slices, for a map inside the sphere."""
    part = clean_set.stack[np.arange(5)]
    axis = np.arange(BOX) - BOX // 2
    inside = axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2 < (0.4 * BOX) ** 2
    volume = (clean_set.truth * inside).astype(np.float32)
    found = interpolate(padded_transform(volume), PADDING * positions(part, BOX)).numpy().reshape(5, -1)
    exact = central_slices(volume.astype(float), part.rotations)
    places = {tuple(k): i for i, k in enumerate(half_disc(BOX))}
    from gsworkbench.imaging.fourier import disc, half_plane_frequencies

    ky, kx = (k[disc(BOX)].numpy().astype(int) for k in half_plane_frequencies(BOX))
    chosen = [(i, places[x, y]) for i, (x, y) in enumerate(zip(kx, ky, strict=True)) if (x, y) in places]
    ours, theirs = found[:, [i for i, _ in chosen]], exact[:, [j for _, j in chosen]]
    assert np.linalg.norm(ours - theirs) < 0.04 * np.linalg.norm(theirs)


def test_particles_alike_are_left_alone(scaled):
    found = measure_scales(scaled(np.ones(1000)))
    assert found is not None and not found.differ and found.sentences(1000) == []
    assert found.spread < 0.1 and found.empty < 0.02


def test_scales_that_differ_are_found(scaled):
    true = np.exp(np.random.default_rng(3).uniform(np.log(0.5), np.log(2), 1000))
    stack = scaled(true)
    found = measure_scales(stack)
    assert found.differ and found.spread == pytest.approx(true.std() / true.mean(), abs=0.06)
    assert np.corrcoef(found.expected, true)[0, 1] > 0.9
    assert "differs from particle to particle" in found.sentences(1000)[0]
    assert with_scales(stack, found).ctf.scale == pytest.approx(stack.ctf.scale * found.expected)


def test_images_without_signal_are_counted_and_get_no_weight(scaled):
    empty = np.random.default_rng(4).random(1000) < 0.2
    found = measure_scales(scaled(np.where(empty, 0.0, 1.0)))
    assert found.differ and found.empty == pytest.approx(empty.mean(), abs=0.03)
    assert "hold no particle" in found.sentences(1000)[0]
    assert found.expected[empty].mean() < 0.1 < 0.9 < found.expected[~empty].mean()


def test_nothing_is_said_where_nothing_can_be_known(scaled, noisy_set):
    stack = scaled(np.ones(1000))
    assert measure_scales(stack[:60]) is None  # too few
    assert measure_scales(noisy_set.stack) is None  # not normalised
    far = measure_scales(scaled(np.ones(1000), noise=300.0))
    assert far is None or not far.differ


def test_particles_in_wrong_poses_count_as_without_signal(scaled):
    """A fifth of the poses handed to other images: as good as noise beside a map of the others."""
    stack = scaled(np.ones(1000))
    rotations = stack.rotations.copy()
    rotations[:200] = rotations[np.random.default_rng(0).permutation(200)]
    found = measure_scales(dataclasses.replace(stack, rotations=rotations))
    assert found.differ and found.expected[:200].mean() < 0.6 * found.expected[200:].mean()
