"""Real Fourier transforms of maps in double precision, on as many threads as this process may use."""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray
from scipy import fft


def threads() -> int:
    """Threads to use: OMP_NUM_THREADS if it is set, else the cores this process is allowed."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if wanted.isdigit() and int(wanted):
        return int(wanted)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def transform(volume: NDArray[np.floating]) -> NDArray[np.complex128]:
    """(D, D, D) map to the stored half (D, D, D // 2 + 1) of its transform, corner origin, as numpy's rfftn."""
    return fft.rfftn(volume.astype(np.float64, copy=False), workers=threads())


def inverse(half: NDArray[np.complex128]) -> NDArray[np.float64]:
    """Stored half (D, D, D // 2 + 1) back to the (D, D, D) map."""
    return fft.irfftn(half, s=(len(half),) * 3, workers=threads())


def cropped(half: NDArray[np.complex128], size: int) -> NDArray[np.complex128]:
    """Return the stored half of the same map's transform on `size` voxels a side, at most as many as it has."""
    n = len(half)
    rows = np.r_[0 : size // 2, n - size // 2 : n]
    return half[np.ix_(rows, rows, np.arange(size // 2 + 1))].copy()


def coarser(volume: NDArray[np.floating], size: int) -> NDArray[np.floating]:
    """Return a map on `size` voxels a side, without what they cannot hold; itself where it has no more."""
    return volume if len(volume) <= size else inverse(cropped(transform(volume), size))
