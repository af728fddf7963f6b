"""Half maps that share noise, were filtered or masked are named; good ones of every kind are not."""

import re

import numpy as np
import pytest
import torch
from test_register import good_pairs, molecule, noise, pair

from gsworkbench.assessment.fsc import shell_indices
from gsworkbench.assessment.half_maps import (
    half_map_alarms,
    masked_already,
    noise_correlation,
    power_ends,
    shared_noise,
)
from gsworkbench.assessment.masks import spherical_mask
from gsworkbench.assessment.power import spectrum
from gsworkbench.rendering import voxelize

VOXEL = 2.0


def filtered(volume, gain):
    return np.fft.irfftn(
        np.fft.rfftn(volume) * gain(shell_indices(len(volume))), s=volume.shape, axes=(0, 1, 2)
    ).astype(np.float32)


def enlarged(volume, factor):
    n, box = len(volume), factor * len(volume)
    padded = np.fft.fftshift(np.fft.fftn(volume))
    padded[0] = padded[:, 0] = padded[:, :, 0] = 0
    padded = np.pad(padded, (box - n) // 2)
    return (np.fft.ifftn(np.fft.ifftshift(padded)).real * factor**3).astype(np.float32)


@pytest.mark.parametrize("box", [16, 32, 48])
@pytest.mark.parametrize("snr", [0.0, 0.1, 10.0])
def test_the_full_map_in_place_of_a_half_rings(box, snr):
    first, second = pair(5, box, snr)
    full = (first + second) / 2
    assert noise_correlation(full, second) == pytest.approx(np.sqrt(0.5), abs=0.05)
    assert "share particles or noise" in shared_noise(full, second)
    assert shared_noise(first, second) is None


def test_half_maps_with_a_third_of_their_particles_in_common_ring():
    first, second = pair(6, 32, 1.0)
    common = np.sqrt(0.5) * noise(77, 32)
    assert "correlates by 0.3" in shared_noise(first + common, second + common)


@pytest.mark.parametrize(("last", "box"), [(10, 32), (9, 48), (20, 48)])
def test_filtered_maps_are_named_with_where_they_end(last, box):
    cut, edge = filtered(pair(1, box)[0], lambda s: s <= last), box * VOXEL
    said = power_ends(spectrum(cut), VOXEL)
    assert f"no power beyond {edge / last:.2f} A" in said and f"about {edge / last / 2:.3g} A" in said
    soft = filtered(pair(1, box)[0], lambda s: np.maximum(np.clip((last - s) / 2, 0, 1), 1e-4))
    assert "were low-pass filtered" in power_ends(spectrum(soft), VOXEL)


def test_enlarged_maps_are_named_with_the_voxels_they_had():
    maps = [enlarged(half, 2) for half in pair(2, 24)]
    (said,) = [alarm for alarm in half_map_alarms(*maps, VOXEL / 2) if "no power" in alarm]
    assert float(re.search(r"from voxels of about (\S+) A", said)[1]) == pytest.approx(VOXEL, rel=0.1)


@pytest.mark.parametrize("edge", [0.01, 5.0])
def test_masked_maps_are_named(edge):
    mask = spherical_mask(32, 1.0, radius=9, edge=edge).values
    assert "were masked already" in masked_already(pair(3, 32)[0] * mask + 7)  # on any level
    assert masked_already(pair(3, 32)[0]) is None


@pytest.mark.parametrize(("seed", "sigma"), [(0, 1.0), (1, 1.5), (2, 2.5)])
def test_sums_of_gaussians_are_neither_filtered_nor_masked_nor_dependent(seed, sigma):
    rng = np.random.default_rng(seed)

    centres = rng.normal(scale=5, size=(60, 3))
    maps = []
    for k in (1, 2):
        means = torch.from_numpy(centres + np.random.default_rng(10 * seed + k).normal(scale=0.2, size=(60, 3))).float()
        spread = torch.eye(3).expand(60, 3, 3) * sigma**2
        maps.append(voxelize(means, spread, torch.ones(60), box_size=48, voxel_size=1.0, cutoff=5.0).numpy())
    assert half_map_alarms(*maps, 1.0) == []


@pytest.mark.parametrize("seed", [8, 9])
@pytest.mark.parametrize("box", [16, 32])
def test_good_half_maps_ring_nothing(seed, box):
    said = {name: half_map_alarms(a, b, VOXEL) for name, a, b in good_pairs(seed, box) if "masked" not in name}
    assert {name: words for name, words in said.items() if words} == {}


def test_a_signal_that_decays_is_not_a_filter():
    volume = filtered(molecule(4, 48), lambda s: np.exp(-((s / 8) ** 2)))
    assert power_ends(spectrum(volume), VOXEL) is None
