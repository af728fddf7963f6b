"""Local resolution of maps whose resolution is known in two places."""

import numpy as np
import pytest

from gsworkbench.assessment.fsc import first_crossings, shell_indices
from gsworkbench.assessment.local import local_resolution
from gsworkbench.assessment.masks import Mask, spherical_mask
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
    return local_resolution(*halves, voxel_size=VOXEL, mask=Mask(mask, "two slabs"))


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
    inside = np.zeros((BOX,) * 3)
    inside[20:28, 20:28, 20:28] = 1
    mask = Mask(inside, "a cube")
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
        local_resolution(*halves, voxel_size=VOXEL, mask=Mask(np.ones((BOX,) * 3)), window=8)
    with pytest.raises(InputError, match="no point"):
        local_resolution(*halves, voxel_size=VOXEL, mask=Mask(np.zeros((BOX,) * 3)))


def mask_of(box):
    return spherical_mask(box, VOXEL, radius=0.3 * box * VOXEL, edge=4 * VOXEL)


@pytest.mark.parametrize("angstrom", [10.0, 14.0])
def test_filtered_maps_do_not_read_nyquist(halves, angstrom):
    cut = [band_limited(half, angstrom).astype(np.float32) for half in halves]
    end = BOX * VOXEL / int(BOX * VOXEL / angstrom)
    found = local_resolution(*cut, voxel_size=VOXEL, mask=mask_of(BOX))
    assert found.values.min() >= end - 1e-6 and found.finest == pytest.approx(end)
    assert (
        found.ended > 0.1 and found.at_nyquist == 0 and "% of the points end where the maps have no power" in str(found)
    )


def test_enlarged_maps_read_what_they_read_before(halves):
    def enlarged(volume):
        padded = np.fft.fftshift(np.fft.fftn(volume))
        padded[0] = padded[:, 0] = padded[:, :, 0] = 0
        return (8 * np.fft.ifftn(np.fft.ifftshift(np.pad(padded, BOX // 2))).real).astype(np.float32)

    settings = {"window": 40.0, "step": 8.0}
    before = local_resolution(*halves, voxel_size=VOXEL, mask=mask_of(BOX), **settings)
    mask = spherical_mask(2 * BOX, VOXEL / 2, radius=0.3 * BOX * VOXEL, edge=4 * VOXEL)
    after = local_resolution(*map(enlarged, halves), voxel_size=VOXEL / 2, mask=mask, **settings)
    assert after.values.mean() == pytest.approx(before.values.mean(), rel=0.1)
    same = local_resolution(*[enlarged(halves[0])] * 2, voxel_size=VOXEL / 2, mask=mask, **settings)
    assert same.at_nyquist == 0 and same.ended == 1 and same.values.min() >= 2 * VOXEL


def test_where_a_map_is_empty_nothing_is_resolved():
    inside = mask_of(BOX).values > 0.5
    same = np.where(inside, noise(0), 0)
    found = local_resolution(same, same, voxel_size=VOXEL, mask=Mask(np.ones((BOX,) * 3)), step=12)
    assert found.empty > 0.2 and "lie where a map is empty" in str(found)
    corner = np.linalg.norm(found.points - BOX // 2, axis=1) > 0.6 * BOX
    assert (found.values[corner] == found.window).all()


def test_natural_maps_end_nowhere_before_nyquist(halves):
    assert local_resolution(*halves, voxel_size=VOXEL, mask=mask_of(BOX)).ended == 0
