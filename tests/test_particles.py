"""ParticleStack: order, sign, chunks and half sets."""

import dataclasses

import numpy as np
import pytest
from particle_files import make_stack, write_images

from gsworkbench.errors import InputError
from gsworkbench.readers import read_particles


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
    monkeypatch.setattr("gsworkbench.readers.mrc.announce_images", lambda path, rows: told.append((path, list(rows))))
    stack = read_particles(noisy_set.star)
    read = [list(stack.image_index[rows]) for rows, _ in stack.chunks(250 * 4 * stack.box_size**2)]
    assert [len(rows) for rows in read] == [250, 250, 100]
    assert told == [(stack.files[0], rows) for rows in read[1:]]
