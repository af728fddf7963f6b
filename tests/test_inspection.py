"""inspect tells good poses, shifts and contrast from bad ones at the noise of real data."""

import dataclasses

import numpy as np
import pytest

from gsworkbench.inspection import check_poses, contrast


@pytest.fixture(scope="module")
def stack(noisy_set):
    return noisy_set.stack


def test_poses_that_fit(stack):
    assert "poses and shifts fit" in check_poses(stack).verdict()


@pytest.mark.parametrize(
    ("mistake", "found"),
    [
        (lambda s: {"shifts_angstrom": -4 * s.shifts_angstrom}, "shifts"),
        (lambda s: {"rotations": np.swapaxes(s.rotations, 1, 2).copy()}, "rotations transposed"),
        (lambda s: {"image_index": np.roll(s.image_index, 1)}, "no better than chance"),
    ],
)
def test_mistakes_are_named(stack, mistake, found):
    verdict = check_poses(dataclasses.replace(stack, **mistake(stack))).verdict()
    assert found in verdict


def test_contrast_of_white_and_dark_protein(stack):
    assert contrast(stack).suggested_sign == 1
    assert contrast(dataclasses.replace(stack, data_sign=-stack.data_sign)).suggested_sign == -1
