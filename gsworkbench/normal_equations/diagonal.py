"""Normal equations in Fourier space, where K, periodic in the box, is diagonal: the error of a map, and what it misses.

    error(V) = sum_k K(k) |V(k)|^2 - 2 Re b(k)* V(k),    and b(k) = K(k) V(k) + noise of variance s^2 K(k).

Transforms are those of maps about their first voxel: a phase common to V and b, which K, being real, leaves alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from gsworkbench.imaging.fourier import map_shells
from gsworkbench.normal_equations.equations import NormalEquations

# Of the mean kernel of a shell, added to the kernel (`softened`). Errors of interpolated kernels are a percent or so.
SOFTENING = 0.05  # where Gaussians are fitted
DIVISION_SOFTENING = 0.1  # where every component or voxel is free


@dataclass(frozen=True)
class DiagonalEquations:
    """Normal equations in Fourier space, on the half grid (D, D, D // 2 + 1), inside the ball |k| < D / 2.

    data : transform of b. kernel : K, periodic. noise : s^2 D^3, the variance of data per unit of kernel.
    weight : what each component counts in the fit.
    """

    data: Tensor
    kernel: Tensor
    weight: Tensor
    noise: float
    shell: Tensor
    pixel_size: float

    @property
    def box_size(self) -> int:
        return self.data.shape[0]

    def to(self, device: torch.device | str) -> DiagonalEquations:
        """The same equations on another device."""
        return replace(self, **{name: getattr(self, name).to(device) for name in ("data", "kernel", "weight", "shell")})


def diagonal(sums: NormalEquations) -> DiagonalEquations:
    """Return the normal equations of `sums` in Fourier space, with the true weights."""
    kernel = sums.kernel(circular=True).clamp_min(0)
    shell = map_shells(sums.box_size)
    inside = (shell < sums.box_size // 2).float()
    pixel_variance = sums.noise_power / sums.box_size**2
    return DiagonalEquations(
        data=(to_transform(sums.b()) * inside).to(torch.complex64),
        kernel=(kernel * inside).float(),
        weight=inside,
        noise=pixel_variance * sums.box_size**3,
        shell=shell,
        pixel_size=sums.pixel_size,
    )


def added(first: DiagonalEquations, second: DiagonalEquations, n_first: int, n_second: int) -> DiagonalEquations:
    """The equations of two sets of n_first and n_second particles together: data and kernel are sums over particles."""
    noise = (n_first * first.noise + n_second * second.noise) / (n_first + n_second)
    return replace(first, data=first.data + second.data, kernel=first.kernel + second.kernel, noise=noise)


def restricted(equations: DiagonalEquations, part: Tensor) -> DiagonalEquations:
    """The equations of some components alone. part : (D, D, D // 2 + 1) which."""
    kept = part.float()
    arrays = {name: getattr(equations, name) * kept for name in ("data", "kernel", "weight")}
    return replace(equations, **arrays)


def softened(equations: DiagonalEquations, part: float = SOFTENING) -> DiagonalEquations:
    """The equations to solve in place of others: the kernel plus a part of its mean in each shell, data alike.

    Where views are one-sided, or few, some components lie between all slices. Interpolation leaves in their data what
    belongs to their neighbours, a percent or so, and next to nothing in their kernel: what solves these equations is
    anything. With this, they are pulled towards nothing. Where views are even it changes nothing to speak of.
    """
    inside = equations.weight > 0
    count = shell_sum(equations, inside.float()).clamp_min(1)
    mean = (shell_sum(equations, equations.kernel) / count).float()
    kernel = equations.kernel + part * mean[equations.shell] * inside
    return replace(equations, kernel=kernel, data=equations.data * (1 + part))


def wiener_map(equations: DiagonalEquations) -> Tensor:
    """(D, D, D) the classical map of equations, data / (kernel + noise / signal), as classical_map.py makes it.

    The power of the signal in each shell is measured on the data; shells that seem to hold none are weakened to a tenth
    of the noise.
    """
    inside = equations.weight > 0
    count = shell_sum(equations, inside.float()).clamp_min(1)
    mean = shell_sum(equations, equations.kernel) / count
    excess = shell_sum(equations, equations.data.abs().square() - equations.noise * equations.kernel) / count
    signal = excess / (shell_sum(equations, equations.kernel.square()) / count).clamp_min(1e-300)
    signal = torch.maximum(signal, 0.1 * equations.noise / mean.clamp_min(1e-300))
    damping = (equations.noise / signal.clamp_min(1e-300) + (DIVISION_SOFTENING + 1e-3) * mean).float()
    divided = (1 + DIVISION_SOFTENING) * equations.data / (equations.kernel + damping[equations.shell]).clamp_min(1e-30)
    return from_transform(divided * (inside & (mean.float()[equations.shell] > 0)))


class Objective(NamedTuple):
    """<V, K * V> - 2 <b, V> with weights worked in: kernel and data on the half grid, data in real space again."""

    kernel: Tensor
    data: Tensor
    linear: Tensor


def objective(equations: DiagonalEquations, boost: float = 0.0) -> Objective:
    """The error to minimise, under the equations' weights times exp(boost k^2 / k_nyquist^2) for component k."""
    weight = equations.weight * torch.exp(boost * (equations.shell / (equations.box_size / 2)) ** 2)
    data = equations.data * weight
    return Objective(equations.kernel * weight, data, from_transform(data))


def error_and_gradient(aim: Objective, volume: Tensor) -> tuple[float, Tensor]:
    """The error at a map V (D, D, D), and its gradient with respect to V."""
    gradient = from_transform(aim.kernel * to_transform(volume) - aim.data)
    return float((volume * (gradient - aim.linear)).sum()), 2 * gradient


def misfit_power(test: DiagonalEquations, transform: Tensor) -> Tensor:
    """Power S of what a map misses in each shell, (number of shells,), from equations it was not fitted to.

    E|b - K V|^2 = K^2 S + s^2 K. From shell 8 on, sums are taken over neighbouring shells too, an eighth of the shell
    number to either side: there S is smooth, and a held-out tenth of the particles is noisy.
    """
    residual = test.data - test.kernel * transform
    excess = shell_sum(test, residual.abs().square() - test.noise * test.kernel)
    square = shell_sum(test, test.kernel.square())
    power = torch.zeros_like(excess)
    for shell in range(test.box_size // 2):
        near = _near(shell, test)
        if square[near].sum() > 0:  # k = 0 of few particles may hold nothing at all
            power[shell] = (excess[near].sum() / square[near].sum()).clamp_min(0)
    return power.float()


def wiener_background(equations: DiagonalEquations, transform: Tensor, power: Tensor) -> Tensor:
    """Transform of the most likely map beside a map with this transform, if its power in each shell is `power`."""
    residual = equations.data - equations.kernel * transform
    signal = power[equations.shell]
    inside = equations.shell < equations.box_size // 2
    return residual * inside * signal / (equations.kernel * signal + equations.noise)


def proven_share(test: DiagonalEquations, transform: Tensor, background: Tensor) -> Tensor:
    """How much of a background, (number of shells,) from 0 to 1, particles bear out that it was not made from.

    The root of the factor that lowers their error most, sum Re B* (b - K V) / sum K |B|^2 over a shell and its
    neighbours: what the residual of a fit holds besides noise. Where a mixture suffices, that is little, whatever S
    says: S counts errors of the mixture that its own residual knows nothing of. The root, because the factor itself
    makes maps no better, and half maps overstate more (docs/explain/one_pass.md).
    """
    residual = test.data - test.kernel * transform
    product = shell_sum(test, (background.conj() * residual).real)
    square = shell_sum(test, test.kernel * background.abs().square())
    share = torch.zeros_like(product)
    for shell in range(test.box_size // 2):
        near = _near(shell, test)
        share[shell] = (product[near].sum() / square[near].sum().clamp_min(1e-300)).clamp(0, 1)
    return share.sqrt().float()


def _near(shell: int, equations: DiagonalEquations) -> slice:
    """A shell and, from the eighth on, those an eighth of its number to either side."""
    reach = shell // 8
    return slice(max(0, shell - reach), min(equations.box_size // 2, shell + reach + 1))


def shell_sum(equations: DiagonalEquations, values: Tensor) -> Tensor:
    """(number of shells,) sums of values on the half grid."""
    return torch.bincount(equations.shell.flatten(), values.flatten().double())


def shell_mean(equations: DiagonalEquations, values: Tensor) -> Tensor:
    return shell_sum(equations, values) / shell_sum(equations, torch.ones_like(values))


def to_transform(volume: Tensor) -> Tensor:
    """(D, D, D // 2 + 1) transform of a map (D, D, D)."""
    return torch.fft.rfftn(volume)


def from_transform(transform: Tensor) -> Tensor:
    """The map (D, D, D) of a transform."""
    return torch.fft.irfftn(transform, s=(transform.shape[0],) * 3)
