"""Local resolution of maps whose resolution is known in two places."""

import numpy as np
import pytest

from gsworkbench.assessment.fsc import shell_indices
from gsworkbench.assessment.local import first_crossings, local_resolution
from gsworkbench.errors import InputError

BOX, VOXEL = 48, 2.0
FINE, COARSE = 6.0, 12.0  # A, in the halves z < 0 and z > 0


def noise(seed):
    return np.random.default_rng(seed).standard_normal((BOX,) * 3)


def band_limited(volume, angstrom):
    transform = np.fft.rfftn(volume)
    transform[shell_indices(BOX) > BOX * VOXEL / angstrom] = 0
    return np.fft.irfftn(transform, s=volume.shape, axes=(0, 1, 2))


@pytest.fixture(scope="module")
def halves():
    z = np.arange(BOX)[:, None, None]
    share = 0.5 * (1 + np.tanh((z - BOX // 2) / 2))
    signal = 1.5 * (band_limited(noise(0), FINE) * (1 - share) + band_limited(noise(1), COARSE) * share)
    return [signal + noise(i) for i in (2, 3)]


@pytest.fixture(scope="module")
def found(halves):
    mask = np.zeros((BOX,) * 3)
    mask[4:20, 8:40, 8:40] = mask[28:44, 8:40, 8:40] = 1
    return local_resolution(*halves, voxel_size=VOXEL, mask=mask, mask_name="two slabs")


def test_two_known_resolutions_are_recovered(found):
    z = found.points[:, 0]
    for resolution, here in ((FINE, (z > 8) & (z < 16)), (COARSE, (z > 32) & (z < 40))):
        assert np.median(found.values[here]) == pytest.approx(resolution, rel=0.1)
        planes = slice(z[here].min(), z[here].max() + 1)
        inside = found.resolution[planes]
        assert np.median(inside[inside > 0]) == pytest.approx(resolution, rel=0.1)


def test_the_map_is_zero_outside_the_mask_and_says_how_it_was_made(found):
    assert found.resolution[:4].max() == 0 and (found.resolution[5:19, 9:39, 9:39] > 0).all()
    assert "window 40 A, step 4 A" in str(found) and "two slabs" in str(found) and "FSC = 0.5" in str(found)


def test_noise_has_the_window_and_identical_maps_nyquist():
    mask = np.zeros((BOX,) * 3)
    mask[20:28, 20:28, 20:28] = 1
    same = local_resolution(noise(0), noise(0), voxel_size=VOXEL, mask=mask)
    assert same.at_nyquist == 1 and (same.values == 2 * VOXEL).all()
    independent = local_resolution(noise(0), noise(1), voxel_size=VOXEL, mask=mask)
    assert np.median(independent.values) > 20


def test_first_crossings_are_interpolated():
    curves = np.array([[1, 0.9, 0.7, 0.3, 0.1], [1, 0.4, 0.9, 0.9, 0.9], [1, 1, 1, 1, 1], [1, 0.8, np.nan, 1, 1]])
    found = first_crossings(curves, 0.5)
    assert found[:3] == pytest.approx([2.5, 1, 5])
    assert 1 <= found[3] < 2


def test_windows_of_no_use_are_refused(halves):
    with pytest.raises(InputError, match="window of 4 voxels"):
        local_resolution(*halves, voxel_size=VOXEL, mask=np.ones((BOX,) * 3), window=8)
    with pytest.raises(InputError, match="no point"):
        local_resolution(*halves, voxel_size=VOXEL, mask=np.zeros((BOX,) * 3))
