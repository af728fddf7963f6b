"""The compiled backend for the CPU: C++ kernels in vectors of 4, 8 or 16 float32 lanes, or half as many float64.

`gsworkbench/kernels/` holds the mathematics; here tensors become pointers. Threads are
torch.get_num_threads(). Gradients are gathered per Gaussian in one order: bits repeat for a fixed number of threads.
"""

from __future__ import annotations

import ctypes
import functools
import math
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gsworkbench.kernels import KERNELS
from gsworkbench.rendering.autograd import Grid
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


@functools.cache
def unavailable_because() -> str | None:
    try:
        library(*_SOURCES)
    except BuildError as error:
        return str(error)
    return None


def supports(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.dtype in _SUFFIX


def forward(inputs: Sequence[Tensor], grid: Grid) -> tuple[Tensor, Sequence[Tensor]]:
    """See rendering/autograd.py. Raises ValueError where an input of images is not finite."""
    means, *_ = inputs
    n = len(means)
    if len(inputs) == 4:
        batch = len(inputs[3])
        images = means.new_empty(batch, grid.box_size, grid.box_size)
        _call("project_forward", inputs, n, batch, grid, torch.get_num_threads(), images)
        return images, ()
    volume = means.new_empty([grid.box_size] * 3)
    _call("voxelize_forward", inputs, n, grid, torch.get_num_threads(), volume)
    return volume, ()


def backward(
    inputs: Sequence[Tensor], kept: Sequence[Tensor], grid: Grid, gradient: Tensor, needs: Sequence[bool]
) -> Sequence[Tensor | None]:
    """See rendering/autograd.py. Gradients of rotations cost a tenth more; the others come together."""
    outputs = [torch.empty_like(t) if i < 3 or needs[i] else None for i, t in enumerate(inputs)]
    n, threads = len(inputs[0]), torch.get_num_threads()
    if len(inputs) == 4:
        _call("project_backward", inputs, n, len(inputs[3]), grid, threads, gradient, *outputs)
    else:
        _call("voxelize_backward", inputs, n, grid, threads, gradient, *outputs)
    return outputs


def image_footprints(
    means: Tensor, covariances: Tensor, rotations: Tensor, box_size: int, pixel_size: float, cutoff: float | None
) -> Tensor:
    """What footprints.image_footprints returns, as the kernels compute it: (b, n, 2, 2) int32. For tests."""
    inputs = [t.contiguous() for t in (means, covariances, torch.ones_like(means[:, 0]), rotations)]
    bounds = torch.empty(len(rotations), len(means), 2, 2, dtype=torch.int32)
    _call("project_bounds", inputs, len(means), len(rotations), Grid(box_size, pixel_size, cutoff), bounds)
    return bounds


def volume_footprints(
    means: Tensor, covariances: Tensor, box_size: int, voxel_size: float, cutoff: float | None
) -> Tensor:
    """What footprints.volume_footprints returns, as the kernels compute it: (n, 3, 2) int32. For tests."""
    inputs = [t.contiguous() for t in (means, covariances, torch.ones_like(means[:, 0]))]
    bounds = torch.empty(len(means), 3, 2, dtype=torch.int32)
    _call("voxelize_bounds", inputs, len(means), Grid(box_size, voxel_size, cutoff), bounds)
    return bounds


def _squared_cutoff(cutoff: float | None) -> float:
    """The largest float where every sample is wanted."""
    return sys.float_info.max if cutoff is None or math.isinf(cutoff) else cutoff**2


@functools.cache
def compiled(name: str, dtype: torch.dtype) -> Any:
    """Return a function of the kernels, one of _SIGNATURES, for float32 or float64."""
    function = getattr(library(*_SOURCES), f"{name}_{_SUFFIX[dtype]}")
    function.restype, function.argtypes = _SIGNATURES[name]
    return function


def _call(name: str, inputs: Any, *arguments: Any) -> None:
    """Call a kernel: tensors go as pointers, None as NULL, a grid as its three numbers. ctypes releases the GIL."""
    values: list[Any] = []
    for argument in (*inputs, *arguments):
        if isinstance(argument, Tensor):
            values.append(argument.data_ptr())
        elif isinstance(argument, Grid):
            values += [argument.box_size, argument.spacing, _squared_cutoff(argument.cutoff)]
        else:
            values.append(argument)
    outcome = compiled(name, inputs[0].dtype)(*values)
    if outcome == _NOT_FINITE:
        require_finite(**dict(zip(("means", "covariances", "weights", "rotations"), inputs, strict=True)))
        raise ValueError("an input is not finite")  # never reached: the line above names it
    if outcome:
        raise MemoryError(f"not enough memory for {name}")
