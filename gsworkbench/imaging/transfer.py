"""What a microscope did to the Fourier components of each particle, written once for every fit.

The transform of an image is that of the projection times CTF(k) conj(phases(k)). The phases have modulus 1 and say
where the particle lies; higher aberrations, which are phases too, would be multiplied to them here. The two factors
stay apart because data need both and the power of the model, CTF^2, needs the first alone.

`kernels/insertion.cpp` repeats this in C++, and a test compares them. The simulator has its own, on purpose.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from gsworkbench.imaging.ctf import contrast_transfer
from gsworkbench.particles.stack import ParticleStack
from gsworkbench.system.device import to_device


class Transfer(NamedTuple):
    """Factors of n particles at frequencies of some shape.

    ctf : (n, *shape) real. phases : (n, *shape) complex64; the transform of an observed image times these is that of an
    image whose particle is centred.
    """

    ctf: Tensor
    phases: Tensor


def transfer(particles: ParticleStack, kx: Tensor, ky: Tensor, *, dtype: torch.dtype = torch.float32) -> Transfer:
    """Both factors of each particle at kx, ky (cycles per box, float64, of one shape), on the device of kx.

    dtype : of the CTF.
    """
    edge = particles.box_size * particles.pixel_size
    ctf = contrast_transfer(particles.ctf, kx * (1 / edge), ky * (1 / edge), dtype=dtype)
    return Transfer(ctf, shift_phases(particles.shifts_angstrom, edge, kx, ky))


def shift_phases(shifts_angstrom: ArrayLike, edge: float, kx: Tensor, ky: Tensor) -> Tensor:
    """(n, *shape) complex64 factors that shift n images of an edge in A by +shifts_angstrom (n, 2), x and y in A.

    An observed image times its factor is centred; a model image times the conjugate lies where it was observed.
    """
    shifts = to_device(torch.from_numpy(np.asarray(shifts_angstrom, np.float64) / edge), kx.device)
    x, y = (s.reshape(-1, *[1] * kx.ndim) for s in shifts.unbind(-1))
    return torch.polar(torch.ones((), dtype=torch.float64, device=kx.device), -2 * np.pi * (x * kx + y * ky)).to(
        torch.complex64
    )
