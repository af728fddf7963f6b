"""Contrast transfer function of the microscope, one per particle, in torch.

    CTF(k) = scale exp(-B s^2 / 4) sin(pi lambda dz(k) s^2 - pi/2 Cs lambda^3 s^4 + phase shift + asin(Q0)),
    dz(k) = (U + V)/2 + (U - V)/2 cos 2(angle of k - defocus angle),  s = |k|,

which is RELION's: positive at the origin (+Q0, protein is white), U and V positive at underfocus. cryoDRGN's is the
negative of it. Beam tilt, higher aberrations and anisotropic magnification are not here.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from gsworkbench.particles.stack import CtfParameters
from gsworkbench.system.device import to_device


def wavelength(voltage_kv: ArrayLike) -> NDArray[np.float64]:
    """Wavelength of electrons in A, relativistic, with RELION's constants."""
    volts = 1e3 * np.asarray(voltage_kv, np.float64)
    return 12.2643247 / np.sqrt(volts * (1 + 0.978466e-6 * volts))


def contrast_transfer(parameters: CtfParameters, kx: Tensor, ky: Tensor, *, dtype: torch.dtype | None = None) -> Tensor:
    """CTF of n particles at spatial frequencies kx, ky (1/A, float64, of one shape): (n, *shape).

    The result has `dtype`, or that of kx. Phases reach hundreds of radians, so they are summed in float64 and brought
    to (-pi, pi) before any rounding to float32: the float32 result is good to 1e-6. Runs on the device of kx.
    """
    dtype = dtype or kx.dtype
    x, y = kx.double().flatten(), ky.double().flatten()
    s2 = x * x + y * y
    # |k|^2 cos 2(angle of k - a) = (kx^2 - ky^2) cos 2a + 2 kx ky sin 2a: the phase is linear in five functions of k.
    basis = torch.stack([s2, x * x - y * y, 2 * x * y, s2 * s2, torch.ones_like(s2)])
    turns = to_device(torch.from_numpy(phase_coefficients(parameters)), basis.device) @ basis  # (n, m), phase / 2 pi
    ctf = torch.sin((2 * np.pi) * (turns - turns.round()).to(dtype))
    ctf *= to_device(torch.from_numpy(parameters.scale), ctf.device)[:, None].to(dtype)
    if parameters.b_factor.any():
        ctf *= torch.exp(
            to_device(torch.from_numpy(parameters.b_factor / -4), ctf.device)[:, None].to(dtype) * s2.to(dtype)
        )
    return ctf.reshape(-1, *kx.shape)


def ctf_grid(
    parameters: CtfParameters,
    box_size: int,
    pixel_size: float,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Tensor:
    """CTF of n particles as torch.fft.rfft2 lays it out: (n, box_size, box_size // 2 + 1), rows ky, row 0 is ky = 0."""
    ky = torch.fft.fftfreq(box_size, pixel_size, dtype=torch.float64, device=device)
    kx = torch.fft.rfftfreq(box_size, pixel_size, dtype=torch.float64, device=device)
    ky, kx = torch.meshgrid(ky, kx, indexing="ij")
    return contrast_transfer(parameters, kx, ky, dtype=dtype)


def phase_coefficients(p: CtfParameters) -> NDArray[np.float64]:
    """(n, 5) factors of s^2, kx^2 - ky^2, 2 kx ky, s^4 and 1 in the phase, in turns."""
    length = wavelength(p.voltage_kv)
    angle = np.deg2rad(p.defocus_angle)
    mean, half_difference = (p.defocus_u + p.defocus_v) / 2, (p.defocus_u - p.defocus_v) / 2
    columns = [
        np.pi * length * mean,
        np.pi * length * half_difference * np.cos(2 * angle),
        np.pi * length * half_difference * np.sin(2 * angle),
        -np.pi / 2 * 1e7 * p.spherical_aberration_mm * length**3,
        np.deg2rad(p.phase_shift) + np.arcsin(p.amplitude_contrast),
    ]
    return np.stack(columns, axis=-1) / (2 * np.pi)


def phase_factors(p: CtfParameters, edge: float) -> NDArray[np.float64]:
    """(n, 5) factors of kx^2, kx ky, ky^2, |k|^4 and 1 in the phase, in turns; k in cycles per box of `edge` A."""
    square, astigmatic, oblique, quartic, constant = phase_coefficients(p).T
    factors = [square + astigmatic, 2 * oblique, square - astigmatic, quartic / edge**2, constant * edge**2]
    return np.ascontiguousarray(np.stack(factors, axis=-1) / edge**2)
