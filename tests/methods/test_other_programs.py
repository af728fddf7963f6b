"""Other programs: what they are given is the particles, what comes back is our map; absent, they say so."""

import shutil

import numpy as np
import pytest

from gsworkbench.assessment.agreement import agreement
from gsworkbench.assessment.fsc import fourier_shell_correlation
from gsworkbench.cli.main import main
from gsworkbench.errors import NotRun
from gsworkbench.methods.cryodrgn_program import Cryodrgn
from gsworkbench.methods.other_programs import cryodrgn, relion_reconstruct
from gsworkbench.methods.reconstruction_config import ReconstructionConfig
from gsworkbench.normal_equations.classical_map import least_squares
from gsworkbench.normal_equations.equations import accumulate
from gsworkbench.particles.copy import write_particles
from gsworkbench.particles.read import read_particles
from gsworkbench.reconstruction.run import reconstruct

needs_relion = pytest.mark.skipif(shutil.which("relion_reconstruct") is None, reason="no relion_reconstruct on PATH")
needs_cryodrgn = pytest.mark.skipif(shutil.which("cryodrgn") is None, reason="no cryodrgn on PATH")


def test_particles_are_written_as_they_are(clean_set, tmp_path):
    part = clean_set.stack.with_half_sets(0)[np.array([7, 3, 900])]
    flipped = part.__class__(**{**part.__dict__, "data_sign": np.array([1, -1, 1], np.int8)})
    write_particles(flipped, tmp_path)
    back = read_particles(tmp_path / "particles.star")
    np.testing.assert_array_equal(back.images(), flipped.images())
    np.testing.assert_allclose(back.rotations, part.rotations, atol=1e-6)
    np.testing.assert_allclose(back.shifts_angstrom, part.shifts_angstrom, atol=1e-5)
    np.testing.assert_array_equal(back.half_set, part.half_set)
    np.testing.assert_allclose(back.ctf.defocus_u, part.ctf.defocus_u, atol=1e-3)


@needs_relion
def test_relion_has_our_hand_centre_and_scale(clean_set):
    made = relion_reconstruct(clean_set.stack)
    found = agreement(made.volume, clean_set.truth)
    assert found.slope == pytest.approx(1, abs=0.05)
    assert np.abs(found.shift_voxels).max() < 0.05
    ours = least_squares(accumulate(clean_set.stack))
    assert fourier_shell_correlation(made.volume, ours, voxel_size=12.0).values[1:14].min() > 0.99
    assert made.cpu_seconds > 0


@needs_relion
def test_relion_is_a_method_like_any_other(noisy_set, tmp_path):
    result = reconstruct(noisy_set.stack, tmp_path, ReconstructionConfig(method="relion", mask="none"))
    assert result.half_maps is not None
    stack = noisy_set.stack.with_half_sets(0)
    alone = relion_reconstruct(stack[stack.half_set == 2]).volume
    # `reconstruct` normalises the images before, each by its own background.
    assert np.corrcoef(result.half_maps[1].ravel(), alone.ravel())[0, 1] > 0.999
    assert result.half_maps[1].std() == pytest.approx(alone.std(), rel=0.02)
    report = result.record.results["all"]
    assert report["commands"][0].startswith("relion_reconstruct --i particles.star")
    assert result.record.cpu_seconds["all: relion"] >= report["program_cpu_seconds"] > 0


@needs_cryodrgn
@pytest.mark.parametrize("command", ["backproject_voxel", "train_nn"])
def test_cryodrgn_has_our_hand_and_centre(clean_set, command):
    made = cryodrgn(clean_set.stack, Cryodrgn(command, width=32, n_epochs=2))
    found = agreement(made.volume, clean_set.truth)
    assert found.correlation > (0.9 if command == "backproject_voxel" else 0.5)
    assert found.correlation > found.mirrored_correlation + 0.05
    assert np.abs(found.shift_voxels).max() < 0.3


@pytest.mark.parametrize("method", ["relion", "cryodrgn"])
def test_an_absent_program_is_not_run_and_leaves_nothing(clean_set, tmp_path, monkeypatch, method, capsys):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(NotRun, match="on PATH") as caught:
        reconstruct(clean_set.stack, tmp_path / "out", ReconstructionConfig(method=method))
    assert caught.value.because.startswith("there is no ") and caught.value.name == method
    assert not list((tmp_path / "out").glob("*"))
    assert main(["reconstruct", str(clean_set.star), "--out", str(tmp_path / "out"), "--method", method]) == 2
    assert f"{method} was not run, because there is no" in capsys.readouterr().err


def test_a_program_that_fails_is_not_run_and_its_last_words_are_kept(clean_set, tmp_path, monkeypatch):
    fake = tmp_path / "relion_reconstruct"
    fake.write_text("#!/bin/sh\necho all is lost >&2\nexit 3\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(NotRun, match="all is lost"):
        relion_reconstruct(clean_set.stack)
