"""Half sets by specimen: rows of one image, one filament, or one particle of a tilt series stay in one half."""

import dataclasses

import numpy as np
import pytest
import test_cryosparc as cs
import test_relion as star
from particle_files import OPTICS, N, make_stack, star_columns, star_text, write_images

from gsworkbench.cli.main import main
from gsworkbench.errors import InputError
from gsworkbench.geometry.rotations import matrices_to_euler, random_rotations
from gsworkbench.inspection.findings import particle_alarms
from gsworkbench.particles.copy import write_particles
from gsworkbench.particles.half_sets import deal, every_nth, image_numbers, specimens
from gsworkbench.particles.image_sample import sample, shared
from gsworkbench.particles.read import read_particles
from gsworkbench.particles.stack import Picks


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "J1").mkdir()
    for stack in ("particles.mrcs", "J1/particles.mrcs"):
        write_images(tmp_path / stack)
    return tmp_path


def angles(n, seed=0):
    rows = matrices_to_euler(random_rotations(n, np.random.default_rng(seed))).T.round(3)
    return dict(zip(("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"), map(list, rows), strict=True))


def expanded(copies, n=N):
    """A table of `n` images, each in several rows with other angles, without half sets."""
    columns = {label: [v for v in values for _ in range(copies)] for label, values in star_columns(n).items()}
    return star.without(columns | angles(copies * n), "rlnRandomSubset")


def in_one_half(specimen, half_set):
    return all(len(set(half_set[specimen == k])) == 1 for k in np.unique(specimen))


@pytest.mark.parametrize("n", [2, 3, 8, 1001])
@pytest.mark.parametrize("seed", [0, 5])
def test_plain_particles_are_dealt_as_they_always_were(n, seed):
    expected = np.random.default_rng(seed).permutation(np.arange(n) % 2 + 1)
    np.testing.assert_array_equal(deal(np.random.default_rng(1).permutation(n), seed), expected)


@pytest.mark.parametrize("sizes", [[2] * 9, [1, 2, 3, 4, 5, 6, 7, 8], [100, 1, 1, 1], [3, 3, 1], [41] * 20 + [40] * 3])
def test_specimens_stay_together_and_halves_are_even(sizes):
    specimen = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
    halves = [deal(specimen, seed) for seed in range(5)]
    for half in halves:
        assert in_one_half(specimen, half)
        difference = abs(int((half == 1).sum()) - int((half == 2).sum()))
        rest = sum(sizes) - max(sizes)
        assert difference <= max(max(sizes) - rest, 2 * min(sizes))
    assert len(sizes) < 5 or len({tuple(half) for half in halves}) > 1  # at random


def test_every_nth_specimen_with_all_its_rows():
    plain = np.random.default_rng(0).permutation(25)
    assert every_nth(plain, 10).nonzero()[0].tolist() == [0, 10, 20]
    assert every_nth(np.array([7, 7, 2, 5, 2, 9, 9, 7]), 3).tolist() == [1, 1, 0, 0, 0, 1, 1, 1]  # 7 and 9


def test_one_specimen_cannot_be_dealt(tmp_path):
    assert deal(np.zeros(5, np.int64), 0) is None
    stack = dataclasses.replace(make_stack(tmp_path), unit=np.zeros(N, np.int64))
    with pytest.raises(InputError, match="6 rows of one image, filament or particle cannot be split"):
        stack.with_half_sets()


def test_rows_that_share_an_image_or_a_unit_are_one_specimen():
    files, images = np.array([0, 0, 1, 1, 0, 1, 1]), np.array([0, 1, 0, 1, 0, 1, 2])
    assert image_numbers(files, images).tolist() == [0, 1, 2, 3, 0, 3, 4]
    assert specimens(files, images, None).tolist() == [0, 1, 2, 3, 0, 3, 4]
    joined = specimens(files, images, np.array([5, 5, 7, 8, 6, 9, 9]))
    same = [[a == b for a in joined] for b in joined]
    expected = [0, 0, 2, 3, 0, 3, 3]  # 0 and 1 by unit, 0 and 4 by image; 3 and 5 by image, 5 and 6 by unit
    assert same == [[a == b for a in expected] for b in expected]


@pytest.mark.parametrize("copies", [2, 3, 12])
def test_symmetry_expanded_images_stay_in_one_half(folder, capsys, copies):
    path = star.write(folder, star_text(expanded(copies)))
    stack = read_particles(path).with_half_sets(3)
    assert in_one_half(stack.image_index, stack.half_set)
    assert np.bincount(stack.half_set).tolist() == [0, 3 * copies, 3 * copies]
    assert particle_alarms(stack, most_images=0) == []
    assert main(["inspect", str(path)]) == 0
    assert f"6 images in {6 * copies} rows" in capsys.readouterr().out
    again = write_particles(read_particles(path), folder / "copy")  # where each row is an image of its own
    again = read_particles(folder / "copy" / "particles.star").with_half_sets(1)
    assert in_one_half(np.repeat(np.arange(N), copies), again.half_set)


def test_accumulate_says_what_reconstruct_says_of_shared_images(folder, capsys):
    """Half sets of the file that split images, as earlier programs dealt them."""
    path = star.write(folder, star_text(expanded(2) | {"rlnRandomSubset": [1, 2] * N}))
    alarm = "the same images are in both half sets, 6 of 6"
    assert main(["accumulate", str(path), "--half-set", "1", "--out", str(folder / "half1.npz")]) == 0
    said = capsys.readouterr().out
    assert f"note: {alarm}" in said
    assert main(["accumulate", str(path), "--half-set", "2", "--out", str(folder / "half2.npz")]) == 0
    capsys.readouterr()
    both = [str(folder / "half1.npz"), str(folder / "half2.npz")]
    assert main(["combine", *both, "--out", str(folder / "whole.npz")]) == 0
    assert "note: the same images are in both half sets, about 100 % of them" in capsys.readouterr().out
    path = star.write(folder, star_text(expanded(2)))
    assert main(["accumulate", str(path), "--half-set", "1", "--out", str(folder / "dealt.npz")]) == 0
    assert main(["accumulate", str(path), "--half-set", "2", "--out", str(folder / "other.npz")]) == 0
    both = [str(folder / "dealt.npz"), str(folder / "other.npz")]
    assert main(["combine", *both, "--out", str(folder / "whole.npz")]) == 0
    assert "note:" not in capsys.readouterr().out


@pytest.mark.parametrize("n", [40, 5000, 200_000])
@pytest.mark.parametrize("part", [0.0, 0.3, 1.0])
def test_samples_of_images_tell_what_is_shared(n, part):
    numbers = np.random.default_rng(0).integers(0, 2**64, 2 * n, np.uint64)
    common = round(part * n)
    first, second = sample(numbers[:n]), sample(np.concatenate([numbers[:common], numbers[n : 2 * n - common]]))
    assert shared(first, second) == pytest.approx(part, abs=0.06 if n > 1000 else 1e-9)
    parts = [sample(numbers[: n // 3]), sample(numbers[n // 3 : n])]
    assert sample((*parts[0], *parts[1])) == first


def test_filaments_stay_in_one_half_set(folder):
    tubes = {"rlnHelicalTubeID": [1, 1, 2, 1, 1, 2], "rlnMicrographName": ["a.mrc"] * 3 + ["b.mrc"] * 3}
    columns = star.without(star_columns(), "rlnRandomSubset") | tubes
    stack = read_particles(star.write(folder, star_text(columns)))
    assert stack.unit.tolist() == [0, 0, 1, 2, 2, 3]
    (note,) = stack.notes
    assert "segments of 4 filaments" in note and "helical symmetry is not imposed" in note
    assert in_one_half(stack.unit, stack.with_half_sets(0).half_set)
    split = dataclasses.replace(stack, half_set=np.array([1, 2, 1, 2, 2, 1], np.int8))
    (alarm,) = particle_alarms(split, most_images=0)
    assert "in both half sets, of 1 of 4" in alarm


def test_one_filament_is_dealt_by_segment_and_said(folder):
    columns = star.without(star_columns(), "rlnRandomSubset") | {"rlnHelicalTubeID": [1] * N}
    stack = read_particles(star.write(folder, star_text(columns)))
    assert stack.unit is None and stack.with_half_sets().half_set.all()
    assert ["of one filament" in note for note in stack.notes] == [True]


def test_filaments_of_cryosparc(folder):
    uids = np.array([2**63 + 5, 7, 7, 2**63 + 5, 9, 9], np.uint64)
    stack = read_particles(cs.write(folder, cs.EVERYTHING | {"filament/filament_uid": uids}))
    assert stack.unit.tolist() == [2, 0, 0, 2, 1, 1]
    assert stack[np.array([3, 4])].unit.tolist() == [2, 1]


def tilts(n_particles=3, n_tilts=4, names="ts_{:02}.mrc", sign=1):
    n = n_particles * n_tilts
    columns = star.without(star_columns(n), "rlnRandomSubset")
    return columns | {
        "rlnGroupName": [f"p{k // n_tilts:05}" for k in range(n)],
        "rlnMicrographName": [names.format(k % n_tilts) for k in range(n)],
        "rlnCtfBfactor": [sign * 12.0 * (k % n_tilts) for k in range(n)],
        "rlnCtfScalefactor": [round(float(np.cos(0.1 * (k % n_tilts))), 4) for k in range(n)],
    }


@pytest.mark.parametrize("names", ["ts_{:02}.mrc", "one.tomostar"])
def test_tilt_images_of_one_particle_stay_in_one_half(folder, names):
    write_images(folder / "particles.mrcs", 12)
    stack = read_particles(star.write(folder, star_text(tilts(names=names))))
    assert stack.unit.tolist() == np.repeat(np.arange(3), 4).tolist()
    assert ["tilt images of 3 particles" in note for note in stack.notes] == [True]
    assert in_one_half(stack.unit, stack.with_half_sets().half_set)
    with pytest.raises(InputError, match="rows share an rlnGroupName here, as the tilt images of one particle do"):
        read_particles(star.write(folder, star_text(tilts(sign=-1))))


def test_groups_of_micrographs_are_no_tilt_series(folder):
    """RELION names groups of micrographs too, whose B factors may be fitted micrograph by micrograph."""
    write_images(folder / "particles.mrcs", 40)
    n = 40
    groups = {
        "rlnGroupName": [f"group_{k // 10}" for k in range(n)],
        "rlnMicrographName": [f"m{k // 5}" for k in range(n)],
    }
    rng = np.random.default_rng(0)
    fitted = {"rlnCtfBfactor": list(rng.uniform(0, 80, n).round(3)), "rlnCtfScalefactor": list(rng.uniform(0.5, 1, n))}
    per_micrograph = {"rlnCtfBfactor": [float(k // 5) for k in range(n)]}
    for columns in ({}, fitted, per_micrograph):
        stack = read_particles(star.write(folder, star_text(star_columns(n) | groups | columns)))
        assert stack.unit is None and stack.notes == ()


def test_optics_groups_are_kept_and_written(folder):
    optics = OPTICS + "7 b 300 2.7 0.1 2.5 8\n"
    stack = read_particles(
        star.write(folder, star_text(star_columns() | {"rlnOpticsGroup": [1, 7, 7, 1, 1, 7]}, optics))
    )
    assert stack.optics_group.tolist() == [1, 7, 7, 1, 1, 7]
    copy = write_particles(stack, folder / "copy")
    again = read_particles(folder / "copy" / "particles.star")
    assert again.optics_group.tolist() == [1, 2, 2, 1, 1, 2] and len(copy) == N
    groups = np.array([4, 4, 9, 9, 4, 9], np.uint32)
    assert read_particles(cs.write(folder, cs.EVERYTHING | {"ctf/exp_group_id": groups})).optics_group.tolist() == [
        4, 4, 9, 9, 4, 9,
    ]  # fmt: skip


def test_near_places_of_one_filament_are_the_same_alarm_as_before(tmp_path):
    stack = make_stack(tmp_path)
    picks = Picks(("m",), np.zeros(N, np.int64), np.outer(np.arange(N) // 2 * 500.0, [1, 1]))
    split = dataclasses.replace(stack, picks=picks, half_set=np.array([1, 2] * 3, np.int8))
    assert any("closer than 20 A" in alarm for alarm in particle_alarms(split, most_images=0))


@pytest.mark.parametrize("label", ["rlnImageOriginalName", "rlnOriginalParticleName"])
def test_images_made_of_one_image_stay_in_one_half(folder, label):
    """Subtracted after symmetry expansion, or frames of a movie: other images, and not other specimens."""
    columns = star.without(star_columns(), "rlnRandomSubset")
    stack = read_particles(star.write(folder, star_text(columns | {label: [f"{k // 2 + 1}@a.mrcs" for k in range(N)]})))
    assert stack.unit.tolist() == [0, 0, 1, 1, 2, 2] and ["made from 3 (column" in note for note in stack.notes] == [
        True
    ]
    for names in ([f"{k + 1}@a.mrcs" for k in range(N)], ["None"] * N):
        assert read_particles(star.write(folder, star_text(columns | {label: names}))).unit is None


def test_symmetry_expansion_of_cryosparc(folder):
    uids = np.array([11, 12, 11, 12, 13, 13], np.uint64)
    assert read_particles(cs.write(folder, cs.EVERYTHING | {"sym_expand/src_uid": uids})).unit.tolist() == [
        0,
        1,
        0,
        1,
        2,
        2,
    ]
    alone = cs.EVERYTHING | {"sym_expand/src_uid": np.arange(N, dtype=np.uint64)}
    assert read_particles(cs.write(folder, alone)).unit is None
