"""Real images pin the conventions: TRPV1 (EMPIAR-10059) with poses and a map, EMPIAR-10076 with dark protein."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from gsworkbench.cli.main import main
from gsworkbench.geometry.rotations import random_rotations
from gsworkbench.imaging.residual import form_images
from gsworkbench.inspection.findings import contrast
from gsworkbench.io.mrc import read_map
from gsworkbench.particles.read import read_particles
from gsworkbench.simulation import simulate

DATA = Path(__file__).parents[3] / "shared" / "data"
TRPV1, E10076 = DATA / "real_trpv1_empiar10059", DATA / "real_empiar10076_7"
pytestmark = pytest.mark.skipif(not TRPV1.exists(), reason="real particles are not at hand (../shared/data)")
STAR, STACK = TRPV1 / "trpv1_small_stack.star", TRPV1 / "trpv1_small_stack.mrcs"


def correlations(stack, images):
    """Correlation of each image with the projected map, inside 20 px of the centre."""
    volume, voxel_size = read_map(TRPV1 / "trpv1_volume.mrc")
    projections = simulate.project(volume.astype(float), stack.rotations, pixel_size=voxel_size)
    models = form_images(torch.from_numpy(projections), stack).numpy()
    axis = np.arange(48) - 24
    inside = axis[:, None] ** 2 + axis**2 < 20**2
    return np.array([np.corrcoef(m[inside], y[inside])[0, 1] for m, y in zip(models, images, strict=True)])


def test_trpv1_images_look_like_the_map_in_their_poses():
    """Measured .198 to .279, 3.2 to 5.8 sd above random poses; the wrong shift sign leaves nothing."""
    stack = read_particles(STAR, stack=STACK)
    images = stack.images()
    found = correlations(stack, images)
    assert found.min() > 0.18 and found.max() < 0.3
    rng = np.random.default_rng(0)
    random = [correlations(dataclasses.replace(stack, rotations=random_rotations(10, rng)), images) for _ in range(25)]
    assert ((found - np.mean(random, axis=0)) / np.std(random, axis=0)).min() > 2.5
    reversed_shifts = correlations(dataclasses.replace(stack, shifts_angstrom=-stack.shifts_angstrom), images)
    assert abs(reversed_shifts.mean()) < 0.06


def test_trpv1_names_a_stack_that_is_not_there(capsys):
    assert main(["inspect", str(STAR)]) == 2
    message = capsys.readouterr().err
    assert "batch_0_restacked.mrc" in message and "--stack FILE" in message


def test_trpv1_is_inspected_and_reconstructed_with_the_stack_given(tmp_path, capsys):
    assert main(["inspect", str(STAR), "--stack", str(STACK)]) == 0
    said = capsys.readouterr().out
    assert "10 in 1 file" in said and "48 px of 4.88 A" in said and "too few" in said and "protein is white" in said
    out = tmp_path / "fit"
    command = ["reconstruct", str(STAR), "--stack", str(STACK), "--out", str(out), "--n-gaussians", "200"]
    assert main(command) == 0
    assert "only 10 particles" in capsys.readouterr().out
    assert read_map(out / "run_class001.mrc")[1] == pytest.approx(4.88)
    assert len(read_particles(out / "run_data.star", stack=STACK)) == 10


@pytest.mark.parametrize(("file", "sign"), [("empiar_10076_7.star", -1), ("empiar_10076_7.cs", 1)])
def test_empiar_10076_is_dark_as_deposited_and_white_under_its_blob_sign(file, sign):
    guess = contrast(read_particles(E10076 / file))
    assert guess.suggested_sign == sign
    assert abs(guess.centre_minus_border) > 5 * guess.standard_error


def test_inspect_proposes_the_sign_of_empiar_10076(capsys):
    assert main(["inspect", str(E10076 / "empiar_10076_7.star")]) == 0
    said = capsys.readouterr().out
    assert "protein is dark in these images: reconstruct refuses them; give --sign -1" in said and "+-" in said
    assert "none in this file" in said  # poses
