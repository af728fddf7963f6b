"""Filtering by local resolution: each voxel at its own cut-off, nothing outside."""

import numpy as np

from gsworkbench.assessment.local_filter import locally_filtered


def wave(box_size, shell):
    return np.cos(2 * np.pi * shell * np.arange(box_size) / box_size)[:, None, None] * np.ones((box_size,) * 3)


def test_a_wave_passes_below_the_resolution_and_not_above():
    """Shell 5 of 32 voxels of 2 A is 12.8 A: it passes at 8 A, not at 20 A, and halves at its own resolution."""
    volume = wave(32, 5)
    for resolution, gain in ((8.0, 1.0), (20.0, 0.0), (12.8, 0.5)):
        filtered = locally_filtered(volume, np.full(volume.shape, resolution), voxel_size=2.0)
        assert np.abs(filtered - gain * volume).max() < 1e-4


def test_every_voxel_has_its_own_resolution_and_zero_means_outside():
    volume = wave(32, 5)
    resolution = np.full(volume.shape, 8.0)
    resolution[:, :, 16:] = 20.0
    resolution[:, :8] = 0.0
    filtered = locally_filtered(volume, resolution, voxel_size=2.0)
    assert np.abs(filtered[:, 8:, :16] - volume[:, 8:, :16]).max() < 1e-4
    assert np.abs(filtered[:, 8:, 16:]).max() < 1e-4
    assert not filtered[:, :8].any()
    assert not locally_filtered(volume, np.zeros(volume.shape), voxel_size=2.0).any()
