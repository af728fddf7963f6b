"""A vectorised backend in plain torch: each Gaussian is evaluated in a window around it, not at every pixel.

In a window's own coordinates u (integers about its centre times the spacing) the exponent of a Gaussian is a
polynomial of degree two, so that exponents are one matrix product, coefficients times monomials, and their gradient
is the transposed one: moments of the incoming gradient. What maps means and covariances to coefficients is small and
left to torch's autograd.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import Tensor

_WINDOWS = (2, 4, 6, 7, 8, 9, 10, 12, 14, 16, 20, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1024)
_BLOCK = 2**19  # window samples evaluated at a time: a few MB, which stay in cache


def unavailable_because() -> str | None:
    return None


def project(
    means: Tensor,
    covariances: Tensor,
    weights: Tensor,
    rotations: Tensor,
    bounds: Tensor,
    *,
    box_size: int,
    pixel_size: float,
) -> Tensor:
    """(b, box_size, box_size); `rotations` are (b, 3, 3), `bounds` (b, n, 2, 2)."""
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
    means: Tensor, covariances: Tensor, weights: Tensor, bounds: Tensor, *, box_size: int, voxel_size: float
) -> Tensor:
    """(box_size, box_size, box_size) = z, y, x; `bounds` are (n, 3, 2)."""
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
    widths = bounds[..., 1] - bounds[..., 0]  # (m, d)
    kinds = torch.bucketize(widths.amax(-1), torch.tensor(_WINDOWS, device=widths.device))
    total = centres.new_zeros(n_grids * box_size**d)
    strides = box_size ** torch.arange(d, device=start.device)
    for kind in torch.unique(kinds).tolist():
        window = min(_WINDOWS[kind], box_size)
        chosen = ((kinds == kind) & (widths[:, 0] > 0)).nonzero()[:, 0]
        if len(chosen) == 0:
            continue
        first = bounds[chosen, :, 0]
        middle = (first + (window - 1) / 2 - box_size // 2).to(centres.dtype) * spacing
        coefficients, amplitudes = _polynomial(middle - centres[chosen], variances[chosen], weights[chosen])
        corner = start[chosen] + first @ strides
        total = total + _Window.apply(
            coefficients, amplitudes, corner, widths[chosen], window, box_size, spacing, len(total)
        )
    return total


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
    """Inverse and determinant of symmetric 2 x 2 or 3 x 3 matrices (m, d, d), written out: LAPACK is slow on small ones."""
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


def _monomials(window: int, d: int, spacing: float, like: Tensor) -> Tensor:
    """(1 + d + d (d + 1) / 2, window^d): 1, u_i, u_i u_j at the samples of a window, last array axis x."""
    axis = (torch.arange(window, dtype=like.dtype, device=like.device) - (window - 1) / 2) * spacing
    u = torch.cartesian_prod(*[axis] * d).reshape(-1, d).flip(-1).unbind(-1)
    return torch.stack([torch.ones_like(u[0]), *u, *(u[i] * u[j] for i, j in _pairs(d))])


class _Window(torch.autograd.Function):
    """sum over Gaussians of amplitude * exp(polynomial) inside the footprint, added to a flat grid of `size` samples."""

    @staticmethod
    def forward(
        ctx: Any,
        coefficients: Tensor,
        amplitudes: Tensor,
        corner: Tensor,
        widths: Tensor,
        window: int,
        box_size: int,
        spacing: float,
        size: int,
    ) -> Tensor:
        d = widths.shape[-1]
        basis = _monomials(window, d, spacing, coefficients)
        strides = [box_size ** (d - 1 - axis) for axis in range(d)]
        lane = torch.arange(window, device=corner.device)
        offsets = sum(
            lane.reshape([-1 if a == axis else 1 for a in range(d)]) * s for axis, s in enumerate(strides)
        ).flatten()
        # Lanes beyond a footprint may fall beyond the last grid: they add zero there, and the room is dropped.
        grid = coefficients.new_zeros(size + int(offsets[-1]))
        block = max(1, _BLOCK // window**d)
        values = []
        for part in range(0, len(corner), block):
            here = slice(part, part + block)
            value = (coefficients[here] @ basis).exp_().unflatten(-1, [window] * d)
            for axis in range(d):  # array axis; widths are in x, y(, z) order
                inside = (lane < widths[here, d - 1 - axis, None]).to(value.dtype)
                value *= inside.reshape(len(inside), *[window if a == axis else 1 for a in range(d)])
            value = value.flatten(1)
            index = corner[here, None] + offsets
            grid.scatter_add_(0, index.flatten(), (value * amplitudes[here, None]).flatten())
            values.append(value)
        ctx.save_for_backward(amplitudes, corner, offsets, basis, *values)
        ctx.block = block
        return grid[:size]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        amplitudes, corner, offsets, basis, *values = ctx.saved_tensors
        gradient = torch.nn.functional.pad(gradients[0], (0, int(offsets[-1])))
        moments = []
        for part, value in zip(range(0, len(corner), ctx.block), values, strict=True):
            index = corner[part : part + ctx.block, None] + offsets
            moments.append((gradient.index_select(0, index.flatten()).reshape(value.shape) * value) @ basis.mT)
        moment = torch.cat(moments)
        return moment * amplitudes[:, None], moment[:, 0], None, None, None, None, None, None
