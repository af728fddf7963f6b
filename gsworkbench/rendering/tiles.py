"""Rasterising by tiles, as 3D Gaussian splatting and its kin do it: what the papers' schemes are measured with.

Two renderers over the same lists, one list for each tile of 16 x 16 pixels: sums in which contributions below a
threshold are skipped (GEM's "gradient computation"), and 3DGS's alpha compositing. float32, one thread, compiled from
tiles.cpp. `rendering.project` is what everything else uses, and faster.

What is on a GPU is brought to the CPU, and images and gradients go back: slow, but a recipe that needs tiles runs.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gsworkbench.kernels import KERNELS
from gsworkbench.system.compiler import library

Order = Literal["listed", "depth"]
Backward = Literal["gather", "scatter"]


class Scheme(NamedTuple):
    """How sums are made. The order changes their rounding only; the backward pass, their rounding and cost only."""

    skip_below: float = 0.0
    order: Order = "listed"
    backward: Backward = "gather"


def project_tiled(
    means: Tensor,
    covariances: Tensor,
    weights: Tensor,
    rotations: Tensor,
    *,
    box_size: int,
    pixel_size: float,
    cutoff: float,
    skip_below: float = 0.0,
    order: Order = "listed",
    backward: Backward = "gather",
) -> Tensor:
    """(b, box_size, box_size) projections, as `rendering.project` for rotations (b, 3, 3), but by tiles.

    A Gaussian counts in every pixel of the tiles that its footprint of `cutoff` standard deviations touches, except
    where its contribution is below `skip_below` (image units, weight / A^2).
    """
    packed = splats(means, covariances, weights, rotations, box_size, pixel_size, cutoff)
    centres, conics, heights, reach = (part.cpu() for part in packed)
    depths = (rotations[:, 2] @ means.mT).detach().cpu()
    scheme = Scheme(skip_below, order, backward)
    images = [
        _Sum.apply(centre, conic, height, half, depth, box_size, scheme)
        for centre, conic, height, half, depth in zip(centres, conics, heights, reach, depths, strict=True)
    ]
    return torch.stack(images).to(means.device, means.dtype)


def list_length(
    means: Tensor, covariances: Tensor, rotations: Tensor, *, box_size: int, pixel_size: float, cutoff: float
) -> int:
    """Number of (tile, Gaussian) pairs in all images: what lists hold, 4 bytes each (a GPU sorts 16 bytes for each)."""
    ones = torch.ones_like(means[:, 0])
    packed = [part.cpu() for part in splats(means, covariances, ones, rotations, box_size, pixel_size, cutoff)]
    image, listed = torch.empty(box_size, box_size), torch.arange(len(means))
    total = 0
    for centre, conic, height, half in zip(*packed, strict=True):
        table = _table(centre, conic, height, half)
        total += compiled().tiled_forward(*_pointers(table, listed), len(table), box_size, 0.0, image.data_ptr())
    return total


def splats(
    means: Tensor,
    covariances: Tensor,
    weights: Tensor,
    rotations: Tensor,
    box_size: int,
    pixel_size: float,
    cutoff: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gaussians seen, in pixels: centres (b, n, 2), conics xx, xy, yy (b, n, 3), heights (b, n), reach (b, n, 2)."""
    rows = rotations[:, :2, :] / pixel_size
    outer = rows[:, [0, 0, 1], :, None] * rows[:, [0, 1, 1], None, :]  # A S A^T is linear in S
    symmetric = (covariances + covariances.mT) / 2
    xx, xy, yy = (outer.flatten(2) @ symmetric.flatten(1).mT).unbind(1)
    determinant = xx * yy - xy * xy
    centres = (rows @ means.mT).mT + box_size // 2
    conics = torch.stack([yy, -xy, xx], -1) / determinant[..., None]
    heights = weights / (2 * torch.pi * determinant.sqrt() * pixel_size**2)
    return centres, conics, heights, cutoff * torch.stack([xx, yy], -1).detach().sqrt()


def composite(
    centres: Tensor, conics: Tensor, opacities: Tensor, colours: Tensor, depths: Tensor, box_size: int
) -> Tensor:
    """(box_size, box_size) one image by 3DGS's alpha compositing, nearest first. Differentiable but for depths.

    centres (n, 2) x, y in pixels; conics (n, 3) xx, xy, yy; opacities, colours, depths (n,).
    """
    variances = (
        torch.stack([conics[:, 2], conics[:, 0]], -1) / (conics[:, 0] * conics[:, 2] - conics[:, 1] ** 2)[:, None]
    )
    reach = 3.33 * variances.detach().sqrt()  # beyond it alpha < 1/255 at any opacity
    given = (part.cpu() for part in (centres, conics, opacities, colours, reach, depths.detach()))
    return _Composite.apply(*given, box_size).to(centres.device)


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        centres: Tensor,
        conics: Tensor,
        heights: Tensor,
        reach: Tensor,
        depths: Tensor,
        box: int,
        scheme: Scheme,
    ) -> Tensor:
        table = _table(centres, conics, heights, reach)
        order = torch.argsort(depths) if scheme.order == "depth" else torch.arange(len(table))
        image = torch.empty(box, box)
        compiled().tiled_forward(*_pointers(table, order), len(table), box, scheme.skip_below, image.data_ptr())
        ctx.save_for_backward(table, order)
        ctx.box, ctx.scheme, ctx.dtype = box, scheme, centres.dtype
        return image

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        table, order = ctx.saved_tensors
        out, gradient = torch.zeros(len(table), 6), gradient.float().contiguous()
        scattered = int(ctx.scheme.backward == "scatter")
        compiled().tiled_backward(
            *_pointers(table, order), len(table), ctx.box, ctx.scheme.skip_below, scattered, *_pointers(gradient, out)
        )
        out = out.to(ctx.dtype)
        return out[:, :2], out[:, 2:5], out[:, 5], None, None, None, None


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        centres: Tensor,
        conics: Tensor,
        heights: Tensor,
        colours: Tensor,
        reach: Tensor,
        depths: Tensor,
        box: int,
    ) -> Tensor:
        table, order = _table(centres, conics, heights, reach), torch.argsort(depths)
        flat, image = colours.detach().float().contiguous(), torch.empty(box, box)
        compiled().composite_forward(*_pointers(table, flat, order), len(table), box, image.data_ptr())
        ctx.save_for_backward(table, flat, order)
        ctx.box, ctx.dtype = box, centres.dtype
        return image

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        table, colours, order = ctx.saved_tensors
        out, d_colours, gradient = torch.zeros(len(table), 6), torch.zeros(len(table)), gradient.float().contiguous()
        given = _pointers(table, colours, order)
        compiled().composite_backward(*given, len(table), ctx.box, *_pointers(gradient, out, d_colours))
        out, d_colours = out.to(ctx.dtype), d_colours.to(ctx.dtype)
        return out[:, :2], out[:, 2:5], out[:, 5], d_colours, None, None, None


def _table(centres: Tensor, conics: Tensor, heights: Tensor, reach: Tensor) -> Tensor:
    """(n, 8) float32, what tiles.cpp calls a Gaussian."""
    return torch.cat([centres, conics, heights[:, None], reach], 1).detach().float().contiguous()


def _pointers(*tensors: Tensor) -> list[int]:
    """Addresses for C++, which can follow those of the CPU alone."""
    if elsewhere := [t.device for t in tensors if t.device.type != "cpu"]:
        raise TypeError(f"tiles.cpp was given a tensor on {elsewhere[0]}")
    return [t.data_ptr() for t in tensors]


@functools.cache
def compiled() -> ctypes.CDLL:
    """Return the library of tiles.cpp."""
    loaded = library(KERNELS / "tiles.cpp")
    pointer, n, box, real = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.c_float
    signatures = {
        "tiled_forward": [pointer] * 2 + [n, box, real, pointer],
        "tiled_backward": [pointer] * 2 + [n, box, real, ctypes.c_int] + [pointer] * 2,
        "composite_forward": [pointer] * 3 + [n, box, pointer],
        "composite_backward": [pointer] * 3 + [n, box] + [pointer] * 3,
    }
    for name, arguments in signatures.items():
        getattr(loaded, name).argtypes, getattr(loaded, name).restype = arguments, None
    loaded.tiled_forward.restype = ctypes.c_int64
    return loaded
