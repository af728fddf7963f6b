"""cryoSPARC .cs files: values by convention, passthrough files joined on uid, forged files refused."""

import io

import numpy as np
import pytest
from particle_files import BOX, PIXEL_SIZE, SEVEN, N, assert_same_particles, needs_data, write_images

from gsworkbench.errors import InputError
from gsworkbench.particles.formats.relion import write_with_half_sets
from gsworkbench.particles.read import read_particles

GOLDEN = [
    [0.04341204, 0.90961589, -0.41317591],
    [-0.82959837, 0.26325835, 0.49240388],
    [0.55667040, 0.32139380, 0.76604444],
]
BLOB = {
    "uid": np.arange(100, 100 + N, dtype=np.uint64),
    "blob/path": np.array([b">J1/particles.mrcs"] * N),
    "blob/idx": np.arange(N, dtype=np.uint32),
    "blob/shape": np.full((N, 2), BOX, np.uint32),
    "blob/psize_A": np.full(N, PIXEL_SIZE, np.float32),
    "blob/sign": np.full(N, -1, np.float32),
}
CTF = {
    "ctf/exp_group_id": np.zeros(N, np.uint32),
    "ctf/accel_kv": np.full(N, 300, np.float32),
    "ctf/cs_mm": np.full(N, 2.7, np.float32),
    "ctf/amp_contrast": np.full(N, 0.1, np.float32),
    "ctf/df1_A": np.linspace(1e4, 2e4, N, dtype=np.float32),
    "ctf/df2_A": np.linspace(9e3, 1.9e4, N, dtype=np.float32),
    "ctf/df_angle_rad": np.full(N, np.radians(30), np.float32),
    "ctf/phase_shift_rad": np.full(N, np.radians(90), np.float32),
    "ctf/tilt_A": np.zeros((N, 2), np.float32),
}
POSES = {
    "alignments3D/pose": np.tile(np.float32([0.13128837, 0.74457334, 1.33523483]), (N, 1)),
    "alignments3D/shift": np.tile(np.float32([1.0, -2.0]), (N, 1)),
    "alignments3D/psize_A": np.full(N, 2 * PIXEL_SIZE, np.float32),  # aligned at half the box
    "alignments3D/split": np.array([0, 1] * (N // 2), np.uint32),
}
EVERYTHING = BLOB | CTF | POSES


def table(columns):
    array = np.empty(len(columns["uid"]), [(name, v.dtype, v.shape[1:]) for name, v in columns.items()])
    for name, values in columns.items():
        array[name] = values
    return array


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "J1").mkdir()
    write_images(tmp_path / "J1" / "particles.mrcs")
    return tmp_path


def write(folder, columns, name="particles.cs"):
    with open(folder / name, "wb") as file:
        np.save(file, table(columns))
    return folder / name


def without(columns, *names):
    return {name: values for name, values in columns.items() if name not in names}


def test_values_by_convention(folder):
    particles = read_particles(write(folder, EVERYTHING))
    np.testing.assert_allclose(particles.rotations, np.broadcast_to(GOLDEN, (N, 3, 3)), atol=1e-6)
    np.testing.assert_allclose(particles.shifts_angstrom, np.broadcast_to([5.0, -10.0], (N, 2)))  # px of psize_A
    np.testing.assert_allclose(particles.ctf.defocus_angle, 30, rtol=1e-6)
    np.testing.assert_allclose(particles.ctf.phase_shift, 90, rtol=1e-6)
    assert (particles.ctf.scale == 1).all() and not particles.ctf.b_factor.any()
    assert particles.half_set.tolist() == [1, 2] * (N // 2)
    assert particles.data_sign.tolist() == [-1] * N
    assert (particles.pixel_size, particles.box_size) == (PIXEL_SIZE, BOX)
    np.testing.assert_array_equal(particles.images(), -write_images(folder / "J1" / "particles.mrcs"))


def test_places_on_micrographs_are_fractions_of_their_extent(folder):
    assert read_particles(write(folder, EVERYTHING)).picks is None
    location = {
        "location/micrograph_uid": np.array([7, 8] * (N // 2), np.uint64),
        "location/micrograph_shape": np.broadcast_to(np.array([3000, 4000], np.uint32), (N, 2)),  # y, x
        "location/center_x_frac": np.linspace(0.1, 0.9, N, dtype=np.float32),
        "location/center_y_frac": np.full(N, 0.5, np.float32),
        "location/micrograph_psize_A": np.full(N, 0.5, np.float32),
    }
    picks = read_particles(write(folder, EVERYTHING | location)).picks
    assert picks.micrograph_index.tolist() == [0, 1] * (N // 2)
    np.testing.assert_allclose(picks.positions_angstrom[:, 0], np.linspace(200, 1800, N), rtol=1e-6)
    np.testing.assert_allclose(picks.positions_angstrom[:, 1], 750, rtol=1e-6)


def test_sign_override_and_absent_sign(folder):
    assert read_particles(write(folder, EVERYTHING), data_sign=1).data_sign.tolist() == [1] * N
    assert read_particles(write(folder, without(EVERYTHING, "blob/sign"))).data_sign.tolist() == [1] * N


def test_passthrough_is_joined_on_uid(folder):
    order = np.random.default_rng(0).permutation(N)
    shuffled = {name: values[order] for name, values in (CTF | {"uid": BLOB["uid"]}).items()}
    poses = write(folder, POSES | {"uid": BLOB["uid"]}, "poses.cs")
    joined = read_particles(write(folder, BLOB), passthrough=[write(folder, shuffled, "passthrough.cs"), poses])
    assert_same_particles(joined, read_particles(write(folder, EVERYTHING, "whole.cs")))


def test_split_of_one_value_is_no_split(folder):
    assert not read_particles(write(folder, EVERYTHING | {"alignments3D/split": np.ones(N, np.uint32)})).half_set.any()


def test_no_alignments_is_no_poses(folder):
    alignments2d = {"alignments2D/pose": np.zeros(N, np.float32)}
    assert read_particles(write(folder, BLOB | CTF | alignments2d)).rotations is None


def test_long_header_of_many_classes(folder):
    classes = {f"alignments_class_{k}/class_posterior_of_this_job": np.zeros(N, np.float32) for k in range(400)}
    assert len(read_particles(write(folder, EVERYTHING | classes))) == N


def test_run_data_is_a_star_that_reads_the_same(folder):
    source = write(folder, EVERYTHING)
    particles = read_particles(source)
    write_with_half_sets(source, folder / "out" / "run_data.star", particles)
    again = read_particles(folder / "out" / "run_data.star")
    assert_same_particles(again, particles)
    assert again.half_set.tolist() == particles.half_set.tolist()


def at(name, row, value):
    changed = EVERYTHING[name].copy()
    changed[row] = value
    return EVERYTHING | {name: changed}


REFUSALS = {
    "no path": (without(EVERYTHING, "blob/path"), "no field blob/path; give the job's passthrough file"),
    "no index": (without(EVERYTHING, "blob/idx"), "no field blob/idx"),
    "no defocus": (without(EVERYTHING, "ctf/df1_A"), "no field ctf/df1_A"),
    "no voltage": (without(EVERYTHING, "ctf/accel_kv"), "no field ctf/accel_kv"),
    "no pixel size": (without(EVERYTHING, "blob/psize_A"), "give --pixel-size"),
    "poses without their pixel size": (without(EVERYTHING, "alignments3D/psize_A"), "no field alignments3D/psize_A"),
    "ab-initio": (BLOB | CTF | {"alignments_class_0/pose": POSES["alignments3D/pose"]}, "only as alignments_class_0"),
    "multi": (BLOB | CTF | {"alignments3D_multi/pose": POSES["alignments3D/pose"]}, "only as alignments3D_multi"),
    "NaN defocus": (at("ctf/df1_A", 2, np.nan), "row 3: ctf/df1_A is not a number"),
    "NaN pose": (at("alignments3D/pose", 4, np.inf), "row 5: alignments3D/pose is not a number"),
    "contrast": (at("ctf/amp_contrast", 1, 7.0), "row 2: ctf/amp_contrast must be a fraction"),
    "split": (at("alignments3D/split", 3, 4294967295), "row 4: alignments3D/split must be 0 or 1"),
    "sign": (at("blob/sign", 0, 0), "row 1: blob/sign must be -1 or 1, not 0"),
    "two pixel sizes": (at("blob/psize_A", 5, 1.0), "row 6: blob/psize_A is 2.5 in row 1 and 1 here"),
    "another box": (EVERYTHING | {"blob/shape": np.full((N, 2), 16, np.uint32)}, "16 px here but .* images of 8 px"),
    "beyond the stack": (at("blob/idx", 3, 6), "row 4: there is no image 7 in .*, which holds 6"),
    "missing stack": (EVERYTHING | {"blob/path": np.array([b">J9/x.mrcs"] * N)}, "image files are missing: J9/x.mrcs"),
}


@pytest.mark.parametrize(("columns", "message"), REFUSALS.values(), ids=REFUSALS)
def test_refusals(folder, columns, message):
    with pytest.raises(InputError, match=message) as error:
        read_particles(write(folder, columns))
    assert "pickle" not in str(error.value)


def test_passthrough_that_lacks_a_particle_or_has_one_twice(folder):
    main = write(folder, BLOB | POSES)
    short = {name: values[:-2] for name, values in (CTF | {"uid": BLOB["uid"]}).items()}
    with pytest.raises(InputError, match=r"row 5: uid 104 is not in .*short.cs \(2 of 6 are not\)"):
        read_particles(main, passthrough=[write(folder, short, "short.cs")])
    twice = CTF | {"uid": np.full(N, 100, np.uint64)}
    with pytest.raises(InputError, match=r"twice.cs: a uid occurs in two rows"):
        read_particles(main, passthrough=[write(folder, twice, "twice.cs")])


def npy(array, **options):
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


SOUND = npy(table(EVERYTHING))
FORGED = {
    "CSDAT": (b"\x95CSDAT" + bytes(100), "compressed CSDAT format, which is not read; load it with cryosparc-tools"),
    "empty": (b"", "not a .cs file"),
    "text": (b"uid,blob/path\n", "not a .cs file"),
    "truncated": (SOUND[:-10], "truncated or damaged"),
    "header cut": (SOUND[:40], "truncated or damaged"),
    "extra bytes": (SOUND + b"more", "header says 6 rows but the file is longer"),
    "more rows than bytes": (SOUND.replace(b"(6,)", b"(9,)"), "truncated or damaged"),
    "terabytes": (SOUND.replace(b"(6,), }" + b" " * 12, b"(999999999999,), }"[:19].ljust(19)), "truncated or damaged"),
    "fewer rows than bytes": (SOUND.replace(b"(6,)", b"(3,)"), "header says 3 rows but the file is longer"),
    "no rows": (npy(table(EVERYTHING)[:0]), "no rows with a field uid"),
    "no uid": (npy(table(EVERYTHING)[["blob/idx"]].copy()), "no rows with a field uid"),
    "plain array": (npy(np.zeros(5)), "no rows with a field uid"),
    "objects": (npy(np.array([{}, []], object), allow_pickle=True), "holds Python objects"),
    "objects in a field": (
        npy(np.array([(1, {})], [("uid", "u8"), ("x", object)]), allow_pickle=True),
        "holds Python objects",
    ),
}


@pytest.mark.parametrize(("content", "message"), FORGED.values(), ids=FORGED)
def test_forged_files(tmp_path, content, message):
    (tmp_path / "x.cs").write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        read_particles(tmp_path / "x.cs")
    assert "allow_pickle" not in str(error.value)


@needs_data
def test_ten_thousand_seventy_six_reads_as_from_its_star():
    star, cs = read_particles(SEVEN), read_particles(SEVEN.with_suffix(".cs"))
    for name in star.ctf.__dataclass_fields__:
        np.testing.assert_allclose(getattr(cs.ctf, name), getattr(star.ctf, name), rtol=1e-6, err_msg=name)
    np.testing.assert_array_equal(cs.images(), -star.images())  # blob/sign is -1, a STAR file has no sign
    assert cs.pixel_size == pytest.approx(star.pixel_size, rel=1e-6) and cs.rotations is None
