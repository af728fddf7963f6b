"""Splatting as the papers' rasteriser does it, for comparison: lists of Gaussians for tiles of 16 x 16 pixels, sorted.

Forward, a program sums the Gaussians of its tile pixel by pixel; backward, it adds each pixel's share to each Gaussian
of its list by atomics. Written for benchmarks/rendering_gpu.py, which starts both from the same centres, inverse
covariances and amplitudes in pixels: what turns Gaussians into these, and gradients back, is not here.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 16
TOGETHER = 16  # Gaussians of a list at a time


@triton.jit
def _tile_of(starts, box, TILE: tl.constexpr):
    """First and last of a program's list, its image, and the coordinates and number of its pixels."""
    across = tl.cdiv(box, TILE)
    image, tile = tl.program_id(0) // (across * across), tl.program_id(0) % (across * across)
    pixel = tl.arange(0, TILE * TILE)
    x, y = tile % across * TILE + pixel % TILE, tile // across * TILE + pixel // TILE
    first, last = tl.load(starts + tl.program_id(0)), tl.load(starts + tl.program_id(0) + 1)
    return first, last, x, y, image.to(tl.int64) * box * box + y * box + x, (x < box) & (y < box)


@triton.jit
def _shape(splats, i, there):
    """Centre, inverse covariance and amplitude of Gaussians: splats (images n, 6)."""
    x, y = tl.load(splats + 6 * i, mask=there, other=0.0), tl.load(splats + 6 * i + 1, mask=there, other=0.0)
    a, b = tl.load(splats + 6 * i + 2, mask=there, other=0.0), tl.load(splats + 6 * i + 3, mask=there, other=0.0)
    c, w = tl.load(splats + 6 * i + 4, mask=there, other=0.0), tl.load(splats + 6 * i + 5, mask=there, other=0.0)
    return x[None, :], y[None, :], a[None, :], b[None, :], c[None, :], w[None, :]


@triton.jit
def forward_kernel(splats, members, starts, images, box, TILE: tl.constexpr, TOGETHER: tl.constexpr):
    first, last, x, y, pixel, inside = _tile_of(starts, box, TILE)
    total = tl.zeros((TILE * TILE,), tl.float32)
    for start in range(first, last, TOGETHER):
        place = start + tl.arange(0, TOGETHER)
        i = tl.load(members + place, mask=place < last, other=0)
        mx, my, a, b, c, w = _shape(splats, i, place < last)
        dx, dy = x[:, None] - mx, y[:, None] - my
        total += tl.sum(w * tl.exp(-0.5 * (a * dx * dx + 2 * b * dx * dy + c * dy * dy)), 1)
    tl.store(images + pixel, total, mask=inside)


@triton.jit
def backward_kernel(splats, members, starts, gradient, out, box, TILE: tl.constexpr, TOGETHER: tl.constexpr):
    first, last, x, y, pixel, inside = _tile_of(starts, box, TILE)
    g = tl.load(gradient + pixel, mask=inside, other=0.0)[:, None]
    for start in range(first, last, TOGETHER):
        place = start + tl.arange(0, TOGETHER)
        there = place < last
        i = tl.load(members + place, mask=there, other=0)
        mx, my, a, b, c, w = _shape(splats, i, there)
        dx, dy = x[:, None] - mx, y[:, None] - my
        v = g * tl.exp(-0.5 * (a * dx * dx + 2 * b * dx * dy + c * dy * dy))
        wv = w * v
        to = out + 6 * i
        tl.atomic_add(to, tl.sum(wv * (a * dx + b * dy), 0), mask=there, sem="relaxed")
        tl.atomic_add(to + 1, tl.sum(wv * (b * dx + c * dy), 0), mask=there, sem="relaxed")
        tl.atomic_add(to + 2, tl.sum(-0.5 * wv * dx * dx, 0), mask=there, sem="relaxed")
        tl.atomic_add(to + 3, tl.sum(-wv * dx * dy, 0), mask=there, sem="relaxed")
        tl.atomic_add(to + 4, tl.sum(-0.5 * wv * dy * dy, 0), mask=there, sem="relaxed")
        tl.atomic_add(to + 5, tl.sum(v, 0), mask=there, sem="relaxed")


def lists(bounds: Tensor, box_size: int) -> tuple[Tensor, Tensor]:
    """Members (m,) int32, and starts (b tiles + 1,) of each tile's list, of footprints (b, n, 2, 2), by a sort."""
    across = -(-box_size // TILE)
    first, last = bounds[..., 0] // TILE, (bounds[..., 1] + TILE - 1) // TILE  # (b, n, 2)
    extent = last - first
    owner = torch.repeat_interleave(extent.prod(-1).flatten())
    rank = torch.arange(len(owner), device=owner.device)
    rank = rank - (extent.prod(-1).flatten().cumsum(0) - extent.prod(-1).flatten())[owner]
    wide = extent.flatten(0, 1)[owner, 0]
    x, y = first.flatten(0, 1)[owner].unbind(-1)
    image = owner // bounds.shape[1]
    tile = image * across**2 + (y + rank // wide) * across + x + rank % wide
    tile, order = torch.sort(tile)
    starts = torch.searchsorted(tile, torch.arange(len(bounds) * across**2 + 1, device=tile.device))
    return owner[order].int(), starts.int()


def forward(splats: Tensor, members: Tensor, starts: Tensor, batch: int, box_size: int) -> Tensor:
    """(b, D, D) images of splats (b n, 6): x, y, inverse covariance xx xy yy in pixels, amplitude."""
    images = splats.new_empty(batch, box_size, box_size)
    forward_kernel[(len(starts) - 1,)](splats, members, starts, images, box_size, TILE, TOGETHER)
    return images


def backward(splats: Tensor, members: Tensor, starts: Tensor, gradient: Tensor, box_size: int) -> Tensor:
    """(b n, 6) gradients of splats."""
    out = torch.zeros_like(splats)
    backward_kernel[(len(starts) - 1,)](splats, members, starts, gradient, out, box_size, TILE, TOGETHER)
    return out
