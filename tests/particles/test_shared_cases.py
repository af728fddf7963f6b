"""The real bytes of inputs that users had, beside the repository: read, or refused with what helps."""

from pathlib import Path

import numpy as np
import pytest

from gsworkbench.cli.main import main
from gsworkbench.errors import InputError
from gsworkbench.particles.formats.ctf_columns import is_no_ctf
from gsworkbench.particles.read import read_metadata, read_particles

CASES = Path(__file__).parents[3] / "shared" / "cases"
pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason="the inputs beside the repository are absent")


def test_poses_of_two_pixel_sizes():
    path = CASES / "cs-poses-of-two-pixel-sizes" / "particles.cs"
    raw, stack = np.load(path), read_particles(path)
    assert len(np.unique(raw["alignments3D/psize_A"])) == 2
    np.testing.assert_allclose(
        stack.shifts_angstrom, raw["alignments3D/shift"] * raw["alignments3D/psize_A"][:, None], rtol=1e-6
    )


def test_neither_map_id_nor_stamp():
    assert read_particles(CASES / "mrc-no-map-id-no-stamp" / "particles.star").images().shape == (12, 16, 16)


def test_no_ctf():
    case = CASES / "no-ctf"
    with pytest.raises(InputError, match="--no-ctf"):
        read_particles(case / "projections.star")
    with pytest.raises(InputError, match="--no-ctf"):
        read_particles(case / "projections.mrcs", poses=case / "poses.pkl")
    table = read_particles(case / "projections.star", no_ctf=True)
    pickled = read_particles(case / "projections.mrcs", poses=case / "poses.pkl", no_ctf=True)
    assert is_no_ctf(table.ctf) and is_no_ctf(pickled.ctf)
    assert table.pixel_size == pickled.pixel_size == 2.5


def test_one_optics_group_without_its_column():
    assert len(read_particles(CASES / "one-optics-group-no-column" / "particles.star")) == 12


def test_pixel_size_of_the_header():
    path = CASES / "pixel-size-of-header-contradicts-star" / "particles.star"
    with pytest.raises(InputError, match=r"4 A by particles.star and 6 A in the header .*--pixel-size"):
        read_particles(path)
    assert read_particles(path, pixel_size=6.0).pixel_size == 6.0


def test_the_table_of_the_larger_box():
    path = CASES / "star-of-the-larger-box" / "particles.star"
    with pytest.raises(InputError, match="give --image-scale downsampled"):
        read_particles(path)
    assert read_particles(path, image_scale="downsampled").pixel_size == 5.0


def test_several_classes():
    path = CASES / "several-classes" / "particles.star"
    assert any("classes 1 to 4: 3, 3, 3, 3" in note for note in read_particles(path).notes)
    assert len(read_particles(path, class_number=2)) == 3


def test_symmetry_expanded():
    stack = read_particles(CASES / "symmetry-expanded-without-half-sets" / "expanded.star").with_half_sets()
    for image in range(12):
        assert len(set(stack.half_set[stack.image_index == image])) == 1
    assert np.bincount(stack.half_set).tolist() == [0, 12, 12]


def test_tilt_images():
    path = CASES / "tilt-images-with-negative-b-factors" / "tilts.star"
    with pytest.raises(InputError, match=r"negative in 40 of 40 rows: .*rows share an rlnGroupName"):
        read_particles(path)


def test_tilt_images_as_the_remedy_says(tmp_path):
    lines = (CASES / "tilt-images-with-negative-b-factors" / "tilts.star").read_text().splitlines()
    column = next(k for k, line in enumerate(line for line in lines if line.startswith("_")) if "Bfactor" in line)
    for k, line in enumerate(lines):
        if "@" in line:
            values = line.split()
            values[column] = values[column].removeprefix("-")
            lines[k] = " ".join(values)
    (tmp_path / "tilts.star").write_text("\n".join(lines))
    stack = read_particles(tmp_path / "tilts.star", stack=CASES / "tilt-images-with-negative-b-factors" / "tilts.mrcs")
    names = [line.split()[-1] for line in lines if "@" in line]
    assert len(np.unique(stack.unit)) == len(set(names)) and (stack.ctf.b_factor >= 0).all()
    halves = stack.with_half_sets()
    assert all(len(set(halves.half_set[stack.unit == unit])) == 1 for unit in stack.unit)


def test_two_microscopes(capsys):
    assert main(["inspect", str(CASES / "two-microscopes" / "particles.star")]) == 0
    said = capsys.readouterr().out
    assert "300 kV, Cs 2.7 mm, amplitude contrast 0.1: 8 particles" in said
    assert "200 kV, Cs 1.4 mm, amplitude contrast 0.1: 4 particles" in said


def test_views_without_images(tmp_path, capsys):
    case = CASES / "views-without-images"
    assert len(read_metadata(case / "particles.star").require_poses()) == 200
    halves = [str(case / f"half{k}.mrc") for k in (1, 2)]
    assert main(["directional", *halves, "--particles", str(case / "particles.star"), "--out", str(tmp_path)]) == 0
    assert main(["inspect", str(case / "particles.star")]) == 2
    said = capsys.readouterr()
    assert "particles      200" in said.out and "image files are missing" in said.err
