"""Where in a map the molecule is, from the map alone."""

from __future__ import annotations

import numpy as np
from scipy import fft, ndimage

from gsworkbench.io.mrc import Volume

_SMOOTH = 2.0  # voxels, standard deviation of the blur that a support is made with
_LEVEL = 0.3  # of the blurred map's 99.9th percentile, above which it is the molecule
_GROWN, _EDGE = 1.0, 4.0  # voxels


def molecule(volume: Volume) -> Volume:
    """(D, D, D) soft mask of where a map holds a molecule: its density, blurred, above a part of its highest."""
    k = [fft.fftfreq(n) for n in volume.shape]
    k[2] = fft.rfftfreq(volume.shape[2])
    square = k[0][:, None, None] ** 2 + k[1][:, None] ** 2 + k[2] ** 2
    blur = np.exp(-2 * np.pi**2 * _SMOOTH**2 * square)
    smooth = fft.irfftn(fft.rfftn(volume) * blur, s=volume.shape, axes=(0, 1, 2))
    smooth = smooth - np.median(smooth)
    inside = smooth > _LEVEL * max(float(np.percentile(smooth, 99.9)), 0.0)
    if not inside.any():
        return np.ones_like(volume)
    distance = ndimage.distance_transform_edt(~inside)
    return (0.5 * (1 + np.cos(np.pi * np.clip((distance - _GROWN) / _EDGE, 0, 1)))).astype(np.float32)
