"""Mean densities of regions: closed forms, coverage of noise that is known, and masks and folders that are refused."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from gsworkbench.assessment.masks import Mask
from gsworkbench.assessment.region_means import region_mean, regions_of_run
from gsworkbench.errors import InputError


@pytest.fixture
def mask():
    values = np.zeros((8, 8, 8))
    values[2:5, 2:5, 2:5] = 1
    values[5, 2:5, 2:5] = 0.5
    return values


def test_the_mean_is_weighted_and_counted_from_the_mean_of_the_box(mask):
    volume = np.random.default_rng(0).standard_normal((8, 8, 8))
    found = region_mean(volume + 5, np.zeros((4, 8, 8, 8)), Mask(mask, "a mask"))
    assert found.value == pytest.approx((mask * volume).sum() / mask.sum() - volume.mean())
    assert found.error == 0 and found.n_voxels == mask.sum()


def test_the_error_is_that_of_a_sum_of_independent_parts(mask):
    parts = np.random.default_rng(1).standard_normal((32, 8, 8, 8))
    weights = mask / mask.sum() - 1 / mask.size
    found = region_mean(parts.sum(0), iter(parts), mask, level=0.9)
    each = np.einsum("pzyx,zyx->p", parts, weights)
    assert found.error == pytest.approx(np.sqrt(32) * each.std(ddof=1))
    reach = stats.t.ppf(0.95, 31) * found.error
    assert found.interval == pytest.approx((found.value - reach, found.value + reach))


def test_intervals_hold_the_truth_as_often_as_they_say(mask):
    rng = np.random.default_rng(2)
    held = []
    for _ in range(600):
        parts = rng.standard_normal((8, 8, 8, 8))
        low, high = region_mean(parts.sum(0), parts, mask, level=0.8).interval
        held.append(low < 0 < high)
    assert abs(np.mean(held) - 0.8) < 4 * np.sqrt(0.8 * 0.2 / 600)


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"mask": np.ones((8, 8, 8))}, "nothing outside to count density from"),
        ({"mask": np.zeros((8, 8, 8))}, "weights of 0 or more, and some above 0"),
        ({"mask": np.full((8, 8, 8), np.nan)}, "weights of 0 or more, and some above 0"),
        ({"mask": np.ones((4, 4, 4))}, r"the mask is \(4, 4, 4\), and the map \(8, 8, 8\)"),
        ({"parts": np.zeros((3, 4, 4, 4))}, r"a part of the error is \(4, 4, 4\), and the map \(8, 8, 8\)"),
        ({"parts": np.zeros((1, 8, 8, 8))}, "two parts or more, not 1"),
        ({"level": 95}, "between 0 and 1, not at 95"),
    ],
)
def test_what_cannot_be_measured_is_refused(mask, change, sentence):
    with pytest.raises(InputError, match=sentence):
        region_mean(**({"volume": np.zeros((8, 8, 8)), "parts": np.zeros((2, 8, 8, 8)), "mask": mask} | change))


def test_a_folder_without_an_error_map_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"this folder has no run_class001\.mrc; give the folder of a run"):
        regions_of_run(tmp_path, ["sphere"])
