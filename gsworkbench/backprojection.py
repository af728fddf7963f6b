"""Wiener-filtered backprojection: the classical map of particles with known poses and CTF.

For particles y_i with CTF C_i and slices P_i, the least-squares map solves K * V = b with b = sum_i P_i^T C_i y_i and
K the point spread of sum_i P_i^T C_i^2 P_i. Taking K as periodic in the box turns that into a division, and white
noise of power s^2 beside signal of power S in a shell turns the division into Wiener's,

    V(k) = b(k) / (K(k) + s^2 / S(|k|)),    S = sum_shell (|b|^2 - s^2 K) / sum_shell K^2,

S measured from b and K themselves. Both are gathered on a grid of twice the box by trilinear insertion. Imports
nothing of rendering or training.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from gsworkbench.ctf import ctf_grid
from gsworkbench.fourier import (
    centred_irfftn,
    centred_rfft2,
    crop_half_plane,
    disc,
    half_plane_frequencies,
    shift_phases,
)
from gsworkbench.particles import ParticleStack

PADDING = 2
_LEAST_SNR = 0.1  # shells that seem to hold no signal are weakened to this, not erased: their FSC stays defined


@dataclass(frozen=True)
class Accumulated:
    """Sums over particles on the half grid kx >= 0 of (PADDING D)^3 nodes, (z, y, x), origin at node 0.

    numerator : complex, CTF times centred images. denominator : CTF^2. noise_power : of one image component.
    """

    numerator: Tensor
    denominator: Tensor
    noise_power: float


def backproject(stack: ParticleStack, *, label: str = "backproject") -> NDArray[np.float32]:
    """(D, D, D) map of all particles of a stack, in image units / A."""
    return solve(accumulate(stack, label=label), stack.box_size, stack.pixel_size)


def accumulate(stack: ParticleStack, *, box_size: int | None = None, label: str = "backproject") -> Accumulated:
    """Insert every particle, a chunk at a time; of its transform, what fits a box of `box_size` (default: all)."""
    rotations = torch.from_numpy(stack.require_poses())
    box_size = box_size or stack.box_size
    pixel_size = stack.pixel_size * stack.box_size / box_size
    edge = PADDING * box_size
    inside = disc(box_size)
    ky, kx = (k[inside] for k in half_plane_frequencies(box_size))
    plane = torch.stack([kx, ky]) * PADDING  # (2, m)
    # A component and its Friedel mate are one datum; the column kx = 0 holds both.
    once = torch.where(kx == 0, 0.5, 1.0)
    side, width = edge + 1, edge // 2 + 2  # nodes -edge/2 .. edge/2 along z and y, 0 .. edge/2 + 1 along x
    grids = torch.zeros(3, side * side * width, dtype=torch.float64)  # real, imaginary, CTF^2
    noise = 0.0
    with tqdm(total=len(stack), desc=label, unit="img", mininterval=0.5) as bar:
        for indices, images in stack.chunks(2**20):
            part = stack[indices]
            transform = crop_half_plane(centred_rfft2(torch.from_numpy(images)), box_size)
            transform *= shift_phases(part.shifts_angstrom, box_size, pixel_size)
            ctf = ctf_grid(part.ctf, box_size, pixel_size)[:, inside]
            data = (transform[:, inside] * ctf * once).to(torch.complex128).flatten()
            nodes = rotations[indices][:, :2, :].mT @ plane  # (n, 3, m): A^T (kx, ky, 0), x y z
            _insert(grids, nodes.transpose(0, 1).flatten(1), data, (ctf.square() * once).double().flatten(), edge)
            noise += _border_variance(images) * len(indices)
            bar.update(len(indices))
    real, imaginary, denominator = (_folded(g.view(side, side, width), edge) for g in grids)
    numerator = torch.complex(real, imaginary)
    # Nodes at x = 0 are reached by samples on either side, of which those at x < 0 were inserted as their mates.
    mate = (-torch.arange(edge)) % edge
    numerator[:, :, 0] += numerator[mate][:, mate, 0].conj()
    denominator[:, :, 0] += denominator[mate][:, mate, 0]
    return Accumulated(numerator, denominator, noise / len(stack) * box_size**4 / stack.box_size**2)


def solve(sums: Accumulated, box_size: int, pixel_size: float) -> NDArray[np.float32]:
    """(D, D, D) map from accumulated sums, in image units / A. Zero in the corners and from Nyquist on."""
    b = _crop(sums.numerator, box_size)
    kernel = _crop(sums.denominator.to(b.dtype), box_size).real.clamp_min(0)
    shell = _shells(box_size)
    noise = sums.noise_power / PADDING**3  # of b, per unit of K: only the box's share of the padded grid is kept

    def mean(values: Tensor) -> Tensor:
        return torch.bincount(shell.flatten(), values.flatten()) / torch.bincount(shell.flatten())

    signal = mean(b.abs().square() - noise * kernel) / mean(kernel.square()).clamp_min(1e-300)
    signal = torch.maximum(signal, _LEAST_SNR * noise / mean(kernel).clamp_min(1e-300))
    transform = b / (kernel + (noise / signal.clamp_min(1e-300))[shell] + 1e-3 * mean(kernel)[shell] + 1e-300)
    transform[shell >= box_size // 2] = 0
    return (centred_irfftn(transform) / pixel_size).float().numpy()


def _crop(half_grid: Tensor, box_size: int) -> Tensor:
    """The transform, on the box's own half grid, of what lies in the box after inserting into the padded one."""
    edge = half_grid.shape[0]
    inner = slice(edge // 2 - box_size // 2, edge // 2 + box_size // 2)
    # Spreading a sample over nodes multiplied the map by sinc^2 along each axis.
    taper = torch.sinc((torch.arange(box_size, dtype=torch.float64) - box_size // 2) / edge) ** 2
    volume = centred_irfftn(half_grid)[inner, inner, inner] / (taper[:, None, None] * taper[:, None] * taper)
    return torch.fft.rfftn(torch.fft.ifftshift(volume))


def _insert(grids: Tensor, nodes: Tensor, data: Tensor, power: Tensor, edge: int) -> None:
    """Spread samples at nodes (3, m) x, y, z over the eight nodes around each; mates stand in for those of x < 0."""
    side, width = edge + 1, edge // 2 + 2
    flip = nodes[0] < 0
    nodes = torch.where(flip, -nodes, nodes)
    values = (data.real, torch.where(flip, -data.imag, data.imag), power)
    low = nodes.floor()
    upper = nodes - low
    lower = 1 - upper
    x, y, z = low.long()
    base = ((z + edge // 2) * side + y + edge // 2) * width + x
    for dz, weight_z in enumerate((lower[2], upper[2])):
        for dy, weight_y in enumerate((lower[1], upper[1])):
            weight_zy = weight_z * weight_y
            for dx, weight_x in enumerate((lower[0], upper[0])):
                weight = weight_zy * weight_x
                index = base + ((dz * side + dy) * width + dx)
                for grid, value in zip(grids, values, strict=True):
                    grid.scatter_add_(0, index, value * weight)


def _folded(grid: Tensor, edge: int) -> Tensor:
    """From nodes -edge/2 .. edge/2 to the periodic half grid of an FFT, origin at node 0."""
    periodic = grid[:edge, :edge, : edge // 2 + 1].clone()
    periodic[0] += grid[edge, :edge, : edge // 2 + 1]
    periodic[:, 0] += grid[:edge, edge, : edge // 2 + 1]
    return periodic.roll((edge // 2, edge // 2), (0, 1))


def _shells(edge: int) -> Tensor:
    """(edge, edge, edge // 2 + 1) |k| of each node rounded to the nearest integer."""
    k = torch.fft.fftfreq(edge, 1 / edge)
    kx = torch.arange(edge // 2 + 1)
    return torch.sqrt(k[:, None, None] ** 2 + k[None, :, None] ** 2 + kx**2).round().long()


def _border_variance(images: NDArray[np.float32]) -> float:
    """Variance of the pixels outside the inscribed circle, where particles seldom reach: the noise."""
    box_size = images.shape[-1]
    axis = np.arange(box_size) - box_size // 2
    outside = axis[:, None] ** 2 + axis**2 >= (box_size / 2) ** 2
    return float(images[:, outside].var())
