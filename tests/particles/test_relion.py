"""RELION STAR files as they are read: values by convention, every refusal in a sentence."""

import dataclasses
import os
import shutil

import numpy as np
import pytest
import starfile
from particle_files import (
    BOX,
    OPTICS,
    PIXEL_SIZE,
    SEVEN,
    TRPV1,
    N,
    assert_same_particles,
    needs_data,
    star_columns,
    star_text,
    write_images,
    write_pickle,
)

from gsworkbench.errors import InputError
from gsworkbench.inspection.findings import particle_alarms
from gsworkbench.particles.formats.relion import write_with_half_sets
from gsworkbench.particles.read import read_particles

GOLDEN = [
    [0.04341204, 0.90961589, -0.41317591],
    [-0.82959837, 0.26325835, 0.49240388],
    [0.55667040, 0.32139380, 0.76604444],
]


@pytest.fixture
def folder(tmp_path):
    write_images(tmp_path / "particles.mrcs")
    return tmp_path


def write(folder, text, name="particles.star"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def read(folder, text, **options):
    return read_particles(write(folder, text), **options)


def without(columns, *labels):
    return {label: values for label, values in columns.items() if label not in labels}


def test_reads_relion_31(folder):
    particles = read(folder, star_text(star_columns()))
    assert (len(particles), particles.box_size, particles.pixel_size) == (N, BOX, PIXEL_SIZE)
    np.testing.assert_allclose(particles.rotations, np.broadcast_to(GOLDEN, (N, 3, 3)), atol=1e-6)
    np.testing.assert_array_equal(particles.shifts_angstrom, np.broadcast_to([1.5, -2.5], (N, 2)))
    np.testing.assert_array_equal(particles.ctf.defocus_u, 15000 + np.arange(N))
    assert particles.ctf.voltage_kv.tolist() == [300.0] * N
    assert particles.ctf.spherical_aberration_mm.tolist() == [2.7] * N
    assert particles.half_set.tolist() == [1, 2] * (N // 2)
    assert particles.data_sign.tolist() == [1] * N
    for name, default in (("phase_shift", 0), ("b_factor", 0), ("scale", 1)):
        assert (getattr(particles.ctf, name) == default).all()


def test_places_on_micrographs_are_coordinates_less_origins_in_angstrom(folder):
    assert read(folder, star_text(star_columns())).picks is None
    places = {
        "rlnMicrographName": ["a.mrc", "b.mrc"] * (N // 2),
        "rlnCoordinateX": list(range(100, 100 + N)),
        "rlnCoordinateY": [200] * N,
    }
    expected = np.column_stack([np.arange(100.0, 100 + N), np.full(N, 200.0)])
    for extra, size in (({}, PIXEL_SIZE), ({"rlnMicrographOriginalPixelSize": [0.5] * N}, 0.5)):
        picks = read(folder, star_text(star_columns() | places | extra)).picks
        assert picks.micrographs == ("a.mrc", "b.mrc") and picks.micrograph_index.tolist() == [0, 1] * (N // 2)
        np.testing.assert_allclose(picks.positions_angstrom, expected * size - [1.5, -2.5])
    chosen = read(folder, star_text(star_columns() | places))[[3, 1]].picks
    assert chosen.micrograph_index.tolist() == [1, 1] and chosen.positions_angstrom.shape == (2, 2)


def test_blocks_may_stand_in_any_order(folder):
    optics_last = star_text(star_columns(), optics="# version 50001\n") + OPTICS + "# the end\n"
    assert_same_particles(read(folder, optics_last), read(folder, star_text(star_columns())))


@pytest.mark.parametrize("between", ["# a comment\n", "\n", "\t\n", "  # data_none\n\n"])
def test_comments_and_empty_lines_may_stand_anywhere(folder, between):
    single = "data_optics\n_rlnOpticsGroup 1\n_rlnVoltage 300\n_rlnSphericalAberration 2.7 # mm\n"
    single += "_rlnAmplitudeContrast 0.1 #\n_rlnImagePixelSize 2.5\n"
    for optics in (OPTICS, single):
        text = star_text(star_columns(), optics)
        spaced = between + "".join(line + between for line in text.splitlines(keepends=True))
        assert_same_particles(read(folder, spaced), read(folder, text.replace(" # mm", "").replace(" #\n", "\n")))


def test_optics_group_as_single_values(folder):
    single = """
data_optics

_rlnOpticsGroup 1
_rlnVoltage 300
_rlnSphericalAberration 2.7
_rlnAmplitudeContrast 0.1
_rlnImagePixelSize 2.5
"""
    assert_same_particles(read(folder, star_text(star_columns(), single)), read(folder, star_text(star_columns())))


@pytest.mark.parametrize("block", ["", "images", "particles"])
def test_reads_relion_30(folder, block):
    columns = without(star_columns(), "rlnOriginXAngst", "rlnOriginYAngst", "rlnOpticsGroup") | {
        "rlnOriginX": [0.6] * N,
        "rlnOriginY": [-1.0] * N,
        "rlnVoltage": [300] * N,
        "rlnSphericalAberration": [2.7] * N,
        "rlnAmplitudeContrast": [0.1] * N,
        "rlnMagnification": [40000] * N,
        "rlnDetectorPixelSize": [10] * N,
    }
    text = star_text(columns, optics="", block=block)
    assert_same_particles(read(folder, text), read(folder, star_text(star_columns())))
    assert read(folder, text, pixel_size=5.0).shifts_angstrom[0].tolist() == [3.0, -5.0]  # 0.6 and -1 px


def test_particle_row_goes_before_optics_row(folder):
    columns = star_columns() | {"rlnAmplitudeContrast": [0.07] * N, "rlnPhaseShift": [90] * N}
    ctf = read(folder, star_text(columns)).ctf
    assert ctf.amplitude_contrast.tolist() == [0.07] * N and ctf.phase_shift.tolist() == [90] * N


def test_optics_groups_are_joined_by_number_not_by_place(folder):
    optics = OPTICS.replace("1 001 300.0", "12 b 200.0") + "7 a 300.0 2.7 0.1 2.5 8\n"
    groups = [7, 12, "7.0", 12, 7, 12]
    ctf = read(folder, star_text(star_columns() | {"rlnOpticsGroup": groups}, optics)).ctf
    assert ctf.voltage_kv.tolist() == [300, 200, 300, 200, 300, 200]


def test_defaults_of_v_angle_and_origins(folder):
    columns = without(
        star_columns(), "rlnDefocusV", "rlnDefocusAngle", "rlnOriginXAngst", "rlnOriginYAngst", "rlnRandomSubset"
    )
    particles = read(folder, star_text(columns))
    np.testing.assert_array_equal(particles.ctf.defocus_v, particles.ctf.defocus_u)
    assert not particles.ctf.defocus_angle.any() and not particles.shifts_angstrom.any()
    assert not particles.half_set.any()


def test_no_angles_at_all_is_no_poses(folder):
    assert (
        read(folder, star_text(without(star_columns(), "rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"))).rotations is None
    )


def test_rows_in_any_order_are_keyed_by_stack_and_number(folder):
    other = write_images(folder / "other.mrcs", seed=3)
    first = write_images(folder / "particles.mrcs")
    names = [
        "3@other.mrcs",
        "000001@particles.mrcs",
        "1@other.mrcs",
        "6@particles.mrcs",
        "2@other.mrcs",
        "2@particles.mrcs",
    ]
    particles = read(folder, star_text(star_columns() | {"rlnImageName": names}))
    np.testing.assert_array_equal(particles.images(), [other[2], first[0], other[0], first[5], other[1], first[1]])
    assert len(particles.files) == 2


REFUSALS = {
    "empty file": (b"", "the file is empty"),
    "white space alone": (b"  \n\n", "the file is empty"),
    "Latin-1": (star_text(star_columns()).replace("mrcs", "mrc\xe9").encode("latin1"), "line 28 is not UTF-8"),
    "binary": (b"data_\0\0\0", "binary"),
    "no block": ("hello", "line 1: 'hello' stands before the first data_ block"),
    "web page": ("<!DOCTYPE html>\n<html>", "line 1"),
    "no particles": (OPTICS, "no table of particles with a column rlnImageName among data_optics"),
    "no rows": (star_text(star_columns(0)), "data_particles has no rows"),
    "block without columns": (star_text(star_columns()) + "data_empty\n", "data_empty has no columns"),
    "short row": (star_text(star_columns()).replace("15002 14002", "15002"), "line 30: 10 values for 11 columns"),
    "long row": (star_text(star_columns()).replace("15002", "15002 1"), "line 30: 12 values for 11 columns"),
    "two columns of one name": (
        star_text(star_columns()).replace("_rlnDefocusV", "_rlnDefocusU"),
        "line 19: a second column _rlnDefocusU",
    ),
    "two blocks of one name": (star_text(star_columns()) + OPTICS, "a second table data_optics"),
    "thousands of tables": (
        "".join(f"data_t{k}\n\nloop_\n_rlnA #1\n1\n\n" for k in range(3000)),
        "line 6001: more than 1000 tables",
    ),
    "thousands of columns": (
        "data_particles\n\nloop_\n" + "".join(f"_rlnA{k}\n" for k in range(30_000)),
        "line 1004: more than 1000 columns",
    ),
    "many tables, none of particles": (
        "".join(f"data_t{k}\n\nloop_\n_rlnA #1\n1\n\n" for k in range(9)),
        r"among data_t0, data_t1, data_t2, data_t3, data_t4, \.\.\.",
    ),
    "white space of other kinds": (
        star_text(star_columns()).replace("15002 14002", "15002\u00a014002"),
        "line 30: white space that is neither a space nor a tab",
    ),
    "quotes that touch": (
        star_text(star_columns()).replace("15002 14002", '"15002"14002'),
        "line 30: the value .15002",
    ),
    "columns of many tables": (
        "".join(f"data_t{k}\n\nloop_\n" + "".join(f"_rln{k}_{i}\n" for i in range(600)) + "\n" for k in range(2)),
        "line 1008: more than 1000 columns",
    ),
    "long quoted space": (
        star_text(star_columns() | {"rlnDefocusU": ['"x' + 20_000 * " " + 'x"'] * N}),
        r"rlnDefocusU is not a number: x +\.\.\. +x\.$",
    ),
    "hash in a path": (star_text(star_columns(name="a#b.mrcs")), r"line 28: the value 000001@a#b.mrcs holds a '#'"),
    "'#' in a row that begins as a label does": (
        "data_particles\nloop_\n_rlnMicrographName #1\n_rlnX #2\nm.mrc 4\n_a#1.mrc 5\n_a#2.mrc 6\n",
        "line 6: the value _a#1.mrc holds a '#'",
    ),
    "backslash in a single value": (
        star_text(star_columns(), "data_optics\n_rlnOpticsGroup 1\n_rlnOpticsGroupName C:\\optics\n"),
        "line 3: the value of _rlnOpticsGroupName holds a backslash",
    ),
    "quote in a path": (star_text(star_columns(name="a'b.mrcs")), "holds a '#' or a quote"),
    "value that begins a block": (
        star_text({"rlnMicrographName": ["data_1/a.mrc"] * N} | star_columns()),
        "begins with data_",
    ),
    "missing group": (
        star_text(star_columns() | {"rlnOpticsGroup": [1, 1, 1, 4, 1, 1]}),
        "row 4: optics group 4 is not in data_optics, which has 1",
    ),
    "group that is no number": (star_text(star_columns() | {"rlnOpticsGroup": ["a"] * N}), "row 1: rlnOpticsGroup"),
    "optics without rows": (
        star_text(star_columns(), OPTICS[: OPTICS.index("1 001")]),
        "row 1: optics group 1 is not in data_optics, which has none",
    ),
    "group twice": (star_text(star_columns(), OPTICS + "1 b 300 2.7 0.1 2.5 8\n"), "two rows for one rlnOpticsGroup"),
    "no group column": (
        star_text(without(star_columns(), "rlnOpticsGroup"), OPTICS + "2 b 200 1.4 0.1 2.5 8\n"),
        "no column rlnOpticsGroup, and there are 2 optics groups; add the column",
    ),
    "two pixel sizes": (
        star_text(star_columns() | {"rlnOpticsGroup": [1, 2] * 3}, OPTICS + "2 b 300 2.7 0.1 1.25 8\n"),
        r"differ in pixel size \(group 1: 2.5, group 2: 1.25\)",
    ),
    "two boxes": (
        star_text(star_columns() | {"rlnOpticsGroup": [1, 2] * 3}, OPTICS + "2 b 300 2.7 0.1 2.5 16\n"),
        r"differ in box size \(group 1: 8, group 2: 16\)",
    ),
    "no pixel size": (star_text(star_columns(), OPTICS.replace("ImagePixelSize", "Other")), "give --pixel-size"),
    "pixel size zero": (star_text(star_columns(), OPTICS.replace("2.5", "0")), "rlnImagePixelSize must be positive"),
    "another box": (
        star_text(star_columns(), OPTICS.replace("2.5 8", "2.5 16")),
        "16 px here but .* has images of 8 px",
    ),
    "one angle missing": (star_text(without(star_columns(), "rlnAnglePsi")), "rlnAngleTilt but no rlnAnglePsi"),
    "angles of a 2D classification": (
        star_text(without(star_columns(), "rlnAngleRot", "rlnAngleTilt")),
        "no rlnAngleRot, rlnAngleTilt; the angles of a 2D classification make no map",
    ),
    "one origin missing": (
        star_text(without(star_columns(), "rlnOriginYAngst")),
        "rlnOriginXAngst but not its partner",
    ),
    "no defocus": (star_text(without(star_columns(), "rlnDefocusU")), "no column rlnDefocusU"),
    "no voltage": (star_text(star_columns(), OPTICS.replace("rlnVoltage", "rlnX")), "no column rlnVoltage"),
    "no Cs": (star_text(star_columns(), OPTICS.replace("rlnSpher", "rlnX")), "no column rlnSphericalAberration"),
    "no contrast": (star_text(star_columns(), OPTICS.replace("rlnAmpl", "rlnX")), "no column rlnAmplitudeContrast"),
    "contrast in percent": (
        star_text(star_columns(), OPTICS.replace(" 0.1 ", " 10 ")),
        "rlnAmplitudeContrast must be a fraction from 0 to 1, not 10",
    ),
    "voltage in volts": (star_text(star_columns(), OPTICS.replace("300.0", "300000")), "rlnVoltage must be between"),
    "NaN": (star_text(star_columns() | {"rlnDefocusU": [1, 2, "nan", 4, 5, 6]}), "row 3: rlnDefocusU is not a number"),
    "infinity": (star_text(star_columns() | {"rlnAngleRot": [1, "inf", 3, 4, 5, 6]}), "row 2: rlnAngleRot"),
    "None": (star_text(star_columns() | {"rlnOriginXAngst": ["None", 2, 3, 4, 5, 6]}), "row 1: rlnOriginXAngst .*None"),
    "NaN in optics": (
        star_text(star_columns(), OPTICS.replace("2.7", "nan")),
        "row 1: rlnSphericalAberration of data_o",
    ),
    "half set 3": (
        star_text(star_columns() | {"rlnRandomSubset": [1, 2, 1, 3, 1, 2]}),
        "row 4: rlnRandomSubset must be 0 or 1 or 2, not 3",
    ),
    "image number zero": (
        star_text(star_columns() | {"rlnImageName": ["0@particles.mrcs"] * N}),
        "row 1: rlnImageName",
    ),
    "no image number": (star_text(star_columns() | {"rlnImageName": ["particles.mrcs"] * N}), "NUMBER@STACK"),
    "image beyond the stack": (
        star_text(star_columns() | {"rlnImageName": [f"{k}@particles.mrcs" for k in (1, 2, 3, 7, 5, 6)]}),
        "row 4: there is no image 7 in .*, which holds 6",
    ),
    "tomography": (star_text(star_columns() | {"rlnTomoParticleName": ["a/1"] * N}), "from tomography"),
    "tomography of RELION 5": (
        star_text(star_columns(), OPTICS.replace("rlnImageSize", "rlnTomoTiltSeriesPixelSize")),
        "from tomography, .*export their tilt images as 2D particles",
    ),
    "subtomograms": (star_text(star_columns() | {"rlnCtfImage": ["a.mrc"] * N}), "are subtomograms"),
    "cisTEM": (
        star_text({"cisTEMPositionInStack": [1, 2], "cisTEMAnglePsi": [0, 0]}, optics="", block=""),
        "a STAR file of cisTEM, which is not read .*; export",
    ),
    "premultiplied": (
        star_text(star_columns() | {"rlnCtfDataAreCtfPremultiplied": [1] * N}),
        "were multiplied by their CTF",
    ),
    "missing stacks": (
        star_text(star_columns() | {"rlnImageName": [f"1@gone{k}.mrcs" for k in range(6)]}),
        r"6 of 6 image files are missing: gone0.mrcs, gone1.mrcs, gone2.mrcs, gone3.mrcs, gone4.mrcs, \.\.\.; "
        "give --stack FILE or --datadir FOLDER",
    ),
}


@pytest.mark.parametrize(("text", "message"), REFUSALS.values(), ids=REFUSALS)
def test_refusals(folder, text, message):
    with pytest.raises(InputError, match=message) as error:
        read(folder, text)
    assert str(error.value).startswith(str(folder / "particles.star"))
    assert str(error.value).count("\n") == 0 and len(str(error.value)) < 2500


def test_an_absent_file_is_a_sentence(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_particles(tmp_path / "gone.star")
    with pytest.raises(InputError, match=r"not read from \.emx; give a .star"):
        read_particles(tmp_path / "particles.emx")


def test_odd_box_is_refused(folder):
    write_images(folder / "particles.mrcs", box=9)
    with pytest.raises(InputError, match="odd side of 9 px"):
        read(folder, star_text(star_columns()))


def test_stacks_of_two_boxes_are_refused(folder):
    write_images(folder / "other.mrcs", box=16)
    names = ["1@particles.mrcs", "1@other.mrcs"] * 3
    with pytest.raises(InputError, match=r"has images of 8 px, .*of 16 px"):
        read(folder, star_text(star_columns() | {"rlnImageName": names}, OPTICS.replace("rlnImageSize", "rlnX")))


def test_flags_that_are_zero_are_no_obstacle(folder):
    columns = star_columns() | {"rlnCtfDataAreCtfPremultiplied": [0] * N, "rlnBeamTiltX": ["0.0"] * N}
    assert len(read(folder, star_text(columns))) == N


def test_beam_tilt_is_noted(folder):
    (note,) = read(folder, star_text(star_columns() | {"rlnBeamTiltX": [0.1] * N})).notes
    assert note.endswith("particles.star: rlnBeamTiltX is not modelled and will be ignored")


def test_all_columns_that_are_not_modelled_are_one_note(folder):
    columns = {"rlnBeamTiltX": [0.1] * N, "rlnBeamTiltY": [0] * N, "rlnOddZernike": ["[0.5]"] * N}
    (note,) = read(folder, star_text(star_columns() | columns | {"rlnMagMat00": [1.01] * N})).notes
    assert note.endswith("rlnBeamTiltX, rlnOddZernike, rlnMagMat00 are not modelled and will be ignored")


def test_one_optics_group_is_that_of_all_particles(folder):
    whole = read(folder, star_text(star_columns()))
    bare = star_text(without(star_columns(), "rlnOpticsGroup"))
    assert_same_particles(read(folder, bare), whole)
    assert_same_particles(
        read(folder, star_text(star_columns(), OPTICS.replace("rlnOpticsGroup #1", "rlnX #1"))), whole
    )
    assert whole.optics_group.tolist() == read(folder, bare).optics_group.tolist() == [1] * N


def test_group_name_stays_text_and_quotes_hold_spaces(folder):
    optics = OPTICS.replace("1 001", '1 "my group"')
    assert len(read(folder, star_text(star_columns(), optics))) == N


def test_byte_order_mark_and_windows_line_ends(folder):
    text = "\ufeff" + star_text(star_columns()).replace("\n", "\r\n")
    assert_same_particles(read(folder, text), read(folder, star_text(star_columns())))


def test_a_file_is_read_anew_when_it_was_mended(folder):
    """starfile reads lines through a cache, where they stay if it fails, or is interrupted."""
    good, path = star_text(star_columns()), folder / "particles.star"
    path.write_text(good[: good.index("000001@")] + "# nothing\n")
    with pytest.raises(ValueError, match="No columns"):
        starfile.read(path)
    assert_same_particles(read(folder, good), read(folder, "# as good\n" + good))


@pytest.mark.parametrize("codec", ["utf-7", "unicode_escape", "latin-1", "rot13", "ascii"])
def test_a_comment_that_names_a_codec_changes_nothing(folder, codec):
    """Python's cache of lines, through which starfile reads, heeds such comments as if the file were a program."""
    text = star_text(star_columns(name="p\u00e9.mrcs")).replace("15000", "1+ADk-000")
    write_images(folder / "p\u00e9.mrcs")
    with pytest.raises(InputError, match=r"rlnDefocusU is not a number: 1\+ADk-000"):
        read(folder, f"# coding: {codec}\n{text}")
    text = text.replace("1+ADk-000", "15000")
    assert read(folder, f"# coding: {codec}\n{text}").files[0].name == "p\u00e9.mrcs"


def test_one_file_by_several_names_is_one_file(folder):
    """As it is, through the folder, and by a link: so a particle in both half sets is noticed."""
    (folder / "link.mrcs").symlink_to("particles.mrcs")
    names = [f"{k % 2 + 1}@{name}particles.mrcs" for k, name in enumerate(["", "./", "../" + folder.name + "/", ""])]
    columns = {label: values[:5] for label, values in star_columns().items()}
    particles = read(folder, star_text(columns | {"rlnImageName": [*names, "1@link.mrcs"]}))
    assert particles.files == (folder / "particles.mrcs",) and set(particles.file_index) == {0}
    particles = dataclasses.replace(particles, half_set=np.array([1, 2, 2, 1, 2], np.int8))
    assert particle_alarms(particles, most_images=0)


def test_beam_tilt_that_is_no_number_is_no_obstacle(folder):
    assert len(read(folder, star_text(star_columns() | {"rlnBeamTiltX": ["nan"] * N}))) == N


def test_stack_stands_in_for_the_path_column(folder):
    images = write_images(folder / "elsewhere.mrcs", seed=8)
    particles = read(folder, star_text(star_columns(name="gone/x.mrcs")), stack=folder / "elsewhere.mrcs")
    np.testing.assert_array_equal(particles.images(), images)
    with pytest.raises(InputError, match="no such image stack; give --stack FILE"):
        read(folder, star_text(star_columns()), stack=folder / "gone.mrcs")


def test_one_stack_cannot_stand_in_for_two_with_the_same_numbers(folder):
    names = [f"{k // 2 + 1}@{'ab'[k % 2]}.mrcs" for k in range(N)]
    with pytest.raises(InputError, match="image numbers repeat over 2 stacks"):
        read(folder, star_text(star_columns() | {"rlnImageName": names}), stack=folder / "particles.mrcs")


class TestOptions:
    def test_pixel_size_and_sign_override(self, folder):
        particles = read(folder, star_text(star_columns()), pixel_size=3.0, data_sign=-1)
        assert particles.pixel_size == 3.0 and particles.data_sign.tolist() == [-1] * N
        np.testing.assert_array_equal(particles.images(), -write_images(folder / "particles.mrcs"))

    @pytest.mark.parametrize("options", [{"data_sign": 0}, {"data_sign": 2}, {"pixel_size": -1.0}, {"pixel_size": 0.0}])
    def test_impossible_overrides(self, folder, options):
        with pytest.raises(InputError, match="must be"):
            read(folder, star_text(star_columns()), **options)

    def test_indices_keep_their_order_and_know_their_rows(self, folder):
        particles = read(folder, star_text(star_columns()), indices=write_pickle(folder / "ind.pkl", [4, 0, 3]))
        assert particles.source_row.tolist() == particles.image_index.tolist() == [4, 0, 3]
        np.testing.assert_array_equal(particles.ctf.defocus_u, [15004, 15000, 15003])

    def test_files_of_rows_left_out_need_not_exist(self, folder):
        names = ["1@particles.mrcs", "2@gone.mrcs"] * 3
        indices = write_pickle(folder / "ind.pkl", np.array([2, 0]))
        particles = read(folder, star_text(star_columns() | {"rlnImageName": names}), indices=indices)
        assert particles.files == (folder / "particles.mrcs",)


@needs_data
class TestRealFiles:
    def test_trpv1_names_a_stack_that_is_not_there(self):
        with pytest.raises(InputError, match=r"1 of 1 image files are missing: ./batch_0_restacked.mrc; give"):
            read_particles(TRPV1)

    def test_trpv1_with_its_stack(self):
        particles = read_particles(TRPV1, stack=TRPV1.with_suffix(".mrcs"))
        assert (len(particles), particles.box_size, particles.pixel_size) == (10, 48, 4.88)
        assert particles.half_set.tolist() == [2, 1] * 5
        assert particles.shifts_angstrom[0].tolist() == [-8.149219, -6.120969]
        assert particles.ctf.amplitude_contrast.tolist() == [0.1] * 10
        assert particles.images().shape == (10, 48, 48)

    def test_trpv1_rows_are_kept(self, tmp_path):
        particles = read_particles(TRPV1, stack=TRPV1.with_suffix(".mrcs"))
        write_with_half_sets(TRPV1, tmp_path / "run_data.star", particles)
        assert_same_particles(read_particles(tmp_path / "run_data.star"), particles)
        strip = [line.partition(" ")[2] for line in TRPV1.read_text().splitlines() if "@" in line]
        kept = [line.partition(" ")[2] for line in (tmp_path / "run_data.star").read_text().splitlines() if "@" in line]
        assert kept == strip

    def test_ten_thousand_seventy_six(self, tmp_path):
        particles = read_particles(SEVEN)
        rows = np.load(SEVEN.parent / "poses_ctf_7.npz")
        assert particles.rotations is None and particles.box_size == 320
        assert particles.pixel_size == pytest.approx(1.31, rel=1e-5)
        for column, name in ((2, "defocus_u"), (3, "defocus_v"), (4, "defocus_angle"), (5, "voltage_kv")):
            np.testing.assert_allclose(getattr(particles.ctf, name), rows["ctf"][:, column], rtol=1e-6)
        shutil.copy(SEVEN, tmp_path)
        assert len(read_particles(tmp_path / SEVEN.name, datadir=os.path.relpath(SEVEN.parent))) == 7
