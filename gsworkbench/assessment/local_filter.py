"""Filter a map to its local resolution, as is done with classical maps before a model is built."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import fft

_FILTERS = 24  # low-passed maps, equally spaced in spatial frequency, between which voxels are interpolated
_FALL = 2.0  # width of a filter's cosine edge, Fourier shells


def locally_filtered(
    volume: NDArray[np.floating], resolution: NDArray[np.floating], *, voxel_size: float
) -> NDArray[np.float32]:
    """Low-pass every voxel of a map (D, D, D) at its own resolution (D, D, D), A; zero where that is 0.

    `assessment.local.local_resolution(...).resolution` is such a map: 0 outside its mask. A filter falls from 1 to 0 by
    half a cosine, two shells wide, centred on 1 / resolution.
    """
    box_size = len(volume)
    edge = box_size * voxel_size
    inside = resolution > 0
    cutoff = np.zeros(resolution.shape)
    cutoff[inside] = np.minimum(edge / resolution[inside], box_size / 2)  # in shells
    if not inside.any():
        return np.zeros(volume.shape, np.float32)
    grid = np.linspace(cutoff[inside].min(), cutoff[inside].max(), _FILTERS)
    place = np.interp(cutoff, grid, np.arange(_FILTERS))
    transform = fft.rfftn(np.asarray(volume, np.float32))
    k = [fft.fftfreq(box_size, 1 / box_size)] * 2 + [fft.rfftfreq(box_size, 1 / box_size)]
    radius = np.sqrt(k[0][:, None, None] ** 2 + k[1][:, None] ** 2 + k[2] ** 2)
    filtered = np.zeros(volume.shape, np.float32)
    for number, shell in enumerate(grid):
        gain = 0.5 * (1 + np.cos(np.pi * np.clip((radius - shell) / _FALL + 0.5, 0, 1)))
        share = np.clip(1 - np.abs(place - number), 0, 1) * inside
        filtered += (share * fft.irfftn(transform * gain.astype(np.float32), s=volume.shape)).astype(np.float32)
    return filtered
