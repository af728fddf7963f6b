"""Benchmark of project() and voxelize() on a GPU: how fast, how near the card's limits, against the papers' way.

    python benchmarks/rendering_gpu.py [--repeats 20] [--full]

Prints tables in Markdown. Times are medians between CUDA events, and what is compared is measured in turn within one
run; the rate of fused multiply-adds is measured in the same run. TRITON_INTERPRET=1 goes through all of it on the CPU
at toy sizes: that checks the script, its figures mean nothing.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from rendering import CUTOFF, scene
from tile_lists import backward, forward, lists
from torch import Tensor

from gsworkbench.gaussians.mixture import covariances
from gsworkbench.rendering import footprints, project, reference, voxelize
from gsworkbench.rendering.backends import gpu

TOY = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cpu" if TOY else "cuda")
BATCH = 2 if TOY else 132
PER_GAUSSIAN_IMAGE = 1900  # lane instructions of one Gaussian in one image, forward and backward, by count
SIZES = [(3, 8)] if TOY else [(2048, 64), (8192, 128), (32768, 128), (8192, 256), (30000, 256)]
FULL = [(n, d) for d in (64, 128, 256, 512) for n in (2048, 8192, 32768, 131072, 1048576)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--full", action="store_true", help="all sizes, up to 1,048,576 Gaussians and 512 pixels")
    options = parser.parse_args()
    repeats = 1 if TOY else options.repeats
    rate = multiply_adds()
    name = "the interpreter" if TOY else torch.cuda.get_device_name()
    print(f"{name}; torch {torch.__version__}, triton {triton.__version__}; {rate / 1e12:.3g} T multiply-adds/s\n")
    projection_table(FULL if options.full else SIZES, rate, repeats)
    voxel_table([(3, 6)] if TOY else [(32768, 128), (32768, 256)], repeats)
    comparison(*SIZES[0 if TOY else 1], repeats)
    deterministic_table(*SIZES[0 if TOY else 1], repeats)
    shape_table(*SIZES[0 if TOY else 1], repeats)
    graph_table(*SIZES[0 if TOY else 1], repeats)
    memory_table(*SIZES[-1])


def seconds(call: Callable[[], Any], repeats: int) -> float:
    """Median time of `repeats` calls on the device, after two that are not counted: kernels are made at the first."""
    if TOY:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start
    call(), call()
    times = []
    for _ in range(repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    return statistics.median(times)


@triton.jit
def _multiply_add(out, factor, STEPS: tl.constexpr, SIZE: tl.constexpr):
    place = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    a = place.to(tl.float32)
    b = a + 1.0
    for _ in range(STEPS):
        a = a * factor + b
        b = b * factor + a
    tl.store(out + place, a + b)


def multiply_adds() -> float:
    """Fused multiply-adds a second, in float32, measured."""
    programs, steps, size = (1, 2, 32) if TOY else (16384, 2048, 1024)
    out = torch.empty(programs * size, device=DEVICE)
    spent = seconds(lambda: _multiply_add[(programs,)](out, 0.999, steps, size, num_warps=4), 1 if TOY else 10)
    return programs * size * steps * 2 / spent


def _inputs(n: int, box_size: int, batch: int, *, initial: bool = False) -> list[Tensor]:
    return [t.to(DEVICE) for t in scene(n, box_size, batch, initial=initial)]


def _step(inputs: list[Tensor], box_size: int) -> tuple[Callable[[], Tensor], Callable[[], Any]]:
    """Forward of project(), and forward with backward to means, covariances and weights."""
    leaves, rotations = [t.requires_grad_() for t in inputs[:3]], inputs[3]
    gradient = torch.randn(len(rotations), box_size, box_size, device=DEVICE)

    def render() -> Tensor:
        return project(*leaves, rotations, box_size=box_size, pixel_size=1.0, cutoff=CUTOFF, backend="gpu")

    return render, lambda: torch.autograd.grad(render(), leaves, gradient)


def projection_table(sizes: list[tuple[int, int]], rate: float, repeats: int) -> None:
    print(
        f"project(), cutoff {CUTOFF}, microseconds an image; roof: share of what the measured multiply-add rate would "
        f"allow at {PER_GAUSSIAN_IMAGE:,} instructions a Gaussian and image\n\n"
        "| N | D | batch | scales | forward | forward + backward | images/s | G px/s | roof |\n"
        "|---|---|---|---|---|---|---|---|---|"
    )
    for (n, d), initial in itertools.product(sizes, (False, True)):
        batch = max(1, min(BATCH, 2**30 // (n * 56)))
        inputs = _inputs(n, d, batch, initial=initial)
        render, both = _step(inputs, d)
        bounds = footprints.image_footprints(*(inputs[i].cpu() for i in (0, 1)), inputs[3][:1].cpu(), d, 1.0, CUTOFF)
        pixels = float((bounds[..., 1] - bounds[..., 0]).prod(-1).sum()) * batch
        ahead, whole = seconds(render, repeats), seconds(both, repeats)
        roof = n * batch / whole * PER_GAUSSIAN_IMAGE / rate
        print(
            f"| {n} | {d} | {batch} | {'initial' if initial else 'converged'} | {ahead / batch * 1e6:.2f} "
            f"| {whole / batch * 1e6:.2f} | {batch / whole:,.0f} | {2 * pixels / whole / 1e9:.1f} | {roof:.0%} |"
        )
    print()


def voxel_table(sizes: list[tuple[int, int]], repeats: int) -> None:
    print("voxelize(), ms\n\n| N | D | forward | forward + backward |\n|---|---|---|---|")
    for n, d in sizes:
        leaves = [t.requires_grad_() for t in _inputs(n, d, 1)[:3]]
        gradient = torch.randn(d, d, d, device=DEVICE)

        def render(leaves: list[Tensor] = leaves, d: int = d) -> Tensor:
            return voxelize(*leaves, box_size=d, voxel_size=1.0, cutoff=CUTOFF, backend="gpu")

        def both(render: Any = render, leaves: list[Tensor] = leaves, gradient: Tensor = gradient) -> Any:
            return torch.autograd.grad(render(), leaves, gradient)

        print(f"| {n} | {d} | {seconds(render, repeats) * 1e3:.3f} | {seconds(both, repeats) * 1e3:.3f} |")
    print()


def comparison(n: int, box_size: int, repeats: int) -> None:
    """The papers' way on the same footprints; what both need besides, projection and chain rule, only ours does."""
    inputs = _inputs(n, box_size, BATCH)
    means, cov, weights, rotations = inputs
    centres, variances = reference.image_moments(means, cov, rotations)
    inverse = torch.linalg.inv(variances)
    heights = weights * torch.linalg.det(inverse).sqrt() / (2 * torch.pi)
    parts = [centres + box_size // 2, inverse[..., [0, 0, 1], [0, 1, 1]], heights[..., None]]
    splats = torch.cat(parts, -1).flatten(0, 1).contiguous()
    bounds = gpu.image_footprints(means, cov, rotations, box_size, 1.0, CUTOFF).long()
    gradient = torch.randn(BATCH, box_size, box_size, device=DEVICE)

    def papers() -> None:
        members, starts = lists(bounds, box_size)
        forward(splats, members, starts, BATCH, box_size)
        backward(splats, members, starts, gradient, box_size)

    render, both = _step(inputs, box_size)
    images = render().detach()
    difference = (images - forward(splats, *lists(bounds, box_size), BATCH, box_size)).abs().max() / images.abs().max()
    # tiles reach beyond the cutoff: 1e-3 is as it should be
    times = {"project()": seconds(both, repeats), "lists of tiles, atomics": seconds(papers, repeats)}
    print(
        f"forward + backward, N={n}, D={box_size}, batch {BATCH}; images differ by {float(difference):.0e} (cutoff)\n"
    )
    print("| | images/s | ratio |\n|---|---|---|")
    for name, spent in times.items():
        print(f"| {name} | {BATCH / spent:,.0f} | {spent / times['project()']:.1f} |")
    print()


def deterministic_table(n: int, box_size: int, repeats: int) -> None:
    print(f"N={n}, D={box_size}, batch {BATCH}: deterministic sums\n\n| sums | images/s |\n|---|---|")
    for exact in (False, True):
        torch.use_deterministic_algorithms(exact)
        spent = seconds(_step(_inputs(n, box_size, BATCH), box_size)[1], repeats)
        print(f"| {'integers' if exact else 'floating point'} | {BATCH / spent:,.0f} |")
    torch.use_deterministic_algorithms(False)
    print()


def shape_table(n: int, box_size: int, repeats: int) -> None:
    """What a program takes on, varied: whether the defaults in gpu.py suit this card."""
    print("shape of a program\n\n| Gaussians | lanes | images/s |\n|---|---|---|")
    before = gpu._GAUSSIANS, gpu._LANES
    for gaussians, lanes in [(2, 8)] if TOY else itertools.product((2, 4, 8, 16), (8, 16, 32)):
        gpu._GAUSSIANS, gpu._LANES = {False: gaussians, True: before[0][True]}, lanes
        spent = seconds(_step(_inputs(n, box_size, BATCH), box_size)[1], repeats)
        print(f"| {gaussians} | {lanes} | {BATCH / spent:,.0f} |")
    gpu._GAUSSIANS, gpu._LANES = before
    print()


def _training_step(n: int, box_size: int, batch: int) -> tuple[Callable[[], None], list[Tensor]]:
    """Parameters to covariances, project(), two transforms, backward, Adam."""
    means, _, weights, rotations = _inputs(n, box_size, batch)
    scales, quaternions = torch.rand(n, 3, device=DEVICE) + 0.7, torch.randn(n, 4, device=DEVICE)
    leaves = [t.requires_grad_() for t in (means, scales, quaternions, weights)]
    kernel = torch.rand(box_size, box_size // 2 + 1, device=DEVICE)
    optimizer = torch.optim.Adam(leaves, lr=1e-4, fused=True, capturable=not TOY)

    def step() -> None:
        cov = covariances(scales, quaternions)
        images = project(
            means, cov, weights, rotations, box_size=box_size, pixel_size=1.0, cutoff=CUTOFF, backend="gpu"
        )
        gradient = torch.fft.irfft2(torch.fft.rfft2(images.detach()) * kernel, s=(box_size, box_size))
        optimizer.zero_grad()
        images.backward(gradient)
        optimizer.step()

    return step, leaves


def graph_table(n: int, box_size: int, repeats: int) -> None:
    print(
        f"a whole training step, N={n}, D={box_size}\n\n| batch | images/s | images/s as a CUDA graph |\n|---|---|---|"
    )
    for batch in (1, BATCH):
        step, _ = _training_step(n, box_size, batch)
        plain = batch / seconds(step, repeats)
        replayed = "-"
        if not TOY:
            stream = torch.cuda.Stream()
            with torch.cuda.stream(stream):
                step()
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                step()
            replayed = f"{batch / seconds(graph.replay, repeats):,.0f}"
        print(f"| {batch} | {plain:,.0f} | {replayed} |")
    print()


def memory_table(n: int, box_size: int) -> None:
    """Of training at batch 1: torch's allocator at its highest, and all memory of the card that is taken."""
    step, _ = _training_step(n, box_size, 1)
    bound = gpu.memory_bound(n, box_size, 1) / 2**20
    if TOY:
        step()
        print(f"memory: project() by its formula at most {bound:.3f} MiB")
        return
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    for _ in range(3):
        step()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() / 2**20
    free, total = torch.cuda.mem_get_info()
    print(
        f"memory of training, N={n}, D={box_size}, batch 1: {peak:.1f} MiB at torch's allocator (project() by its "
        f"formula at most {bound:.1f}); {(total - free) / 2**20:.0f} MiB of the card taken, by all processes"
    )


if __name__ == "__main__":
    main()
