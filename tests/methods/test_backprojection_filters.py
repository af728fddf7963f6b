"""Filters after backprojection: what each leaves as it was, and which particles it is measured on."""

import numpy as np
import pytest

from gsworkbench.assessment.agreement import agreement
from gsworkbench.assessment.fsc import fourier_shell_correlation
from gsworkbench.methods.backprojection import Backprojection
from gsworkbench.methods.backprojection_filters import Pair, as_pair, filtered_backprojection, weighted_by_fsc
from gsworkbench.normal_equations.classical_map import backproject


@pytest.fixture(scope="module")
def maps(noisy_set):
    return {f: filtered_backprojection(noisy_set.stack, Backprojection(f)) for f in ("wiener", "none", "fsc", "local")}


def error(volume, truth):
    return float(np.square(volume - truth).sum() / np.square(truth).sum())


def test_a_filter_brings_a_noisy_map_nearer_to_the_truth(maps, noisy_set):
    raw = error(maps["none"], noisy_set.truth)
    for name in ("wiener", "fsc", "local"):
        assert error(maps[name], noisy_set.truth) < 0.8 * raw, name


def test_shell_filters_leave_the_fsc_as_it_is_and_a_local_one_does_not(maps, noisy_set):
    def fsc(name):
        return fourier_shell_correlation(maps[name], noisy_set.truth, voxel_size=12.0).values[1:10]

    np.testing.assert_allclose(fsc("fsc"), fsc("none"), atol=1e-4)
    assert np.abs(fsc("local") - fsc("none")).max() > 0.01


def test_without_noise_least_squares_has_the_scale_of_the_truth(clean_set):
    found = agreement(filtered_backprojection(clean_set.stack, Backprojection("none")), clean_set.truth)
    assert found.slope == pytest.approx(1, abs=0.03)
    assert np.abs(found.shift_voxels).max() < 0.05


def test_the_default_is_the_map_that_backproject_makes(maps, noisy_set):
    assert np.array_equal(maps["wiener"], backproject(noisy_set.stack))


def test_halves_are_those_of_the_stack_or_of_its_one_half_set(noisy_set):
    stack = noisy_set.stack.with_half_sets(0)
    both = as_pair(stack)
    for k in (1, 2):
        alone = filtered_backprojection(stack[stack.half_set == k], Backprojection("none"))
        assert np.array_equal(alone, both.halves[k - 1])
    first = stack[stack.half_set == 1]
    inner = as_pair(first)
    expected = filtered_backprojection(first[::2], Backprojection("none"))
    assert np.array_equal(inner.halves[0], expected)


def test_the_figure_of_merit_is_one_for_equal_halves_and_nothing_for_noise():
    rng = np.random.default_rng(0)
    same, noise = rng.normal(size=(16, 16, 16)).astype(np.float32), rng.normal(size=(2, 16, 16, 16)).astype(np.float32)
    axis = np.fft.fftfreq(16, 1 / 16)
    inside = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).round() < 8
    kept = np.fft.fftshift(np.fft.ifftn(np.fft.fftn(np.fft.ifftshift(same)) * inside).real)
    np.testing.assert_allclose(weighted_by_fsc(Pair(same, (same, same), 1.0)), kept, atol=1e-4)
    left = weighted_by_fsc(Pair(same, (noise[0], noise[1]), 1.0))
    assert np.square(left).sum() < 0.2 * np.square(kept).sum()
