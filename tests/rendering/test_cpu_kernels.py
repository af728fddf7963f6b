"""The compiled CPU backend: footprints, extremes, threads, instruction sets, and what happens without a compiler."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from gsworkbench.gaussians.mixture import covariances
from gsworkbench.geometry.rotations import random_rotations
from gsworkbench.rendering import available_backends, footprints, project, voxelize
from gsworkbench.rendering.backends import cpu
from gsworkbench.system import compiler as native

ROOT = Path(__file__).parents[2]
works = pytest.mark.skipif(
    cpu.unavailable_because() is not None, reason=f"compiled backend: {cpu.unavailable_because()}"
)


def mixture(n, smallest, largest, spread, dtype=torch.float32, seed=0):
    """Gaussians of log-uniform anisotropic scales, in pixels, and three rotations."""
    g = torch.Generator().manual_seed(seed)
    scales = smallest * (largest / smallest) ** torch.rand(n, 3, generator=g, dtype=torch.float64)
    cov = covariances(scales, torch.randn(n, 4, generator=g, dtype=torch.float64))
    means = spread * torch.randn(n, 3, generator=g, dtype=torch.float64)
    weights = torch.randn(n, generator=g, dtype=torch.float64)
    turns = torch.from_numpy(random_rotations(3, np.random.default_rng(seed)))
    return [t.to(dtype) for t in (means, cov, weights, turns)]


def values_and_gradients(inputs, backend, box_size=40, cutoff=3.5, spacing=1.0):
    """Image and volume of `inputs`, and gradients with respect to them of a fixed random weighting."""
    outputs = []
    for render, n, keyword in ((project, 4, "pixel_size"), (voxelize, 3, "voxel_size")):
        leaves = [t.detach().clone().requires_grad_() for t in inputs[:n]]
        sample = render(*leaves, box_size=box_size, cutoff=cutoff, backend=backend, **{keyword: spacing})
        # Uniform numbers: torch's normal ones depend on the instruction set.
        cotangent = (torch.rand(sample.shape, generator=torch.Generator().manual_seed(9)) - 0.5).to(sample)
        outputs += [sample.detach(), *torch.autograd.grad(sample, leaves, cotangent)]
    return outputs


@works
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("cutoff", [0.3, 3.5, 4.5, None])
def test_footprints_are_the_same_integers_as_those_of_the_python_rule(dtype, cutoff):
    means, cov, _, turns = mixture(3000, 1.0, 20.0, 20.0, dtype)
    cov *= torch.logspace(-8, 1, 3000, dtype=dtype)[:, None, None]
    expected = footprints.image_footprints(means, cov, turns, 48, 1.3, cutoff)
    assert torch.equal(cpu.image_footprints(means, cov, turns, 48, 1.3, cutoff).long(), expected)
    expected = footprints.volume_footprints(means, cov, 48, 1.3, cutoff)
    assert torch.equal(cpu.volume_footprints(means, cov, 48, 1.3, cutoff).long(), expected)


@works
def test_footprints_agree_where_their_edge_is_a_sample():
    """Centres and reaches at whole pixels: the boundary counts, on both sides."""
    means = torch.tensor([[0, 0, 0], [-24, 23, 5], [-30, 0, 0], [2.5, 1, -24]], dtype=torch.float64)
    cov = torch.diag_embed(torch.tensor([[1.0, 4.0, 9.0], [4, 1, 1], [9, 4, 1], [6.25, 1, 1]], dtype=torch.float64))
    turns = torch.eye(3, dtype=torch.float64)[None]
    expected = footprints.image_footprints(means, cov, turns, 48, 1.0, 2.0)
    assert expected[0, 0].tolist() == [[22, 27], [20, 29]]
    assert torch.equal(cpu.image_footprints(means, cov, turns, 48, 1.0, 2.0).long(), expected)
    expected = footprints.volume_footprints(means, cov, 48, 1.0, 2.0)
    assert torch.equal(cpu.volume_footprints(means, cov, 48, 1.0, 2.0).long(), expected)


@works
@pytest.mark.parametrize(("smallest", "largest"), [(0.5, 1.5), (0.5, 6.0), (3.0, 30.0)])
@pytest.mark.parametrize("cutoff", [3.5, 5.0, None])
def test_float32_equals_float64_to_rounding(smallest, largest, cutoff):
    """1e-5 of the largest, 5e-5 for covariance gradients: the recurrence, its restarts, and rows of exponentials."""
    inputs = mixture(200, smallest, largest, 8.0)
    exact = values_and_gradients([t.double() for t in inputs], "cpu", cutoff=cutoff)
    single = values_and_gradients(inputs, "cpu", cutoff=cutoff)
    for i, (expected, got) in enumerate(zip(exact, single, strict=True)):
        allowed = 5e-5 if i in (2, 7) else 1e-5
        assert (got.double() - expected).abs().max() <= allowed * expected.abs().max(), i


@works
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-4, 1e-2, 1.0, 1e2, 1e4])
@pytest.mark.parametrize("weight", [0.0, 1e-30, 1.0, 1e20])
def test_extremes_stay_finite_and_equal_the_reference(dtype, scale, weight):
    """Round Gaussians far too thin and far too wide, at samples and between them, on the box and off it."""
    means = torch.tensor([[0, 0, 0], [0.3, -0.4, 0.2], [9, -9, 3], [1e7, 0, 0], [-11, 4, 30]], dtype=dtype)
    cov = (scale**2 * torch.eye(3, dtype=dtype)).repeat(5, 1, 1)
    inputs = [means, cov, torch.full((5,), weight, dtype=dtype), torch.eye(3, dtype=dtype)[None]]
    got = values_and_gradients(inputs, "cpu", box_size=20)
    reference = values_and_gradients([t.double() for t in inputs], "reference", box_size=20)
    for i, (expected, value) in enumerate(zip(reference, got, strict=True)):
        assert torch.isfinite(value).all(), i
        largest = expected.abs().max().item()
        if 1e-30 < largest < 1e30:  # what float32 can hold with room for its products
            assert (value.double() - expected).abs().max() <= 2e-5 * largest, i


@works
def test_one_thin_gaussian_poisons_no_other():
    means, cov, weights, turns = mixture(40, 0.5, 2.0, 6.0)
    clean = project(means, cov, weights, turns, box_size=32, pixel_size=1.0, backend="cpu")
    cov[7], weights[9] = 0.0, 0.0  # a singular covariance has no density
    weights_without = weights.clone()
    weights_without[7] = 0.0
    odd = project(means, cov, weights, turns, box_size=32, pixel_size=1.0, backend="cpu")
    cov[7] = torch.eye(3)
    without = project(means, cov, weights_without, turns, box_size=32, pixel_size=1.0, backend="cpu")
    assert torch.equal(odd, without)
    assert not torch.equal(odd, clean)


@works
def test_strided_tensors_and_expanded_gradients():
    means, cov, weights, turns = mixture(50, 0.6, 2.0, 6.0, torch.float64)
    expected = values_and_gradients([means, cov, weights, turns], "cpu")
    strided = [means.T.contiguous().T, cov.mT, weights.repeat_interleave(2)[::2], turns.mT.contiguous().mT]
    assert not any(t.is_contiguous() for t in strided[:1])
    for a, b in zip(expected, values_and_gradients(strided, "cpu"), strict=True):
        assert torch.equal(a, b)
    leaf = weights.clone().requires_grad_()
    project(
        means, cov, leaf, turns, box_size=40, pixel_size=1.0, backend="cpu"
    ).sum().backward()  # gradient of stride 0
    assert torch.isfinite(leaf.grad).all()


@works
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_bits_repeat_and_threads_change_rounding_only(threads):
    """Three images: fewer than five threads (which share them), more than one."""
    inputs = mixture(500, 0.5, 2.0, 8.0)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = values_and_gradients(inputs, "cpu")
        torch.set_num_threads(threads)
        first, second = values_and_gradients(inputs, "cpu"), values_and_gradients(inputs, "cpu")
    finally:
        torch.set_num_threads(before)
    for i, (a, b, c) in enumerate(zip(one, first, second, strict=True)):
        assert torch.equal(b, c)
        if i > 0 or threads <= 3:  # only images that threads share depend on how many they are
            assert torch.equal(a, b), i
        torch.testing.assert_close(a, b, rtol=0, atol=2e-6 * a.abs().max().item())


@works
def test_many_images_are_as_those_of_few():
    """More than backward lays out at a time."""
    means, cov, weights, _ = mixture(5, 0.6, 2.0, 6.0)
    turns = torch.from_numpy(random_rotations(2400, np.random.default_rng(1))).float()

    def images_and_gradients(some):
        leaves = [t.clone().requires_grad_() for t in (means, cov, weights)]
        images = project(*leaves, some, box_size=32, pixel_size=1.0, backend="cpu")
        return images.detach(), torch.autograd.grad(images.square().sum(), leaves)

    images, gradients = images_and_gradients(turns)
    parts = [images_and_gradients(part) for part in turns.split(600)]
    assert torch.equal(images, torch.cat([part[0] for part in parts]))
    for i, gradient in enumerate(gradients):
        total = sum(part[1][i].double() for part in parts)
        torch.testing.assert_close(gradient.double(), total, rtol=0, atol=1e-5 * total.abs().max().item())


@works
def test_denormals_are_left_alone_outside_the_kernels():
    values_and_gradients(mixture(50, 0.5, 2.0, 5.0), "cpu")
    assert float(torch.tensor([1e-40]) * 1) > 0 and float(np.float32(1e-40) * np.float32(1)) > 0


def test_other_devices_and_dtypes_go_to_windowed():
    means, cov, weights, turns = mixture(5, 0.6, 2.0, 4.0, torch.float32)
    arguments = {"box_size": 8, "pixel_size": 1.0}
    assert not cpu.supports(torch.zeros(1, device="meta"))
    assert project(*(t.bfloat16() for t in (means, cov, weights, turns)), **arguments).dtype == torch.bfloat16
    with pytest.raises(ValueError, match=r"weights are torch\.float64"):
        project(means, cov, weights.double(), turns, **arguments)
    if cpu.unavailable_because() is None:
        with pytest.raises(RuntimeError, match=r"cpu does not know torch\.bfloat16"):
            project(*(t.bfloat16() for t in (means, cov, weights, turns)), backend="cpu", **arguments)


def test_not_finite_is_named_among_huge_ones():
    means, cov, weights, turns = mixture(5, 0.6, 2.0, 4.0)
    assert torch.isfinite(project(means, cov, weights * 0 + 3e38, turns, box_size=4, pixel_size=50.0)).all()
    turns[1, 0, 0] = torch.inf
    with pytest.raises(ValueError, match="rotation 1 is not finite"):
        project(means, cov, weights, turns, box_size=8, pixel_size=1.0)
    cov[3, 1, 1] = torch.nan
    with pytest.raises(ValueError, match="Gaussian 3 is not finite: its covariances"):
        voxelize(means, cov, weights, box_size=8, voxel_size=1.0)


@works
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_kernels_find_what_is_not_finite_wherever_it_lies(dtype, value):
    names = "means", "covariances", "weights", "rotations"
    sound = [t.to(dtype) for t in mixture(70, 0.6, 2.0, 4.0)]  # two packs, the second not full
    largest = [sound[0], sound[1] * 0 + torch.finfo(dtype).max, *sound[2:]]
    project(*largest, box_size=4, pixel_size=1.0, backend="cpu")  # halves of sums do not overflow
    for i, (name, given) in enumerate(zip(names, sound, strict=True)):
        for row in {0, 63, 64, len(given) - 1} & set(range(len(given))):
            for place in range(given[0].numel()):
                spoilt = [t.clone() for t in sound]
                spoilt[i][row].view(-1)[place] = value
                kind = "rotation" if name == "rotations" else "Gaussian"
                with pytest.raises(ValueError, match=f"{kind} {row} is not finite: its {name}"):
                    project(*spoilt, box_size=4, pixel_size=1.0, backend="cpu")


@works
def test_one_gaussian_and_none():
    for n in (0, 1):
        inputs = [t[:n] for t in mixture(1, 1.0, 2.0, 3.0)[:3]] + [mixture(1, 1.0, 2.0, 3.0)[3]]
        for expected, got in zip(
            values_and_gradients([t.double() for t in inputs], "reference"),
            values_and_gradients(inputs, "cpu"),
            strict=True,
        ):
            torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-6)


@works
@pytest.mark.parametrize(("batch", "megabytes"), [(1, 30), (16, 60)])
def test_memory_of_a_step(batch, megabytes):
    """30,000 Gaussians on 256 pixels: what a forward and a backward add at most to the process beside images."""
    program = f"""
import resource, torch
from gsworkbench.rendering import project
leaves = [torch.zeros(30000, 3), torch.eye(3).repeat(30000, 1, 1), torch.ones(30000)]
leaves = [t.requires_grad_() for t in leaves]
turns, gradient = torch.eye(3).repeat({batch}, 1, 1), torch.ones({batch}, 256, 256)
def step(n):
    small = [t[:n] for t in leaves]
    images = project(*small, turns, box_size=256, pixel_size=1.0, backend="cpu")
    torch.autograd.grad(images, small, gradient)
step(10)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
step(30000)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment
    )
    assert float(result.stdout) < megabytes, result.stdout


PROGRAM = """
import sys, torch
sys.path.insert(0, "tests/rendering")
from test_cpu_kernels import mixture, values_and_gradients
from gsworkbench.system import compiler as native
from gsworkbench.rendering.backends import cpu
assert cpu.unavailable_because() is None, cpu.unavailable_because()
dtypes = torch.float32, torch.float64
cases = [values_and_gradients(mixture(77, 0.4, 3.0, 7.0, dtype), "cpu", box_size=21) for dtype in dtypes]
torch.save([native.capability(), cases], sys.argv[1])
"""


@works
@pytest.mark.parametrize(
    "environment",
    [{"ATEN_CPU_CAPABILITY": "default"}, {"ATEN_CPU_CAPABILITY": "avx2"}, {"CXX": "g++ -DVECTOR_BYTES=64"}],
    ids=["baseline", "eight lanes", "sixteen lanes"],
)
def test_instruction_sets_agree(environment, tmp_path):
    """Four, eight and sixteen lanes, the last in pieces where the processor has no such vectors."""
    if "CXX" in environment and native._compiler() != ["g++"]:
        pytest.skip("needs g++")
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "out.pt")]
    subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), **environment})
    name, cases = torch.load(tmp_path / "out.pt")
    assert "ATEN_CPU_CAPABILITY" not in environment or name in ("baseline", "AVX2")
    for dtype, tolerance, got in zip((torch.float32, torch.float64), (1e-5, 1e-12), cases, strict=True):
        expected = values_and_gradients(mixture(77, 0.4, 3.0, 7.0, dtype), "cpu", box_size=21)
        for a, b in zip(expected, got, strict=True):
            torch.testing.assert_close(b, a, rtol=0, atol=tolerance * a.abs().max().item())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"CXX": "no-such-compiler"}, r"no C\+\+ compiler here \(no-such-compiler\); install one"),
        ({"CXX": "false"}, r"false cannot compile project.cpp"),
        ({"XDG_CACHE_HOME": "/dev/null"}, r"set XDG_CACHE_HOME to a folder that can be written"),
    ],
    ids=["absent", "broken", "no cache"],
)
def test_without_a_compiler_windowed_serves_and_the_reason_is_given(change, reason, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name, value in change.items():
        monkeypatch.setenv(name, value)
    native.library.cache_clear()
    cpu.unavailable_because.cache_clear()
    try:
        with pytest.raises(RuntimeError, match=reason):
            project(*mixture(5, 0.6, 2.0, 4.0), box_size=8, pixel_size=1.0, backend="cpu")
        assert project(*mixture(5, 0.6, 2.0, 4.0), box_size=8, pixel_size=1.0).shape == (3, 8, 8)
        assert available_backends()["windowed"] is None
        assert list(tmp_path.rglob("*.so")) == []
    finally:
        native.library.cache_clear()
        cpu.unavailable_because.cache_clear()


def test_projected_moments_equal_gsplat():
    """2D means and covariances equal gsplat's own orthographic projection in torch; its pixel centres are at +1/2."""
    implementation = pytest.importorskip("gsplat.cuda._torch_impl", reason="gsplat is not installed (extra 'gpu')")
    from gsworkbench.rendering.reference import image_moments

    means, cov, _, turns = mixture(100, 0.3, 4.0, 10.0, torch.float64)
    box_size, pixel_size = 64, 1.7
    views = torch.eye(4, dtype=torch.float64).repeat(3, 1, 1)
    views[:, :3, :3] = turns
    scale, origin = 1 / pixel_size, box_size // 2
    camera = torch.tensor([[scale, 0, origin], [0, scale, origin], [0, 0, 1]], dtype=torch.float64).repeat(3, 1, 1)
    _, means2d, _, conics, _ = implementation._fully_fused_projection(
        means, cov, views, camera, box_size, box_size, eps2d=0.0, near_plane=-1e10, camera_model="ortho"
    )
    centres, variances = image_moments(means, cov, turns)
    torch.testing.assert_close(centres / pixel_size + origin, means2d, rtol=0, atol=1e-10)
    inverse = torch.linalg.inv(variances / pixel_size**2)
    torch.testing.assert_close(inverse[..., [0, 0, 1], [0, 1, 1]], conics, rtol=1e-9, atol=1e-9)
