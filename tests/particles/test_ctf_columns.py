"""CTF columns of every format: units and signs that nobody's microscope has are named, odd rows are noted."""

import re

import numpy as np
import pytest
import test_cryodrgn as pickles
import test_cryosparc as cs
import test_relion as star
from particle_files import N, star_columns, star_text, write_images, write_pickle

from gsworkbench.errors import InputError
from gsworkbench.imaging.ctf import ctf_grid
from gsworkbench.particles.formats.ctf_columns import is_no_ctf, no_ctf
from gsworkbench.particles.read import read_particles

STAR = {
    "defocus_u": "rlnDefocusU", "defocus_v": "rlnDefocusV", "defocus_angle": "rlnDefocusAngle", "kv": "rlnVoltage",
    "cs": "rlnSphericalAberration", "contrast": "rlnAmplitudeContrast", "phase_shift": "rlnPhaseShift",
    "b_factor": "rlnCtfBfactor", "scale": "rlnCtfScalefactor",
}  # fmt: skip
CS = {
    "defocus_u": "ctf/df1_A", "defocus_v": "ctf/df2_A", "defocus_angle": "ctf/df_angle_rad", "kv": "ctf/accel_kv",
    "cs": "ctf/cs_mm", "contrast": "ctf/amp_contrast", "phase_shift": "ctf/phase_shift_rad",
    "b_factor": "ctf/bfactor", "scale": "ctf/scale",
}  # fmt: skip
PKL = ["defocus_u", "defocus_v", "defocus_angle", "kv", "cs", "contrast", "phase_shift"]
PKL_NAMES = dict(
    zip(
        PKL,
        ["defocus U", "defocus V", "defocus angle", "voltage", "Cs", "amplitude contrast", "phase shift"],
        strict=True,
    )
)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "J1").mkdir()
    for stack in ("particles.mrcs", "J1/particles.mrcs"):
        write_images(tmp_path / stack)
    write_pickle(tmp_path / "poses.pkl", (pickles.ROTATIONS, pickles.SHIFTS))
    return tmp_path


def reader(folder, form, values):
    """Read a set whose CTF columns hold `values` (one number, or N); return the stack, or raise InputError."""
    columns = {name: np.broadcast_to(np.asarray(value, float), N) for name, value in values.items()}
    if form == "star":
        return read_particles(star.write(folder, star_text(star_columns() | {STAR[k]: v for k, v in columns.items()})))
    if form == "cs":
        return read_particles(cs.write(folder, cs.EVERYTHING | {CS[k]: np.float32(v) for k, v in columns.items()}))
    table = pickles.CTF.astype(float)
    for name, column in columns.items():
        table[:, 2 + PKL.index(name)] = column
    ctf = write_pickle(folder / "ctf.pkl", table)
    return read_particles(folder / "particles.mrcs", poses=folder / "poses.pkl", ctf=ctf)


def name_of(form, quantity):
    return {"star": STAR, "cs": CS, "pkl": PKL_NAMES}[form][quantity]


FORMS = ["star", "cs", "pkl"]
UNITS = {
    "micrometres": ({"defocus_u": 2.05, "defocus_v": 1.9}, "defocus_u", "looks like micrometres; .*by 10,000"),
    "micrometres, close to focus": ({"defocus_u": 0.3, "defocus_v": 0.31}, "defocus_u", "looks like micrometres"),
    "nanometres": (
        {"defocus_u": 812, "defocus_v": 799, "phase_shift": 0}, "defocus_u", "looks like nanometres; .*by 10$",
    ),
    "metres": ({"defocus_u": 1.6e-6, "defocus_v": 1.5e-6}, "defocus_u", "looks like metres"),
    "picometres": ({"defocus_u": 1.6e6, "defocus_v": 1.5e6}, "defocus_u", "looks like picometres; .*divide .*by 100$"),
    "defocus that nobody takes": ({"defocus_u": 150_000}, "defocus_u", "no image is taken at such a defocus"),
    "V alone in micrometres": ({"defocus_v": 1.7}, "defocus_v", "looks like micrometres"),
    "V of zeros": ({"defocus_v": 0}, "defocus_v", "is 0 in every row and .*leave the column out"),
    "overfocus throughout": ({"defocus_u": -15000, "defocus_v": -14000}, "defocus_u", "opposite sign .*by -1"),
    "volts": ({"kv": 200_000}, "kv", "between 10 and 2000 kV, not 200000; it looks like volts: .*by 1,000"),
    "megavolts": ({"kv": 0.3}, "kv", "not 0.3; it looks like megavolts"),
    "Cs in um": ({"cs": 1400}, "cs", "not 1400; it looks like micrometres: .*divide the column by 1,000"),
    "Cs in A": ({"cs": 2.7e7}, "cs", "it looks like A: Cs is in mm here, divide the column by 1e7"),
    "Cs in nm": ({"cs": 2.7e6}, "cs", "it looks like nanometres: .*by 1e6"),
    "Cs in m": ({"cs": 0.0027}, "cs", "it looks like metres: .*multiply the column by 1,000"),
    "Cs negative": ({"cs": -2.7}, "cs", "in mm, from 0 to 20, not -2.7"),
    "percent": ({"contrast": 7}, "contrast", "a fraction from 0 to 1, not 7; it looks like percent: divide"),
    "contrast negative": ({"contrast": -0.1}, "contrast", "not -0.1; it is positive here"),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("what", UNITS)
def test_units_and_signs_are_named(folder, form, what):
    values, quantity, message = UNITS[what]
    with pytest.raises(InputError) as error:
        reader(folder, form, values)
    assert name_of(form, quantity) in str(error.value)
    assert re.search(message, str(error.value).rstrip(".")), str(error.value)


LEGAL = {
    "close to focus with a phase plate": {"defocus_u": 500, "defocus_v": 520, "phase_shift": 1.2},
    "far": {"defocus_u": 95_000, "defocus_v": 94_000},
    "a corrected microscope": {"cs": 0.01},
    "a better corrected one": {"cs": -0.001},
    "no Cs": {"cs": 0},
    "no contrast from amplitude": {"contrast": 0},
    "120 kV": {"kv": 120},
    "V above U": {"defocus_u": 15_000, "defocus_v": 16_000},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("what", LEGAL)
def test_what_microscopes_have_is_read_without_a_word(folder, form, what):
    assert reader(folder, form, LEGAL[what]).notes == ()


@pytest.mark.parametrize("form", FORMS)
def test_odd_rows_are_noted_and_stop_nobody(folder, form):
    defocus = [15000, -200, 14000, 13000, 250_000, 12000]
    first = reader(folder, form, {"defocus_u": defocus, "defocus_v": np.abs(defocus) / -2 + 20_000}).notes
    over = [-15000 if k == 3 else 15000 for k in range(N)]
    second = reader(folder, form, {"defocus_u": over, "defocus_v": over}).notes
    assert any("above 100,000 A in 1 of 6 rows, first row 5" in note for note in first)
    assert len(second) == 1 and "overfocus, in 1 of 6 rows, first row 4" in second[0]


@pytest.mark.parametrize("form", FORMS)
def test_a_little_defocus_is_noted(folder, form):
    values = {"defocus_u": 2050, "defocus_v": 1990, "phase_shift": 0}
    assert ["2,050 A in the median" in note for note in reader(folder, form, values).notes] == [True]
    (note,) = reader(folder, form, {"defocus_u": 0, "defocus_v": 0}).notes
    assert "need --no-ctf" in note


@pytest.mark.parametrize(("form", "factor"), [("star", 1.0), ("pkl", 1.0), ("cs", np.pi / 180)])
def test_angles_beyond_two_turns_are_refused(folder, form, factor):
    assert len(reader(folder, form, {"defocus_angle": -359.0 * factor})) == N
    for quantity in ("defocus_angle", "phase_shift"):
        with pytest.raises(InputError, match=r"row 2: .*within two turns .*radians in .cs files"):
            reader(folder, form, {quantity: [0, 1000 * factor, 0, 0, 0, 0]})


@pytest.mark.parametrize("form", ["star", "cs"])
def test_envelopes_that_grow_are_refused(folder, form):
    with pytest.raises(InputError, match=r"row 2: .* is -13 A\^2, and negative in 5 of 6 rows: .*-1 to have damage"):
        reader(folder, form, {"b_factor": [-13.0 * k for k in range(N)]})
    with pytest.raises(InputError, match=r"row 4: .* is -120 A\^2, and negative in 1 of 6"):
        reader(folder, form, {"b_factor": [50, 50, 50, -120, 50, 50]})
    (note,) = reader(folder, form, {"b_factor": [50, 50, 50, -12, 50, 50]}).notes  # the scatter of a fit
    assert "slightly negative, an envelope that grows, in 1 of 6 rows, first row 4" in note
    assert reader(folder, form, {"b_factor": [13.0 * k for k in range(N)]}).ctf.b_factor[5] == 65
    with pytest.raises(InputError, match=r"at most 10,000 A\^2"):
        reader(folder, form, {"b_factor": 1e6})


@pytest.mark.parametrize("form", ["star", "cs"])
@pytest.mark.parametrize("value", [0, -1, 1e-4, 2e3])
def test_scales_that_are_none(folder, form, value):
    with pytest.raises(InputError, match=f"row 3: {name_of(form, 'scale')} must be between 0.001 and 1000, not"):
        reader(folder, form, {"scale": [1, 1, value, 1, 1, 1]})
    assert len(reader(folder, form, {"scale": [1, 1, 0.5, 1, 2, 1]})) == N


def test_no_ctf_is_one_at_every_frequency():
    ctf = no_ctf(3)
    assert is_no_ctf(ctf)
    np.testing.assert_allclose(ctf_grid(ctf, 16, 1.1).numpy(), 1, atol=1e-6)


ODD = [np.nan, np.inf, -np.inf, 0.0, -1.0, 1e-9, 1e9, -1e9, 1e38]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rows", ["one", "all"])
def test_whatever_numbers_columns_hold_there_is_a_stack_or_a_sentence(folder, form, rows):
    for quantity in PKL if form == "pkl" else STAR:
        for value in ODD:
            sound = 1.0 if quantity == "scale" else 15000.0 if quantity.startswith("defocus_") else 0.1
            column = np.full(N, value) if rows == "all" else np.array([sound, value, *[sound] * (N - 2)])
            try:
                stack = reader(folder, form, {quantity: column})
            except InputError as error:
                assert str(error).count("\n") == 0
            else:
                assert np.isfinite(ctf_grid(stack.ctf, 8, 2.5).numpy()).all(), (quantity, value)


TEXTS = ["nan", "inf", "0", "-1", "1e-9", "1e9", "text", '""', "<NA>", "1,5", "0x10", "1_0", "9" * 400]


@pytest.mark.parametrize("label", [*star_columns(), *STAR.values(), "rlnClassNumber", "rlnNormCorrection",
                                   "rlnHelicalTubeID", "rlnImageSize", "rlnImagePixelSize", "rlnMagMat00",
                                   "rlnOriginX", "rlnGroupName"])  # fmt: skip
def test_whatever_text_columns_hold_there_is_a_stack_or_a_sentence(folder, label):
    for text in TEXTS:
        for values in ([text] * N, [text, *["1"] * (N - 1)]):
            try:
                read_particles(star.write(folder, star_text(star_columns() | {label: values}))).specimens()
            except InputError as error:
                assert str(error).count("\n") == 0


FIELDS = [*cs.EVERYTHING, *CS.values(), "alignments3D/class", "alignments3D/alpha", "filament/filament_uid"]


@pytest.mark.parametrize("name", [name for name in FIELDS if name not in ("uid", "blob/path")])
def test_whatever_fields_hold_there_is_a_stack_or_a_sentence(folder, name):
    shape = cs.EVERYTHING.get(name, np.zeros(N)).shape
    odd = [np.full(shape, value, np.float32) for value in ODD]
    odd += [
        np.zeros(shape, "S4"),
        np.zeros(shape, "U4"),
        np.zeros(shape, "?"),
        np.zeros((*shape, 2)),
        np.zeros(shape, "c8"),
    ]
    for values in odd:
        try:
            read_particles(cs.write(folder, cs.EVERYTHING | {name: values})).specimens()
        except InputError as error:
            assert str(error).count("\n") == 0
