"""A vectorised backend in plain torch: each Gaussian is evaluated in a window around it, not at every pixel.

In a window's own coordinates u (integers about its centre times the spacing) the exponent of a Gaussian is a
polynomial of degree two, so that exponents are one matrix product, coefficients times monomials, and their gradient
is the transposed one: moments of the incoming gradient. What maps means and covariances to coefficients is small and
left to torch's autograd.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gsworkbench.rendering.footprints import image_footprints, volume_footprints

_WINDOWS = (4, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1024)  # sizes offered
_BLOCK = 2**19  # window samples evaluated at a time: a few MB, which stay in cache


class _Grid(NamedTuple):
    box_size: int
    d: int
    spacing: float
    size: int  # samples in all


def unavailable_because() -> str | None:
    return None


def supports(tensor: Tensor) -> bool:
    return tensor.is_floating_point()


def project(
    means: Tensor,
    covariances: Tensor,
    weights: Tensor,
    rotations: Tensor,
    *,
    box_size: int,
    pixel_size: float,
    cutoff: float | None,
) -> Tensor:
    """(b, box_size, box_size); `rotations` are (b, 3, 3)."""
    bounds = image_footprints(means, covariances, rotations, box_size, pixel_size, cutoff)
    b = len(rotations)
    rows = rotations[:, :2, :]  # (b, 2, 3)
    centres = (rows @ means.mT).mT  # (b, n, 2)
    # A S A^T is linear in S: one matrix product with the outer products of the rows of A.
    outer = rows[:, [0, 0, 1], :, None] * rows[:, [0, 1, 1], None, :]  # (b, 3, 3, 3)
    xx, xy, yy = (outer.flatten(2) @ covariances.flatten(1).mT).unbind(1)  # (b, n) each
    variances = torch.stack([xx, xy, xy, yy], -1).unflatten(-1, (2, 2))
    image = torch.arange(b, device=means.device).repeat_interleave(len(means)) * box_size**2
    flat = _splat(
        centres.flatten(0, 1),
        variances.flatten(0, 1),
        weights.repeat(b),
        bounds.flatten(0, 1),
        image,
        b,
        box_size,
        pixel_size,
    )
    return flat.reshape(b, box_size, box_size)


def voxelize(
    means: Tensor,
    covariances: Tensor,
    weights: Tensor,
    *,
    box_size: int,
    voxel_size: float,
    cutoff: float | None,
) -> Tensor:
    """(box_size, box_size, box_size) = z, y, x."""
    bounds = volume_footprints(means, covariances, box_size, voxel_size, cutoff)
    start = torch.zeros(len(means), dtype=torch.int64, device=means.device)
    return _splat(means, covariances, weights, bounds, start, 1, box_size, voxel_size).reshape([box_size] * 3)


def _splat(
    centres: Tensor,
    variances: Tensor,
    weights: Tensor,
    bounds: Tensor,
    start: Tensor,
    n_grids: int,
    box_size: int,
    spacing: float,
) -> Tensor:
    """Flat samples of n_grids grids of d axes; m Gaussians, each on the grid that begins at index `start`."""
    d = centres.shape[-1]
    first, widths = bounds[..., 0], bounds[..., 1] - bounds[..., 0]  # (m, d)
    sizes = torch.tensor([min(w, box_size) for w in _WINDOWS], device=widths.device)
    windows = sizes[torch.bucketize(widths.amax(-1), sizes)]
    middle = (first - box_size // 2 + (windows[:, None] - 1).double() / 2) * spacing
    coefficients, amplitudes = _polynomial(middle.to(centres.dtype) - centres, variances, weights)
    corner = start + (first * box_size ** torch.arange(d, device=start.device)).sum(-1)
    grid = _Grid(box_size, d, spacing, n_grids * box_size**d)
    return _Sum.apply(coefficients, amplitudes, corner, widths, windows, grid)


def _polynomial(offset: Tensor, variances: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Coefficients (m, 1 + d + d (d + 1) / 2) of -(u + offset)^T S^-1 (u + offset) / 2 and amplitudes (m,)."""
    d = offset.shape[-1]
    inverse, determinant = _inverse(variances)
    linear = (inverse * offset[:, None, :]).sum(-1)
    constant = -0.5 * (linear * offset).sum(-1, keepdim=True)
    pairs = [inverse[:, i, j] * (-0.5 if i == j else -1.0) for i, j in _pairs(d)]
    return torch.cat([constant, -linear, torch.stack(pairs, -1)], -1), weights / torch.sqrt(
        (2 * math.pi) ** d * determinant
    )


def _inverse(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Inverse and determinant of symmetric 2 x 2 or 3 x 3 matrices (m, d, d), written out (LAPACK is slow on these)."""
    if matrices.shape[-1] == 2:
        a, b, c = matrices[:, 0, 0], matrices[:, 0, 1], matrices[:, 1, 1]
        determinant = a * c - b * b
        adjugate = torch.stack([c, -b, -b, a], -1)
    else:
        rows = matrices.unbind(-2)
        crossed = [
            torch.linalg.cross(rows[1], rows[2]),
            torch.linalg.cross(rows[2], rows[0]),
            torch.linalg.cross(rows[0], rows[1]),
        ]
        determinant = (rows[0] * crossed[0]).sum(-1)
        adjugate = torch.cat(crossed, -1)
    return (adjugate / determinant[:, None]).unflatten(-1, matrices.shape[-2:]), determinant


def _pairs(d: int) -> list[tuple[int, int]]:
    return list(itertools.combinations_with_replacement(range(d), 2))


class _Sum(torch.autograd.Function):
    """sum over Gaussians of amplitude * exp(polynomial) inside the footprint, added to a flat grid.

    Gaussians with windows of the same size are evaluated together, a block at a time.
    """

    @staticmethod
    def forward(
        ctx: Any, coefficients: Tensor, amplitudes: Tensor, corner: Tensor, widths: Tensor, windows: Tensor, grid: _Grid
    ) -> Tensor:
        blocks = list(_blocks(widths, windows, grid.d))
        # Lanes beyond a footprint may fall beyond the last sample: they add zero, and the room for them is dropped.
        room = max((int(_offsets(window, grid.box_size, grid.d, corner.device)[-1]) for window, _ in blocks), default=0)
        total = coefficients.new_zeros(grid.size + room)
        values = []
        for window, members in blocks:
            value = (
                coefficients[members] @ _monomials(window, grid.d, grid.spacing, coefficients.dtype, corner.device)
            ).exp_()
            _clip(value, widths[members], window)
            index = corner[members, None] + _offsets(window, grid.box_size, grid.d, corner.device)
            total.scatter_add_(0, index.flatten(), (value * amplitudes[members, None]).flatten())
            values.append(value)
        ctx.blocks, ctx.grid, ctx.room = blocks, grid, room
        ctx.save_for_backward(amplitudes, corner, *values)
        return total[: grid.size]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        amplitudes, corner, *values = ctx.saved_tensors
        gradient = torch.nn.functional.pad(gradients[0], (0, ctx.room))
        moments = amplitudes.new_zeros(len(amplitudes), 1 + ctx.grid.d + len(_pairs(ctx.grid.d)))
        for (window, members), value in zip(ctx.blocks, values, strict=True):
            index = corner[members, None] + _offsets(window, ctx.grid.box_size, ctx.grid.d, corner.device)
            weighted = gradient.index_select(0, index.flatten()).reshape(value.shape).mul_(value)
            moments[members] = (
                weighted @ _monomials(window, ctx.grid.d, ctx.grid.spacing, value.dtype, corner.device).mT
            )
        return moments * amplitudes[:, None], moments[:, 0], None, None, None, None


def _blocks(widths: Tensor, windows: Tensor, d: int) -> Iterator[tuple[int, Tensor]]:
    """Yield (window size, indices of Gaussians) over all that reach a sample, in blocks that stay in cache."""
    for window in torch.unique(windows).tolist():
        members = ((windows == window) & (widths[:, 0] > 0)).nonzero()[:, 0]
        yield from ((window, part) for part in members.split(max(1, _BLOCK // window**d)) if len(part))


def _clip(values: Tensor, widths: Tensor, window: int) -> None:
    """Set values (m, window^d) outside footprints of `widths` (m, d) to zero, in place."""
    d = widths.shape[-1]
    cube = values.view(len(values), *[window] * d)
    lane = torch.arange(window, device=widths.device)
    for axis in range(d):  # array axis; widths come in x, y(, z) order
        inside = (lane < widths[:, d - 1 - axis, None]).to(values.dtype)
        cube *= inside.view(len(inside), *[window if a == axis else 1 for a in range(d)])


@functools.lru_cache(maxsize=64)
def _offsets(window: int, box_size: int, d: int, device: torch.device) -> Tensor:
    """(window^d,) flat grid offsets of the samples of a window from its first corner."""
    lane = torch.arange(window, device=device)
    offsets = torch.zeros(1, dtype=torch.int64, device=device)
    for _ in range(d):
        offsets = (box_size * offsets[:, None] + lane).flatten()
    return offsets


@functools.lru_cache(maxsize=64)
def _monomials(window: int, d: int, spacing: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(1 + d + d (d + 1) / 2, window^d): 1, u_i, u_i u_j at the samples of a window, last array axis x."""
    axis = (torch.arange(window, dtype=torch.float64, device=device) - (window - 1) / 2) * spacing
    u = torch.stack(torch.meshgrid(*[axis] * d, indexing="ij")).flatten(1).flip(0)
    return torch.stack([torch.ones_like(u[0]), *u, *(u[i] * u[j] for i, j in _pairs(d))]).to(dtype)
