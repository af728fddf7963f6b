"""ParticleStack: order, sign, chunks and half sets."""

import dataclasses
import os

import numpy as np
import pytest
from particle_files import assert_same_particles, make_stack, star_columns, star_text, write_images

from gsworkbench.errors import InputError
from gsworkbench.methods.reconstruction_config import ReconstructionConfig
from gsworkbench.normal_equations.equations import accumulate
from gsworkbench.particles.formats.relion import write_with_half_sets
from gsworkbench.particles.read import read_particles
from gsworkbench.reconstruction.run import make_maps, reconstruct, run_worker

NOT_UTF8 = os.fsdecode(b"caf\xe9.mrcs")


@pytest.fixture
def stack(tmp_path):
    """Nine particles dealt over two files, out of order."""
    first = make_stack(tmp_path, 9)
    write_images(tmp_path / "other.mrcs", 9, seed=5)
    return dataclasses.replace(
        first,
        files=(tmp_path / "particles.mrcs", tmp_path / "other.mrcs"),
        file_index=np.array([1, 0, 1, 0, 0, 1, 1, 0, 1]),
        image_index=np.array([8, 3, 0, 2, 8, 1, 5, 0, 2]),
        data_sign=np.array([1, 1, -1, 1, -1, 1, 1, 1, -1], np.int8),
    )


def test_images_come_in_the_order_asked_for_with_their_sign(stack, tmp_path):
    files = [write_images(tmp_path / "again0.mrcs", 9), write_images(tmp_path / "again1.mrcs", 9, seed=5)]
    rows = np.array([2, 7, 0, 2])
    expected = [stack.data_sign[r] * files[stack.file_index[r]][stack.image_index[r]] for r in rows]
    np.testing.assert_array_equal(stack.images(rows), expected)


def test_chunks_cover_each_particle_once_in_file_order(stack):
    rows, images = zip(*stack.chunks(max_bytes=2 * 4 * stack.box_size**2), strict=True)
    assert max(map(len, rows)) == 2
    order = np.concatenate(rows)
    assert sorted(order) == list(range(9))
    places = list(zip(stack.file_index[order], stack.image_index[order], strict=True))
    assert places == sorted(places)
    np.testing.assert_array_equal(np.concatenate(images), stack.images(order))


def test_selection_carries_every_field(stack):
    part = stack[np.array([4, 1])]
    assert part.source_row.tolist() == [4, 1]
    np.testing.assert_array_equal(part.rotations, stack.rotations[[4, 1]])
    np.testing.assert_array_equal(part.ctf.defocus_u, stack.ctf.defocus_u[[4, 1]])
    np.testing.assert_array_equal(part.images(), stack.images(np.array([4, 1])))
    assert len(stack[stack.data_sign < 0]) == 3


def test_half_sets_are_dealt_evenly_and_by_seed(stack):
    one, again, other = stack.with_half_sets(0), stack.with_half_sets(0), stack.with_half_sets(1)
    assert sorted(np.bincount(one.half_set, minlength=3)) == [0, 4, 5]
    np.testing.assert_array_equal(one.half_set, again.half_set)
    assert (one.half_set != other.half_set).any()


def test_half_sets_of_the_file_stay(stack):
    given = np.array([1, 1, 1, 1, 1, 1, 1, 1, 2], np.int8)
    np.testing.assert_array_equal(dataclasses.replace(stack, half_set=given).with_half_sets(3).half_set, given)


@pytest.mark.parametrize(
    ("half_set", "message"),
    [
        ([1, 2, 0, 1, 2, 1, 2, 1, 2], r"row 3.*4 particles in 1, 4 in 2, 1 in neither"),
        ([1] * 9, "9 particles in 1, 0 in 2"),
    ],
)
def test_half_sets_half_assigned_are_refused(stack, half_set, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(stack, half_set=np.array(half_set, np.int8)).with_half_sets()


def test_one_particle_has_no_halves(stack):
    with pytest.raises(InputError, match="one particle"):
        stack[:1].with_half_sets()


def test_poses_are_required_by_name(stack):
    assert stack.require_poses() is stack.rotations
    with pytest.raises(InputError, match="no orientations"):
        dataclasses.replace(stack, rotations=None).require_poses()


def test_the_system_is_told_what_will_be_read_next(noisy_set, monkeypatch):
    told = []
    monkeypatch.setattr("gsworkbench.io.mrc.announce_images", lambda path, rows: told.append((path, list(rows))))
    stack = read_particles(noisy_set.star)
    read = [list(stack.image_index[rows]) for rows, _ in stack.chunks(250 * 4 * stack.box_size**2)]
    assert [len(rows) for rows in read] == [250, 250, 100]
    assert told == [(stack.files[0], rows) for rows in read[1:]]


def renamed(stack, name):
    """The stack with its one file under another name, or skip where the file system takes no such name."""
    try:
        file = stack.files[0].rename(stack.files[0].with_name(name))
    except OSError as error:
        pytest.skip(f"{error}")
    return dataclasses.replace(stack, files=(file,))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("q#1.mrcs", "q#1.mrcs: STAR files cannot hold a path with '#' or quotes; rename it"),
        ("q'1.mrcs", "cannot hold a path with '#' or quotes"),
        (NOT_UTF8, "udce9.mrcs: STAR files cannot hold a path that is not UTF-8; rename it"),
    ],
    ids=["hash", "quote", "not UTF-8"],
)
@pytest.mark.parametrize("run", [reconstruct, make_maps, run_worker])
def test_a_name_that_run_data_cannot_hold_is_refused_before_the_fit(tmp_path, monkeypatch, name, sentence, run):
    config = ReconstructionConfig("backprojection", mask="none")
    monkeypatch.setattr("gsworkbench.methods.backprojection.solve", lambda task: pytest.fail("a fit was begun"))
    with pytest.raises(InputError, match=sentence):
        run(renamed(make_stack(tmp_path), name), tmp_path / "out", config)
    assert not (tmp_path / "out").exists()


def test_images_of_a_name_that_is_not_utf8_are_summed_up(tmp_path):
    stack = make_stack(tmp_path)
    sums = accumulate(stack).grid_sums
    np.testing.assert_array_equal(accumulate(renamed(stack, NOT_UTF8)).grid_sums, sums)


def written_again(source, stack):
    """What run_data.star of a run on `source` reads as."""
    write_with_half_sets(source, source.parent / "out" / "run_data.star", stack)
    return read_particles(source.parent / "out" / "run_data.star")


@pytest.fixture
def source(tmp_path):
    write_images(tmp_path / "particles.mrcs")
    return tmp_path / "data.star"


def test_run_data_of_names_too_long_for_the_system(source):
    source.write_text(star_text(star_columns(name="n" * 300 + ".mrcs")))
    stack = read_particles(source, stack=source.with_name("particles.mrcs"))
    assert_same_particles(written_again(source, stack), stack)


def test_run_data_of_a_source_shortened_since(source):
    source.write_text(star_text(star_columns()))
    stack = read_particles(source)
    source.write_text(star_text(star_columns(3)))
    assert_same_particles(written_again(source, stack), stack)


def test_run_data_of_one_particle_without_a_loop(source):
    optics, _, _ = star_text({}).partition("data_particles")
    values = "".join(f"_{label} {value[0]}\n" for label, value in star_columns().items())
    source.write_text(f"{optics}data_particles\n\n{values}")
    stack = read_particles(source)
    assert_same_particles(written_again(source, stack), stack)
