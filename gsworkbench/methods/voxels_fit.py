"""The map of voxels that solves the normal equations: what the data give without any Gaussians.

The same error as that of the mixture (methods/one_pass.py), for a map V that is free in every voxel of a ball of
radius 0.45 D and zero outside, with the most likely power S of each shell as the only other knowledge:

    minimise <V, (K + s^2 / S) V> - 2 <b, V>.

Without the ball that is Wiener's division b / (K + s^2 / S), which preconditions the conjugate gradients here.
Held-out particles say after how many steps to stop. Imports nothing of rendering.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gsworkbench.normal_equations.diagonal import (
    DIVISION_SOFTENING,
    DiagonalEquations,
    diagonal,
    error_and_gradient,
    from_transform,
    misfit_power,
    objective,
    softened,
    to_transform,
)
from gsworkbench.normal_equations.equations import NormalEquations
from gsworkbench.system.progress import track

if TYPE_CHECKING:
    from gsworkbench.methods.voxels import Voxels

_RADIUS = 0.45  # of the ball, in box edges: K, cut at lags of D/2, holds for little more
_LEAST_SNR = 0.1  # of a shell: one that seems to hold no signal is weakened to this, not erased


@dataclass(frozen=True)
class VoxelFit:
    """volume : (D, D, D) float32, image units / A. n_steps : taken.

    curve : (step, error on the fitted particles, error on the held-out ones) of the fit that chose them; errors are
    per particle and pixel, without the constant |y|^2. Empty without held-out particles.
    """

    volume: NDArray[np.float32]
    n_steps: int
    curve: tuple[tuple[int, float, float], ...]


def solve_voxels(
    train: NormalEquations, test: NormalEquations | None, config: Voxels, *, label: str = "voxels"
) -> VoxelFit:
    """Solve for `train` + `test` by as many steps, at most config.n_steps, as lower the error on `test` of a
    solution for `train` alone; without `test`, by config.n_steps.
    """
    whole = diagonal(train if test is None else train + test)
    curve = () if test is None else _watched(train, test, config, label)
    n_steps = min(curve, key=lambda row: row[2])[0] if curve else config.n_steps
    *_, volume = islice(conjugate_gradients(whole, support(whole.box_size)), n_steps)
    return VoxelFit(volume.numpy(), n_steps, curve)


def conjugate_gradients(equations: DiagonalEquations, inside: Tensor) -> Iterator[Tensor]:
    """The maps (D, D, D) after 1, 2, ... steps from nothing; each is zero where `inside` (D, D, D) is."""
    damped = softened(equations, DIVISION_SOFTENING).kernel + ridge(equations)
    damped = damped.clamp_min(1e-6 * float(damped.max()))  # k = 0 of a few particles has neither data nor prior

    def within(transform: Tensor) -> Tensor:
        return from_transform(transform) * inside

    volume = torch.zeros_like(inside)
    residual = within(softened(equations, DIVISION_SOFTENING).data)
    direction = step = within(to_transform(residual) / damped)
    product = float((residual * step).sum())
    while True:
        image = within(damped * to_transform(direction))
        curvature = float((direction * image).sum())
        length = product / curvature if curvature > 0 else 0.0  # 0 once nothing is left to solve
        volume = volume + length * direction
        yield volume
        residual = residual - length * image
        step = within(to_transform(residual) / damped)
        before, product = product, float((residual * step).sum())
        direction = step + (product / before if before > 0 else 0.0) * direction


def ridge(equations: DiagonalEquations) -> Tensor:
    """s^2 / S on the half grid, S the power of the map in each shell, measured on the data; K's mean beyond them."""
    inside = equations.shell < equations.box_size // 2
    power = misfit_power(equations, torch.zeros_like(equations.data))
    mean = equations.kernel[inside].mean()
    least = _LEAST_SNR * equations.noise / mean
    return torch.where(inside, equations.noise / power[equations.shell].clamp_min(float(least)), mean)


def support(box_size: int) -> Tensor:
    """(D, D, D) 1 inside the ball, 0 outside."""
    axis = torch.arange(box_size) - box_size // 2
    return (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2 < (_RADIUS * box_size) ** 2).float()


def _watched(
    train: NormalEquations, test: NormalEquations, config: Voxels, label: str
) -> tuple[tuple[int, float, float], ...]:
    equations = diagonal(train)
    aims = [(objective(equations), train), (objective(diagonal(test)), test)]
    steps = islice(conjugate_gradients(equations, support(equations.box_size)), config.n_steps)
    curve = []
    for step, volume in enumerate(track(steps, label, config.n_steps, unit="step"), 1):
        seen, unseen = (error_and_gradient(aim, volume)[0] / (e.n_particles * e.box_size**2) for aim, e in aims)
        curve.append((step, seen, unseen))
    return tuple(curve)
