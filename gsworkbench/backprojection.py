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
from gsworkbench.fourier import centred_irfftn, centred_rfft2, disc, half_plane_frequencies, shift_phases
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


def accumulate(stack: ParticleStack, *, label: str = "backproject") -> Accumulated:
    """Insert every particle, a chunk at a time."""
    rotations = torch.from_numpy(stack.require_poses())
    box_size, edge = stack.box_size, PADDING * stack.box_size
    inside = disc(box_size)
    ky, kx = (k[inside] for k in half_plane_frequencies(box_size))
    plane = torch.stack([kx, ky]) * PADDING  # (2, m)
    # A component and its Friedel mate are one datum; the column kx = 0 holds both.
    once = torch.where(kx == 0, 0.5, 1.0)
    grid = torch.zeros(edge**2 * (edge // 2 + 1), 3, dtype=torch.float64)  # real, imaginary, CTF^2
    noise = 0.0
    with tqdm(total=len(stack), desc=label, unit="img", mininterval=0.5) as bar:
        for indices, images in stack.chunks(2**22):
            part = stack[indices]
            transform = centred_rfft2(torch.from_numpy(images))
            transform *= shift_phases(part.shifts_angstrom, box_size, part.pixel_size)
            ctf = ctf_grid(part.ctf, box_size, part.pixel_size)[:, inside]
            data = transform[:, inside] * ctf * once
            nodes = (rotations[indices][:, :2, :].mT @ plane).mT  # (n, m, 3): A^T (kx, ky, 0), x y z
            values = torch.stack([data.real, data.imag, ctf.square() * once], -1)
            _insert(grid, nodes.reshape(-1, 3), values.reshape(-1, 3).double(), edge)
            noise += _border_variance(images) * len(indices)
            bar.update(len(indices))
    grid = grid.reshape(edge, edge, edge // 2 + 1, 3)
    numerator, denominator = torch.complex(grid[..., 0], grid[..., 1]), grid[..., 2]
    # Nodes at x = 0 are reached by samples on either side, of which those at x < 0 were inserted as their mates.
    mate = (-torch.arange(edge)) % edge
    numerator[:, :, 0] += numerator[mate][:, mate, 0].conj()
    denominator[:, :, 0] += denominator[mate][:, mate, 0]
    return Accumulated(numerator, denominator, noise / len(stack) * box_size**2)


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


def _insert(grid: Tensor, nodes: Tensor, values: Tensor, edge: int) -> None:
    """Spread values (m, 3) at nodes (m, 3) x, y, z over the flat half grid; mates of x < 0 are taken."""
    flip = nodes[:, 0] < 0
    nodes = torch.where(flip[:, None], -nodes, nodes)
    values = torch.stack([values[:, 0], torch.where(flip, -values[:, 1], values[:, 1]), values[:, 2]], -1)
    low = nodes.floor()
    fraction = nodes - low
    low = low.long()
    for dz in (0, 1):
        for dy in (0, 1):
            for dx in (0, 1):
                corner = torch.tensor([dx, dy, dz])
                weight = torch.where(corner == 1, fraction, 1 - fraction).prod(-1)
                x, y, z = (low + corner).unbind(-1)
                index = ((z % edge) * edge + y % edge) * (edge // 2 + 1) + x
                grid.index_add_(0, index, values * weight[:, None])


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
