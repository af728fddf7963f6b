"""The pixel size of images, as tables, pickles and headers state it; options settle what contradicts."""

import numpy as np
import pytest
import test_cryodrgn as pickles
import test_cryosparc as cs
import test_relion as star
from particle_files import BOX, OPTICS, PIXEL_SIZE, N, star_columns, star_text, write_images, write_pickle

from gsworkbench.cli.main import main
from gsworkbench.errors import InputError
from gsworkbench.particles.formats.relion import write_with_half_sets
from gsworkbench.particles.read import read_particles

SHIFTS = [1.5, -2.5]  # A, of star_columns


def old_table(pixel_size):
    """A table of RELION 3.0: origins in pixels, no box."""
    columns = star.without(star_columns(), "rlnOriginXAngst", "rlnOriginYAngst", "rlnOpticsGroup")
    columns |= {"rlnOriginX": [0.5] * N, "rlnOriginY": [-0.25] * N, "rlnVoltage": [300] * N}
    columns |= {"rlnSphericalAberration": [2.7] * N, "rlnAmplitudeContrast": [0.1] * N}
    columns |= {"rlnMagnification": [10000] * N, "rlnDetectorPixelSize": [pixel_size] * N}
    return star_text(columns, optics="")


def optics(pixel_size, box):
    return OPTICS.replace("2.5 8", f"{pixel_size} {box}")


@pytest.mark.parametrize(("table", "header"), [(4.0, 6.0), (1.07, 2.14), (2.5, 2.45)])
def test_a_header_that_contradicts_an_old_table(tmp_path, table, header):
    write_images(tmp_path / "particles.mrcs", pixel_size=header)
    path = star.write(tmp_path, old_table(table))
    with pytest.raises(InputError) as error:
        read_particles(path)
    assert f"{table:g} A" in str(error.value) and f"{header:g} A in the header" in str(error.value)
    assert "--pixel-size" in str(error.value) and ("--image-scale downsampled" in str(error.value)) == (header > table)
    given = read_particles(path, pixel_size=header)
    assert given.pixel_size == header
    np.testing.assert_allclose(given.shifts_angstrom[0], [0.5 * header, -0.25 * header])
    made = read_particles(path, image_scale="downsampled")
    assert made.pixel_size == pytest.approx(header, rel=1e-6)
    np.testing.assert_allclose(made.shifts_angstrom[0], [0.5 * table, -0.25 * table])  # in pixels of the table


def test_a_header_in_nanometres(tmp_path):
    write_images(tmp_path / "particles.mrcs", pixel_size=0.25)
    with pytest.raises(
        InputError, match=r"2.5 A by .* and 0.25 A in the header .*looks like nanometres; give the right"
    ):
        read_particles(star.write(tmp_path, old_table(2.5)))


@pytest.mark.parametrize("header", [1.0, 2.51, 2.48])
def test_a_header_that_does_not_know_or_agrees(tmp_path, header):
    write_images(tmp_path / "particles.mrcs", pixel_size=header)
    assert read_particles(star.write(tmp_path, old_table(2.5))).pixel_size == 2.5
    with pytest.raises(
        InputError, match=r"is not given; give --pixel-size in A(\.| \(the header of particles.mrcs says)"
    ):
        read_particles(star.write(tmp_path, star_text(star_columns(), OPTICS.replace("ImagePixelSize", "X"))))


@pytest.mark.parametrize(("box", "size", "header"), [(16, 1.25, 2.5), (24, 1.0, 3.0), (12, 2.2, 3.3), (4, 5, 2.5)])
def test_the_table_of_another_box_and_the_same_view(tmp_path, box, size, header):
    write_images(tmp_path / "particles.mrcs", pixel_size=header)
    path = star.write(tmp_path, star_text(star_columns(), optics(size, box)))
    with pytest.raises(InputError, match=f"{box} px here but .* images of 8 px .*; give --image-scale downsampled"):
        read_particles(path)
    made = read_particles(path, image_scale="downsampled")
    assert made.pixel_size == pytest.approx(header, rel=1e-6) and made.box_size == BOX
    np.testing.assert_allclose(made.shifts_angstrom[0], SHIFTS)  # A stay A
    with pytest.raises(InputError, match=r"the pixel size is .* in the header"):
        read_particles(path, image_scale="cropped")
    write_with_half_sets(path, tmp_path / "out" / "run_data.star", made)  # whose table is that of its images
    again = read_particles(tmp_path / "out" / "run_data.star")
    assert again.pixel_size == pytest.approx(made.pixel_size) and again.box_size == BOX


def test_the_table_of_another_box_and_the_same_pixels(tmp_path):
    write_images(tmp_path / "particles.mrcs", pixel_size=2.5)
    path = star.write(tmp_path, star_text(star_columns(), optics(2.5, 12)))
    with pytest.raises(InputError, match=r"12 px here .* cropped or padded; give --image-scale cropped"):
        read_particles(path)
    assert read_particles(path, image_scale="cropped").pixel_size == 2.5
    with pytest.raises(InputError, match=r"3.75 A .* and 2.5 A in the header"):
        read_particles(path, image_scale="downsampled")
    assert read_particles(path, image_scale="downsampled", pixel_size=3.0).pixel_size == 3.0


def test_the_table_of_another_box_and_a_header_that_does_not_know(tmp_path):
    write_images(tmp_path / "particles.mrcs", pixel_size=1.0)
    path = star.write(tmp_path, star_text(star_columns(), optics(2.5, 16)))
    with pytest.raises(InputError, match=r"--image-scale downsampled if .*, --image-scale cropped if .*--pixel-size"):
        read_particles(path)
    sizes = [read_particles(path, image_scale=scale).pixel_size for scale in ("downsampled", "cropped")]
    assert sizes == [5.0, 2.5]
    assert read_particles(path, pixel_size=3.3).pixel_size == 3.3


@pytest.mark.parametrize("option", [{"image_scale": "downsampled"}, {"pixel_size": 6.0}])
def test_cryosparc_against_the_header(tmp_path, option):
    (tmp_path / "J1").mkdir()
    write_images(tmp_path / "J1" / "particles.mrcs", pixel_size=6.0)
    sound = cs.EVERYTHING | {"blob/psize_A": np.full(N, 4, np.float32)}
    path = cs.write(tmp_path, sound)
    with pytest.raises(InputError, match=r"4 A by particles.cs and 6 A in the header .*--pixel-size"):
        read_particles(path)
    path = cs.write(tmp_path, sound | {"blob/shape": np.full((N, 2), 12, np.uint32)})
    with pytest.raises(InputError, match=r"12 px here .*--image-scale downsampled"):
        read_particles(path)
    stack = read_particles(path, **option)
    assert stack.pixel_size == pytest.approx(6.0)
    np.testing.assert_allclose(stack.shifts_angstrom, np.broadcast_to([5.0, -10.0], (N, 2)))  # px of alignments3D


def test_shifts_of_cryosparc_in_pixels_of_their_own_row(tmp_path):
    (tmp_path / "J1").mkdir()
    write_images(tmp_path / "J1" / "particles.mrcs")
    sizes = PIXEL_SIZE * np.float32([1, 2, 1, 4, 2, 1])
    shifts = read_particles(cs.write(tmp_path, cs.EVERYTHING | {"alignments3D/psize_A": sizes})).shifts_angstrom
    np.testing.assert_allclose(shifts, np.outer(sizes, [1.0, -2.0]), rtol=1e-6)
    for bad in (0, -2.5, 0.02, 500):
        column = np.where(np.arange(N) == 3, np.float32(bad), sizes)
        with pytest.raises(InputError, match="row 4: alignments3D/psize_A"):
            read_particles(cs.write(tmp_path, cs.EVERYTHING | {"alignments3D/psize_A": column}))


class TestPickles:
    def read(self, folder, header, box=2 * BOX, size=PIXEL_SIZE / 2, path="particles.mrcs", **options):
        write_images(folder / "particles.mrcs", pixel_size=header)
        ctf = pickles.CTF.astype(float)
        ctf[:, :2] = box, size
        poses = write_pickle(folder / "poses.pkl", (pickles.ROTATIONS, pickles.SHIFTS))
        return read_particles(folder / path, poses=poses, ctf=write_pickle(folder / "ctf.pkl", ctf), **options)

    def test_ctf_against_the_header(self, tmp_path):
        assert self.read(tmp_path, 2.5).pixel_size == 2.5
        with pytest.raises(InputError, match=r"2.5 A by ctf.pkl and 1.25 A in the header .*--image-scale cropped"):
            self.read(tmp_path, 1.25)
        cropped = self.read(tmp_path, 1.25, image_scale="cropped")
        assert cropped.pixel_size == 1.25
        np.testing.assert_allclose(cropped.shifts_angstrom, 0.25 * 16 * 1.25)  # fractions of the box they were found in
        with pytest.raises(InputError, match=r"2.5 A by ctf.pkl and 7 A"):
            self.read(tmp_path, 7.0)
        assert self.read(tmp_path, 7.0, pixel_size=7.0).pixel_size == 7.0

    def test_ctf_against_the_table(self, tmp_path):
        star.write(tmp_path, star_text(star_columns()))
        assert self.read(tmp_path, 1.0, path="particles.star").pixel_size == 2.5
        with pytest.raises(
            InputError, match=r"2.5 A in particles.star and 5 A by ctf.pkl \(16 px of 2.5 A, for images"
        ):
            self.read(tmp_path, 1.0, size=2.5, path="particles.star")


@pytest.mark.parametrize(
    ("size", "message"),
    [(0.07, "looks like nanometres"), (1.06e-10, "looks like metres"), (106, "looks like picometres"),
     (1e-30, "no detector has such pixels"), (-2.5, "must be positive")],
)  # fmt: skip
def test_pixel_sizes_that_no_detector_has(tmp_path, size, message):
    write_images(tmp_path / "particles.mrcs", pixel_size=1.0)
    for text in (star_text(star_columns(), optics(size, 8)), old_table(size)):
        with pytest.raises(InputError, match=message):
            read_particles(star.write(tmp_path, text))
        assert read_particles(star.write(tmp_path, text), pixel_size=2.0).pixel_size == 2.0
    with pytest.raises(InputError, match=message):
        read_particles(star.write(tmp_path, star_text(star_columns())), pixel_size=size)


def test_the_command_line_settles_it(tmp_path, capsys):
    write_images(tmp_path / "particles.mrcs", pixel_size=5.0)
    path = str(star.write(tmp_path, star_text(star_columns(), optics(2.5, 16))))
    assert main(["inspect", path]) == 2
    assert "give --image-scale downsampled" in capsys.readouterr().err
    assert main(["inspect", path, "--image-scale", "downsampled"]) == 0
    assert "box            8 px of 5 A = 40 A" in capsys.readouterr().out
    with pytest.raises(InputError, match="images are downsampled or cropped, not 'shrunk'"):
        read_particles(path, image_scale="shrunk")


def test_two_magnifications_of_one_pixel_size(tmp_path):
    write_images(tmp_path / "particles.mrcs", pixel_size=2.5)
    lines = old_table(2.5).splitlines()
    rows = [k for k, line in enumerate(lines) if "@" in line]
    for k in rows[::2]:
        lines[k] = lines[k].replace("10000 2.5", "20000 5.0")
    assert read_particles(star.write(tmp_path, "\n".join(lines))).pixel_size == 2.5
    for bad in ("0", "-1e4"):
        spoilt = "\n".join(lines).replace("20000 5.0", f"{bad} 5.0")
        with pytest.raises(InputError, match="row 1: rlnMagnification must be positive"):
            read_particles(star.write(tmp_path, spoilt))


def test_old_columns_beside_the_new_one_are_noted(tmp_path):
    write_images(tmp_path / "particles.mrcs")
    old = {"rlnMagnification": [10000] * N, "rlnDetectorPixelSize": [1.25] * N}
    stack = read_particles(star.write(tmp_path, star_text(star_columns() | old)))
    assert stack.pixel_size == 2.5
    assert ["2.5 A by rlnImagePixelSize, which is taken, and 1.25 A by" in note for note in stack.notes] == [True]
    old["rlnDetectorPixelSize"] = [2.5] * N
    assert read_particles(star.write(tmp_path, star_text(star_columns() | old))).notes == ()


def test_rows_of_ctf_pkl_in_other_pixels_of_one_field_of_view(tmp_path):
    write_images(tmp_path / "particles.mrcs")
    ctf = pickles.CTF.astype(float)
    ctf[::2, :2] = 4 * BOX, PIXEL_SIZE / 4  # the others: twice the box at half the pixel size
    poses = write_pickle(tmp_path / "poses.pkl", (pickles.ROTATIONS, pickles.SHIFTS))
    stack = read_particles(tmp_path / "particles.mrcs", poses=poses, ctf=write_pickle(tmp_path / "ctf.pkl", ctf))
    assert stack.pixel_size == PIXEL_SIZE
