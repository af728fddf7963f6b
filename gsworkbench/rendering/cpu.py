"""The compiled backend for the CPU: C++ kernels in vectors of 4, 8 or 16 float32 lanes, or half as many float64.

`gsworkbench/kernels/` holds the mathematics; here tensors become pointers. Threads are
torch.get_num_threads(). Gradients are gathered per Gaussian in one order: bits repeat for a fixed number of threads.
"""

from __future__ import annotations

import ctypes
import functools
import math
import sys
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gsworkbench.kernels import KERNELS
from gsworkbench.rendering.finite import require_finite
from gsworkbench.system.compiler import BuildError, library

_SOURCES = (KERNELS / "project.cpp", KERNELS / "voxelize.cpp")
_NOT_FINITE = 2  # what project_forward returns then

_SUFFIX = {torch.float32: "float32", torch.float64: "float64"}
_POINTER, _INT64, _INT, _DOUBLE = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.c_double
_SIGNATURES = {
    "project_forward": (_INT, [_POINTER] * 4 + [_INT64, _INT64, _INT, _DOUBLE, _DOUBLE, _INT] + [_POINTER]),
    "project_backward": (_INT, [_POINTER] * 4 + [_INT64, _INT64, _INT, _DOUBLE, _DOUBLE, _INT] + [_POINTER] * 5),
    "project_bounds": (None, [_POINTER] * 4 + [_INT64, _INT64, _INT, _DOUBLE, _DOUBLE] + [_POINTER]),
    "voxelize_forward": (_INT, [_POINTER] * 3 + [_INT64, _INT, _DOUBLE, _DOUBLE, _INT] + [_POINTER]),
    "voxelize_backward": (_INT, [_POINTER] * 3 + [_INT64, _INT, _DOUBLE, _DOUBLE, _INT] + [_POINTER] * 4),
    "voxelize_bounds": (None, [_POINTER] * 3 + [_INT64, _INT, _DOUBLE, _DOUBLE] + [_POINTER]),
}


class _Grid(NamedTuple):
    box_size: int
    spacing: float
    squared_cutoff: float  # the largest float where every sample is wanted


@functools.cache
def unavailable_because() -> str | None:
    try:
        library(*_SOURCES)
    except BuildError as error:
        return str(error)
    return None


def supports(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.dtype in _SUFFIX


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
    """(b, box_size, box_size); `rotations` are (b, 3, 3). Raises ValueError where an input is not finite."""
    return _Project.apply(means, covariances, weights, rotations, _grid(box_size, pixel_size, cutoff))


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
    return _Voxelize.apply(means, covariances, weights, _grid(box_size, voxel_size, cutoff))


def image_footprints(
    means: Tensor, covariances: Tensor, rotations: Tensor, box_size: int, pixel_size: float, cutoff: float | None
) -> Tensor:
    """What footprints.image_footprints returns, as the kernels compute it: (b, n, 2, 2) int32. For tests."""
    inputs = [t.contiguous() for t in (means, covariances, torch.ones_like(means[:, 0]), rotations)]
    bounds = torch.empty(len(rotations), len(means), 2, 2, dtype=torch.int32)
    _call("project_bounds", inputs, len(means), len(rotations), _grid(box_size, pixel_size, cutoff), bounds)
    return bounds


def volume_footprints(
    means: Tensor, covariances: Tensor, box_size: int, voxel_size: float, cutoff: float | None
) -> Tensor:
    """What footprints.volume_footprints returns, as the kernels compute it: (n, 3, 2) int32. For tests."""
    inputs = [t.contiguous() for t in (means, covariances, torch.ones_like(means[:, 0]))]
    bounds = torch.empty(len(means), 3, 2, dtype=torch.int32)
    _call("voxelize_bounds", inputs, len(means), _grid(box_size, voxel_size, cutoff), bounds)
    return bounds


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, means: Tensor, covariances: Tensor, weights: Tensor, rotations: Tensor, grid: _Grid
    ) -> Tensor:
        inputs = [t.contiguous() for t in (means, covariances, weights, rotations)]
        n, batch = len(means), len(rotations)
        images = means.new_empty(batch, grid.box_size, grid.box_size)
        _call("project_forward", inputs, n, batch, grid, torch.get_num_threads(), images)
        ctx.save_for_backward(*inputs)
        ctx.grid = grid
        return images

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs = ctx.saved_tensors
        turn = ctx.needs_input_grad[3]  # gradients of rotations cost a tenth more; the others come together
        outputs = [torch.empty_like(t) if needed else None for t, needed in zip(inputs, (1, 1, 1, turn), strict=True)]
        n, batch = len(inputs[0]), len(inputs[3])
        threads = torch.get_num_threads()
        _call("project_backward", inputs, n, batch, ctx.grid, threads, gradient.contiguous(), *outputs)
        return *outputs, None


class _Voxelize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, means: Tensor, covariances: Tensor, weights: Tensor, grid: _Grid) -> Tensor:
        inputs = [t.contiguous() for t in (means, covariances, weights)]
        volume = means.new_empty([grid.box_size] * 3)
        _call("voxelize_forward", inputs, len(means), grid, torch.get_num_threads(), volume)
        ctx.save_for_backward(*inputs)
        ctx.grid = grid
        return volume

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs = ctx.saved_tensors
        outputs = [torch.empty_like(t) for t in inputs]
        threads = torch.get_num_threads()
        _call("voxelize_backward", inputs, len(inputs[0]), ctx.grid, threads, gradient.contiguous(), *outputs)
        return *outputs, None


def _grid(box_size: int, spacing: float, cutoff: float | None) -> _Grid:
    squared = sys.float_info.max if cutoff is None or math.isinf(cutoff) else cutoff**2
    return _Grid(box_size, spacing, squared)


@functools.cache
def _function(name: str, dtype: torch.dtype) -> Any:
    function = getattr(library(*_SOURCES), f"{name}_{_SUFFIX[dtype]}")
    function.restype, function.argtypes = _SIGNATURES[name]
    return function


def _call(name: str, inputs: Any, *arguments: Any) -> None:
    """Call a kernel: tensors go as pointers, None as NULL, a grid as its three numbers. ctypes releases the GIL."""
    values: list[Any] = []
    for argument in (*inputs, *arguments):
        if isinstance(argument, Tensor):
            values.append(argument.data_ptr())
        elif isinstance(argument, _Grid):
            values.extend(argument)
        else:
            values.append(argument)
    outcome = _function(name, inputs[0].dtype)(*values)
    if outcome == _NOT_FINITE:
        require_finite(**dict(zip(("means", "covariances", "weights", "rotations"), inputs, strict=True)))
        raise ValueError("an input is not finite")  # never reached: the line above names it
    if outcome:
        raise MemoryError(f"not enough memory for {name}")
