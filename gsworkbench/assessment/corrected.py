"""FSC corrected for what a mask adds, its errors, and noise substitution (Chen et al. 2013, Ultramicroscopy 135, 24).

Where phases were randomised nothing is left to agree but what the mask, or a shared bias, puts there: with t the curve
as measured and n the one with random phases, FSC_true = (t - n) / (1 - n).
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gsworkbench.assessment.fsc import FscCurve, fourier_shell_correlation
from gsworkbench.assessment.masks import Mask
from gsworkbench.assessment.transforms import inverse, transform
from gsworkbench.errors import InputError
from gsworkbench.io.mrc import Map


def randomise_phases(volume: Map, from_shell: int, seed: int) -> NDArray[np.float64]:
    """Replace the phases of a (D, D, D) map at |k| >= from_shell by random ones; amplitudes stay.

    The phases are those of a map of white noise, so the result is the transform of a real map, on the planes where
    the stored half holds its own Friedel mates too.
    """
    noise = transform(np.random.default_rng(seed).standard_normal(volume.shape, np.float32))
    half = transform(volume)
    n = len(volume)
    k, kx = np.fft.fftfreq(n, 1 / n), np.arange(n // 2 + 1)
    for kz, plane, random in zip(k, half, noise, strict=True):
        beyond = kz**2 + k[:, None] ** 2 + kx**2 >= from_shell**2
        plane[:] = np.where(beyond, np.abs(plane) * np.exp(1j * np.angle(random)), plane)
    return inverse(half)


def corrected_curve(measured: FscCurve, randomised: FscCurve, from_shell: int) -> FscCurve:
    """(t - n) / (1 - n) from `from_shell` on, t below it; NaN where n is 1 or more, for nothing can be said there."""
    t, n = measured.values, randomised.values
    values = t.copy()
    beyond = np.arange(len(t)) >= from_shell
    values[beyond] = np.nan
    np.divide(t - n, 1 - n, out=values, where=beyond & (n < 1))
    return dataclasses.replace(measured, name="fsc_corrected", values=values)


def effective_samples(box_size: int, mask: Mask | None = None) -> NDArray[np.float64]:
    """(D // 2 + 1,) real degrees of freedom n of each rounded shell: an FSC of zero scatters by 1 / sqrt(n).

    Without a mask all N Fourier voxels of a shell, for they are N / 2 independent complex numbers. A mask m correlates
    neighbours: 1/n = sum_kk' |M(k - k')|^2 / (N M(0))^2 over the shell, M the transform of m^2. That is the sum over x
    of B(x) w(x)^2 / (sum m^2)^2, B the autocorrelation of m^2 and w the mean of exp(2 pi i k x / D) over the shell,
    a function of |x| alone.
    """
    if mask is None:
        return _voxels_of_shells(box_size)
    squared = mask.values.astype(np.float64) ** 2
    spectrum = transform(squared)
    autocorrelation = inverse((spectrum * spectrum.conj()).real.astype(complex))
    x = np.fft.fftfreq(box_size, 1 / box_size)
    radial = np.zeros(2 * box_size)  # by distance, in bins of half a voxel
    for z, plane in zip(x, autocorrelation, strict=True):
        distance = np.sqrt(z**2 + x[:, None] ** 2 + x**2)
        radial += np.bincount((2 * distance + 0.5).astype(np.int64).ravel(), plane.ravel(), minlength=len(radial))
    k = np.arange(box_size // 2 + 1)[:, None] + np.array([-0.4, -0.2, 0.0, 0.2, 0.4])  # a shell has a thickness
    wave = np.sinc(k[:, :, None] * np.arange(len(radial)) / box_size)  # 2 k r / D with r in half voxels
    mean = (k[:, :, None] ** 2 * wave).sum(1) / (k**2).sum(1)[:, None]
    return np.clip(squared.sum() ** 2 / (mean**2 @ radial), 1, _voxels_of_shells(box_size))


@functools.lru_cache(maxsize=2)
def _voxels_of_shells(box_size: int) -> NDArray[np.float64]:
    """(D // 2 + 1,) number of voxels of each rounded shell in the whole transform."""
    k = np.rint(np.fft.fftfreq(box_size, 1 / box_size)).astype(int)
    squared = np.bincount((k[:, None] ** 2 + k**2).ravel())  # how many (ky, kz) lie at each squared distance
    distance = np.rint(np.sqrt(np.arange(len(squared))[:, None] + k**2)).astype(int)
    return np.bincount(distance.ravel(), np.repeat(squared, box_size))[: box_size // 2 + 1].astype(np.float64)


def standard_error(curve: FscCurve, samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """(D // 2 + 1,) standard error of a measured curve, (1 - FSC^2) / sqrt(samples): of a correlation of Gaussians.

    samples : `effective_samples` of the mask that the curve was made with.
    """
    return (1 - curve.values**2) / np.sqrt(samples)


def corrected_error(
    measured: FscCurve, randomised: FscCurve, from_shell: int, samples: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(D // 2 + 1,) standard error of `corrected_curve`: of t below from_shell, of t and n together from there on."""
    t, n = measured.values, np.minimum(randomised.values, 1 - 1e-9)
    error = standard_error(measured, samples)
    both = np.hypot(error / (1 - n), standard_error(randomised, samples) * (1 - t) / (1 - n) ** 2)
    return np.where(np.arange(len(t)) >= from_shell, both, error)


def half_bit(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """(D // 2 + 1,) half-bit threshold (van Heel and Schatz 2005, eq. 17) for the `effective_samples` of each shell.

    n there is the number of independent complex Fourier components, half of them.
    """
    root = np.sqrt(np.maximum(samples / 2, 1))
    return (0.2071 + 1.9102 / root) / (1.2071 + 0.9102 / root)


@dataclass(frozen=True)
class NoiseSubstitution:
    """The measured curve, the one of fits to phase-randomised particles, and what is left from `from_shell` on."""

    measured: FscCurve
    substituted: FscCurve
    corrected: FscCurve
    from_shell: int


def noise_substitution(
    halves: tuple[Map, Map],
    substituted: tuple[Map, Map],
    *,
    from_angstrom: float,
    voxel_size: float,
    mask: Mask | None = None,
) -> NoiseSubstitution:
    """FSC_true of Chen et al. 2013 from four maps of one method.

    halves : the two half maps. substituted : the half maps of the same particles, refitted after the phases of every
    image were replaced by random ones beyond `from_angstrom`, in A. What the second pair shares there is not in the
    data: it is overfitting, a shared prior or the mask. Curves are corrected from two shells beyond.
    """
    measured, noise = (
        fourier_shell_correlation(*pair, voxel_size=voxel_size, mask=mask, name=name)
        for pair, name in ((halves, "fsc_measured"), (substituted, "fsc_substituted"))
    )
    from_shell = round(measured.box_size * voxel_size / from_angstrom) + 2
    if not 2 < from_shell < measured.box_size // 2:
        edge = measured.box_size * voxel_size
        raise InputError(
            f"phases random beyond {from_angstrom:g} A leave no shell to correct between {edge:g} A, the box, and "
            f"{measured.nyquist_angstrom:g} A, Nyquist"
        )
    return NoiseSubstitution(measured, noise, corrected_curve(measured, noise, from_shell), from_shell)
