"""Particles copied into one stack: for other programs, and for a fast disk when a fit reads them many times.

In half precision a copy takes half the space. What rounding adds is 2^-12 of a pixel's value, far below its noise.
A copy in a smaller box shows the same field of view in fewer pixels: its images are cropped in Fourier space.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gsworkbench.errors import InputError
from gsworkbench.io.mrc import new_image_stack
from gsworkbench.particles.formats.relion import write_star
from gsworkbench.particles.stack import ParticleStack
from gsworkbench.system.progress import progress

IMAGES, PARTICLES = "particles.mrcs", "particles.star"


def write_particles(
    stack: ParticleStack, folder: Path, *, half_precision: bool = False, box_size: int | None = None
) -> ParticleStack:
    """Write particles.mrcs and particles.star, in the order of the stack, and return the stack that they are.

    Images come white, with what `stack.images` does to them. half_precision : as MRC mode 12; images whose values that
    cannot hold raise InputError. box_size : px, even; the images are Fourier-cropped to it.
    """
    n, box = len(stack), stack.box_size if box_size is None else box_size
    if box % 2 or not 2 <= box <= stack.box_size:
        raise InputError(f"images of {stack.box_size} px cannot be cropped to {box} px", remedy="give an even box")
    pixel_size = stack.pixel_size * stack.box_size / box
    dtype = np.float16 if half_precision else np.float32
    with (
        new_image_stack(folder / IMAGES, n, box, pixel_size, dtype=dtype) as images,
        progress("copy", n, unit="img", leave=False) as meter,
    ):
        for indices, whole in stack.chunks(2**26):
            chunk = fourier_crop(whole, box)
            if half_precision:
                _check_range(chunk, stack)
            images[indices] = chunk
            meter.advance(len(indices))
    specimens = stack.specimens()
    repeated = len(np.unique(specimens)) < n  # rows of one image become images of their own, and stay one specimen
    written = dataclasses.replace(
        stack,
        unit=specimens if repeated else None,
        files=(folder / IMAGES,),
        file_index=np.zeros(n, np.int64),
        image_index=np.arange(n),
        data_sign=np.ones(n, np.int8),
        source=folder / PARTICLES,
        source_row=np.arange(n),
        box_size=box,
        pixel_size=pixel_size,
        random_phases=None,
    )
    write_star(folder / PARTICLES, written)
    return written


def fourier_crop(images: NDArray[np.float32], box_size: int) -> NDArray[np.float32]:
    """Return images (m, D, D) in fewer pixels (m, box_size, box_size), the origin D // 2 at box_size // 2.

    Of the Fourier components those of |kx|, |ky| < box_size / 2 are kept: what is left out is finer than a pixel of the
    small box can hold, and its Nyquist frequency, which no fit looks at. Grey values stay.
    """
    old, half = images.shape[-1], box_size // 2
    if box_size == old:
        return images
    transform = np.fft.rfft2(np.fft.ifftshift(images, axes=(-2, -1)))
    rows = np.concatenate([transform[:, :half, : half + 1], transform[:, old - half :, : half + 1]], axis=1)
    rows[:, half], rows[:, :, half] = 0, 0
    small = np.fft.irfft2(rows, s=(box_size, box_size)) * (box_size / old) ** 2
    return np.fft.fftshift(small, axes=(-2, -1)).astype(np.float32)


def _check_range(images: NDArray[np.float32], stack: ParticleStack) -> None:
    """Half precision ends at 65504, and has fewer digits below 6e-5."""
    largest, spread = float(np.abs(images).max()), float(images.std())
    limits = np.finfo(np.float16)
    if largest > float(limits.max) or spread < 100 * float(limits.tiny):
        raise InputError(
            f"pixels up to {largest:.3g} with a standard deviation of {spread:.3g} do not fit half precision",
            file=stack.source,
            remedy="normalise the images to noise of standard deviation 1, or copy them as they are",
        )
