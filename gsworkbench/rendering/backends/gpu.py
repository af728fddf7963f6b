"""The backend for NVIDIA GPUs: Triton kernels, launched on torch's current stream. Nothing waits for the device.

`gpu_kernels.py` holds the mathematics; here tensors are allocated and kernels launched. Images are sums of floating-
point atomic additions, whose last bits change from run to run; under torch.use_deterministic_algorithms(True) they are
sums of integers instead, to 2^-61 of the sum of all peak heights, and every bit repeats. Gradients are gathered per
Gaussian in one order: their bits repeat anyway.

With TRITON_INTERPRET=1 in the environment the same kernels run on CPU tensors, slowly: for tests.

Bytes beside inputs and outputs, for n Gaussians, b images and real numbers of s bytes (4 or 8): n b (8 + 6 s) kept from
forward to backward, n b 6 s more inside backward. For a volume n (12 + 10 s), and n 10 s. `memory_bound` adds it up.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gsworkbench.rendering.autograd import Grid

_PLACED = 128  # Gaussians a program places
_GAUSSIANS = {
    False: 8,
    True: 4,
}  # that a warp visits together, in images and in volumes, where each needs more registers
_LANES = 16  # samples along x
_CHAINED = 32  # Gaussians whose gradients a program sums, over up to _VIEWS images at a time
_VIEWS = 8
_EVERYTHING = 1e300  # squared cutoff where every sample is wanted


class _Placed(NamedTuple):
    """What Gaussians look like on a grid: bounds (b, 4 or 6, n) int16, shapes (b, 6 or 10, n). See gpu_kernels.py."""

    bounds: Tensor
    shapes: Tensor

    @property
    def solid(self) -> bool:
        return self.bounds.shape[1] == 6


@functools.cache
def unavailable_because() -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed; it comes with the CUDA builds of torch"
    if not _interpreted() and not torch.cuda.is_available():
        return "torch finds no CUDA device"
    return None


def supports(tensor: Tensor) -> bool:
    return tensor.device.type == ("cpu" if _interpreted() else "cuda") and tensor.dtype in (
        torch.float32,
        torch.float64,
    )


def forward(inputs: Sequence[Tensor], grid: Grid) -> tuple[Tensor, Sequence[Tensor]]:
    """See rendering/autograd.py. Where the Gaussians lie on the grid is kept for backward."""
    means, covariances, weights, *rotations = inputs
    if rotations:
        placed = _place_in_images(means, covariances, rotations[0], grid)
        return _splat(placed, weights, grid.box_size), placed
    placed = _place_in_volume(means, covariances, grid)
    return _splat(placed, weights, grid.box_size)[0], placed


def backward(
    inputs: Sequence[Tensor], kept: Sequence[Tensor], grid: Grid, gradient: Tensor, needs: Sequence[bool]
) -> Sequence[Tensor | None]:
    """See rendering/autograd.py."""
    if len(inputs) == 4:
        return _backward_of_images(inputs, _Placed(*kept), grid, gradient, needs[3])
    return _backward_of_volume(inputs, _Placed(*kept), grid, gradient)


def image_footprints(
    means: Tensor, covariances: Tensor, rotations: Tensor, box_size: int, pixel_size: float, cutoff: float | None
) -> Tensor:
    """What footprints.image_footprints returns, as the kernels compute it: (b, n, 2, 2). For tests."""
    grid = Grid(box_size, pixel_size, cutoff)
    return _place_in_images(means, covariances, rotations, grid).bounds.mT.unflatten(-1, (2, 2)).cumsum(-1)


def volume_footprints(
    means: Tensor, covariances: Tensor, box_size: int, voxel_size: float, cutoff: float | None
) -> Tensor:
    """What footprints.volume_footprints returns, as the kernels compute it: (n, 3, 2). For tests."""
    return (
        _place_in_volume(means, covariances, Grid(box_size, voxel_size, cutoff))
        .bounds[0]
        .mT.unflatten(-1, (3, 2))
        .cumsum(-1)
    )


def memory_bound(n: int, box_size: int, batch: int, itemsize: int = 4) -> int:
    """Most bytes that project() forward and backward hold at once, inputs, outputs and gradients of both included."""
    inputs = n * 13 * itemsize + batch * 9 * itemsize
    images = batch * box_size**2 * itemsize
    between = n * batch * (8 + 6 * itemsize)
    moments = n * batch * 6 * itemsize
    turns = (_blocks(n, _CHAINED) + 1) * batch * 6 * itemsize
    return 2 * inputs + 2 * images + between + moments + turns


def _backward_of_images(
    inputs: Sequence[Tensor], placed: _Placed, grid: Grid, gradient: Tensor, turn: bool
) -> list[Tensor | None]:
    """`turn` : whether rotations need a gradient."""
    means, covariances, weights, rotations = inputs
    n, batch = len(means), len(rotations)
    moments = _gather(placed, gradient, grid.box_size)
    outputs = [torch.empty_like(t) for t in (means, covariances, weights)]
    blocks = _blocks(n, _CHAINED)
    turns = means.new_empty(batch, blocks, 6) if turn else None
    views = min(_VIEWS, 1 << max(0, batch - 1).bit_length())
    arguments = means, covariances, weights, rotations, placed.shapes, moments, *outputs, turns
    spacing = float(grid.spacing)
    _launch("chain_images", blocks, *arguments, n, batch, spacing, turn, views, _CHAINED, num_warps=views)
    d_rotations = None
    if turns is not None:
        d_rotations = torch.zeros_like(rotations)
        d_rotations[:, :2] = turns.sum(1).unflatten(-1, (2, 3))
    return [*outputs, d_rotations]


def _backward_of_volume(inputs: Sequence[Tensor], placed: _Placed, grid: Grid, gradient: Tensor) -> list[Tensor]:
    means, covariances, weights = inputs
    n = len(means)
    moments = _gather(placed, gradient[None], grid.box_size)
    outputs = [torch.empty_like(t) for t in (means, covariances, weights)]
    arguments = weights, placed.shapes, moments, *outputs, n, float(grid.spacing), _PLACED
    _launch("chain_volume", _blocks(n, _PLACED), *arguments)
    return outputs


def _place_in_images(means: Tensor, covariances: Tensor, rotations: Tensor, grid: Grid) -> _Placed:
    n, batch = len(means), len(rotations)
    placed = _Placed(means.new_empty(batch, 4, n, dtype=torch.int16), means.new_empty(batch, 6, n))
    arguments = means, covariances, rotations, *placed, n, *_numbers(grid), _PLACED
    _launch("place_in_images", batch * _blocks(n, _PLACED), *arguments)
    return placed


def _place_in_volume(means: Tensor, covariances: Tensor, grid: Grid) -> _Placed:
    n = len(means)
    placed = _Placed(means.new_empty(1, 6, n, dtype=torch.int16), means.new_empty(1, 10, n))
    _launch("place_in_volume", _blocks(n, _PLACED), means, covariances, *placed, n, *_numbers(grid), _PLACED)
    return placed


def _splat(placed: _Placed, weights: Tensor, box_size: int) -> Tensor:
    """(b, D, D), or (1, D, D, D) of a volume."""
    batch, _, n = placed.bounds.shape
    size = (batch, *[box_size] * (3 if placed.solid else 2))
    exact = torch.are_deterministic_algorithms_enabled()
    if exact:
        samples = weights.new_zeros(size, dtype=torch.int64)
        largest = (placed.shapes[:, 0].double() * weights).abs().sum(-1)  # (b,): no sample can exceed it
        quantum = torch.ldexp(torch.ones_like(largest), torch.frexp(largest).exponent - 61)
        quantum = torch.where(largest.isfinite(), quantum, torch.nan)
    else:
        samples, quantum = weights.new_zeros(size), None
    per_quantum = None if quantum is None else 1 / quantum
    arguments = (
        *placed,
        weights,
        samples,
        per_quantum,
        n,
        box_size,
        placed.solid,
        exact,
        _GAUSSIANS[placed.solid],
        _LANES,
    )
    _launch("splat", batch * _blocks(n, _GAUSSIANS[placed.solid]), *arguments, num_warps=1)
    if quantum is not None:
        samples = (samples * quantum.view(-1, *[1] * (len(size) - 1))).to(weights.dtype)
    return samples


def _gather(placed: _Placed, gradient: Tensor, box_size: int) -> Tensor:
    """Moments (b, 6 or 10, n) of the gradients of images or a volume."""
    batch, _, n = placed.bounds.shape
    moments = torch.empty_like(placed.shapes)
    arguments = *placed, gradient, moments, n, box_size, placed.solid, _GAUSSIANS[placed.solid], _LANES
    _launch("gather", batch * _blocks(n, _GAUSSIANS[placed.solid]), *arguments, num_warps=1)
    return moments


def _numbers(grid: Grid) -> tuple[int, float, float]:
    """A grid as kernels take it: box size, spacing and the squared cutoff."""
    squared = _EVERYTHING if grid.cutoff is None else min(float(grid.cutoff) ** 2, _EVERYTHING)
    return grid.box_size, float(grid.spacing), squared


def _blocks(n: int, size: int) -> int:
    return -(-n // size)


def _launch(kernel: str, programs: int, *arguments: Any, **options: int) -> None:
    """Launch `programs` programs on the device of the first tensor; none where there is nothing to do."""
    if programs:
        device = arguments[0].device
        with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
            getattr(_kernels(), kernel)[(programs,)](*arguments, **options)


def _kernels() -> ModuleType:
    from gsworkbench.rendering.backends import gpu_kernels

    return gpu_kernels


def _interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"
