"""Wiener-filtered backprojection: the classical map of particles with known poses and CTF.

The least-squares map solves the normal equations K * V = b. Taking K as periodic in the box turns that into a
division, and white noise of power s^2 beside signal of power S in a shell turns the division into Wiener's,

    V(k) = b(k) / (K(k) + s^2 / S(|k|)),    S = sum_shell (|b|^2 - s^2 K) / sum_shell K^2,

S measured from b and K themselves. K is softened (diagonal.softened): where views are one-sided, components between all
slices hold next to nothing but errors of interpolation. Imports nothing of rendering or training.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gsworkbench.imaging.fourier import centred_irfftn, map_shells
from gsworkbench.normal_equations.diagonal import DIVISION_SOFTENING
from gsworkbench.normal_equations.equations import NormalEquations, accumulate
from gsworkbench.particles.stack import ParticleStack

_LEAST_SNR = 0.1  # shells that seem to hold no signal are weakened to this, not erased: their FSC stays defined


def backproject(
    stack: ParticleStack, *, noise_spectrum: NDArray[np.floating] | None = None, label: str = "backproject"
) -> NDArray[np.float32]:
    """(D, D, D) map of all particles of a stack, in image units / A; noise_spectrum as in `accumulate`."""
    return classical_map(accumulate(stack, noise_spectrum=noise_spectrum, label=label))


def classical_map(sums: NormalEquations) -> NDArray[np.float32]:
    """(D, D, D) map from sums over particles, in image units / A. Zero in the corners and from Nyquist on."""
    kernel, noise = sums.kernel(circular=True).clamp_min(0), _noise(sums)
    signal = _mean(data_transform(sums).abs().square() - noise * kernel) / _mean(kernel.square()).clamp_min(1e-300)
    signal = torch.maximum(signal, _LEAST_SNR * noise / _mean(kernel).clamp_min(1e-300))
    mean = _mean(kernel)
    softened = _divided(sums, kernel, noise / signal.clamp_min(1e-300) + DIVISION_SOFTENING * mean)
    return softened * np.float32(1 + DIVISION_SOFTENING)


def least_squares(sums: NormalEquations) -> NDArray[np.float32]:
    """The same without a filter: b / K, noise and all, but for components that hardly any particle has."""
    kernel = sums.kernel(circular=True).clamp_min(0)
    return _divided(sums, kernel, torch.zeros(int(map_shells(sums.box_size).max()) + 1))


def _divided(sums: NormalEquations, kernel: Tensor, damping: Tensor) -> NDArray[np.float32]:
    """The map of b / (K + damping of its shell + a thousandth of the shell's mean of K).

    Cutting K at lags of D/2 takes it below 0 where particles hold next to nothing, as at k = 0 with little amplitude
    contrast. A shell of which nothing is left holds no information, and b there is noise: its components are 0.
    """
    shell = map_shells(sums.box_size)
    mean = _mean(kernel)[shell]
    transform = data_transform(sums) / (kernel + damping[shell] + 1e-3 * mean)
    transform[(shell >= sums.box_size // 2) | (mean == 0)] = 0
    return centred_irfftn(transform).float().numpy()


def data_transform(sums: NormalEquations) -> Tensor:
    """(D, D, D // 2 + 1) transform of b about the voxel D // 2."""
    return torch.fft.rfftn(torch.fft.ifftshift(sums.b()))


def _noise(sums: NormalEquations) -> float:
    """Noise power of b per unit of K: D^3 times the variance of a pixel."""
    return sums.noise_power * sums.box_size


def _mean(values: Tensor) -> Tensor:
    """Mean over the components of each shell of a half grid (D, D, D // 2 + 1)."""
    shell = map_shells(values.shape[0]).flatten()
    return torch.bincount(shell, values.flatten()) / torch.bincount(shell)
