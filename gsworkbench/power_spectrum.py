"""The mean power spectrum of images, rotationally averaged, and the rings that the CTF of the table predicts in it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from gsworkbench.ctf import ctf_grid
from gsworkbench.errors import InputError
from gsworkbench.noise import measured_noise
from gsworkbench.particles import ParticleStack
from gsworkbench.readers.ctf_columns import is_no_ctf

Float64 = NDArray[np.float64]

_GROUP = 300  # images whose defocus is nearest the median: rings of many defoci would smear each other
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


def _shells(box_size: int) -> NDArray[np.int64]:
    """(D, D // 2 + 1) the shell of each Fourier component."""
    ky, kx = np.fft.fftfreq(box_size, 1 / box_size)[:, None], np.arange(box_size // 2 + 1)
    return np.rint(np.hypot(ky, kx)).astype(np.int64)


def _averaged(values: Float64, shell: NDArray[np.int64]) -> Float64:
    inside = shell <= shell.shape[1] - 1
    return np.bincount(shell[inside], values[inside]) / np.bincount(shell[inside])
