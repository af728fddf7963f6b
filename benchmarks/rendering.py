"""Benchmark of project() and voxelize(): how fast, how near the limits of a core, against the other backends.

    python benchmarks/rendering.py [--threads 1] [--repeats 20] [--full] [--budget 20] [--roofline FILE.png]

Prints tables in Markdown. Times are the smallest of several repeats, and what is compared is measured in turn within
one run: trust ratios, not absolute times of a busy machine. FMA peak and memory bandwidth are measured in the same run.
"""

from __future__ import annotations

import argparse
import ctypes
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gsworkbench.gaussians.mixture import Gaussians, covariances, random_gaussians
from gsworkbench.gaussians.optimiser import FusedDescent, TorchDescent, descent
from gsworkbench.gaussians.parameters import Parameterisation, Rates, to_parameters
from gsworkbench.geometry.rotations import random_rotations
from gsworkbench.rendering import available_backends, footprints, project, voxelize
from gsworkbench.rendering.autograd import Grid
from gsworkbench.rendering.backends import cpu
from gsworkbench.system.compiler import capability, library
from gsworkbench.system.memory import keep_freed_memory
from gsworkbench.system.provenance import machine

CUTOFF = 3.5
BATCH = 8  # that of the preset `tuned`
THREAD_TURNS = 9
INITIAL_SCALE = 0.0075  # of the box edge, as the papers start

Calls = list[Callable[[], Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--full", action="store_true", help="all sizes, up to 1,048,576 Gaussians and 512 pixels")
    parser.add_argument("--budget", type=float, default=20.0, help="seconds a row of the first table may take")
    parser.add_argument("--roofline", type=Path, help="draw the rows of the first table into this file")
    options = parser.parse_args()
    keep_freed_memory()  # as the commands do
    torch.set_num_threads(options.threads)
    peak, bandwidth = fma_peak(), memory_bandwidth()
    print(
        f"{machine()}; {options.threads} threads; kernels {capability()}; a core: FMA peak {peak / 1e9:.0f} GFLOP/s, "
        f"memory {bandwidth / 1e9:.0f} GB/s (copy)\n"
    )
    sizes = [(2048, 64), (8192, 128), (32768, 128), (8192, 256)]
    if options.full:
        sizes = [(n, d) for d in (64, 128, 256, 512) for n in (2048, 8192, 32768, 131072, 1048576)]
    points = projection_table(sizes, peak * options.threads, options.repeats, options.budget)
    if options.full:
        size_table(points)
    if options.roofline:
        draw_roofline(points, peak * options.threads, bandwidth, options.roofline)
    step_table([(2048, 64), (8192, 128)], options.repeats)
    descent_table(options.repeats)
    voxel_table([(8192, 128), (32768, 128), (32768, 256)], options.repeats)
    thread_table([(8192, 128), (32768, 128)], options.repeats)
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
    return seconds_in_turns([call], repeats)[0]


def seconds_in_turns(calls: Calls, repeats: int) -> list[float]:
    """The same of several, each up to five times and then the next, and all again: what else the machine does meets
    them all, and the first of five finds caches as the others left them."""
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    times = [float("inf")] * len(calls)
    for first in range(0, repeats + 1, 5):
        for i, call in enumerate(calls):
            for again in range(first, min(first + 5, repeats + 1)):
                start = clock()
                call()
                if again:
                    times[i] = min(times[i], clock() - start)
    return times


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


def memory_bandwidth() -> float:
    """Bytes a second that one core reads and writes copying 64 MiB."""
    source, target = np.ones(1 << 23), np.zeros(1 << 23)
    spent = seconds(lambda: np.copyto(target, source), 10)
    return 2 * source.nbytes / spent


class Point(NamedTuple):
    """A row of the first table: operations done a second, and operations for each byte that must come from memory."""

    n: int
    box_size: int
    initial: bool
    images: float  # a second
    intensity: float
    rate: float


def projection_table(sizes: list[tuple[int, int]], peak: float, repeats: int, budget: float) -> list[Point]:
    """Forward and backward of a batch through project(), autograd included."""
    print(
        f"project(), batch {BATCH}, cutoff {CUTOFF}, microseconds an image; px: samples inside footprints; lane use: "
        "their share of the samples that vectors evaluate; of peak: floating-point operations done (an FMA is two), "
        "first those of the strips alone, then all\n"
    )
    print("| N | D | scales | forward | backward | images/s | px/Gaussian | fwd G px/s | bwd G px/s | lane use "
          "| strips of peak | all of peak |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    points, rate = [], 0.0  # seconds for a sample, from the row before
    for n, d in sizes:
        for initial in (False, True):
            inputs = scene(n, d, BATCH, initial=initial)
            pixels, evaluated, strips, everything = work(inputs, d)
            name = f"| {n} | {d} | {'initial' if initial else 'converged'} "
            tries = min(repeats, int(budget / (rate * pixels + 1e-9)) - 2) if rate else repeats
            if tries < 2:
                print(name + f"| not measured: more than {budget:.0f} s |" + " |" * 8)
                continue
            forward, backward = forward_backward(inputs, d, None, tries)
            spent = forward + backward
            rate = spent / pixels
            print(
                name + f"| {forward / BATCH * 1e6:.0f} "
                f"| {backward / BATCH * 1e6:.0f} | {BATCH / spent:.0f} | {pixels / n / BATCH:.0f} "
                f"| {pixels / forward / 1e9:.2f} | {pixels / backward / 1e9:.2f} | {pixels / evaluated:.0%} "
                f"| {strips / spent / peak:.0%} | {everything / spent / peak:.0%} |",
                flush=True,
            )
            # Gaussians (13 floats) come twice and their gradients go once; images are written once and read once.
            moved = 4 * (3 * 13 * n + 2 * BATCH * d * d)
            points.append(Point(n, d, initial, BATCH / spent, everything / moved, everything / spent))
    print()
    return points


def size_table(points: list[Point]) -> None:
    """The images/s of the first table again, small enough to be seen at once."""
    boxes = sorted({p.box_size for p in points})
    images = {(p.n, p.box_size, p.initial): f"{p.images:.0f}" for p in points}
    print("images/s at converged / initial scales\n")
    print("| N | " + " | ".join(f"D = {d}" for d in boxes) + " |\n" + "|---" * (len(boxes) + 1) + "|")
    for n in sorted({p.n for p in points}):
        cells = [" / ".join(images.get((n, d, initial), "-") for initial in (False, True)) for d in boxes]
        print(f"| {n:,} | " + " | ".join(cells) + " |")
    print()


# Operations for each Gaussian in each image outside its strips, counted by hand: projection in float64 (76), what the
# recurrences start from, six exponentials among it (130), both ways; sums across lanes, moments, chain rule (162).
OTHER_OPERATIONS = 2 * (76 + 130) + 162


def work(inputs: list[Tensor], box_size: int) -> tuple[float, float, float, float]:
    """Samples inside footprints, samples that vectors evaluate; operations of strips, and of everything, both ways.

    A row of a strip takes 3 operations a lane forward and 6 backward, of which 2 are for the next row; first rows 3 a
    lane of two vectors, each way, and moments along x 4 a lane of a strip.
    """
    means, cov, _, rotations = inputs
    lanes = {"AVX512": 16, "AVX2": 8}.get(capability(), 4)
    pixels = evaluated = across = 0.0
    for rotation in rotations:  # one image at a time: a million Gaussians in sixteen images are many numbers
        bounds = footprints.image_footprints(means, cov, rotation[None], box_size, 1.0, CUTOFF)
        columns, rows = (bounds[..., 1] - bounds[..., 0]).double().unbind(-1)
        width = (columns / lanes).ceil() * lanes
        pixels += (columns * rows).sum().item()
        evaluated += (width * rows).sum().item()
        across += width.sum().item()
    count = len(means) * len(rotations)
    strips = evaluated * (3 + 6) - 2 * 2 * across + 2 * 3 * 2 * lanes * count
    return pixels, evaluated, strips, strips + 4 * across + OTHER_OPERATIONS * count


def draw_roofline(points: list[Point], peak: float, bandwidth: float, path: Path) -> None:
    """Operations a second against operations a byte, under the roof of the machine."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    intensity = np.logspace(0, 4, 200)
    axes.loglog(intensity, np.minimum(peak, bandwidth * intensity) / 1e9, color="black", label="measured roof")
    axes.axhline(peak / 2e9, color="grey", linestyle=":", label="half: multiplications and additions apart")
    for point in points:
        axes.plot(point.intensity, point.rate / 1e9, "o", markersize=4,
                  label=f"{point.n:,} at {point.box_size}{' (initial)' if point.initial else ''}")  # fmt: skip
    axes.set(xlabel="operations for each byte from memory", ylabel="GFLOP/s", title="project(), forward and backward")
    axes.legend(fontsize=6)
    figure.savefig(path, dpi=120)


def projection_calls(inputs: list[Tensor], box_size: int, backend: str | None) -> Calls:
    """project() with graph, and its backward, by three tensors (rotations are given)."""
    leaves = [t.clone().requires_grad_() for t in inputs[:3]]
    gradient = torch.randn(len(inputs[3]), box_size, box_size)

    def render() -> Tensor:
        means, cov, weights = leaves
        return project(
            means, cov, weights, inputs[3], box_size=box_size, pixel_size=1.0, cutoff=CUTOFF, backend=backend
        )

    images = render()
    return [render, lambda: torch.autograd.grad(images, leaves, gradient, True)]


def forward_backward(inputs: list[Tensor], box_size: int, backend: str | None, repeats: int) -> list[float]:
    return seconds_in_turns(projection_calls(inputs, box_size, backend), repeats)


def step_table(sizes: list[tuple[int, int]], repeats: int) -> None:
    """What a trainer feels: parameters to mixture, project(), two FFTs, backward, chain rule and Adam."""
    print("a whole step of a fit, without reading images\n")
    print("| N | D | batch | ms a step | images/s | of which project() forward + backward |")
    print("|---|---|---|---|---|---|")
    for n, d in sizes:
        for batch in (1, BATCH):
            splatting = projection_calls(scene(n, d, batch), d, None)
            whole, *parts = seconds_in_turns([_step(n, d, batch), *splatting], repeats)
            splat = sum(parts)
            print(f"| {n} | {d} | {batch} | {whole * 1e3:.2f} | {batch / whole:.0f} | {splat / whole:.0%} |")
    print()


def _step(n: int, box_size: int, batch: int) -> Callable[[], Any]:
    means, _, weights, rotations = scene(n, box_size, batch)
    g = torch.Generator().manual_seed(1)
    scales, quaternions = 0.7 + 0.8 * torch.rand(n, 3, generator=g), torch.randn(n, 4, generator=g)
    optimizer = descent(to_parameters(Gaussians(means, scales, quaternions, weights)), Rates(), Parameterisation(0.5))
    kernel = torch.rand(box_size, box_size // 2 + 1)

    def step() -> None:
        mixture = optimizer.mixture()
        images = project(*mixture, rotations, box_size=box_size, pixel_size=1.0, cutoff=CUTOFF)
        gradient = torch.fft.irfft2(torch.fft.rfft2(images.detach()) * kernel, s=(box_size, box_size))
        optimizer.step(torch.autograd.grad(images, mixture, gradient), 1e-9)

    return step


def descent_table(repeats: int) -> None:
    """What the optimiser adds to a step: parameters to mixture, and gradients of the mixture to new parameters."""
    print(
        "optimiser, microseconds a step\n\n| N | compiled: mixture | chain and Adam | torch: both |\n|---|---|---|---|"
    )
    for n in (2048, 8192, 32768):
        model = random_gaussians(n, spread=0.1, scale=INITIAL_SCALE, total_weight=0.5, seed=0)
        gradients = torch.randn(n, 3), torch.randn(n, 3, 3), torch.randn(n)
        times = []
        for kind in (FusedDescent, TorchDescent):
            one = kind(to_parameters(model), Rates(), Parameterisation(0.004))

            times.append(seconds(one.mixture, repeats))
            times.append(seconds(lambda one=one, given=gradients: (one.mixture(), one.step(given, 1e-5)), repeats))
        mixture, fused, _, plain = (t * 1e6 for t in times)
        print(f"| {n} | {mixture:.0f} | {fused - mixture:.0f} | {plain:.0f} |")
    print()


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


def thread_table(sizes: list[tuple[int, int]], repeats: int) -> None:
    """One thread and two, forward and backward through project(): wall time, smallest of each, and median of ratios.

    In turns of many calls: a core that was idle is slow for the first few. A ratio is that of the medians of two turns.
    """
    threads = torch.get_num_threads()
    print(
        "two threads, microseconds an image\n\n| N | D | batch | one | two | smallest by smallest | median of turns |"
    )
    print("|---|---|---|---|---|---|---|")
    for n, d in sizes:
        for batch in (1, BATCH):
            inputs, gradient = scene(n, d, batch), torch.randn(batch, d, d)
            leaves = [t.requires_grad_() for t in inputs[:3]]
            times = np.empty((2, THREAD_TURNS, repeats))
            for turn in range(THREAD_TURNS):
                for count in (1, 2):
                    torch.set_num_threads(count)
                    for again in range(repeats):
                        start = time.perf_counter()
                        images = project(*leaves, inputs[3], box_size=d, pixel_size=1.0, cutoff=CUTOFF)
                        torch.autograd.grad(images, leaves, gradient)
                        times[count - 1, turn, again] = (time.perf_counter() - start) / batch * 1e6
            one, two = times.min((1, 2))
            ratios = np.divide(*np.median(times, axis=2))
            print(f"| {n} | {d} | {batch} | {one:.0f} | {two:.0f} | {one / two:.2f} | {np.median(ratios):.2f} |")
    torch.set_num_threads(threads)
    print()


def backend_table(repeats: int) -> None:
    """Every backend, and others' programs where they are installed, on the same Gaussians in turns.

    Kernels alone are called as numba's are, into arrays that are there already; gsplat projects centres and covariances
    only, without an image, in torch. The dense reference is for few Gaussians.
    """
    print("backends, microseconds an image, forward + backward\n")
    print("| N | D | batch | backend | time | ratio |")
    print("|---|---|---|---|---|---|")
    for n, d, batch, names in ((8192, 128, BATCH, ["cpu", "windowed"]), (256, 64, 2, ["cpu", "windowed", "reference"])):
        calls = {
            f"{name}, through project()": projection_calls(scene(n, d, batch), d, name)
            for name in names
            if available_backends()[name] is None
        }
        if n == 8192:
            others = {
                "cpu, kernels alone": kernel_calls,
                "numba": numba_calls,
                "gsplat, projection alone": gsplat_calls,
            }
            calls |= {name: make(n, d, batch) for name, make in others.items()}
        installed = {name: pair for name, pair in calls.items() if pair}
        flat = seconds_in_turns([call for pair in installed.values() for call in pair], repeats if n == 8192 else 5)
        times = dict(zip(installed, np.reshape(flat, (-1, 2)).sum(1) / batch, strict=True))
        for name in calls:
            said = "not measured: not installed | |"
            if name in times:
                said = f"{times[name] * 1e6:.0f} | {times[name] / min(times.values()):.1f} |"
            print(f"| {n} | {d} | {batch} | {name} | {said}")
    print()


def kernel_calls(n: int, box_size: int, batch: int) -> Calls:
    inputs = [t.contiguous() for t in scene(n, box_size, batch)]
    images, gradient = torch.empty(batch, box_size, box_size), torch.randn(batch, box_size, box_size)
    outputs = [torch.empty_like(t) for t in inputs[:3]]
    shape = n, batch, Grid(box_size, 1.0, CUTOFF), torch.get_num_threads()
    return [
        lambda: cpu._call("project_forward", inputs, *shape, images),
        lambda: cpu._call("project_backward", inputs, *shape, gradient, *outputs, None),
    ]


def gsplat_calls(n: int, box_size: int, batch: int) -> Calls:
    """Centres and conics of the same Gaussians by gsplat's torch projection, and gradients of them."""
    try:
        from gsplat.cuda._torch_impl import _fully_fused_projection
    except ImportError:
        return []
    means, cov, _, rotations = scene(n, box_size, batch)
    means.requires_grad_(), cov.requires_grad_()
    views = torch.eye(4).repeat(batch, 1, 1)
    views[:, :3, :3] = rotations
    middle = box_size / 2
    camera = torch.tensor([[1, 0, middle], [0, 1, middle], [0, 0, 1]]).repeat(batch, 1, 1)

    def render() -> tuple[Tensor, Tensor]:
        _, centres, _, conics, _ = _fully_fused_projection(
            means, cov, views, camera, box_size, box_size, eps2d=0.0, near_plane=-1e10, camera_model="ortho"
        )
        return centres, conics

    projected = render()
    given = [torch.randn_like(t) for t in projected]
    return [render, lambda: torch.autograd.grad(projected, [means, cov], given, True)]


def numba_calls(n: int, box_size: int, batch: int) -> Calls:
    """The same images, and the same gradients, by numba_splat.py."""
    try:
        import numba_splat
    except ImportError:
        return []
    inputs = [t.numpy() for t in scene(n, box_size, batch)]
    gradient = np.random.default_rng(0).standard_normal((batch, box_size, box_size)).astype(np.float32)
    images, outputs = np.empty_like(gradient), [np.empty_like(t) for t in inputs[:3]]
    return [
        lambda: numba_splat.forward(*inputs, box_size, CUTOFF, images),
        lambda: numba_splat.backward(*inputs, box_size, CUTOFF, gradient, *outputs),
    ]


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
