"""cryoDRGN's pickles: units by convention, counts compared, and nothing in a pickle ever run."""

import dataclasses
import io
import os
import pickle
import pickletools
import struct
import subprocess
import sys

import numpy as np
import pytest
from particle_files import (
    BOX,
    PIXEL_SIZE,
    SEVEN,
    N,
    assert_same_particles,
    make_stack,
    needs_data,
    star_columns,
    star_text,
    write_images,
    write_pickle,
)

from gsworkbench.errors import InputError
from gsworkbench.io.pickles import load_arrays
from gsworkbench.particles.formats.cryodrgn import read_ctf, read_indices, read_poses, write_cryodrgn_pickles
from gsworkbench.particles.formats.relion import write_star, write_with_half_sets
from gsworkbench.particles.read import read_particles

ROTATIONS = np.tile(np.eye(3, dtype=np.float32), (N, 1, 1))
SHIFTS = np.full((N, 2), 0.25, np.float32)
CTF_ROW = [2 * BOX, PIXEL_SIZE / 2, 15000, 14000, 30, 300, 2.7, 0.1, 90]  # of images at twice the box
CTF = np.tile(np.array(CTF_ROW, np.float32), (N, 1))


@pytest.fixture
def folder(tmp_path):
    write_images(tmp_path / "particles.mrcs")
    write_pickle(tmp_path / "poses.pkl", (ROTATIONS, SHIFTS))
    write_pickle(tmp_path / "ctf.pkl", CTF)
    return tmp_path


def read(folder, path="particles.mrcs", **options):
    return read_particles(folder / path, **{"poses": folder / "poses.pkl", "ctf": folder / "ctf.pkl"} | options)


def test_units_by_convention(folder):
    particles = read(folder)
    assert particles.pixel_size == PIXEL_SIZE  # scaled from twice the box at half the pixel size
    np.testing.assert_allclose(particles.shifts_angstrom, 0.25 * BOX * PIXEL_SIZE)  # fractions of the box
    np.testing.assert_array_equal(particles.rotations, ROTATIONS)
    ctf = particles.ctf
    first = [ctf.defocus_u, ctf.defocus_v, ctf.defocus_angle, ctf.voltage_kv, ctf.spherical_aberration_mm]
    np.testing.assert_allclose([column[0] for column in first], CTF_ROW[2:7], rtol=1e-7)
    assert ctf.phase_shift.tolist() == [90] * N and ctf.scale.tolist() == [1] * N
    assert particles.data_sign.tolist() == [1] * N and not particles.half_set.any()


def test_pixel_size_override_scales_the_shifts(folder):
    np.testing.assert_allclose(read(folder, pixel_size=4.0).shifts_angstrom, 0.25 * BOX * 4.0)


@pytest.mark.parametrize("poses", [(ROTATIONS,), ROTATIONS])
def test_poses_without_shifts(folder, poses):
    write_pickle(folder / "poses.pkl", poses)
    assert not read(folder).shifts_angstrom.any()


def test_text_list_of_stacks_is_relative_to_itself(folder, monkeypatch):
    (folder / "sub").mkdir()
    second = write_images(folder / "sub" / "second.mrcs", 2, seed=4)
    (folder / "sub" / "list.txt").write_text("../particles.mrcs\n\nsecond.mrcs\n")
    write_pickle(folder / "poses.pkl", np.tile(np.eye(3), (N + 2, 1, 1)))
    write_pickle(folder / "ctf.pkl", np.tile(CTF[:1], (N + 2, 1)))
    particles = read(folder, "sub/list.txt")
    np.testing.assert_array_equal(particles.images()[N:], second)
    assert particles.source_row.tolist() == list(range(N + 2))


def test_text_list_names_a_stack_once_and_one_that_exists(folder):
    (folder / "list.txt").write_text("particles.mrcs\nparticles.mrcs\n")
    with pytest.raises(InputError, match="row 2: the stack is listed twice"):
        read(folder, "list.txt")
    (folder / "list.txt").write_text("gone.mrcs\n")
    with pytest.raises(InputError, match=r"1 of 1 image files are missing: gone.mrcs"):
        read(folder, "list.txt")
    (folder / "list.txt").write_text("\n")
    with pytest.raises(InputError, match="no particles"):
        read(folder, "list.txt")


@pytest.mark.parametrize("missing", ["poses", "ctf"])
def test_images_alone_are_not_enough(folder, missing):
    with pytest.raises(InputError, match="give --poses FILE and --ctf FILE"):
        read(folder, **{missing: None})


def test_counts_that_differ_are_all_printed(folder):
    write_pickle(folder / "poses.pkl", (ROTATIONS[:4], SHIFTS[:4]))
    with pytest.raises(InputError, match=r"particles.mrcs: 6 particles here but 4 in .*poses.pkl, 6 in .*ctf.pkl; one"):
        read(folder)


def test_pickles_go_before_the_columns_of_a_star(folder):
    (folder / "particles.star").write_text(star_text(star_columns()))
    particles = read(folder, "particles.star")
    np.testing.assert_array_equal(particles.rotations, ROTATIONS)
    np.testing.assert_allclose(particles.ctf.phase_shift, 90)
    assert particles.half_set.tolist() == [1, 2] * (N // 2)
    bare = {"rlnImageName": star_columns()["rlnImageName"]}  # a STAR of names alone is usual with pickles
    (folder / "bare.star").write_text(star_text(bare, optics=""))
    assert_same_particles(read(folder, "bare.star"), particles)


def test_run_data_of_pickles_reads_the_same(folder):
    particles = read(folder).with_half_sets(0)
    write_with_half_sets(folder / "particles.mrcs", folder / "out" / "run_data.star", particles)
    again = read_particles(folder / "out" / "run_data.star")
    assert_same_particles(again, particles)
    assert again.half_set.tolist() == particles.half_set.tolist()


def test_pickles_written_read_as_the_star_does(tmp_path):
    stack = make_stack(tmp_path)
    write_cryodrgn_pickles(tmp_path / "poses.pkl", tmp_path / "ctf.pkl", stack)
    write_star(tmp_path / "x.star", stack)
    pickled = read(tmp_path)
    np.testing.assert_allclose(pickled.rotations, stack.rotations, atol=1e-7)
    np.testing.assert_allclose(pickled.shifts_angstrom, stack.shifts_angstrom, atol=1e-5)
    np.testing.assert_allclose(pickled.ctf.defocus_u, read_particles(tmp_path / "x.star").ctf.defocus_u, atol=1e-3)
    assert pickle.loads((tmp_path / "ctf.pkl").read_bytes()).dtype == np.float32


def test_what_pickles_cannot_hold_is_not_written(tmp_path):
    stack = make_stack(tmp_path)
    for broken in (
        dataclasses.replace(stack, rotations=None),
        dataclasses.replace(stack, ctf=dataclasses.replace(stack.ctf, b_factor=np.ones(N))),
        dataclasses.replace(stack, ctf=dataclasses.replace(stack.ctf, scale=np.full(N, 0.5))),
    ):
        with pytest.raises(InputError):
            write_cryodrgn_pickles(tmp_path / "poses.pkl", tmp_path / "ctf.pkl", broken)
    assert not list(tmp_path.glob("*.pkl"))


def changed(array, at, value):
    array = array.copy()
    array[at] = value
    return array


POSES_REFUSED = {
    "mirror": ((changed(ROTATIONS, (3, 2, 2), -1), SHIFTS), "row 4: the matrix is not a rotation"),
    "not orthogonal": ((changed(ROTATIONS, (1, 0, 1), 0.3), SHIFTS), "row 2: the matrix is not a rotation"),
    "NaN": ((changed(ROTATIONS, (2, 0, 0), np.nan), SHIFTS), "row 3: rotation is not a number"),
    "NaN shift": ((ROTATIONS, changed(SHIFTS, (5, 1), np.nan)), "row 6: shift is not a number"),
    "pixels": (
        (ROTATIONS, changed(SHIFTS, (0, 1), -3.0)),
        "row 1: the shift exceeds the box; shifts must be fractions",
    ),
    "two counts": ((ROTATIONS, SHIFTS[:2]), r"here the shapes are \(6, 3, 3\), \(2, 2\)"),
    "three arrays": ((ROTATIONS, SHIFTS, SHIFTS), "poses are arrays"),
    "Euler angles": (SHIFTS, r"the shapes are \(6, 2\)"),
    "number": (3.0, r"the shapes are \(\)"),
    "empty tuple": ((), "the shapes are none"),
}


@pytest.mark.parametrize(("value", "message"), POSES_REFUSED.values(), ids=POSES_REFUSED)
def test_poses_refused(tmp_path, value, message):
    with pytest.raises(InputError, match=message):
        read_poses(write_pickle(tmp_path / "poses.pkl", value))


CTF_REFUSED = {
    "NaN phase shift": (changed(CTF, (2, 8), np.nan), "row 3: phase shift is not a number"),
    "NaN defocus": (changed(CTF, (0, 2), np.inf), "row 1: defocus U is not a number"),
    "eight columns": (CTF[:, :8], r"one array \(N, 9\), not an array \(6, 8\)"),
    "two boxes": (changed(CTF, (4, 0), 64), "row 5: box size is 16 in row 1 and 64 here"),
    "two pixel sizes": (changed(CTF, (1, 1), 9.0), "row 2: pixel size is 1.25 in row 1 and 9 here"),
    "pixel size zero": (changed(CTF, (slice(None), 1), 0), "row 1: pixel size must be positive"),
    "contrast": (changed(CTF, (3, 7), 10), "row 4: amplitude contrast must be a fraction from 0 to 1, not 10"),
    "voltage": (changed(CTF, (3, 5), 0), "row 4: voltage must be between"),
    "poses instead": ((ROTATIONS, SHIFTS), r"one array \(N, 9\), not a tuple"),
}


@pytest.mark.parametrize(("value", "message"), CTF_REFUSED.values(), ids=CTF_REFUSED)
def test_ctf_refused(tmp_path, value, message):
    with pytest.raises(InputError, match=message):
        read_ctf(write_pickle(tmp_path / "ctf.pkl", value))


@pytest.mark.parametrize(
    "value", [[5, 0, 3], np.array([5, 0, 3]), np.array([5, 0, 3], np.uint16), list(np.array([5, 0, 3]))]
)
def test_indices_may_be_a_list_and_unsorted(tmp_path, value):
    assert read_indices(write_pickle(tmp_path / "ind.pkl", value), 6).tolist() == [5, 0, 3]


INDICES_REFUSED = {
    "repeated": ([4, 1, 2, 1], "row 4: the index stands here for the second time"),
    "beyond": ([0, 6], "row 2: the index is not one of 6 particles"),
    "negative": (np.array([0, 1, -1]), "row 3: the index is not one of 6"),
    "fractions": (np.array([0.0, 1.0]), "no list of particle indices"),
    "mask": (np.array([True, False]), "no list of particle indices"),
    "table": (np.zeros((2, 2), int), "no list of particle indices"),
    "none": ([], "no list of particle indices"),
    "poses": ((ROTATIONS, SHIFTS), "no list of particle indices"),
    "nested": ([[1, 2]], "holds a list where an array belongs"),
}


@pytest.mark.parametrize(("value", "message"), INDICES_REFUSED.values(), ids=INDICES_REFUSED)
def test_indices_refused(tmp_path, value, message):
    with pytest.raises(InputError, match=message):
        read_indices(write_pickle(tmp_path / "ind.pkl", value), 6)


_DOUBLED = b")" + b"2\x86" * 60  # a tuple that holds another twice, and that another twice, sixty deep
_FROMBUFFER = b"cnumpy.core.numeric\n_frombuffer\n"
_NUMBERS = b"cnumpy\ndtype\nU\x02f8\x85R"
_HIDDEN = b"r" + struct.pack("<I", 2**24) + b"."
SHORT_PROGRAMS = {
    # The C unpickler drops the rest of an outer frame, and would ask for a memo of 2**24 places.
    "overlapping frames": b"\x80\x04N\x95" + struct.pack("<Q", 11) + b"\x95" + struct.pack("<Q", 6)
    + b"C\x06" + _HIDDEN + b".",
    "text encoded again and again": b"\x80\x02c_codecs\nencode\nq\x00(T" + struct.pack("<I", 20_000) + b"x" * 20_000
    + b"U\x06latin1tq\x01" + b"h\x00h\x01R" * 20_000 + b".",
    "deep key": b"\x80\x02})" + b"\x85" * 300_000 + b"Ns.",
    "doubled key": b"\x80\x02}" + _DOUBLED + b"Ns.",
    "doubled member": b"\x80\x04\x8f(" + _DOUBLED + b"\x90.",
    "doubled type": b"\x80\x02cnumpy\ndtype\n" + _DOUBLED + b"\x85R.",
    "doubled codec": b"\x80\x02c_codecs\nencode\n(U\x01a" + _DOUBLED + b"tR.",
    "compared shapes": b"\x80\x02" + _FROMBUFFER + b"(U\x08abcdefgh" + _NUMBERS + _DOUBLED * 2 + b"\x86U\x01CtR.",
    "long shape": b"\x80\x02" + _FROMBUFFER + b"(U\x08abcdefgh" + _NUMBERS
    + b"(\x8b" + struct.pack("<i", 3000) + b"\x7f" * 3000 + b"2" * 3000 + b"tU\x01CtR.",
    "attributes of a stand-in": b"c_codecs\nencode\n(N}U\x03boo]stb0K\x01.",
}  # fmt: skip


class TestPickles:
    @pytest.mark.parametrize("protocol", range(6))
    @pytest.mark.parametrize("core", ["numpy.core", "numpy._core"])
    def test_arrays_of_every_protocol_and_numpy(self, tmp_path, protocol, core):
        rng = np.random.default_rng(0)
        value = (
            rng.normal(size=(3, 2)),
            np.asfortranarray(rng.normal(size=(2, 3)).astype("f4")),
            np.arange(4),
            np.float32(2),
        )
        data = pickle.dumps(value, protocol)
        renamed = renamed_modules(data, core)
        (tmp_path / "x.pkl").write_bytes(renamed)
        read = load_arrays(tmp_path / "x.pkl")
        for ours, original in zip(read, value, strict=True):
            np.testing.assert_array_equal(ours, original)
            assert np.asarray(ours).dtype == original.dtype

    @pytest.mark.parametrize("dtype", [">f4", ">i8", "?", "<f2", "u1"])
    def test_kinds_of_number(self, tmp_path, dtype):
        value = np.arange(6).reshape(2, 3).astype(dtype)
        np.testing.assert_array_equal(load_arrays(write_pickle(tmp_path / "x.pkl", value)), value)

    def test_an_evil_pickle_runs_nothing(self, tmp_path):
        marker = tmp_path / "executed"
        for protocol in range(6):
            path = write_pickle(tmp_path / "poses.pkl", Evil(os.mkdir, str(marker)), protocol)
            with pytest.raises(
                InputError, match=r"asks for .*mkdir, and only plain NumPy arrays.*nothing in it was run"
            ):
                read_poses(path)
            assert not marker.exists()
        pickle.loads(path.read_bytes())  # the same bytes do run under a plain unpickler
        assert marker.exists()

    @pytest.mark.parametrize(
        "function", [eval, exec, getattr, __import__, open, np.load, np.fromfile, np.memmap, np.zeros]
    )
    def test_no_callable_is_reached(self, tmp_path, function):
        with pytest.raises(InputError, match="asks for"):
            load_arrays(write_pickle(tmp_path / "x.pkl", Evil(function, "1")))

    def test_call_hidden_behind_good_arrays(self, tmp_path):
        marker = tmp_path / "executed"
        with pytest.raises(InputError, match="asks for"):
            load_arrays(write_pickle(tmp_path / "x.pkl", (ROTATIONS, SHIFTS, Evil(os.mkdir, str(marker)))))
        assert not marker.exists()

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            (np.array([1.5, None], object), "holds values of type 'O8'"),
            (np.array([{}, None], object), "holds a dictionary"),
            (np.zeros(3, [("x", "f4")]), "or an array of records"),
            (np.array(["a", "bc"]), "holds values of type 'U2'"),
            (np.array(["2020-01-01"], "M8[D]"), "holds values of type 'M8'"),
            (np.zeros(2, complex), "holds values of type 'c16'"),
            ({"rot": ROTATIONS}, "holds a dictionary"),
            ({1, 2}, "holds a dictionary, a set"),
            ("text", "holds a str"),
            (None, "holds a NoneType"),
            ([1, "2"], "holds a str"),
            (dataclasses.make_dataclass("Local", []), "asks for"),
        ],
    )
    def test_other_values_are_refused(self, tmp_path, value, message):
        if isinstance(value, type):
            value = io.StringIO  # any class will do
        with pytest.raises(InputError, match=message):
            load_arrays(write_pickle(tmp_path / "x.pkl", value))

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"not a pickle",
            pickle.dumps(ROTATIONS)[:-20],
            b"\x80\x04" + b"\x8e" + struct.pack("<Q", 2**40) + b"short.",  # a byte string of a terabyte
            b"\x80\x04" + b"]" + b"r" + struct.pack("<I", 2**31) + b".",  # a memo of two thousand million places
            b"\x80\x04" + b"(" * 100_000 + b"t" * 100_000 + b".",
            b"\x80\x04\x82\x01.",  # a registered extension
            b"\x80\x04Nb.",
            b"\x80\x04Q.",  # a persistent object
        ],
        ids=["empty", "text", "truncated", "bytes", "memo", "nested", "extension", "build", "persistent"],
    )
    def test_damaged_and_forged_pickles(self, tmp_path, data):
        (tmp_path / "x.pkl").write_bytes(data)
        with pytest.raises(InputError):
            load_arrays(tmp_path / "x.pkl")

    @pytest.mark.parametrize("program", SHORT_PROGRAMS.values(), ids=SHORT_PROGRAMS)
    def test_short_programs_stay_small(self, tmp_path, program):
        """In a process of its own: one of them overflowed the stack."""
        (tmp_path / "x.pkl").write_bytes(program)
        code = "import resource, sys; resource.setrlimit(resource.RLIMIT_CPU, (20, 20))\n"
        code += "from gsworkbench.io.pickles import InputError, load_arrays\n"
        code += "import tracemalloc; tracemalloc.start()\n"
        code += "try: load_arrays(sys.argv[1]); sys.exit('it was read')\n"
        code += "except InputError as error: print(len(str(error)), tracemalloc.get_traced_memory()[1])"
        command = [sys.executable, "-c", code, tmp_path / "x.pkl"]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
        length, peak = map(int, ran.stdout.split())
        assert length < 1000 and peak < 2**20 + 200 * len(program)

    def test_one_array_a_thousand_times(self, tmp_path):
        array = np.zeros(1000)
        with pytest.raises(InputError, match="more memory than its size explains"):
            load_arrays(write_pickle(tmp_path / "x.pkl", [array] * 1000))
        assert len(load_arrays(write_pickle(tmp_path / "x.pkl", [array, array.copy()]))) == 2

    @pytest.mark.parametrize("shape", [(10**12,), (10**6, 10**6), (-1, -6), (5,), (2.5,), "ab"])
    def test_shape_that_the_bytes_do_not_fill(self, tmp_path, shape):
        path = write_pickle(tmp_path / "x.pkl", Forged(shape))
        with pytest.raises(InputError):
            load_arrays(path)

    def test_absent_file(self, tmp_path):
        with pytest.raises(InputError, match="cannot be read"):
            load_arrays(tmp_path / "gone.pkl")


class Evil:
    """Pickles as a call of `function`."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


class Forged:
    """Pickles as an array of six bytes that claims another shape."""

    def __init__(self, shape):
        self.shape = shape

    def __reduce__(self):
        build, arguments, _ = np.zeros(1).__reduce__()
        return build, arguments, (1, self.shape, np.dtype("u1"), False, bytes(6))


def renamed_modules(data, core):
    """Return the pickle with the modules that NumPy 1 or 2 would write, its lengths corrected."""
    this = np.zeros(1).__reduce__()[0].__module__.rsplit(".", 1)[0].encode()
    if this == core.encode():
        return data
    out, previous = bytearray(), 0
    for opcode, argument, position in pickletools.genops(data):
        if isinstance(argument, str) and this.decode() in argument and opcode.name.endswith("UNICODE"):
            new = argument.replace(this.decode(), core).encode()
            out += data[previous:position] + b"\x8c" + bytes([len(new)]) + new
            width = {"SHORT_BINUNICODE": 2, "BINUNICODE": 5}[opcode.name]
            previous = position + width + len(argument.encode())
        elif opcode.name == "GLOBAL" and this.decode() in argument:
            module, name = argument.split(" ")
            out += data[previous:position] + f"c{module.replace(this.decode(), core)}\n{name}\n".encode()
            previous = position + len(module) + len(name) + 3
        elif opcode.name == "FRAME":  # lengths change, and frames are optional
            out += data[previous:position]
            previous = position + 9
    return bytes(out + data[previous:])


@needs_data
def test_ten_thousand_seventy_six_with_its_consensus_poses(tmp_path):
    rows = np.load(SEVEN.parent / "poses_ctf_7.npz")
    options = {
        "poses": write_pickle(tmp_path / "poses.pkl", (rows["rot"], rows["trans"])),
        "ctf": write_pickle(tmp_path / "ctf.pkl", rows["ctf"]),
    }
    from_star, from_cs, from_stack = (
        read_particles(SEVEN.with_suffix(suffix), data_sign=-1, **options) for suffix in (".star", ".cs", ".mrc")
    )
    assert_same_particles(from_star, from_stack)
    assert_same_particles(from_cs, from_stack)
    assert from_stack.pixel_size == pytest.approx(1.31, rel=1e-6)  # 256 px at 1.6375 A, here 320 px
    np.testing.assert_allclose(from_stack.shifts_angstrom, rows["trans"] * 256 * 1.6375, rtol=1e-6)
    own = read_particles(SEVEN)
    np.testing.assert_allclose(from_stack.ctf.defocus_u, own.ctf.defocus_u, rtol=1e-6)
    np.testing.assert_allclose(from_stack.ctf.amplitude_contrast, own.ctf.amplitude_contrast, rtol=1e-6)
