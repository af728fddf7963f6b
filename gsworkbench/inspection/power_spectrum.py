"""The mean power spectrum of images, rotationally averaged, and the rings that the CTF of the table predicts in it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from gsworkbench.errors import InputError
from gsworkbench.imaging.ctf import ctf_grid
from gsworkbench.particles.formats.ctf_columns import is_no_ctf
from gsworkbench.particles.noise_spectrum import measured_noise
from gsworkbench.particles.stack import ParticleStack

Float64 = NDArray[np.float64]

_GROUP = 300  # images whose defocus is nearest the median: rings of many defoci would smear each other
_CHECKED = 2000  # images whose rings are looked for
_EXPECTED = 20.0  # standard deviations, by which rings must be expected to say that they are not there,
_UNSEEN = 3.0  # when they are seen by less than this
_SEEN = 5.0  # standard deviations, from which on they are there
_CHUNK_BYTES = 2**22


@dataclass(frozen=True)
class PowerSpectrum:
    """Mean power per pixel of images in each shell 0 to D / 2, rotationally averaged.

    frequencies : (D / 2 + 1,) 1/A. power : of the images. noise : of what lies outside their inscribed circle; None
    where nothing does. ctf_squared : mean of CTF^2 of the same images, without their scales; None where there is no
    CTF. n_images : how many. defocus : the smallest and the largest of these images, A.
    """

    frequencies: Float64
    power: Float64
    noise: Float64 | None
    ctf_squared: Float64 | None
    n_images: int
    defocus: tuple[float, float]


def power_spectrum(stack: ParticleStack) -> PowerSpectrum:
    """Of the images of a normalised stack whose defocus is nearest the median."""
    defocus = (stack.ctf.defocus_u + stack.ctf.defocus_v) / 2
    nearest = np.argsort(np.abs(defocus - np.median(defocus)), kind="stable")[:_GROUP]
    part = stack[np.sort(nearest)]
    box_size = stack.box_size
    shell = _shells(box_size)
    power = np.zeros(shell.shape)
    squares = np.zeros(shell.shape)
    plain = dataclasses.replace(part, ctf=dataclasses.replace(part.ctf, scale=np.ones(len(part))))
    for rows, images in part.chunks(_CHUNK_BYTES):
        transform = scipy.fft.rfft2(images)
        power += (transform.real.astype(np.float64) ** 2 + transform.imag.astype(np.float64) ** 2).sum(0)
        squares += ctf_grid(plain.ctf[rows], box_size, stack.pixel_size).square().sum(0).numpy()
    try:
        noise = measured_noise(stack)
    except InputError:  # nothing lies outside the circle
        noise = None
    chosen = (part.ctf.defocus_u + part.ctf.defocus_v) / 2
    return PowerSpectrum(
        np.arange(box_size // 2 + 1) / (box_size * stack.pixel_size),
        _averaged(power, shell) / (len(part) * box_size**2),
        noise,
        None if is_no_ctf(stack.ctf) else _averaged(squares, shell) / len(part),
        len(part),
        (float(chosen.min()), float(chosen.max())),
    )


@dataclass(frozen=True)
class RingCheck:
    """Whether the power of images rises and falls with the CTF^2 of their rows in the table, shell by shell.

    In each shell beyond the first peak of the CTF, the power of an image is correlated with its CTF^2 over images.
    seen : the sum over shells, weighted by what is expected of each, in standard deviations of what chance gives.
    expected : the same if all power above the noise were signal under this CTF.
    """

    seen: float
    expected: float

    @property
    def problem(self) -> str | None:
        """A sentence where the rings should be seen and are not."""
        if self.expected < _EXPECTED or self.seen > _UNSEEN:
            return None
        return (
            "the power spectrum of the images does not show the rings that the table's defocus predicts: the defocus "
            "may be in other units or belong to other images, or the images were corrected for the CTF"
        )

    def sentence(self) -> str:
        """What a user should know of it, in words."""
        if self.problem is not None:
            return self.problem
        if self.seen > _SEEN:
            return "the power spectrum of the images shows the rings that the table's defocus predicts"
        return (
            "the signal is too weak, or defocus too even, to tell from the power spectrum whether the defocus is right"
        )


def check_rings(stack: ParticleStack, *, n_images: int = _CHECKED, seed: int = 0) -> RingCheck | None:
    """Compare the power of up to `n_images` normalised images, drawn at random, with the CTF of their rows.

    None where there is no CTF, or where it has no ring below Nyquist.
    """
    if is_no_ctf(stack.ctf):
        return None
    part = stack[np.sort(np.random.default_rng(seed).permutation(len(stack))[:n_images])]
    box_size, n_shells = stack.box_size, stack.box_size // 2 + 1
    shell = _shells(box_size)
    plain = dataclasses.replace(part.ctf, scale=np.ones(len(part)))
    power, squares = np.zeros((len(part), n_shells)), np.zeros((len(part), n_shells))
    for rows, images in part.chunks(_CHUNK_BYTES):
        transform = scipy.fft.rfft2(images)
        own = transform.real**2 + transform.imag**2
        ctf = ctf_grid(plain[rows], box_size, stack.pixel_size).square().numpy()
        power[rows] = [_averaged(values / box_size**2, shell) for values in own]
        squares[rows] = [_averaged(values, shell) for values in ctf]
    defocus = part.ctf.defocus_u + part.ctf.defocus_v
    typical = squares[np.argmin(np.abs(defocus - np.median(defocus)))]
    falls = np.flatnonzero(np.diff(typical) < 0)
    first = max(int(falls[0]), 3) if len(falls) else n_shells
    beyond = np.arange(first, n_shells - 1)
    beyond = beyond[(squares[:, beyond].std(0) > 1e-4) & (power[:, beyond].std(0) > 0)]
    if not len(beyond):
        return None
    x, y = squares[:, beyond], power[:, beyond]
    correlation = ((x - x.mean(0)) * (y - y.mean(0))).mean(0) / (x.std(0) * y.std(0))
    signal = np.maximum(y.mean(0) - _noise(part, power.mean(0))[beyond], 0) / x.mean(0)
    wanted = signal * x.std(0) / y.std(0) * np.sqrt(len(part))
    size = float(np.linalg.norm(wanted))
    if size == 0:
        return RingCheck(0.0, 0.0)
    return RingCheck(float(np.sqrt(len(part)) * correlation @ wanted / size), size)


def _noise(stack: ParticleStack, power: Float64) -> Float64:
    """Power of the noise in each shell, from the corners, or as low as that of the images ever is."""
    try:
        return measured_noise(stack)
    except InputError:  # nothing lies outside the circle
        return np.full(len(power), power[len(power) // 2 :].min())


def _shells(box_size: int) -> NDArray[np.int64]:
    """(D, D // 2 + 1) the shell of each Fourier component."""
    ky, kx = np.fft.fftfreq(box_size, 1 / box_size)[:, None], np.arange(box_size // 2 + 1)
    return np.rint(np.hypot(ky, kx)).astype(np.int64)


def _averaged(values: Float64, shell: NDArray[np.int64]) -> Float64:
    inside = shell <= shell.shape[1] - 1
    return np.bincount(shell[inside], values[inside]) / np.bincount(shell[inside])
