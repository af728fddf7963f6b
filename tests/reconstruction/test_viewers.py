"""What other viewers read: a ChimeraX script and a 3DGS .ply, read back here as they would."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from gsworkbench.gaussians.mixture import covariances, random_gaussians
from gsworkbench.reconstruction.viewers import write_chimerax_script, write_splats


def read_ply(path):
    """A binary little-endian .ply of floats as {name: column}."""
    data = path.read_bytes()
    end = data.index(b"end_header\n") + len(b"end_header\n")
    header = data[:end].decode("ascii").splitlines()
    assert header[:2] == ["ply", "format binary_little_endian 1.0"]
    names = [line.split()[2] for line in header if line.startswith("property float ")]
    n = next(int(line.split()[2]) for line in header if line.startswith("element vertex "))
    table = np.frombuffer(data[end:], "<f4").reshape(n, len(names))
    return dict(zip(names, table.T, strict=True))


@pytest.fixture
def gaussians():
    g = random_gaussians(50, spread=60.0, scale=5.0, total_weight=1.0, seed=1, floor_angstrom=2.0)
    generator = torch.Generator().manual_seed(2)
    scales = 1 + 5 * torch.rand(50, 3, generator=generator)
    weights = torch.rand(50, generator=generator)
    weights[7] = 0.0
    return replace(g, scales=scales, quaternions=torch.randn(50, 4, generator=generator), weights=weights)


def test_splats_have_the_gaussians_places_and_shapes(gaussians, tmp_path):
    write_splats(tmp_path / "g.ply", gaussians)
    read = read_ply(tmp_path / "g.ply")
    kept = np.arange(50) != 7  # of no weight
    assert np.allclose(np.stack([read[a] for a in "xyz"], 1), gaussians.means.numpy()[kept])
    scales = torch.from_numpy(np.exp(np.stack([read[f"scale_{k}"] for k in range(3)], 1)))
    rotations = torch.from_numpy(np.stack([read[f"rot_{k}"] for k in range(4)], 1))
    assert torch.allclose(covariances(scales, rotations), gaussians.covariances()[kept], rtol=1e-4, atol=1e-4)
    opacity = 1 / (1 + np.exp(-read["opacity"]))
    heavier = replace(gaussians, weights=gaussians.weights * 7)  # units do not matter
    write_splats(tmp_path / "h.ply", heavier)
    assert np.allclose(read["opacity"], read_ply(tmp_path / "h.ply")["opacity"], atol=1e-4)
    assert opacity.min() > 0 and opacity.max() < 1
    column = gaussians.weights[kept] / torch.sort(torch.from_numpy(scales.numpy()), 1).values[:, 1:].prod(1)
    assert np.array_equal(np.argsort(column.numpy())[:40], np.argsort(opacity)[:40])


def test_the_ply_has_the_layout_of_gsplats_exporter(gaussians, tmp_path):
    gsplat = pytest.importorskip("gsplat", reason="gsplat is not installed")
    write_splats(tmp_path / "ours.ply", gaussians)
    ours = read_ply(tmp_path / "ours.ply")
    columns = [torch.from_numpy(np.stack([ours[n] for n in names], 1)) for names in (
        ("x", "y", "z"), ("scale_0", "scale_1", "scale_2"), ("rot_0", "rot_1", "rot_2", "rot_3"),
        ("f_dc_0", "f_dc_1", "f_dc_2"),
    )]  # fmt: skip
    means, scales, rotations, colours = columns
    gsplat.export_splats(
        means, scales, rotations, torch.from_numpy(ours["opacity"].copy()), colours[:, None],
        torch.zeros(len(means), 0, 3), format="ply", save_to=str(tmp_path / "theirs.ply"),
    )  # fmt: skip
    theirs = read_ply(tmp_path / "theirs.ply")
    assert set(theirs) <= set(ours)
    for name, column in theirs.items():
        assert np.array_equal(column, ours[name]), name


def test_the_chimerax_script_opens_what_lies_beside_it(tmp_path):
    maps = {"run_class001.mrc": np.random.default_rng(0).normal(0, 3, (8, 8, 8)), "my half.mrc": np.ones((8, 8, 8))}
    write_chimerax_script(tmp_path / "open.cxc", maps)
    text = (tmp_path / "open.cxc").read_text()
    assert re.findall(r'^open "(.*)" id (\d)', text, re.M) == [("run_class001.mrc", "1"), ("my half.mrc", "2")]
    level = float(re.search(r"volume #1 style surface level (\S+) step 1", text)[1])
    assert level == pytest.approx(4 * maps["run_class001.mrc"].std(), rel=1e-5)
    assert "hide #2-2 models" in text and "/" not in text
