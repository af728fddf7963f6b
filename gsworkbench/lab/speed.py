"""Rough limits of this machine and times of the renderers, for a notebook; benchmarks/ measures with care."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from gsworkbench.gaussians.mixture import random_gaussians
from gsworkbench.geometry.rotations import quaternions_to_matrices
from gsworkbench.rendering import project, voxelize

VIEWS = 4


def multiply_add_rate(size: int = 768, repeats: int = 5) -> float:
    """Multiply-adds in a second of a float32 matrix product, the fastest of some."""
    a = torch.rand(size, size)
    return size**3 / min(_seconds(lambda: a @ a) for _ in range(repeats))


def memory_bandwidth(megabytes: int = 128, repeats: int = 5) -> float:
    """Bytes in a second of a copy, read and written, the fastest of some."""
    a = torch.rand(megabytes * 2**18)
    b = torch.empty_like(a)
    return 2 * 4 * len(a) / min(_seconds(lambda: b.copy_(a)) for _ in range(repeats))


def rendering_times(kernel: str, n: int, box_size: int, repeats: int) -> list[float]:
    """Seconds of "project" (VIEWS views) or "voxelize" with their gradients, for n Gaussians of about a pixel."""
    g = random_gaussians(n, spread=0.15 * box_size, scale=1.0, total_weight=1.0, seed=0)
    means, weights = g.means.requires_grad_(), g.weights.requires_grad_()
    covariances = g.covariances()
    rotations = quaternions_to_matrices(torch.randn(VIEWS, 4, generator=torch.Generator().manual_seed(1)))

    def once() -> None:
        if kernel == "project":
            made = project(means, covariances, weights, rotations, box_size=box_size, pixel_size=1.0, cutoff=3.5)
        else:
            made = voxelize(means, covariances, weights, box_size=box_size, voxel_size=1.0, cutoff=3.5)
        made.sum().backward()

    once()  # kernels may be compiled at their first call
    return [_seconds(once) for _ in range(repeats)]


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
