"""Copies of particles: the same images and rows, in half the space where that is asked for, and never over anything."""

import dataclasses

import numpy as np
import pytest

from gsworkbench.cli.main import main
from gsworkbench.errors import InputError
from gsworkbench.io.mrc import new_image_stack
from gsworkbench.particles.copy import write_particles
from gsworkbench.particles.read import read_particles


@pytest.mark.parametrize(("more", "item", "error"), [([], 4, 0), (["--half-precision"], 2, 2**-11)])
def test_a_copy_is_the_same_particles(noisy_set, tmp_path, more, item, error):
    assert main(["copy", str(noisy_set.star), "--out", str(tmp_path / "fast"), *more, "--sign", "-1"]) == 0
    first, copy = read_particles(noisy_set.star), read_particles(tmp_path / "fast" / "particles.star")
    images = -first.images()
    np.testing.assert_allclose(copy.images(), images, rtol=error, atol=error * 1e-3)
    size = (tmp_path / "fast" / "particles.mrcs").stat().st_size
    assert size == 1024 + item * images.size
    for name in ("rotations", "shifts_angstrom", "half_set"):
        np.testing.assert_allclose(getattr(copy, name), getattr(first, name), atol=1e-7)
    assert set(copy.data_sign) == {1}


def test_a_copy_goes_over_nothing(noisy_set, tmp_path, capsys):
    assert main(["copy", str(noisy_set.star), "--out", str(noisy_set.star.parent), "--half-precision"]) == 2
    assert "a file of this name exists already" in capsys.readouterr().err
    (tmp_path / "particles.star").write_text("mine")
    assert main(["copy", str(noisy_set.star), "--out", str(tmp_path)]) == 2
    assert (tmp_path / "particles.star").read_text() == "mine" and not (tmp_path / "particles.mrcs").exists()


@pytest.mark.parametrize("factor", [1e6, 1e-6])
def test_what_half_precision_cannot_hold_is_refused(noisy_set, tmp_path, factor):
    stack = read_particles(noisy_set.star)[:10]
    (tmp_path / "in").mkdir()
    with new_image_stack(tmp_path / "in" / "x.mrcs", 10, stack.box_size, stack.pixel_size) as images:
        images[:] = factor * stack.images()
    scaled = dataclasses.replace(stack, files=(tmp_path / "in" / "x.mrcs",), file_index=np.zeros(10, np.int64),
                                 image_index=np.arange(10))  # fmt: skip
    with pytest.raises(InputError, match="do not fit half precision"):
        write_particles(scaled, tmp_path, half_precision=True)
    assert not (tmp_path / "particles.mrcs").exists()
    write_particles(scaled, tmp_path)
