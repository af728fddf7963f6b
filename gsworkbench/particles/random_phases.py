"""Noise substitution of particle images (Chen et al. 2013, Ultramicroscopy 135, 24): random phases beyond a resolution.

Amplitudes stay, so that spectra, CTF and noise look as before; what half maps of such images share beyond that
resolution is not in the data. A ParticleStack that carries RandomPhases hands out its images so, to any method.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gsworkbench.errors import InputError

_STREAM = 0x5AB57  # tells these random numbers from others of the same seed


@dataclass(frozen=True)
class RandomPhases:
    """Phases of all Fourier components beyond `beyond_angstrom` (A) are random; what is drawn depends on the seed, and
    on which image of which file it is, alone."""

    beyond_angstrom: float
    seed: int

    def check(self, box_size: int, pixel_size: float) -> None:
        """Raise InputError unless the resolution lies between the box and Nyquist."""
        edge = box_size * pixel_size
        if not 2 * pixel_size < self.beyond_angstrom < edge:
            raise InputError(
                f"phases random beyond {self.beyond_angstrom:g} A are all or none of those between {edge:g} A, the "
                f"box, and {2 * pixel_size:g} A, Nyquist",
                remedy="choose a resolution between them",
            )

    def replace(self, image: NDArray[np.float32], file: int, index: int, pixel_size: float) -> NDArray[np.float32]:
        """(D, D) image with the phases of white noise from |k| = D pixel_size / beyond_angstrom on, corners included.

        White noise is real, and so are therefore the images: their phases are uniform, and Hermitian.
        """
        rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(_STREAM, file, index)))
        transform = np.fft.rfft2(image)
        noise = np.fft.rfft2(rng.standard_normal(image.shape, dtype=np.float32))
        beyond = _beyond(len(image), pixel_size / self.beyond_angstrom)
        transform[beyond] *= noise[beyond] / np.abs(noise[beyond])
        return np.fft.irfft2(transform, s=image.shape).astype(np.float32, copy=False)

    def __str__(self) -> str:
        return f"phases random beyond {self.beyond_angstrom:g} A, seed {self.seed}"


@functools.lru_cache(maxsize=4)
def _beyond(box_size: int, cycles_per_pixel: float) -> NDArray[np.bool_]:
    """(D, D // 2 + 1) where an rfft2 has its components beyond a frequency."""
    return np.hypot(np.fft.fftfreq(box_size)[:, None], np.fft.rfftfreq(box_size)) >= cycles_per_pixel
