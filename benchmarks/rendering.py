"""Benchmark of project() and voxelize(): how fast, how near the limits of a core, against the other backends.

    python benchmarks/rendering.py [--threads 1] [--repeats 20] [--full]

Prints tables in Markdown. Times are the smallest of several repeats, and what is compared is measured in turn within
one run: trust ratios, not absolute times of a busy machine. FMA peak is measured in the same run.
"""

from __future__ import annotations

import argparse
import ctypes
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gsworkbench.gaussians import covariances
from gsworkbench.geometry import random_rotations
from gsworkbench.native import capability, library
from gsworkbench.provenance import machine
from gsworkbench.rendering import available_backends, footprints, project, voxelize

CUTOFF = 3.5
BATCH = 16
INITIAL_SCALE = 0.0075  # of the box edge, as the papers start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--full", action="store_true", help="all sizes, up to 1,048,576 Gaussians and 512 pixels")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    peak = fma_peak()
    print(f"{machine()}; {options.threads} threads; kernels {capability()}; FMA peak {peak / 1e9:.0f} GFLOP/s a core\n")
    sizes = [(2048, 64), (8192, 128), (32768, 128), (8192, 256)]
    if options.full:
        sizes = [(n, d) for d in (64, 128, 256, 512) for n in (2048, 8192, 32768, 131072, 1048576)]
    projection_table(sizes, peak * options.threads, options.repeats)
    step_table([(2048, 64), (8192, 128)], options.repeats)
    voxel_table([(8192, 128), (32768, 128), (32768, 256)], options.repeats)
    backend_table(options.repeats)
    cutoff_table()


def scene(n: int, box_size: int, batch: int, *, initial: bool = False) -> list[Tensor]:
    """Means, covariances, weights, rotations in pixels: converged (0.7 to 1.5 px) or as at the start of a fit."""
    g = torch.Generator().manual_seed(0)
    scales = torch.full((n, 3), INITIAL_SCALE * box_size) if initial else 0.7 + 0.8 * torch.rand(n, 3, generator=g)
    means = 0.16 * box_size * torch.randn(n, 3, generator=g)
    rotations = torch.from_numpy(random_rotations(batch, np.random.default_rng(0))).float()
    quaternions = torch.randn(n, 4, generator=g)
    return [means, covariances(scales, quaternions), torch.rand(n, generator=g), rotations]


def seconds(call: Callable[[], Any], repeats: int) -> float:
    """Smallest time of `repeats` calls, after one that is not counted: of CPU with one thread, else of the wall."""
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    call()
    times = []
    for _ in range(repeats):
        start = clock()
        call()
        times.append(clock() - start)
    return min(times)


def fma_peak() -> float:
    """Floating-point operations a second of fused multiply-adds in float32 on one core, measured."""
    function = library(Path(__file__).with_name("fma_peak.cpp")).fma_peak
    function.restype, function.argtypes = ctypes.c_double, [ctypes.c_int64]
    best = 0.0
    for _ in range(20):
        start = time.thread_time()
        operations = function(1_000_000)
        best = max(best, operations / (time.thread_time() - start))
    return best


def projection_table(sizes: list[tuple[int, int]], peak: float, repeats: int) -> None:
    """Forward and backward of a batch through project(), autograd included."""
    print(
        f"project(), batch {BATCH}, cutoff {CUTOFF}, microseconds an image; px: samples inside footprints; lane use: "
        "their share of the samples that vectors evaluate; FMA: operations done, wasted lanes included, of the peak\n"
    )
    print("| N | D | scales | forward | backward | images/s | px/Gaussian | fwd G px/s | bwd G px/s | lane use | FMA |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for n, d in sizes:
        for initial in (False, True):
            inputs = scene(n, d, BATCH, initial=initial)
            forward, backward = forward_backward(inputs, d, None, max(3, repeats * 8192 // (n + 8192)))
            pixels, evaluated, operations = work(inputs, d)
            print(
                f"| {n} | {d} | {'initial' if initial else 'converged'} | {forward / BATCH * 1e6:.0f} "
                f"| {backward / BATCH * 1e6:.0f} | {BATCH / (forward + backward):.0f} | {pixels / n / BATCH:.0f} "
                f"| {pixels / forward / 1e9:.2f} | {pixels / backward / 1e9:.2f} | {pixels / evaluated:.0%} "
                f"| {operations / (forward + backward) / peak:.0%} |"
            )
    print()


def work(inputs: list[Tensor], box_size: int) -> tuple[float, float, float]:
    """Samples inside footprints, samples that vectors evaluate, and floating-point operations, forward and backward.

    A row of a strip takes 4 operations a lane forward and 6 backward, the start of a strip two exponentials, about 50
    each way; projection, sums across lanes and the chain rule are not counted.
    """
    means, cov, _, rotations = inputs
    bounds = footprints.image_footprints(means, cov, rotations, box_size, 1.0, CUTOFF)
    columns, rows = (bounds[..., 1] - bounds[..., 0]).double().unbind(-1)
    lanes = {"AVX512": 16, "AVX2": 8}.get(capability(), 4)
    across = (columns / lanes).ceil() * lanes
    evaluated = (across * rows).sum().item()
    return (columns * rows).sum().item(), evaluated, evaluated * (4 + 6) + 2 * 50 * across.sum().item()


def forward_backward(inputs: list[Tensor], box_size: int, backend: str | None, repeats: int) -> tuple[float, float]:
    """Seconds of project() with graph, and of its backward, by three tensors (rotations are given)."""
    leaves = [t.clone().requires_grad_() for t in inputs[:3]]
    gradient = torch.randn(len(inputs[3]), box_size, box_size)

    def render() -> Tensor:
        means, cov, weights = leaves
        return project(
            means, cov, weights, inputs[3], box_size=box_size, pixel_size=1.0, cutoff=CUTOFF, backend=backend
        )

    images = render()
    return seconds(render, repeats), seconds(lambda: torch.autograd.grad(images, leaves, gradient, True), repeats)


def step_table(sizes: list[tuple[int, int]], repeats: int) -> None:
    """What a trainer feels: parameters to covariances, project(), two FFTs, backward to the parameters."""
    print("one step without the optimiser, from scales and quaternions, with two FFTs and backward\n")
    print("| N | D | batch | ms a step | images/s | of which project() forward + backward |")
    print("|---|---|---|---|---|---|")
    for n, d in sizes:
        for batch in (1, BATCH):
            whole = seconds(_step(n, d, batch), repeats)
            splat = sum(forward_backward(scene(n, d, batch), d, None, repeats))
            print(f"| {n} | {d} | {batch} | {whole * 1e3:.2f} | {batch / whole:.0f} | {splat / whole:.0%} |")
    print()


def _step(n: int, box_size: int, batch: int) -> Callable[[], Any]:
    means, _, weights, rotations = scene(n, box_size, batch)
    g = torch.Generator().manual_seed(1)
    scales, quaternions = 0.7 + 0.8 * torch.rand(n, 3, generator=g), torch.randn(n, 4, generator=g)
    leaves = [t.requires_grad_() for t in (means, scales, quaternions, weights)]
    kernel = torch.rand(box_size, box_size // 2 + 1)

    def step() -> None:
        cov = covariances(scales, quaternions)
        images = project(means, cov, weights, rotations, box_size=box_size, pixel_size=1.0, cutoff=CUTOFF)
        gradient = torch.fft.irfft2(torch.fft.rfft2(images.detach()) * kernel, s=(box_size, box_size))
        torch.autograd.grad(images, leaves, gradient)

    return step


def voxel_table(sizes: list[tuple[int, int]], repeats: int) -> None:
    print("voxelize(), ms\n\n| N | D | forward | backward |\n|---|---|---|---|")
    for n, d in sizes:
        forward, backward = _voxel_times(n, d, max(3, repeats // 4))
        print(f"| {n} | {d} | {forward * 1e3:.1f} | {backward * 1e3:.1f} |")
    print()


def _voxel_times(n: int, box_size: int, repeats: int) -> tuple[float, float]:
    means, cov, weights = leaves = [t.requires_grad_() for t in scene(n, box_size, 1)[:3]]
    gradient = torch.randn(box_size, box_size, box_size)

    def render() -> Tensor:
        return voxelize(means, cov, weights, box_size=box_size, voxel_size=1.0, cutoff=CUTOFF)

    volume = render()
    return seconds(render, repeats), seconds(lambda: torch.autograd.grad(volume, leaves, gradient, True), repeats)


def backend_table(repeats: int) -> None:
    """Every backend on the same Gaussians in the same run; the reference is dense, hence few of them."""
    print("backends, microseconds an image (batch 2), forward + backward\n\n| N | D | backend | time | ratio |")
    print("|---|---|---|---|---|")
    for n, d, names in ((8192, 128, ["cpu", "windowed"]), (256, 64, ["cpu", "windowed", "reference"])):
        times = {}
        for name in (name for name in names if available_backends()[name] is None):
            times[name] = sum(forward_backward(scene(n, d, 2), d, name, 3 if name == "reference" else repeats))
        for name, spent in times.items():
            print(f"| {n} | {d} | {name} | {spent / 2 * 1e6:.0f} | {spent / min(times.values()):.0f} |")
    print()


def cutoff_table() -> None:
    """Error of cutting footprints, relative to the largest value of no cutoff, float64, random gradient image."""
    print(
        "cutoff: largest error over largest value, converged scales\n\n"
        "| cutoff | image | means | covariances | weights |"
    )
    print("|---|---|---|---|---|")
    expected = _sampled(None)
    for cutoff in (3.0, 3.5, 4.0, 4.5, 5.0):
        errors = [(a - b).abs().max() / b.abs().max() for a, b in zip(_sampled(cutoff), expected, strict=True)]
        print(f"| {cutoff} | " + " | ".join(f"{e:.1e}" for e in errors) + " |")


def _sampled(cutoff: float | None) -> list[Tensor]:
    means, cov, weights, rotations = (t.double() for t in scene(256, 64, 2))
    leaves = [t.requires_grad_() for t in (means, cov, weights)]
    images = project(means, cov, weights, rotations, box_size=64, pixel_size=1.0, cutoff=cutoff)
    gradient = torch.randn(images.shape, generator=torch.Generator().manual_seed(3)).double()
    return [images.detach(), *torch.autograd.grad(images, leaves, gradient)]


if __name__ == "__main__":
    main()
