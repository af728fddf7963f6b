"""Whatever is written reads back, and whatever is read is sound or refused: hypothesis draws the cases.

GSWORKBENCH_EXAMPLES draws that many instead of 25 for each property.
"""

from __future__ import annotations

import dataclasses
import io
import os
import pickle

import numpy as np
import pytest

hypothesis = pytest.importorskip("hypothesis", reason="the extra dev is not installed")

from fuzz import run, targets  # noqa: E402
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from hypothesis.extra import numpy as arrays  # noqa: E402
from particle_files import assert_same_particles, write_images  # noqa: E402

from gsworkbench.assessment.fsc import FscCurve, read_fsc_csv, write_fsc_csv  # noqa: E402
from gsworkbench.gaussians.mixture import Gaussians, random_gaussians  # noqa: E402
from gsworkbench.geometry.rotations import random_rotations  # noqa: E402
from gsworkbench.io.mrc import new_image_stack, read_images, read_map, stack_shape, write_map  # noqa: E402
from gsworkbench.io.npz import load_archive, load_array  # noqa: E402
from gsworkbench.io.pickles import load_arrays  # noqa: E402
from gsworkbench.io.star_tables import read_tables  # noqa: E402
from gsworkbench.particles.formats.cryodrgn import write_cryodrgn_pickles  # noqa: E402
from gsworkbench.particles.formats.relion import write_star, write_with_half_sets  # noqa: E402
from gsworkbench.particles.read import read_particles  # noqa: E402
from gsworkbench.particles.stack import CtfParameters, ParticleStack  # noqa: E402

drawn = settings(max_examples=int(os.environ.get("GSWORKBENCH_EXAMPLES", 25)), deadline=None, derandomize=True)
floats = st.floats(-1e6, 1e6, width=32)
sizes = st.floats(0.1, 50)
DTYPES = st.sampled_from(["<f4", ">f4", "<f8", "<f2", "<i8", ">i4", "<u2", "u1", "i1", "?"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("properties")


@drawn
@given(arrays.arrays(np.float32, st.sampled_from([(2, 2, 2), (4, 4, 4), (8, 8, 8)]), elements=floats), sizes)
def test_maps(folder, volume, voxel_size):
    write_map(folder / "x.mrc", volume, voxel_size, "any")
    again, size = read_map(folder / "x.mrc")
    np.testing.assert_array_equal(again, volume)
    assert size == pytest.approx(voxel_size, rel=1e-6)


@drawn
@given(st.integers(1, 5), st.sampled_from([2, 4, 6, 16]), sizes, st.data())
def test_image_stacks(folder, n, box_size, pixel_size, data):
    images = data.draw(arrays.arrays(np.float32, (n, box_size, box_size), elements=floats))
    images[:, 0, 0], images[:, 0, 1] = 1, 2  # none blank, which would be warned of
    with new_image_stack(folder / "x.mrcs", n, box_size, pixel_size) as stack:
        stack[:] = images
    rows = np.array(data.draw(st.lists(st.integers(0, n - 1), max_size=6)), np.int64)
    np.testing.assert_array_equal(read_images(folder / "x.mrcs", rows), images[rows])
    assert stack_shape(folder / "x.mrcs") == (n, box_size, pytest.approx(pixel_size, rel=1e-6))


@st.composite
def stacks(draw, folder, n=6):
    """Particles with any poses, CTFs, half sets and signs, over one or two files."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    files = tuple(folder / name for name in ("first.mrcs", "second one.mrcs")[: draw(st.integers(1, 2))])
    for seed, file in enumerate(files):
        if not file.exists():
            write_images(file, n, seed=seed, pixel_size=1.0)  # a header that does not know

    def column(low, high):
        values = st.floats(low, high)
        return np.array(draw(st.one_of(st.lists(values, min_size=n, max_size=n), values.map(lambda v: [v] * n))))

    voltage = draw(st.sampled_from([80.0, 200.0, 300.0]))
    ctf = CtfParameters(
        column(3000, 1e5), column(3000, 1e5), column(-360, 360), np.full(n, voltage),
        np.full(n, draw(st.sampled_from([0.0, 0.01, 2.7]))), column(0, 1).round(3), column(-180, 180),
        np.zeros(n), np.ones(n),
    )  # fmt: skip
    return ParticleStack(
        files=files, file_index=rng.integers(0, len(files), n), image_index=rng.integers(0, n, n), box_size=8,
        pixel_size=draw(st.floats(0.5, 10)), ctf=ctf, rotations=random_rotations(n, rng),
        shifts_angstrom=np.stack([column(-4, 4), column(-4, 4)], axis=1),
        half_set=draw(st.sampled_from([np.zeros(n, np.int8), np.array([1, 2] * (n // 2), np.int8)])),
        data_sign=draw(st.sampled_from([np.ones(n, np.int8), np.array([1, -1, 1, 1, -1, 1], np.int8)])),
        source=None, source_row=np.arange(n),
    )  # fmt: skip


@drawn
@given(st.data())
def test_star_files(folder, data):
    stack = data.draw(stacks(folder))
    # Compare what is on disk: a file that no particle uses is not in the STAR file.
    write_star(folder / "x.star", stack)
    again = read_particles(folder / "x.star")
    assert_same_particles(again, stack)
    assert again.data_sign.tolist() == stack.data_sign.tolist() and again.half_set.tolist() == stack.half_set.tolist()
    halves = again.with_half_sets(data.draw(st.integers(0, 9)))
    write_with_half_sets(folder / "x.star", folder / "halves" / "y.star", halves)
    last = read_particles(folder / "halves" / "y.star")
    assert_same_particles(last, stack)
    assert last.half_set.tolist() == halves.half_set.tolist()


@drawn
@given(st.data())
def test_cryodrgn_pickles(folder, data):
    stack = dataclasses.replace(data.draw(stacks(folder)), files=(folder / "first.mrcs",), file_index=np.zeros(6, int))
    stack = dataclasses.replace(stack, image_index=np.arange(6), data_sign=np.ones(6, np.int8))
    write_cryodrgn_pickles(folder / "poses.pkl", folder / "ctf.pkl", stack)
    again = read_particles(folder / "first.mrcs", poses=folder / "poses.pkl", ctf=folder / "ctf.pkl")
    np.testing.assert_allclose(again.rotations, stack.rotations, atol=1e-6)
    np.testing.assert_allclose(again.shifts_angstrom, stack.shifts_angstrom, atol=1e-4)
    for name in CtfParameters.__dataclass_fields__:
        np.testing.assert_allclose(getattr(again.ctf, name), getattr(stack.ctf, name), rtol=1e-6, atol=1e-6)


VALUES = st.text(
    st.characters(codec="utf-8", exclude_characters="\"'#", exclude_categories=("Z", "C")), min_size=1
).filter(
    lambda text: (
        not text.startswith(("data_", "loop_", "_"))
        and not text.isspace()
        and text.split() == [text]
        and text not in ("nan", "NaN", "<NA>")
    )
)


@drawn
@given(st.integers(1, 4), st.integers(1, 5), st.data())
def test_star_tables(folder, n_columns, n_rows, data):
    rows = [[data.draw(VALUES) for _ in range(n_columns)] for _ in range(n_rows)]
    labels = "".join(f"_label{k} #{k}\n" for k in range(n_columns))
    text = f"data_any\n\nloop_\n{labels}" + "".join(" ".join(row) + "\n" for row in rows) + "\n"
    (folder / "t.star").write_text(text, encoding="utf-8")
    assert read_tables(folder / "t.star")["any"].to_numpy().tolist() == rows


@drawn
@given(DTYPES, arrays.array_shapes(max_dims=3, min_side=0), st.integers(0, 5), st.booleans(), st.data())
def test_arrays_in_pickles_and_numpy_files(folder, dtype, shape, protocol, fortran, data):
    value = data.draw(arrays.arrays(np.dtype(dtype), shape))
    value = np.asfortranarray(value) if fortran else value
    (folder / "x.pkl").write_bytes(pickle.dumps((value, 3), protocol))
    read, number = load_arrays(folder / "x.pkl")
    np.testing.assert_array_equal(read, value)
    assert np.asarray(read).dtype == value.dtype and number == 3
    np.save(folder / "x.npy", value)
    np.savez(folder / "x.npz", a=value, b=3.0)
    np.testing.assert_array_equal(load_array(folder / "x.npy"), value)
    archive = load_archive(folder / "x.npz")
    np.testing.assert_array_equal(archive["a"], value)
    assert archive["b"] == 3 and archive["a"].dtype == value.dtype


@drawn
@given(st.integers(1, 20), st.integers(0, 99), st.floats(0, 10))
def test_gaussians(folder, n, seed, floor):
    mixture = random_gaussians(n, spread=3.0, scale=2.0, total_weight=5.0, seed=seed, floor_angstrom=floor)
    mixture.save(folder / "g.npz", box_size=8, pixel_size=1.0)
    again = Gaussians.load(folder / "g.npz")
    assert again.floor_angstrom == floor
    assert all((getattr(again, k) == getattr(mixture, k)).all() for k in ("means", "scales", "quaternions", "weights"))


@drawn
@given(arrays.arrays(np.float64, 9, elements=st.one_of(st.floats(-1, 1), st.just(np.nan))), sizes)
def test_fsc_tables(folder, values, voxel_size):
    curve = FscCurve("fsc_unmasked", values, 16, voxel_size, "none", "RELION")
    write_fsc_csv(folder / "fsc.csv", [curve])
    (again,) = read_fsc_csv(folder / "fsc.csv")
    np.testing.assert_allclose(again.values, values, atol=1e-5)
    assert (again.name, again.mask, again.definition, again.box_size) == ("fsc_unmasked", "none", "RELION", 16)
    assert again.voxel_size == pytest.approx(voxel_size, rel=1e-4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("target", targets.TARGETS)
@drawn
@given(data=st.data())
def test_damage_anywhere(bench, target, data):
    """Bytes changed, cut off or put in, in files of the kept corpus: sound, or an InputError, in little memory."""
    inputs = run.kept(target)
    content = io.BytesIO(data.draw(st.sampled_from(inputs))).getvalue()
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content)))
        new = data.draw(st.binary(max_size=4))
        gone = data.draw(st.sampled_from([0, len(new), 1, 8, len(content)]))
        content = content[:at] + new + content[at + gone :]
    targets.judge(target, bench, content)
