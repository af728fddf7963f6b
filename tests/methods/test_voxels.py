"""The map of voxels: what it solves, what it recovers, where it stops."""

from itertools import islice

import numpy as np
import pytest
import torch

from gsworkbench.assessment.agreement import agreement
from gsworkbench.assessment.fsc import fourier_shell_correlation
from gsworkbench.methods.voxels import Voxels
from gsworkbench.methods.voxels_fit import conjugate_gradients, ridge, solve_voxels, support
from gsworkbench.normal_equations.classical_map import backproject
from gsworkbench.normal_equations.diagonal import (
    DIVISION_SOFTENING,
    diagonal,
    error_and_gradient,
    from_transform,
    misfit_power,
    objective,
    softened,
    wiener_background,
)
from gsworkbench.normal_equations.equations import accumulate


@pytest.fixture(scope="module")
def noisy(noisy_set):
    held = np.arange(600) % 10 == 0
    return accumulate(noisy_set.stack[~held]), accumulate(noisy_set.stack[held])


def test_without_noise_it_is_the_truth(clean_set):
    solved = solve_voxels(accumulate(clean_set.stack), None, Voxels()).volume
    found = agreement(solved, clean_set.truth)
    assert found.slope == pytest.approx(1, abs=0.02)
    assert np.abs(found.shift_voxels).max() < 0.05
    fsc = fourier_shell_correlation(solved, clean_set.truth, voxel_size=12.0)
    assert fsc.values[1:15].min() > 0.97


def test_without_a_ball_it_is_the_wiener_answer_in_one_step(noisy_set):
    problem = diagonal(accumulate(noisy_set.stack))
    (volume,) = islice(conjugate_gradients(problem, torch.ones((32,) * 3)), 1)
    nothing = torch.zeros_like(problem.data)
    soft = softened(problem, DIVISION_SOFTENING)
    wiener = from_transform(wiener_background(soft, nothing, misfit_power(problem, nothing)))
    assert float((volume - wiener).norm() / wiener.norm()) < 1e-2  # a shell of no signal is weakened, not erased
    direct = from_transform(soft.data / (soft.kernel + ridge(problem)))
    assert float((volume - direct).norm() / direct.norm()) < 1e-5


def test_the_solution_is_stationary_inside_the_ball_and_zero_outside(noisy_set):
    problem = diagonal(accumulate(noisy_set.stack))
    inside = support(32)
    *_, volume = islice(conjugate_gradients(problem, inside), 40)
    assert not volume[inside == 0].any()
    soft = softened(problem, DIVISION_SOFTENING)
    aim = objective(soft)._replace(kernel=soft.kernel + ridge(problem))
    error, gradient = error_and_gradient(aim, volume)
    _, at_nothing = error_and_gradient(aim, torch.zeros_like(volume))
    assert float((gradient * inside).norm()) < 1e-3 * float(at_nothing.norm())
    assert error_and_gradient(aim, volume + 0.01 * inside)[0] > error


def test_zero_outside_the_ball_is_worth_something(noisy_set, noisy):
    solved = fourier_shell_correlation(solve_voxels(*noisy, Voxels()).volume, noisy_set.truth, voxel_size=12.0)
    divided = fourier_shell_correlation(backproject(noisy_set.stack), noisy_set.truth, voxel_size=12.0)
    assert solved.mean() > divided.mean() + 0.005
    cut = backproject(noisy_set.stack) * support(32).numpy()
    assert solved.mean() > fourier_shell_correlation(cut, noisy_set.truth, voxel_size=12.0).mean()


def test_it_stops_where_held_out_particles_say(noisy):
    fit = solve_voxels(*noisy, Voxels(n_steps=8))
    errors = [held_out for _, _, held_out in fit.curve]
    assert [step for step, *_ in fit.curve] == list(range(1, 9))
    assert fit.n_steps == 1 + int(np.argmin(errors))
    assert solve_voxels(*noisy, Voxels(n_steps=8)).volume.tobytes() == fit.volume.tobytes()
