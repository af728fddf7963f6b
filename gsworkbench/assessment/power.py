"""Where does the power of a map end? Nothing can be read off it beyond: not off the map, nor off a window or a mask.

A map that was filtered, or enlarged in Fourier space, holds nothing beyond a shell. Cut out by a window or a mask it
seems to, for these carry power from strong shells to empty ones, the same in both half maps.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from gsworkbench.assessment.fsc import NO_POWER, shell_indices, shell_weights
from gsworkbench.assessment.transforms import transform

Map = NDArray[np.floating]

CLIFF = 1e-4  # a filter lets the power fall by so much over a few shells; molecules and sums of Gaussians do not
_WEAK = 1e-6  # of the strongest shell's power per component: below it nothing is said of how power falls
_NEAR = 1.5  # shells of a window: what it carries no farther than this is taken for its own
_OWN = 0.5  # of the power in a shell of a window must be its own


def component_power(volume: Map) -> NDArray[np.float64]:
    """(D // 2,) mean power of the Fourier components of each shell, 0 to Nyquist - 1."""
    box = len(volume)
    shells = shell_indices(box)
    weights = np.broadcast_to(shell_weights(box), shells.shape)
    inside = shells < box // 2
    power = np.abs(transform(volume - volume.mean(dtype=np.float64))) ** 2
    sums = np.bincount(shells[inside], (power * weights)[inside], minlength=box // 2)
    return sums / np.bincount(shells[inside], weights[inside], minlength=box // 2)


def last_shell_with_power(power: NDArray[np.float64]) -> int:
    """Return the last shell of a map's `component_power` that holds more than rounding; 0 for a map of nothing."""
    whole = power * np.maximum(np.arange(len(power)), 1) ** 2.0
    there = np.flatnonzero(whole > NO_POWER * whole.sum())
    return int(there[-1]) if len(there) else 0


def cliff(power: NDArray[np.float64]) -> int | None:
    """Return the shell from which on the power falls by CLIFF at once and stays below; None if it nowhere does."""
    step = max(len(power) // 16, 1)
    strong = power[1:-step] > _WEAK * power[1:].max()
    steep = np.flatnonzero(strong & (power[1 + step :] < CLIFF * power[1:-step])) + 1
    return next((int(s) for s in steep if (power[s + step :] < CLIFF * power[s]).all()), None)


def last_shell(*maps: Map) -> int:
    """Return the last shell in which all (D, D, D) maps hold power: Nyquist - 1 for maps that nobody filtered."""
    powers = [component_power(m) for m in maps]
    ends = [(last_shell_with_power(power), cliff(power)) for power in powers]
    return min(last if fall is None else min(last, fall) for last, fall in ends)


def resolved_by_windows(power: NDArray[np.float64], width: int) -> int:
    """Return the last shell of a window of `width` voxels, 1 to width // 2 - 1, whose power is its own.

    power : `component_power` of the whole map. A Hann window of revolution carries the power of a shell at |q| to its
    shell s in proportion to the mean of its squared transform over the angles between them. A shell where the map's
    power from more than 1.5 shells below makes more than half of it is not the map's.
    """
    radius, passed = _hann(width)
    q = np.arange(1, len(power)) * width / (2 * len(power))
    last = 0
    for shell in range(1, width // 2):
        reach = np.interp(shell + q, radius, passed) - np.interp(np.abs(shell - q), radius, passed)
        carried = power[1:] * q * reach
        if carried[q < shell - _NEAR].sum() > (1 - _OWN) * carried.sum():
            break
        last = shell
    return max(last, 1)


@functools.lru_cache(maxsize=4)
def _hann(width: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distances t in shells of the window, and the integral of t |W(t)|^2 up to them, W its transform."""
    t, r = np.linspace(0, 2 * width, 100 * width), np.linspace(0, 1, 401)
    profile = r**2 * 0.5 * (1 + np.cos(np.pi * r))
    wave = np.array([np.trapezoid(profile * np.sinc(x * r), r) for x in t])
    return t, np.concatenate([[0.0], np.cumsum((t * wave**2)[1:] * np.diff(t))])
