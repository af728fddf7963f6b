"""Where does the power of a map end? Nothing can be read off it beyond: not off the map, nor off a window or a mask.

A map that was filtered, or enlarged in Fourier space, holds nothing beyond a shell. Cut out by a window or a mask it
seems to, for these carry power from strong shells to empty ones, the same in both half maps.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gsworkbench.assessment.fsc import NO_POWER, shell_weights
from gsworkbench.assessment.transforms import transform
from gsworkbench.io.mrc import Map

CLIFF = 1e-4  # a filter lets the power fall by so much over a few shells; molecules and sums of Gaussians do not
_WEAK = 1e-6  # of the strongest shell's power per component: below it nothing is said of how power falls
_FOREIGN = 0.25  # of the power in a shell of a window may be carried there from coarser ones


@dataclass(frozen=True)
class Spectrum:
    """power : (D // 2,) mean power of the Fourier components of each shell, 0 to Nyquist - 1.

    last : the largest of |kx|, |ky|, |kz| at which a map holds more than rounding, D // 2 - 1 in maps that nobody
    filtered, 0 in a map of nothing. A map that was enlarged from n voxels has n // 2 - 1 or n // 2 there; shells beyond
    hold the corners of its cube alone.
    """

    power: NDArray[np.float64]
    last: int


def spectrum(volume: Map) -> Spectrum:
    """Return where the power of a (D, D, D) map lies."""
    box = len(volume)
    k, kx = np.abs(np.rint(np.fft.fftfreq(box, 1 / box))), np.arange(box // 2 + 1)
    sums, counts, outermost = np.zeros(box // 2), np.zeros(box // 2), np.zeros(box // 2 + 1)
    weights = shell_weights(box)
    for kz, plane in zip(k, transform(volume - volume.mean(dtype=np.float64)), strict=True):
        power = (plane.real**2 + plane.imag**2) * weights
        shells = np.rint(np.sqrt(kz**2 + k[:, None] ** 2 + kx**2)).astype(np.int64)
        inside = shells < box // 2
        sums += np.bincount(shells[inside], power[inside], minlength=box // 2)
        counts += np.bincount(shells[inside], np.broadcast_to(weights, shells.shape)[inside], minlength=box // 2)
        farthest = np.maximum(np.maximum(k[:, None], kx), kz).astype(np.int64)
        outermost += np.bincount(farthest.ravel(), power.ravel(), minlength=box // 2 + 1)
    there = np.flatnonzero(outermost > NO_POWER * outermost.sum())
    return Spectrum(sums / counts, min(int(there[-1]), box // 2 - 1) if len(there) else 0)


def cliff(power: NDArray[np.float64]) -> int | None:
    """Return the shell from which on the power falls by CLIFF at once and stays below; None if it nowhere does."""
    step = max(len(power) // 16, 1)
    strong = power[1:-step] > _WEAK * power[1:].max()
    steep = np.flatnonzero(strong & (power[1 + step :] < CLIFF * power[1:-step])) + 1
    return next((int(s) for s in steep if (power[s + step :] < CLIFF * power[s]).all()), None)


def last_shell(*spectra: Spectrum) -> int:
    """Return the last shell in which all maps hold power: Nyquist - 1 for maps that nobody filtered."""
    return min(min(found.last, cliff(found.power) or found.last) for found in spectra)


def own_shells(power: NDArray[np.float64], width: int) -> NDArray[np.int64]:
    """(n,) the last shell whose power is the map's own, of windows of `width` voxels whose (n, width // 2) mean power
    of components is given, shell by shell.

    Where the map has next to nothing a window shows what it carries there from coarser shells. A shell belongs to the
    window, as do all that follow, once more than a quarter of its power is what shells coarser by two or more send.
    """
    sent = power @ _carried(width).T
    foreign = (sent > _FOREIGN * power)[:, 2:]
    return np.where(foreign.any(1), foreign.argmax(1) + 1, width // 2 - 1)


@functools.lru_cache(maxsize=4)
def _carried(width: int) -> NDArray[np.float64]:
    """(s, s') share of the power in shell s' that a Hann window of revolution carries to shell s, for s' <= s - 2.

    It carries the power at |q| to its shell s in proportion to the mean of its squared transform |W(t)|^2 over the
    angles between them, which is the integral of t |W(t)|^2 from |s - q| to s + q, over 2 s q.
    """
    t, r = np.linspace(0, 2 * width, 100 * width), np.linspace(0, 1, 401)
    profile = r**2 * 0.5 * (1 + np.cos(np.pi * r))
    wave = np.array([np.trapezoid(profile * np.sinc(x * r), r) for x in t])
    passed = np.concatenate([[0.0], np.cumsum((t * wave**2)[1:] * np.diff(t))])
    q = np.arange(1, width // 2)[None]
    s = q.T
    reach = q / s * (np.interp(s + q, t, passed) - np.interp(np.abs(s - q), t, passed))
    own = np.where(np.abs(s - q) <= 1, reach, 0).sum(1)
    carried = np.zeros((width // 2, width // 2))
    carried[1:, 1:] = np.where(q <= s - 2, reach / own, 0)
    return carried
