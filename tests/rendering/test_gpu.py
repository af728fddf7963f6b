"""The GPU backend, three ways: in Triton's interpreter on the CPU, lowered to PTX without a GPU, and on a GPU.

Tests marked `works` run wherever the kernels run: on a GPU, or, called by `test_the_kernels_in_tritons_interpreter`, in
a process with TRITON_INTERPRET=1. On a GPU, those of test_rendering.py run for this backend too.
"""

import os
import re
import subprocess
import sys
import tempfile
import weakref
from pathlib import Path

import pytest
import torch
from test_cpu_kernels import mixture
from torch.utils._python_dispatch import TorchDispatchMode

from gsworkbench.gaussians.mixture import random_gaussians
from gsworkbench.gaussians.parameters import Parameterisation, from_parameters, to_parameters
from gsworkbench.imaging.residual import squared_error
from gsworkbench.rendering import footprints, project, require_finite, voxelize
from gsworkbench.rendering.autograd import Grid, splat
from gsworkbench.rendering.backends import gpu

ROOT = Path(__file__).parents[2]
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
works = pytest.mark.skipif(
    gpu.unavailable_because() is not None, reason=f"here in Triton's interpreter only: {gpu.unavailable_because()}"
)
lowers = pytest.mark.skipif(
    gpu.importlib.util.find_spec("triton") is None or INTERPRETED, reason="Triton, not interpreting, is needed"
)
BOX = 10


def values_and_gradients(inputs, backend, box_size=BOX, cutoff=3.5, spacing=1.3):
    """Image and volume, and gradients of a fixed random weighting of each, in float64 on the CPU."""
    device = DEVICE if backend == "gpu" else "cpu"
    outputs = []
    for render, n, keyword in ((project, 4, "pixel_size"), (voxelize, 3, "voxel_size")):
        leaves = [t.detach().clone().to(device).requires_grad_() for t in inputs[:n]]
        sample = render(*leaves, box_size=box_size, cutoff=cutoff, backend=backend, **{keyword: spacing})
        cotangent = torch.rand(sample.shape, generator=torch.Generator().manual_seed(9)) - 0.5
        gradients = list(torch.autograd.grad(sample, leaves, cotangent.to(sample)))
        gradients[1] = (gradients[1] + gradients[1].mT) / 2  # only the symmetric part is defined
        outputs += [t.detach().double().cpu() for t in (sample, *gradients)]
    return outputs


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def _assert_equal_to_the_reference(inputs, single, double, **keywords):
    expected = values_and_gradients([t.double() for t in inputs], "reference", **keywords)
    tolerance = single if inputs[0].dtype == torch.float32 else double
    for i, (got, wanted) in enumerate(zip(values_and_gradients(inputs, "gpu", **keywords), expected, strict=True)):
        allowed = (5 if i in (2, 7) else 1) * tolerance
        assert (got - wanted).abs().max() <= allowed * wanted.abs().max(), i


@works
@pytest.mark.parametrize(("dtype", "cutoff"), [(torch.float32, 3.0), (torch.float64, None)])
def test_equal_to_the_reference(dtype, cutoff):
    _assert_equal_to_the_reference(mixture(6, 0.5, 2.0, 4.0, dtype), 1e-5, 1e-10, cutoff=cutoff)


@works
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_deterministic_sums_equal_the_reference(dtype, deterministic):
    _assert_equal_to_the_reference(mixture(6, 0.5, 2.0, 4.0, dtype), 1e-5, 1e-10)


@works
@pytest.mark.parametrize("n", [1, 33])
def test_any_number_of_gaussians_and_of_images(n):
    """One alone in one image, and more than a program chains."""
    means, cov, weights, turns = mixture(n, 0.4, 0.8, 2.0, torch.float64)
    turns = turns[:1] if n == 1 else turns
    _assert_equal_to_the_reference([means, cov, weights, turns], 1e-5, 1e-10, box_size=6)


@works
@pytest.mark.parametrize(("dtype", "cutoff"), [(torch.float32, 0.3), (torch.float32, None), (torch.float64, 4.5)])
def test_footprints_are_the_integers_of_the_python_rule(dtype, cutoff):
    means, cov, _, turns = mixture(128, 1.0, 20.0, 20.0, dtype)
    cov *= torch.logspace(-8, 1, 128, dtype=dtype)[:, None, None]
    here = [t.to(DEVICE) for t in (means, cov, turns)]
    expected = footprints.image_footprints(means, cov, turns, 48, 1.3, cutoff)
    assert torch.equal(gpu.image_footprints(*here, 48, 1.3, cutoff).cpu(), expected)
    expected = footprints.volume_footprints(means, cov, 48, 1.3, cutoff)
    assert torch.equal(gpu.volume_footprints(*here[:2], 48, 1.3, cutoff).cpu(), expected)


@works
def test_footprints_agree_where_their_edge_is_a_sample():
    means = torch.tensor([[0, 0, 0], [-24, 23, 5], [-30, 0, 0], [2.5, 1, -24]], dtype=torch.float64)
    cov = torch.diag_embed(torch.tensor([[1.0, 4.0, 9.0], [4, 1, 1], [9, 4, 1], [6.25, 1, 1]], dtype=torch.float64))
    turns = torch.eye(3, dtype=torch.float64)[None]
    here = [t.to(DEVICE) for t in (means, cov, turns)]
    expected = footprints.image_footprints(means, cov, turns, 48, 1.0, 2.0)
    assert torch.equal(gpu.image_footprints(*here, 48, 1.0, 2.0).cpu(), expected)
    expected = footprints.volume_footprints(means, cov, 48, 1.0, 2.0)
    assert torch.equal(gpu.volume_footprints(*here[:2], 48, 1.0, 2.0).cpu(), expected)


@works
@pytest.mark.parametrize(("scale", "exact"), [(1e-4, False), (1e-4, True), (1.0, False), (1e4, True)])
def test_extremes_stay_finite_and_equal_the_reference(scale, exact):
    """Round Gaussians far too thin and far too wide, at samples and between them, on the box and off it."""
    means = torch.tensor([[0, 0, 0], [0.3, -0.4, 0.2], [4, -3, 3], [1e7, 0, 0], [-11, 4, 30]])
    cov = (scale**2 * torch.eye(3)).repeat(5, 1, 1)
    weights = torch.tensor([1e20, 0.0, -1e20, 1e20, 1e20])
    inputs = [means, cov, weights, torch.eye(3)[None]]
    torch.use_deterministic_algorithms(exact)
    try:
        got = values_and_gradients(inputs, "gpu", box_size=8, spacing=1.0)
    finally:
        torch.use_deterministic_algorithms(False)
    reference = values_and_gradients([t.double() for t in inputs], "reference", box_size=8, spacing=1.0)
    for i, (expected, value) in enumerate(zip(reference, got, strict=True)):
        assert torch.isfinite(value).all(), i
        largest = expected.abs().max().item()
        if 1e-30 < largest < 1e30:  # what float32 can hold with room for its products
            assert (value - expected).abs().max() <= (5e-5 if i in (2, 7) else 1e-5) * largest, i


@works
def test_empty_and_off_the_box():
    means, cov, weights, turns = (t.to(DEVICE) for t in mixture(4, 0.5, 2.0, 3.0))
    arguments = {"box_size": 8, "pixel_size": 1.0, "backend": "gpu"}
    for leaf in (means[:0].clone().requires_grad_(), means + 1e4):
        images = project(leaf, cov[: len(leaf)], weights[: len(leaf)], turns, **arguments)
        assert images.shape == (3, 8, 8) and not images.any()
    assert project(means, cov, weights, turns[:0], **arguments).shape == (0, 8, 8)
    assert not voxelize(means + 1e4, cov, weights, box_size=8, voxel_size=1.0, backend="gpu").any()


@works
def test_singular_covariances_have_no_density_and_poison_nothing():
    means, cov, weights, turns = (t.to(DEVICE) for t in mixture(6, 0.5, 2.0, 3.0))
    cov[2] = 0
    odd = project(means, cov, weights, turns, box_size=8, pixel_size=1.0, backend="gpu")
    cov[2], weights[2] = torch.eye(3), 0
    torch.testing.assert_close(odd, project(means, cov, weights, turns, box_size=8, pixel_size=1.0, backend="gpu"))


@works
def test_what_is_not_finite_shows_and_is_named():
    """Without a look at the numbers, which would wait for the device: this process calls the backend directly."""
    means, cov, weights, turns = (t.to(DEVICE) for t in mixture(5, 0.5, 2.0, 3.0))
    means[3, 1] = torch.nan
    image = splat(gpu, (means, cov, weights, turns), Grid(8, 1.0, 3.5))
    assert image.isnan().any((1, 2)).all()
    assert splat(gpu, (means, cov, weights), Grid(8, 1.0, 3.5)).isnan().any()
    with pytest.raises(ValueError, match="Gaussian 3 is not finite: its means"):
        require_finite(means=means, covariances=cov)


@works
@pytest.mark.parametrize("exact", [False, True])
def test_bits_repeat(exact):
    """Gradients always; images in any order of Gaussians where determinism is asked for."""
    inputs = mixture(9 if INTERPRETED else 5000, 0.5, 1.0, 3.0)
    torch.use_deterministic_algorithms(exact)
    try:
        first, second = values_and_gradients(inputs, "gpu"), values_and_gradients(inputs, "gpu")
        turned = [t.flip(0) for t in inputs[:3]] + inputs[3:]
        other = values_and_gradients(turned, "gpu")
    finally:
        torch.use_deterministic_algorithms(False)
    for i, (a, b) in enumerate(zip(first, second, strict=True)):
        if exact or i not in (0, 5):
            assert torch.equal(a, b), i
    if exact:
        assert torch.equal(first[0], other[0]) and torch.equal(first[5], other[5])


@lowers
def test_the_kernels_in_tritons_interpreter():
    """Tests marked `works`, in a process of their own: what kernels are for is settled as they are imported."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "tests/rendering/test_gpu.py",
        "-k",
        "not on_a_gpu",
    ]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-4000:]
    assert int(re.search(r"(\d+) passed", result.stdout).group(1)) >= 18


@lowers
def test_the_benchmark_runs_to_its_end_in_the_interpreter():
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "benchmarks/rendering_gpu.py"]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0 and "formula" in result.stdout.splitlines()[-1], result.stderr[-4000:]
    compared = re.search(r"images differ by (\S+)", result.stdout).group(1)
    assert float(compared) < 5e-3  # the papers' tiles reach beyond the cutoff


def test_a_cuda_device_has_its_backend():
    """With a GPU at hand, skipped tests of this file would be a failure."""
    if not torch.cuda.is_available():
        pytest.skip(f"torch {torch.__version__} finds no CUDA device: nothing here ran on a GPU")
    assert gpu.unavailable_because() is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
def test_a_step_on_a_gpu_waits_for_nothing_and_can_be_a_graph():
    """Forward and backward under torch's own watch for synchronisation, then captured and replayed."""
    inputs = [t.cuda() for t in mixture(300, 0.5, 2.0, 5.0)]
    leaves = [t.requires_grad_() for t in inputs[:3]]

    def step():
        images = project(*leaves, inputs[3], box_size=32, pixel_size=1.0)
        return torch.autograd.grad(images, leaves, images.detach())

    expected = [g.clone() for g in step()]
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    graph.replay()
    for a, b in zip(expected, captured, strict=True):
        torch.testing.assert_close(b, a, rtol=0, atol=1e-5 * a.abs().max().item())


# Without a GPU: tensors without data (device "meta") go all the way to the launches, which are caught.


@pytest.fixture
def launches(monkeypatch):
    """Calls of kernels, as (name, programs, arguments, options), instead of the calls."""
    caught = []
    monkeypatch.setattr(
        gpu, "_launch", lambda name, programs, *a, **options: caught.append((name, programs, a, options))
    )
    return caught


def _scene(n, batch, dtype=torch.float32):
    shapes = (n, 3), (n, 3, 3), (n,), (batch, 3, 3)
    return [torch.empty(shape, dtype=dtype, device="meta", requires_grad=True) for shape in shapes]


def _all_launches(launches, dtype=torch.float32):
    """Those of project() with and without gradients of rotations, and of voxelize(), forward and backward."""
    means, cov, weights, turns = _scene(1000, 20, dtype)
    for views in (turns, turns.detach()):
        images = splat(gpu, (means, cov, weights, views), Grid(64, 1.3, 3.5))
        images.backward(torch.empty_like(images))
    volume = splat(gpu, (means, cov, weights), Grid(64, 1.3, 3.5))
    volume.backward(torch.empty_like(volume))
    return launches


@pytest.mark.parametrize("exact", [False, True])
def test_every_tensor_is_made_on_the_device_of_the_inputs(launches, exact):
    torch.use_deterministic_algorithms(exact)
    try:
        calls = _all_launches(launches)
    finally:
        torch.use_deterministic_algorithms(False)
    assert {name for name, *_ in calls} == {
        "place_in_images", "place_in_volume", "splat", "gather", "chain_images", "chain_volume",
    }  # fmt: skip
    tensors = [a for _, _, arguments, _ in calls for a in arguments if isinstance(a, torch.Tensor)]
    assert len(tensors) > 40 and all(t.device.type == "meta" and t.is_contiguous() for t in tensors)


class _Driver:
    """What Triton asks of a machine with a GPU of this architecture."""

    def __init__(self, architecture):
        self.architecture = architecture

    def get_current_target(self):
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.architecture, 32)

    def get_current_device(self):
        return self.architecture  # Triton caches by device

    def get_current_stream(self, device):
        return 0


def _resources(compiled):
    """What the assembler gave a kernel, by cuobjdump, which Triton brings along: REG:78 STACK:0 SHARED:0 LOCAL:0."""
    from triton import knobs

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        return subprocess.check_output([knobs.nvidia.cuobjdump.path, "-res-usage", file.name], text=True)


@lowers
@pytest.mark.parametrize(("architecture", "dtype"), [(80, torch.float32), (90, torch.float32), (90, torch.float64)])
def test_what_is_launched_lowers_to_ptx_without_spills_or_unordered_sums(launches, architecture, dtype, monkeypatch):
    """Each launch, with its very arguments, compiled for a GPU that is not there.

    Registers of a kernel, and thus how many of its warps a multiprocessor holds, are in docs/measured/gpu.md.
    """
    from triton.runtime import driver

    from gsworkbench.rendering.backends import gpu_kernels

    for exact in (False, True):
        torch.use_deterministic_algorithms(exact)
        try:
            _all_launches(launches, dtype)
        finally:
            torch.use_deterministic_algorithms(False)
    monkeypatch.setattr(driver, "_active", _Driver(architecture), raising=False)
    seen = set()
    for name, _, arguments, options in launches:
        kernel = getattr(gpu_kernels, name)
        exact = name == "splat" and arguments[3].dtype == torch.int64
        compiled = kernel.warmup(*arguments, grid=(1,), **options)
        ptx = compiled.asm["ptx"]
        assert f".target sm_{architecture}" in ptx
        assert ".local" not in ptx, f"{name} uses local memory"
        atomics = set(re.findall(r"\b(?:atom|red)\.global\S*", ptx))
        kind = "u64" if exact else {torch.float32: "f32", torch.float64: "f64"}[dtype]
        assert atomics == ({f"atom.global.gpu.relaxed.add.{kind}"} if name == "splat" else set()), name
        assert "call" not in re.sub(r"DW_AT_call\w+", "", ptx) or dtype == torch.float64, f"{name} calls a function"
        if name not in ("splat", "gather"):
            assert "div.rn.f64" in ptx and ".param .f64" in ptx, f"{name} takes its spacing in float32"
        stack, local = (int(re.search(rf"{what}:(\d+)", _resources(compiled)).group(1)) for what in ("STACK", "LOCAL"))
        assert stack <= (0 if name in ("splat", "gather") else 8) and local == 0, f"{name} spills"  # 8: division calls
        seen.add((name, exact))
    assert len(seen) == 7


class LiveBytes(TorchDispatchMode):
    """Bytes of given tensors and of all that operations make in this context: now, and at most. Asks no allocator."""

    def __init__(self, given=()):
        super().__init__()
        self.now = self.most = 0
        self.known = weakref.WeakSet()
        for tensor in given:
            self._see(tensor.untyped_storage())

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._see(tensor.untyped_storage())
        self.most = max(self.most, self.now)
        return result

    def _see(self, storage):
        if storage not in self.known:
            self.known.add(storage)
            size = storage.nbytes()
            self.now += size
            weakref.finalize(storage, self._gone, size)

    def _gone(self, size):
        self.now -= size


@pytest.mark.parametrize(("n", "box_size", "batch"), [(30_000, 256, 1), (8192, 128, 16), (1000, 64, 132)])
def test_memory_of_a_projection_stays_below_its_formula(launches, n, box_size, batch):
    inputs = _scene(n, batch)
    given = sum(t.nbytes for t in inputs)
    saved = {}

    def keep(tensor):
        saved[id(tensor.untyped_storage())] = tensor.nbytes
        return tensor

    with LiveBytes(inputs) as live:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            images = splat(gpu, inputs, Grid(box_size, 1.0, 3.5))
        gradients = torch.autograd.grad(images, inputs, torch.empty_like(images))
    assert len(gradients) == 4
    bound = gpu.memory_bound(n, box_size, batch)
    assert 0.7 * bound < live.most <= bound
    assert sum(saved.values()) <= given + n * batch * 32


def test_a_training_step_of_the_papers_size_takes_less_than_48_mib(launches):
    """N = 30,000, D = 256, batch 1, by the count of tensors: parameters, their gradients, Adam's two moments, and all
    that a step makes on its way. Work space of the transforms is the library's own and not counted."""
    n, box_size = 30_000, 256
    model = random_gaussians(n, spread=0.1, scale=0.01, total_weight=0.5, seed=0)
    parameters = to_parameters(model.to("meta"))
    turns, image = torch.empty(1, 3, 3, device="meta"), torch.empty(1, box_size, box_size, device="meta")
    kernel = torch.empty(1, box_size, box_size // 2 + 1, device="meta")
    with LiveBytes([*parameters.values(), turns, image, kernel]) as live:
        mixture = from_parameters(parameters, Parameterisation(0.5 / box_size))
        projections = splat(
            gpu,
            (mixture.means, mixture.covariances(), mixture.weights, turns),
            Grid(box_size, spacing=1 / 256, cutoff=3.5),
        )
        gradient = squared_error(projections, kernel, image, image[:, 0, 0])[1]
        projections.backward(gradient)
    adam = 2 * sum(p.nbytes for p in parameters.values())
    assert live.most + adam < 48 * 2**20
    print(f"a training step holds {(live.most + adam) / 2**20:.1f} MiB")
