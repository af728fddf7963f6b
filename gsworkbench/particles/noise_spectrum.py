"""Power of the images' noise in each shell, from the corners where particles seldom reach.

A likelihood divides each Fourier component by the power of its noise. `accumulate` does so with a spectrum from here or
from a file; without, noise counts as white.
"""

from __future__ import annotations

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from gsworkbench.errors import InputError
from gsworkbench.io.npz import load_array
from gsworkbench.particles.stack import ParticleStack

_MOST_IMAGES = 2000  # a shell's power is then known to a percent or better
_ENOUGH = 200  # images of a group, whose power in a shell is then known to a few percent
_EDGE = 3  # px over which the window rises, outside the inscribed circle
_LEAST_SHELL = 3  # cycles per box: below, the corners are too small to tell


def chosen_noise(choice: str, stack: ParticleStack) -> NDArray[np.float64] | None:
    """What `accumulate` is to divide by: None if "white", what is measured on these images if "measured", or a file's.

    A file is .npy, one power per shell.
    """
    if choice == "white":
        return None
    if choice == "measured":
        return measured_by_group(stack)
    try:
        return load_array(choice)
    except (OSError, ValueError) as error:
        remedy = "give 'white', 'measured' or a .npy file, one power per shell"
        raise InputError("not a noise spectrum", file=choice, remedy=remedy) from error


def measured_by_group(stack: ParticleStack) -> NDArray[np.float64]:
    """(n, D / 2 + 1) the measured noise of each particle's group, or (D / 2 + 1,) that of all.

    Groups are micrographs where each has images enough to tell, else optics groups likewise.
    """
    groups = _groups(stack)
    if groups is None:
        return measured_noise(stack)
    result = np.empty((len(stack), stack.box_size // 2 + 1))
    for group in np.unique(groups):
        result[groups == group] = measured_noise(stack[groups == group])
    return result


def _groups(stack: ParticleStack) -> NDArray[np.integer] | None:
    """(n,) numbers of groups of images that can differ in noise, each large enough; None where there are none."""
    candidates = [None if stack.picks is None else stack.picks.micrograph_index, stack.optics_group]
    for groups in candidates:
        if groups is None:
            continue
        sizes = np.unique(groups, return_counts=True)[1]
        if len(sizes) > 1 and sizes.min() >= _ENOUGH:
            return groups
    return None


def measured_noise(stack: ParticleStack) -> NDArray[np.float64]:
    """(D / 2 + 1,) power per pixel in each shell of what lies outside the inscribed circle of the images.

    The mean over up to 2,000 particles, spread over the stack in the order of the files, of |F[w (y - m)]|^2 / sum w^2,
    with w the window and m the mean under it; of white noise, its variance. What the CTF carries outwards counts too.
    """
    box_size = stack.box_size
    axis = np.arange(box_size) - box_size // 2
    window = np.clip((np.hypot(axis[:, None], axis) - box_size / 2) / _EDGE, 0, 1).astype(np.float32)
    order = np.lexsort((stack.image_index, stack.file_index))
    chosen = order[np.unique(np.linspace(0, len(order) - 1, _MOST_IMAGES).astype(int))]
    power = np.zeros((box_size, box_size // 2 + 1))
    for _, images in stack[chosen].chunks(2**22):
        means = (images * window).sum((1, 2)) / window.sum()
        transform = scipy.fft.rfft2((images - means[:, None, None]) * window)
        power += (transform.real.astype(np.float64) ** 2 + transform.imag.astype(np.float64) ** 2).sum(0)
    power /= len(chosen) * (window.astype(np.float64) ** 2).sum()
    ky, kx = np.fft.fftfreq(box_size, 1 / box_size)[:, None], np.arange(box_size // 2 + 1)
    shell = np.rint(np.hypot(ky, kx)).astype(int)
    inside = shell <= box_size // 2
    spectrum = np.bincount(shell[inside], power[inside]) / np.bincount(shell[inside])
    spectrum[:_LEAST_SHELL] = spectrum[_LEAST_SHELL]
    if not (spectrum > 0).all():
        raise InputError("there is no noise in the corners of these images to measure", file=stack.source)
    return spectrum
