"""The map that an atomic model predicts, on the grid and in the frame of a measured map.

A sum of electron form factors: every atom with one B factor and full occupancy, no solvent, no disorder, no charge. It
shares no code with the simulator, which computes the same potential of molecules moved to the centre of the box.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gsworkbench.errors import InputError


def model_map(
    coordinates: NDArray[np.floating],
    elements: NDArray[np.integer],
    *,
    box_size: int,
    voxel_size: float,
    origin: NDArray[np.floating],
    b_factor: float,
) -> NDArray[np.float64]:
    """Electron scattering potential (D, D, D) = z, y, x in 1/A^2, band-limited to |k| < D/2.

    coordinates : (n, 3) x, y, z in A, in the frame of the map. elements : (n,) atomic numbers. origin : (3,) x, y, z in
    A of voxel [0, 0, 0] in that frame. b_factor : of every atom, A^2.
    F(k) = sum over atoms of f(|k|) exp(-B |k|^2 / 4 - 2 pi i k . (r - origin)), f the five Gaussians of International
    Tables C, table 4.3.2.2. An atom outside the box raises InputError: the model is not in the map's frame.
    """
    import finufft

    edge = box_size * voxel_size
    inside = _within(coordinates, origin, edge)
    k = np.fft.fftfreq(box_size, 1 / box_size)
    squared = (k[:, None, None] ** 2 + k[:, None] ** 2 + k**2).astype(np.int64)
    band = 4 * squared < box_size**2
    s2 = np.arange(box_size**2 // 4 + 1) / edge**2  # 1/A^2, by |k|^2
    transform = np.zeros(squared.shape, np.complex128)
    for number in np.unique(elements):
        z, y, x = np.ascontiguousarray(2 * np.pi / edge * inside[elements == number].T[::-1])
        ones = np.ones(len(x), np.complex128)
        waves = finufft.nufft3d1(z, y, x, ones, squared.shape, eps=1e-8, isign=-1, modeord=1, upsampfac=1.25)
        transform[band] += waves[band] * _form_factor(int(number), s2, b_factor)[squared[band]]
    return np.fft.ifftn(transform).real / voxel_size**3


def _form_factor(number: int, s2: NDArray[np.float64], b_factor: float) -> NDArray[np.float64]:
    """Electron form factor in A of an atom at rest times exp(-B s^2 / 4)."""
    import gemmi

    table = gemmi.Element(number).c4322
    if table is None:
        raise InputError(f"there is no electron form factor for element {gemmi.Element(number).name}")
    a, b = np.array(table.a), np.array(table.b) + b_factor
    return np.exp(-np.outer(s2, b) / 4) @ a


def _within(coordinates: NDArray[np.floating], origin: NDArray[np.floating], edge: float) -> NDArray[np.floating]:
    """Coordinates from the origin of the map; all must lie in its box."""
    inside = coordinates - origin
    outside = np.count_nonzero(((inside < 0) | (inside >= edge)).any(axis=1))
    if outside:
        first, last = (", ".join(f"{value:.1f}" for value in corner) for corner in (origin, origin + edge))
        raise InputError(
            f"{outside:,} of {len(coordinates):,} atoms lie outside the map, which reaches from {first} to {last} A",
            remedy="fit the model into the map first",
        )
    return inside
