"""The map that postprocessing gives: the mean of two half maps, weighted by their FSC and sharpened by one B factor.

Rosenthal and Henderson 2003 (J. Mol. Biol. 333, 721), by RELION's rules: shell s is multiplied by sqrt(2 F / (1 + F)),
F the FSC, and by exp(-B s^2 / 4), B negative to sharpen. Not here: division by a detector's MTF, a low-pass filter (the
weights vanish where the curve does).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gsworkbench.assessment.fsc import FscCurve
from gsworkbench.assessment.transforms import inverse, transform

Map = NDArray[np.floating]

FIT_FROM = 10.0  # A; coarser than this a Guinier plot shows the molecule's shape, not its decay
_FEWEST_SHELLS = 3  # for a straight line to mean anything
_NOTHING = 1e-4  # an FSC below this ends the map


@dataclass(frozen=True)
class GuinierFit:
    """ln of the mean amplitude against 1 / d^2, from FIT_FROM to Nyquist: slope in A^2 (B / 4), intercept, and r^2."""

    slope: float
    intercept: float
    correlation: float


@dataclass(frozen=True)
class Sharpened:
    """volume : (D, D, D) float32. b_factor : applied, A^2; 0 for none. fit : where it comes from, None if it was given.

    squared_frequencies : (D // 2 + 1,) 1/A^2. amplitudes : original, weighted, sharpened -> (D // 2 + 1,) ln of the
    mean amplitude per shell, of a transform divided by D^3; -99 where there is none, as RELION writes it. note : why no
    B factor was fitted, or empty.
    """

    volume: NDArray[np.float32]
    b_factor: float
    fit: GuinierFit | None
    squared_frequencies: NDArray[np.float64]
    amplitudes: dict[str, NDArray[np.float64]]
    note: str = ""


def sharpen(mean: Map, curve: FscCurve, b_factor: float | None = None) -> Sharpened:
    """Weight and sharpen the mean of two half maps, (D, D, D).

    curve : the FSC to trust, of the corrected maps where there is one; shells without a value count as zero.
    b_factor : A^2, negative to sharpen; None to fit it from FIT_FROM to Nyquist. Where fewer than three shells lie
    there, as with voxels of more than 5 A, nothing is fitted and B is 0.
    """
    box_size, half = curve.box_size, transform(mean)
    squared = (np.arange(box_size // 2 + 1) / (box_size * curve.voxel_size)) ** 2
    amplitudes = {"original": log_amplitudes(half)}
    _multiply(half, fsc_weights(curve))
    amplitudes["weighted"] = log_amplitudes(half)
    fit, note = None, ""
    if b_factor is None:
        fit = guinier_fit(squared, amplitudes["weighted"])
        b_factor = 4 * fit.slope if fit else 0.0
        note = "" if fit else f"no B factor: fewer than {_FEWEST_SHELLS} shells between {FIT_FROM:g} A and Nyquist"
    if b_factor:
        _decay(half, b_factor, curve.voxel_size)
    amplitudes["sharpened"] = log_amplitudes(half)
    return Sharpened(inverse(half).astype(np.float32), b_factor, fit, squared, amplitudes, note)


def fsc_weights(curve: FscCurve) -> NDArray[np.float64]:
    """(D // 2 + 1,) sqrt(2 F / (1 + F)), and zero from the first shell on in which F is nothing."""
    f = np.nan_to_num(curve.values)
    f[0] = 1.0  # the mean of the map says nothing about its detail
    ended = np.maximum.accumulate(f < _NOTHING)
    return np.where(ended, 0.0, np.sqrt(2 * np.clip(f, 0, None) / (1 + np.clip(f, 0, None))))


def guinier_fit(squared_frequencies: NDArray[np.float64], amplitudes: NDArray[np.float64]) -> GuinierFit | None:
    """Straight line through ln amplitudes against 1 / d^2, from FIT_FROM to Nyquist; None where shells are too few."""
    used = (squared_frequencies >= FIT_FROM**-2) & (amplitudes > -99)
    if np.count_nonzero(used) < _FEWEST_SHELLS:
        return None
    x, y = squared_frequencies[used], amplitudes[used]
    slope, intercept = np.polyfit(x, y, 1)
    return GuinierFit(float(slope), float(intercept), float(np.corrcoef(x, y)[0, 1] ** 2))


def log_amplitudes(half: NDArray[np.complex128]) -> NDArray[np.float64]:
    """(D // 2 + 1,) ln of the mean |F| / D^3 over the stored voxels of each shell; -99 for a shell of zeros."""
    n, sums = len(half), np.zeros((2, len(half) // 2 + 1))
    for plane, shell, _ in _planes(half):
        inside = shell <= n // 2
        sums[0] += np.bincount(shell[inside], np.abs(plane[inside]), minlength=n // 2 + 1)
        sums[1] += np.bincount(shell[inside], minlength=n // 2 + 1)
    mean = sums[0] / sums[1] / n**3
    return np.log(mean, out=np.full(len(mean), -99.0), where=mean > 0)


def _multiply(half: NDArray[np.complex128], weights: NDArray[np.float64]) -> None:
    """Multiply each shell in place; what lies beyond the last is set to zero."""
    padded = np.append(weights, 0.0)
    for plane, shell, _ in _planes(half):
        plane *= padded[np.minimum(shell, len(weights))]


def _decay(half: NDArray[np.complex128], b_factor: float, voxel_size: float) -> None:
    """Multiply by exp(-B s^2 / 4) in place; beyond Nyquist nothing is left."""
    edge = len(half) * voxel_size
    for plane, _, squared in _planes(half):
        plane *= np.where(4 * squared <= len(half) ** 2, np.exp(-b_factor / 4 * squared / edge**2), 0.0)


def _planes(
    half: NDArray[np.complex128],
) -> Iterator[tuple[NDArray[np.complex128], NDArray[np.int64], NDArray[np.float64]]]:
    """Yield (plane, shell of its voxels, their |k|^2), plane by plane: whole maps do not fit a cache."""
    n = len(half)
    k, kx = np.fft.fftfreq(n, 1 / n), np.arange(n // 2 + 1)
    for kz, plane in zip(k, half, strict=True):
        squared = kz**2 + k[:, None] ** 2 + kx**2
        yield plane, np.rint(np.sqrt(squared)).astype(np.int64), squared
