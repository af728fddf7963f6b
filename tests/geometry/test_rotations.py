"""Rotations: the golden values of the conventions, and agreement between the four ways of writing one."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from gsworkbench.geometry import rotations as geometry

GOLDEN = [
    [0.04341204, 0.90961589, -0.41317591],
    [-0.82959837, 0.26325835, 0.49240388],
    [0.55667040, 0.32139380, 0.76604444],
]


def test_golden_euler_angles():
    np.testing.assert_allclose(geometry.euler_to_matrices([30], [40], [50])[0], GOLDEN, atol=1e-6)


def test_golden_cryosparc_pose():
    pose = [[0.13128837, 0.74457334, 1.33523483]]
    np.testing.assert_allclose(geometry.rotation_vectors_to_matrices(pose)[0], GOLDEN, atol=1e-6)


def test_matrix_takes_the_map_to_the_microscope():
    # tilt 90 alone turns the map's z axis, after which it lies along the image's -x
    z_axis = geometry.euler_to_matrices([0], [90], [0])[0] @ [0, 0, 1]
    np.testing.assert_allclose(z_axis, [-1, 0, 0], atol=1e-12)


def test_euler_angles_come_back():
    angles = np.random.default_rng(0).uniform([-180, 1, -180], [180, 179, 180], (200, 3))
    np.testing.assert_allclose(geometry.matrices_to_euler(geometry.euler_to_matrices(*angles.T)), angles, atol=1e-6)


@pytest.mark.parametrize("tilt", [0.0, 180.0])
def test_euler_angles_at_the_poles_give_the_same_matrix(tilt):
    matrices = geometry.euler_to_matrices([25], [tilt], [70])
    again = geometry.euler_to_matrices(*geometry.matrices_to_euler(matrices).T)
    np.testing.assert_allclose(again, matrices, atol=1e-7)


def test_quaternions_agree_with_scipy_and_ignore_length():
    rotations = Rotation.random(50, rng=np.random.default_rng(0))
    wxyz = torch.tensor(rotations.as_quat(scalar_first=True))
    np.testing.assert_allclose(geometry.quaternions_to_matrices(3 * wxyz), rotations.as_matrix(), atol=1e-12)


def test_random_rotations_are_uniform_and_seeded():
    rotations = geometry.random_rotations(20_000, np.random.default_rng(0))
    assert geometry.is_rotation(rotations).all()
    np.testing.assert_allclose(rotations.mean(axis=0), 0, atol=0.02)  # six standard errors
    assert np.square(rotations[:, 2, 2]).mean() == pytest.approx(1 / 3, abs=0.01)
    np.testing.assert_array_equal(rotations[:5], geometry.random_rotations(20_000, np.random.default_rng(0))[:5])


def test_is_rotation_refuses_mirrors_and_shears():
    eye = np.eye(3)
    matrices = np.stack([eye, -eye, np.diag([1, 1, -1.0]), eye * 1.01, eye + 0.01 * np.eye(3, k=1)])
    assert geometry.is_rotation(matrices).tolist() == [True, False, False, False, False]
