"""Where poses or the hand are wrong, the estimate of the FSC is that to the map that they allow."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from gsworkbench.assessment.fsc import fourier_shell_correlation
from gsworkbench.assessment.masks import spherical_mask
from gsworkbench.assessment.truth_estimate import estimate_truth_fsc
from gsworkbench.methods.linear_half_maps import linear_maps_of
from gsworkbench.normal_equations.classical_map import least_squares
from gsworkbench.normal_equations.equations import accumulate
from gsworkbench.simulation.imperfections import turned
from gsworkbench.simulation.simulate import simulate
from gsworkbench.simulation.simulation_config import Simulation

VOXEL = 12.0  # A


@pytest.fixture(scope="module")
def other_set(tmp_path_factory):
    """Other particles of the molecule of `noisy_set`, next to free of noise."""
    config = Simulation(n_particles=2000, box_size=32, pixel_size=VOXEL, snr=1e4, seed=6)
    return simulate(config, tmp_path_factory.mktemp("other"))


def poses_off(stack):
    rng = np.random.default_rng(len(stack))
    return dataclasses.replace(stack, rotations=turned(stack.require_poses(), 15.0, rng))


def other_hand(stack):
    mirror = np.diag([1.0, 1.0, -1.0])
    return dataclasses.replace(stack, rotations=mirror @ stack.require_poses() @ mirror)


def estimate_and_fscs(stack, targets, folder):
    """Estimate of the linear half maps of a stack in a sphere, and their FSC to each target, in shells told."""
    linear = linear_maps_of(stack.with_half_sets(0), folder)
    mask = spherical_mask(32, VOXEL)
    found = estimate_truth_fsc(linear, linear, voxel_size=VOXEL, mask=mask)

    def mean_fsc(target):
        curves = [fourier_shell_correlation(m, target, voxel_size=VOXEL, mask=mask).values for m in linear]
        return (curves[0] + curves[1])[found.told] / 2

    assert found.told.sum() >= 5
    return found.half.values[found.told], [mean_fsc(target) for target in targets]


def test_random_pose_errors_are_noise_that_the_estimate_sees(noisy_set, other_set, tmp_path):
    allowed = least_squares(accumulate(poses_off(other_set)))
    right, _ = estimate_and_fscs(noisy_set.stack, [], tmp_path)
    estimate, (to_allowed,) = estimate_and_fscs(poses_off(noisy_set.stack), [allowed], tmp_path)
    assert np.abs(estimate - to_allowed).mean() < 0.03
    assert right.mean() - estimate.mean() > 0.1


def test_the_wrong_hand_is_not_seen(noisy_set, other_set, tmp_path):
    allowed = least_squares(accumulate(other_hand(other_set)))
    estimate, fscs = estimate_and_fscs(other_hand(noisy_set.stack), [allowed, noisy_set.truth], tmp_path)
    assert np.abs(estimate - fscs[0]).mean() < 0.03
    assert (estimate - fscs[1]).mean() > 0.4
