"""The map that postprocessing gives: the mean of two half maps, weighted by their FSC and sharpened by one B factor.

Rosenthal and Henderson 2003 (J. Mol. Biol. 333, 721), by RELION's rules: shell s is multiplied by sqrt(2 F / (1 + F)),
F the FSC, and by exp(-B s^2 / 4), B negative to sharpen. Not here: division by a detector's MTF, a low-pass filter (the
weights vanish where the curve does). Departing from RELION, the B factor is fitted up to the resolution instead of
Nyquist, past what a filter has done to the half maps, and within what maps have.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gsworkbench.assessment.fsc import FscCurve, resolution
from gsworkbench.assessment.transforms import inverse, transform
from gsworkbench.io.mrc import Map

FIT_FROM = 10.0  # A; coarser than this a Guinier plot shows the molecule's shape, not its decay
FIT_TO = 7.0  # A; a line that ends before this is one through the shape as well
STRONGEST = -500.0  # A^2; B factors of maps lie between about -20 and this
_FEWEST_SHELLS = 3  # for a straight line to mean anything
_NOTHING = 1e-4  # an FSC below this ends the map
_SIGNAL = 0.95  # an FSC above this leaves too little noise in a shell to be measured
_FILTERED = 2.0  # times: noise that falls by more was filtered, for that of images only grows with frequency


@dataclass(frozen=True)
class GuinierFit:
    """ln of the mean amplitude against 1 / d^2, from FIT_FROM on: slope in A^2 (B / 4), intercept, and r^2."""

    slope: float
    intercept: float
    correlation: float


@dataclass(frozen=True)
class Sharpened:
    """volume : (D, D, D) float32. b_factor : applied, A^2; 0 for none. fit : where it comes from, None if it was given.

    squared_frequencies : (D // 2 + 1,) 1/A^2. amplitudes : original, weighted, sharpened -> (D // 2 + 1,) ln of the
    mean amplitude per shell, of a transform divided by D^3; -99 where there is none, as RELION writes it. note : where
    the B factor comes from, or why there is none; empty where it was given.
    """

    volume: NDArray[np.float32]
    b_factor: float
    fit: GuinierFit | None
    squared_frequencies: NDArray[np.float64]
    amplitudes: dict[str, NDArray[np.float64]]
    note: str = ""


def sharpen(
    mean: Map,
    curve: FscCurve,
    b_factor: float | None = None,
    *,
    unmasked: FscCurve | None = None,
    to_nyquist: bool = False,
) -> Sharpened:
    """Weight and sharpen the mean of two half maps, (D, D, D).

    curve : the FSC to trust, of the corrected maps where there is one; shells without a value count as zero.
    b_factor : A^2, negative to sharpen; None to fit it from FIT_FROM to where `curve` crosses 0.143. Where that is
    coarser than FIT_TO nothing is fitted and B is 0; a B outside STRONGEST to 0 is brought back there. unmasked : the
    FSC without a mask; then the fall of amplitudes that a filter left in the half maps, which shows in their noise, is
    not taken for decay. to_nyquist : fit as RELION does, to Nyquist, whatever comes out.
    """
    box_size, half = curve.box_size, transform(mean)
    squared = (np.arange(box_size // 2 + 1) / (box_size * curve.voxel_size)) ** 2
    amplitudes = {"original": log_amplitudes(half)}
    _multiply(half, fsc_weights(curve))
    amplitudes["weighted"] = log_amplitudes(half)
    fit, note = None, ""
    if b_factor is None and to_nyquist:
        fit = guinier_fit(squared, amplitudes["weighted"])
        b_factor = 4 * fit.slope if fit else 0.0
        note = "" if fit else f"no B factor: {_too_few('Nyquist')}"
    elif b_factor is None:
        gain = np.zeros(len(squared)) if unmasked is None else _log_gain(amplitudes["original"], unmasked, squared)
        fit, b_factor, note = _fitted(squared, amplitudes["weighted"], gain, curve)
    if b_factor:
        _decay(half, b_factor, curve.voxel_size)
    amplitudes["sharpened"] = log_amplitudes(half)
    return Sharpened(inverse(half).astype(np.float32), b_factor, fit, squared, amplitudes, note)


def _fitted(
    squared: NDArray[np.float64], amplitudes: NDArray[np.float64], gain: NDArray[np.float64], curve: FscCurve
) -> tuple[GuinierFit | None, float, str]:
    """Return the Guinier fit up to the resolution, the B factor to apply, and what must be said of it."""
    found = resolution(curve)
    end = found.angstrom or curve.nyquist_angstrom
    limit = "the resolution" if found.angstrom else "Nyquist"
    if end > FIT_FROM:
        return None, 0.0, f"no B factor: {_too_few(limit)}, {end:.2f} A"
    if end > FIT_TO:
        return (
            None,
            0.0,
            (
                f"no B factor: {limit}, {end:.2f} A, is coarser than {FIT_TO:g} A, and from {FIT_FROM:g} A to there "
                "amplitudes show the shape of the molecule, not its decay; --sharpen takes one that you know"
            ),
        )
    there = np.where(amplitudes > -99, amplitudes - gain, -99.0)
    fit = guinier_fit(squared, there, end)
    if fit is None:
        return None, 0.0, f"no B factor: {_too_few(limit)}"
    b_factor, said = 4 * fit.slope, [f"fitted from {FIT_FROM:g} A to {limit}, {end:.2f} A"]
    used = (squared >= FIT_FROM**-2) & (squared <= end**-2 * (1 + 1e-9))
    fall = float(np.exp(-2 * gain[used].min()))
    if fall > _FILTERED:
        said.append(
            f"the noise of the half maps falls {fall:.1f} times there, so they were filtered, and what the filter "
            "took is not taken for decay"
        )
    limited = float(np.clip(b_factor, STRONGEST, 0.0))
    if limited != b_factor:
        said.append(
            f"the fit says {b_factor:.1f} A^2, which maps do not have; {limited:.1f} A^2 is applied, --sharpen takes "
            "another"
        )
    return fit, limited, "; ".join(said)


def _too_few(limit: str) -> str:
    return f"fewer than {_FEWEST_SHELLS} shells between {FIT_FROM:g} A and {limit}"


def _log_gain(amplitudes: NDArray[np.float64], unmasked: FscCurve, squared: NDArray[np.float64]) -> NDArray[np.float64]:
    """(D // 2 + 1,) ln of what a filter multiplied each shell by, as far as noise tells: 0 where it does not fall.

    Noise has the power P (1 - FSC). That of particles is level or grows with frequency, so where it lies below what it
    was at a coarser frequency, from FIT_FROM on, a filter took it down, and the signal with it.
    """
    f = np.nan_to_num(unmasked.values, nan=1.0)
    known = (f < _SIGNAL) & (amplitudes > -99) & (squared >= FIT_FROM**-2)
    noise = np.where(known, 2 * amplitudes + np.log(np.maximum(1 - f, 1 - _SIGNAL)), -np.inf)
    if np.count_nonzero(known) < _FEWEST_SHELLS:
        return np.zeros(len(f))
    shells = np.flatnonzero(known)
    smooth = np.convolve(np.pad(noise[shells], 1, mode="edge"), np.ones(3) / 3, "valid")
    gain = np.zeros(len(f))
    gain[shells] = (smooth - np.maximum.accumulate(smooth)) / 2
    return gain


def fsc_weights(curve: FscCurve) -> NDArray[np.float64]:
    """(D // 2 + 1,) sqrt(2 F / (1 + F)), and zero from the first shell on in which F is nothing."""
    f = np.nan_to_num(curve.values)
    f[0] = 1.0  # the mean of the map says nothing about its detail
    ended = np.maximum.accumulate(f < _NOTHING)
    return np.where(ended, 0.0, np.sqrt(2 * np.clip(f, 0, None) / (1 + np.clip(f, 0, None))))


def guinier_fit(
    squared_frequencies: NDArray[np.float64], amplitudes: NDArray[np.float64], until: float = 0.0
) -> GuinierFit | None:
    """Straight line through ln amplitudes against 1 / d^2, from FIT_FROM to `until` A; None where shells are too few.

    until : 0 for Nyquist, which is RELION's range.
    """
    used = (squared_frequencies >= FIT_FROM**-2) & (amplitudes > -99)
    if until:
        used &= squared_frequencies <= until**-2 * (1 + 1e-9)
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
