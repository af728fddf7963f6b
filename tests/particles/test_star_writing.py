"""RELION STAR files on the way out: what is written reads the same, and rows of a source stay as they stood."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from particle_files import (
    BOX,
    PIXEL_SIZE,
    N,
    assert_same_particles,
    make_stack,
    star_columns,
    star_text,
    write_images,
    write_pickle,
)
from test_relion import without, write

from gsworkbench.errors import InputError
from gsworkbench.particles.formats.relion import write_star, write_with_half_sets
from gsworkbench.particles.read import read_particles


@pytest.fixture
def folder(tmp_path):
    write_images(tmp_path / "particles.mrcs")
    return tmp_path


def test_round_trip(tmp_path):
    stack = dataclasses.replace(make_stack(tmp_path), half_set=np.array([1, 2, 2, 1, 1, 2], np.int8))
    write_star(tmp_path / "sub" / "out.star", stack)
    again = read_particles(tmp_path / "sub" / "out.star")
    assert_same_particles(again, stack)
    assert again.half_set.tolist() == stack.half_set.tolist()
    assert "000001@../particles.mrcs" in (tmp_path / "sub" / "out.star").read_text()


def test_round_trip_of_what_is_not_default(tmp_path):
    stack = make_stack(tmp_path)
    voltage = np.array([200, 300, 300, 200, 300, 300.0])
    ctf = dataclasses.replace(stack.ctf, voltage_kv=voltage, b_factor=np.arange(6.0), scale=np.linspace(0.5, 1, 6))
    stack = dataclasses.replace(stack, ctf=ctf, data_sign=np.array([1, -1, 1, 1, -1, -1], np.int8))
    write_star(tmp_path / "out.star", stack)
    assert_same_particles(read_particles(tmp_path / "out.star"), stack)
    assert read_particles(tmp_path / "out.star").data_sign.tolist() == stack.data_sign.tolist()


def test_without_poses(tmp_path):
    stack = dataclasses.replace(make_stack(tmp_path), rotations=None, shifts_angstrom=np.zeros((N, 2)))
    write_star(tmp_path / "out.star", stack)
    assert "Angle" not in (tmp_path / "out.star").read_text().replace("DefocusAngle", "")
    assert read_particles(tmp_path / "out.star").rotations is None


def test_folder_with_a_space_and_one_with_a_hash(tmp_path):
    for name in ("my data", "bad#name"):
        (tmp_path / name).mkdir()
    write_star(tmp_path / "out.star", make_stack(tmp_path / "my data"))
    assert read_particles(tmp_path / "out.star").files[0].parent.name == "my data"
    with pytest.raises(InputError, match="cannot hold a path with '#'"):
        write_star(tmp_path / "bad.star", make_stack(tmp_path / "bad#name"))
    assert not (tmp_path / "bad.star").exists()


def test_half_sets_are_added_and_all_else_stays(folder):
    columns = without(star_columns(), "rlnRandomSubset") | {"rlnGroupName": ["007"] * N}
    source = write(folder, star_text(columns) + "\ndata_extra\n\n_rlnTag 0.10\n")
    particles = read_particles(source).with_half_sets(3)
    write_with_half_sets(source, folder / "run_data.star", particles)
    before, after = source.read_text().splitlines(), (folder / "run_data.star").read_text().splitlines()
    added = [line for line in after if line not in before]
    assert added[0] == "_rlnRandomSubset #12" and len(added) == 1 + N
    rows = [line for line in before if "@" in line]
    assert added[1:] == [f"{row} {half}" for row, half in zip(rows, particles.half_set, strict=True)]
    assert [line for line in after if line not in added] == [line for line in before if line not in rows]
    again = read_particles(folder / "run_data.star")
    assert_same_particles(again, particles)
    assert again.half_set.tolist() == particles.half_set.tolist()


def test_half_sets_are_replaced_and_rows_selected(folder):
    source = write(folder, star_text(star_columns()))
    particles = read_particles(source, indices=write_pickle(folder / "ind.pkl", [5, 1]))
    particles = dataclasses.replace(particles, half_set=np.array([1, 2], np.int8))
    write_with_half_sets(source, folder / "run_data.star", particles)
    rows = [line.split() for line in (folder / "run_data.star").read_text().splitlines() if "@" in line]
    assert [(row[0], row[-1]) for row in rows] == [("000006@particles.mrcs", "1"), ("000002@particles.mrcs", "2")]


def test_names_that_no_longer_lead_are_rewritten(folder):
    source = write(folder, star_text(star_columns()))
    write_with_half_sets(source, folder / "out" / "run_data.star", read_particles(source))
    text = (folder / "out" / "run_data.star").read_text()
    assert "000001@../particles.mrcs 15000" in text
    assert_same_particles(read_particles(folder / "out" / "run_data.star"), read_particles(source))


def test_names_relative_to_the_project_stay(folder, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "job").mkdir()
    source = write(folder, star_text(star_columns()), "job/data.star")
    write_with_half_sets(source, folder / "out" / "run_data.star", read_particles(source))
    assert "000001@particles.mrcs 15000" in (folder / "out" / "run_data.star").read_text()


def test_a_stack_that_stood_in_is_named(folder):
    write_images(folder / "elsewhere.mrcs", seed=8)
    source = write(folder, star_text(star_columns(name="gone.mrcs")))
    particles = read_particles(source, stack=folder / "elsewhere.mrcs")
    write_with_half_sets(source, folder / "out" / "run_data.star", particles)
    assert_same_particles(read_particles(folder / "out" / "run_data.star"), particles)


def test_comment_behind_a_row_does_not_hide_the_half_set(folder):
    text = star_text(without(star_columns(), "rlnRandomSubset")).replace(" 1\n0", " 1 # kept\n0")
    source = write(folder, text)
    write_with_half_sets(source, folder / "run_data.star", read_particles(source).with_half_sets())
    assert read_particles(folder / "run_data.star").half_set.all()


def test_poses_from_elsewhere_are_not_lost(folder):
    source = write(folder, star_text(star_columns()))
    other = make_stack(folder)
    poses = (other.rotations, other.shifts_angstrom / (BOX * PIXEL_SIZE))
    particles = read_particles(source, poses=write_pickle(folder / "poses.pkl", poses))
    np.testing.assert_allclose(particles.shifts_angstrom, other.shifts_angstrom)
    write_with_half_sets(source, folder / "run_data.star", particles)
    assert_same_particles(read_particles(folder / "run_data.star"), particles)
