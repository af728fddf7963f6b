"""What is wrong with particles, on purpose: poses and shifts off the truth, preferred views, random phases.

Functions of arrays and a generator; simulation/simulate.py says which particles they meet.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from gsworkbench.geometry.rotations import random_rotations

Float64 = NDArray[np.float64]

_PREFERRED_CONE = 20.0  # degrees about the z axis of the map


def turned(rotations: Float64, degrees: float, rng: np.random.Generator) -> Float64:
    """Turn each rotation (n, 3, 3) about a random axis by an angle from N(0, degrees^2); infinity forgets the pose."""
    from scipy.spatial.transform import Rotation

    n = len(rotations)
    if math.isinf(degrees):
        return random_rotations(n, rng)
    axes = rng.standard_normal((n, 3))
    angles = np.deg2rad(rng.normal(0, degrees, (n, 1)))
    return Rotation.from_rotvec(angles * axes / np.linalg.norm(axes, axis=1, keepdims=True)).as_matrix() @ rotations


def preferred_views(rotations: Float64, fraction: float, rng: np.random.Generator) -> Float64:
    """Replace a fraction of the rotations (n, 3, 3) by views within 20 degrees of the map's z axis, else uniform."""
    from scipy.spatial.transform import Rotation

    n = len(rotations)
    chosen = rng.random(n) < fraction
    lowest = math.cos(math.radians(_PREFERRED_CONE))
    tilt = np.arccos(rng.uniform(lowest, 1, n))
    rot, psi = rng.uniform(0, 2 * np.pi, (2, n))
    along_z = Rotation.from_euler("ZYZ", np.stack([rot, tilt, psi], axis=-1)).as_matrix().transpose(0, 2, 1)
    return np.where(chosen[:, None, None], along_z, rotations)


def random_phases(image: NDArray[np.floating], from_index: float, rng: np.random.Generator) -> Float64:
    """Replace the phases of an image (D, D) at |k| >= from_index by those of white noise; amplitudes stay."""
    box_size = len(image)
    transform = np.fft.rfft2(image)
    noise = np.fft.rfft2(rng.standard_normal(image.shape))
    beyond = np.hypot(np.fft.fftfreq(box_size, 1 / box_size)[:, None], np.arange(box_size // 2 + 1)) >= from_index
    transform[beyond] = (np.abs(transform) * np.exp(1j * np.angle(noise)))[beyond]
    return np.fft.irfft2(transform, s=image.shape)
