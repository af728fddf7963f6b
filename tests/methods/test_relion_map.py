"""The map that Gaussians make of RELION's sums: its scale, what it gains, what it leaves alone, and live in RELION."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch
from relion_files import STEM, write_external

from gsworkbench.assessment.fsc import fourier_shell_correlation
from gsworkbench.cli.main import main
from gsworkbench.io.mrc import read_map
from gsworkbench.methods.one_pass import OnePass
from gsworkbench.methods.relion_map import held_out_components, relion_filter, relion_map
from gsworkbench.normal_equations.classical_map import backproject
from gsworkbench.normal_equations.equations import accumulate
from gsworkbench.normal_equations.relion_external import read_relion_external, relion_equations
from gsworkbench.simulation.simulate import simulate
from gsworkbench.simulation.simulation_config import Simulation

PACKAGE = Path(__file__).parents[2]


def fsc(volume, truth):
    return fourier_shell_correlation(volume, truth, voxel_size=12.0).values[1:16]


@pytest.fixture(scope="module")
def external(noisy_set, tmp_path_factory):
    return read_relion_external(write_external(tmp_path_factory.mktemp("external"), accumulate(noisy_set.stack)))


def test_gaussians_are_closer_to_the_truth_than_the_filter(external, noisy_set):
    made = relion_map(external)
    filtered = relion_filter(relion_equations(external), external).numpy()
    ours, theirs = fsc(made.volume, noisy_set.truth), fsc(filtered, noisy_set.truth)
    assert ours.mean() > theirs.mean() + 0.02 and (ours > theirs - 0.02).all()
    assert made.signal > 10 and made.gaussians is not None


def test_the_map_has_the_scale_of_relion(clean_set, tmp_path):
    """RELION's map is a sum along rays, so that the truth, in image units / A, is a pixel's size smaller."""
    made = relion_map(read_relion_external(write_external(tmp_path, accumulate(clean_set.stack))))
    truth = clean_set.truth.astype(np.float64)
    classical = backproject(clean_set.stack)  # in the units of the images, which are those of the truth times a factor
    scale = (classical * truth).sum() / (truth * truth).sum()
    assert (made.volume * truth).sum() / (truth * truth).sum() == pytest.approx(12 * scale, rel=0.03)


def test_without_a_background_shells_are_shares_of_the_mixture(external):
    made = relion_map(external, OnePass(background=False))
    assert made.gaussians is not None
    mixture = made.gaussians.voxelize(32, 1.0)
    ours, whole = (torch.fft.rfftn(torch.as_tensor(volume)) for volume in (made.volume, mixture))
    shell = relion_equations(external).shell
    for k in range(1, 16):
        assert torch.allclose(ours[shell == k], float(made.share[k]) * whole[shell == k], atol=1e-3 * whole.abs().max())


def test_there_is_nothing_from_the_current_size_on(noisy_set, tmp_path):
    made = relion_map(read_relion_external(write_external(tmp_path, accumulate(noisy_set.stack), size=20)))
    equations = relion_equations(read_relion_external(tmp_path / f"{STEM}.star"))
    power = torch.fft.rfftn(torch.from_numpy(made.volume)).abs()
    assert power[equations.shell >= 10].max() < 1e-5 * power.max()


def test_noise_is_left_to_the_filter(noisy_set, tmp_path):
    stack = noisy_set.stack
    with mrcfile.new(tmp_path / "noise.mrcs") as file:
        file.set_data(np.random.default_rng(1).normal(size=(len(stack), 32, 32)).astype(np.float32))
    sums = accumulate(replace(stack, files=(tmp_path / "noise.mrcs",)))
    external = read_relion_external(write_external(tmp_path, sums))
    made = relion_map(external)
    assert made.gaussians is None and made.signal < 3
    assert np.array_equal(made.volume, relion_filter(relion_equations(external), external).numpy())


def test_a_component_and_its_mate_are_held_out_together():
    for box in (16, 32):
        held = held_out_components(box, 3)
        mate = (-np.arange(box)) % box
        for plane in (0, box // 2):
            assert torch.equal(held[:, :, plane], held[mate][:, mate][:, :, plane])
        assert 0.08 < held.float().mean() < 0.12


def test_the_command_writes_map_and_record(noisy_set, tmp_path, capsys):
    star = write_external(tmp_path, accumulate(noisy_set.stack))
    assert main(["external-reconstruct", str(star), "--set", "n_gaussians=200"]) == 0
    assert "200 Gaussians, box of 32, size 32" in capsys.readouterr().out
    record = json.loads((tmp_path / f"{STEM}.json").read_text())
    assert record["n_gaussians"] == 200 and len(record["share"]) == 16 and record["current_size"] == 32
    assert read_map(tmp_path / f"{STEM}.mrc", voxel_size=12.0)[0].shape == (32, 32, 32)
    assert not (tmp_path / f"{STEM}_out.star").exists()  # which would change RELION's own spectra


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--set", "background"], "is not of the form NAME=VALUE"),
        (["--set", "n_gaussians=auto"], "needs particles"),
        (["--set", "n_gauss=3"], "has no parameter 'n_gauss'"),
        ([], "16 shells for a box of 32"),
    ],
)
def test_what_cannot_be_done_is_said_and_nothing_is_written(noisy_set, tmp_path, capsys, words, sentence):
    star = write_external(tmp_path, accumulate(noisy_set.stack))
    if not words:
        star.write_text(star.read_text().rpartition("16 ")[0])
    before = {path.name for path in tmp_path.iterdir()}
    assert main(["external-reconstruct", str(star), *words]) == 2
    assert sentence in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == before


needs_relion = pytest.mark.skipif(shutil.which("relion_refine") is None, reason="no relion_refine on PATH")
REFINE = (
    "relion_refine --i particles.star --ref start.mrc --ini_high 60 --ctf --K 1 --tau2_fudge 1 --iter 2 --zero_mask "
    "--flatten_solvent --norm --scale --pad 2 --j 1 --random_seed 1 --oversampling 0 --healpix_order 3 --sigma_ang 3 "
    "--offset_range 1 --offset_step 1 --particle_diameter 330 --o out/run --external_reconstruct"
)


@pytest.fixture(scope="module")
def particles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("live")
    simulate(Simulation(n_particles=200, box_size=32, pixel_size=12.0, snr=0.3, seed=6, pose_error_degrees=3.0), folder)
    words = "relion_reconstruct --i particles.star --o start.mrc --ctf --maxres 60 --pad 2"
    subprocess.run(words.split(), cwd=folder, check=True, capture_output=True)
    (folder / "out").mkdir()
    return folder


def _refine(folder, more=""):
    program = f"{sys.executable} -m gsworkbench external-reconstruct{more}"
    ours = {"RELION_EXTERNAL_RECONSTRUCT_EXECUTABLE": program, "PYTHONPATH": str(PACKAGE), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        REFINE.split(), cwd=folder, env=os.environ | ours, capture_output=True, text=True, check=False
    )


@needs_relion
def test_relion_takes_the_map_back(particles):
    result = _refine(particles)
    assert result.returncode == 0, result.stderr
    for iteration in (1, 2):
        stem = particles / "out" / f"run_it{iteration:03d}_class001"
        record = json.loads(stem.with_name(f"{stem.name}_external_reconstruct.json").read_text())
        assert record["made_by"] == "Gaussians" and record["box_size"] == 32
        written = read_map(stem.with_name(f"{stem.name}_external_reconstruct.mrc"), voxel_size=12.0)[0]
        kept = read_map(stem.with_suffix(".mrc"))[0]
        assert np.corrcoef(written.ravel(), kept.ravel())[0, 1] > 0.9  # but for RELION's own solvent mask
    sums = read_relion_external(particles / "out" / "run_it001_class001_external_reconstruct.star")
    mate = (-np.arange(64)) % 64
    plane = sums.weight[:, :, 0]
    assert np.allclose(plane, plane[mate][:, mate], rtol=1e-3)
    # RELION's own program on the same file makes a map of the same scale.
    command = ["relion_external_reconstruct", "out/run_it001_class001_external_reconstruct.star", "--o", "own.mrc"]
    subprocess.run(command, cwd=particles, check=True, capture_output=True)
    own = read_map(particles / "own.mrc", voxel_size=12.0)[0]
    equations = relion_equations(sums)
    ours = torch.fft.rfftn(relion_filter(equations, sums))
    theirs = torch.fft.rfftn(torch.from_numpy(own))
    known = (equations.shell > 0) & (equations.shell < 6)
    product = float((ours * theirs.conj()).real[known].sum())
    square, other = (float(values.abs().square()[known].sum()) for values in (theirs, ours))
    assert product / square == pytest.approx(1, abs=0.05)
    assert product / np.sqrt(square * other) > 0.98


@needs_relion
def test_relion_stops_where_the_program_fails(particles):
    result = _refine(particles, " --set nonsense=1")
    assert result.returncode != 0
    assert "has no parameter 'nonsense'" in result.stderr and "something wrong with system call" in result.stderr
