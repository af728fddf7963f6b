"""inspect tells good poses, shifts and contrast from bad ones, whatever was done to the images, and draws them."""

import csv
import dataclasses

import numpy as np
import pytest
from legible import assert_legible

from gsworkbench.cli.main import main
from gsworkbench.errors import InputError
from gsworkbench.geometry.rotations import random_rotations
from gsworkbench.imaging.residual import protein_sign, require_white_protein
from gsworkbench.inspection.figure import inspection_figure, table_figure
from gsworkbench.inspection.findings import (
    PoseCheck,
    check_poses,
    contrast,
    inspect_particles,
    measured_images,
    particle_alarms,
)
from gsworkbench.inspection.image_table import COLUMNS, reasons, worst
from gsworkbench.inspection.power_spectrum import check_rings, power_spectrum
from gsworkbench.io.mrc import new_image_stack
from gsworkbench.particles.image_statistics import outliers
from gsworkbench.particles.read import read_metadata


@pytest.fixture(scope="module")
def stack(noisy_set):
    return noisy_set.stack


@pytest.fixture(scope="module")
def bright(clean_set):
    return clean_set.stack


def altered(stack, path, change):
    """The stack with images that `change` alters, in a file of their own."""
    images = stack.raw_images(np.arange(len(stack)))
    images = change(images, np.random.default_rng(0))
    with new_image_stack(path, len(images), stack.box_size, stack.pixel_size) as file:
        file[:] = images
    return dataclasses.replace(
        stack, files=(path,), file_index=np.zeros(len(stack), np.int64), image_index=np.arange(len(stack))
    )


def plane(images):
    axis = np.arange(images.shape[-1]) - images.shape[-1] // 2
    return np.broadcast_to(axis.astype(np.float32), images.shape[1:])


def circle(images, radius):
    return np.hypot(plane(images), plane(images).T) < radius


def set_pixels(images, rows, value):
    images[rows, 5, 7] = value
    return images


def some_replaced(images, rows, by):
    images[rows] = by
    return images


def mostly_noise(images, rng):
    rows = rng.permutation(len(images))[: len(images) // 5]
    return some_replaced(images, rows, rng.normal(size=(len(rows), *images.shape[1:])))


DIRTY = {
    "clean": (lambda y, rng: y, None),
    "background of 3 sd": (lambda y, rng: y + 3, "background of 3"),
    "background of -2 sd": (lambda y, rng: y - 2, "background of -1.999, 2 standard"),
    "background of 1000 sd": (lambda y, rng: y + 1000, "background of 1000, "),
    "hot pixels": (lambda y, rng: set_pixels(y, slice(0, 50), 3e4), "50 images have hot pixels, 50 in all"),
    "masked corners": (lambda y, rng: y * circle(y, 14), "corners of the images hold less noise"),
    "ramps": (lambda y, rng: y + 0.2 * plane(y), "rises from one side to the other"),
    "noise": (mostly_noise, "hold no particle, or their poses are wrong"),
    "other units": (lambda y, rng: some_replaced(y, slice(4, 9), 1e6 * y[4:9]), "5 images have "),
    "blank": (lambda y, rng: some_replaced(y, slice(2, 4), 0), "2 of 600 images are blank (first rows 3, 4)"),
}


@pytest.mark.filterwarnings("ignore:.*images are blank:UserWarning")
@pytest.mark.parametrize("kind", DIRTY)
def test_each_kind_is_named_and_changes_no_verdict(stack, tmp_path, kind):
    change, sentence = DIRTY[kind]
    said = []
    found = inspect_particles(altered(stack, tmp_path / "x.mrcs", change), said.append)
    findings = [line for line in said if "finding: " in line]
    if sentence is None:
        assert not findings and any("nothing is unusual" in line for line in said)
    else:
        assert len(findings) == 1 and sentence in findings[0]
    assert "poses and shifts fit" in found.poses.verdict() and found.poses.fits
    assert found.contrast.suggested_sign == 1 and found.alarms == []
    assert found.rings.problem is None
    assert f"               {found.poses.verdict()}" in said


def test_poses_that_fit(stack, bright):
    for particles in (stack, bright):
        assert "poses and shifts fit" in check_poses(measured_images(particles).prepared()).verdict()


@pytest.mark.parametrize(
    ("mistake", "found"),
    [
        (lambda s: {"shifts_angstrom": -4 * s.shifts_angstrom}, "shifts"),
        (lambda s: {"shifts_angstrom": -s.shifts_angstrom}, "with shifts reversed the halves agree better"),
        (lambda s: {"rotations": np.swapaxes(s.rotations, 1, 2).copy()}, "rotations transposed"),
        (lambda s: {"image_index": np.roll(s.image_index, 1)}, "no better than chance"),
        (lambda s: {"rotations": random_rotations(len(s), np.random.default_rng(1))}, "no better than chance"),
    ],
)
@pytest.mark.parametrize("change", ["clean", "background of 3 sd", "hot pixels"])
def test_mistakes_are_named(stack, tmp_path, mistake, found, change):
    dirty = altered(stack, tmp_path / "x.mrcs", DIRTY[change][0])
    wrong = dataclasses.replace(dirty, **mistake(dirty))
    check = check_poses(measured_images(wrong).prepared())
    assert found in check.verdict() and not check.fits


def turned(n, most_tilt):
    """(n, 3, 3) rotations about z, tilted by up to `most_tilt` degrees."""
    rng = np.random.default_rng(0)
    a, b = rng.uniform(0, 2 * np.pi, n), np.radians(rng.uniform(-most_tilt, most_tilt, n))
    zero, one = np.zeros(n), np.ones(n)
    about_z = np.stack([np.cos(a), np.sin(a), zero, -np.sin(a), np.cos(a), zero, zero, zero, one], -1)
    about_y = np.stack([np.cos(b), zero, -np.sin(b), zero, one, zero, np.sin(b), zero, np.cos(b)], -1)
    return about_z.reshape(-1, 3, 3) @ about_y.reshape(-1, 3, 3)


def test_views_of_a_2d_classification_take_the_place_of_a_verdict(stack):
    said = []
    found = inspect_particles(dataclasses.replace(stack, rotations=turned(len(stack), 0)), said.append)
    assert found.poses is None and "seen from one direction" in found.views
    assert f"poses          {found.views}" in said and not any("chance" in line for line in said)


def test_poses_that_agree_by_chance_are_not_measurable(bright):
    wrong = dataclasses.replace(bright, rotations=turned(len(bright), 3))
    check = check_poses(measured_images(wrong).prepared())
    assert check.chance > 0.85 and check.as_given > 0.85  # random turns would do as well
    assert not check.fits and ("not measurable, because" in check.verdict() or "few directions" in check.verdict())


@pytest.mark.parametrize(
    ("as_given", "other", "chance", "scatter", "words"),
    [
        (0.97, 0.6, 0.35, 0.02, "poses and shifts fit"),
        (0.37, 0.3, 0.35, 0.02, "no better than chance: poses may belong to other images, or the images hold"),
        (0.50, 0.3, 0.35, 0.05, "no better than chance"),  # chance differs by more than that
        (0.45, 0.3, 0.35, 0.01, "little better than chance"),
        (0.45, 0.9, 0.35, 0.01, "with x the halves agree better"),
        (0.82, 0.8, 0.81, 0.05, "chance does well (0.81) as all particles are seen from few directions"),
        (1.00, 0.9, 0.97, 0.001, "not measurable, because half maps agree by 0.970"),
    ],
)
def test_verdicts_need_what_chance_does_not_give(as_given, other, chance, scatter, words):
    assert words in PoseCheck(1000, as_given, {"x": other}, chance, scatter).verdict()


def test_contrast_of_white_and_dark_protein(stack):
    assert contrast(stack).suggested_sign == 1
    assert contrast(dataclasses.replace(stack, data_sign=-stack.data_sign)).suggested_sign == -1


@pytest.mark.parametrize(("given", "advice"), [(1, "give --sign -1"), (-1, "give --sign 1: as the file has them")])
def test_the_sign_to_give_is_that_of_reconstruct(stack, tmp_path, given, advice):
    """Protein is dark under the sign that was given; the same sentence comes from both commands."""
    inverted = altered(stack, tmp_path / "x.mrcs", lambda y, rng: -given * y)
    dark = dataclasses.replace(inverted, data_sign=np.full(len(stack), given, np.int8))
    with pytest.raises(InputError) as refused:
        require_white_protein(dark)
    sentence = protein_sign(dark).sentence()
    assert advice in sentence and advice in str(refused.value)
    assert refused.value.problem in sentence and refused.value.remedy in sentence
    assert ("multiplied by the sign -1" in sentence) == (given == -1)
    said = []
    inspect_particles(dark, said.append)
    assert f"               {sentence}" in said


def blob(images):
    return np.exp(-(plane(images) ** 2 + plane(images).T ** 2) / 80)


PATTERNS = {
    "hot pixels": lambda y, rng: set_pixels(y, slice(0, 60), 3e4),
    "circle": lambda y, rng: y * circle(y, 14),
    "ramps": lambda y, rng: y + rng.uniform(-5, 5, (len(y), 1, 1)) * plane(y),
    "common blob": lambda y, rng: y + rng.exponential(30, (len(y), 1, 1)) * blob(y),
    "camera": lambda y, rng: y + rng.exponential(30, (len(y), 1, 1)) * rng.normal(size=y.shape[1:]),
    "blank": lambda y, rng: some_replaced(y, slice(0, 20), 0),
    "one of a million": lambda y, rng: some_replaced(y, [0], 1e6 * y[0]),
}


@pytest.mark.filterwarnings("ignore:.*images are blank:UserWarning")
@pytest.mark.parametrize("kind", PATTERNS)
def test_what_images_share_makes_no_copies_of_them(stack, bright, tmp_path, kind):
    for n, particles in enumerate((stack, bright)):
        assert particle_alarms(altered(particles, tmp_path / f"{n}.mrcs", PATTERNS[kind])) == []


@pytest.mark.parametrize(
    ("copy", "kind"),
    [
        (lambda y: y, "clean"),
        (lambda y: 5 * y + 30, "clean"),
        (lambda y: -2 * y, "clean"),
        (lambda y: y.astype(np.float16), "clean"),
        (lambda y: 5 * y - 3, "hot pixels"),
        (lambda y: y, "circle"),
    ],
)
def test_true_copies_are_found(stack, bright, tmp_path, copy, kind):
    def change(images, rng):
        images = PATTERNS.get(kind, lambda y, rng: y)(images, rng)
        images[[1, 5, 9]] = copy(images[[0, 4, 8]])
        return images

    for n, particles in enumerate((stack, bright)):
        half_set = (np.arange(len(particles)) % 2 + 1).astype(np.int8)
        particles = dataclasses.replace(altered(particles, tmp_path / f"{n}.mrcs", change), half_set=half_set)
        (alarm,) = particle_alarms(particles)
        assert f"copies of the same image are in both half sets, 3 of {len(particles) // 2}" in alarm


def test_rings_of_another_defocus_are_not_in_the_power_spectrum(bright):
    prepared = measured_images(bright).prepared()
    right = check_rings(prepared)
    assert right.problem is None and "shows the rings" in right.sentence()
    assert right.seen == pytest.approx(right.expected, rel=0.1)
    ctf = prepared.ctf
    twice = dataclasses.replace(ctf, defocus_u=2 * ctf.defocus_u, defocus_v=2 * ctf.defocus_v)
    others = ctf[np.roll(np.arange(len(ctf.scale)), 1)]
    for wrong in (twice, others):
        found = check_rings(dataclasses.replace(prepared, ctf=wrong))
        assert "does not show the rings that the table's defocus predicts" in found.sentence()
    tiny = dataclasses.replace(ctf, defocus_u=1e-4 * ctf.defocus_u, defocus_v=1e-4 * ctf.defocus_v)
    assert check_rings(dataclasses.replace(prepared, ctf=tiny)) is None


def test_rings_of_noise_are_too_weak_to_tell(stack, tmp_path):
    noise = altered(stack, tmp_path / "x.mrcs", lambda y, rng: rng.normal(size=y.shape))
    found = check_rings(measured_images(noise).prepared())
    assert found.problem is None and "too weak" in found.sentence()


def test_power_spectra_are_those_of_white_noise_where_there_is_nothing_else(stack, tmp_path):
    noise = altered(stack, tmp_path / "x.mrcs", lambda y, rng: rng.normal(size=y.shape))
    found = power_spectrum(measured_images(noise).prepared())
    np.testing.assert_allclose(found.power[2:], 1, atol=0.1)
    np.testing.assert_allclose(found.noise, 1, atol=0.1)
    assert found.frequencies[-1] == pytest.approx(1 / (2 * stack.pixel_size)) and found.n_images == 300


def test_large_stacks_are_measured_on_images_spread_over_them(stack):
    found = measured_images(stack, most=100)
    assert len(found.stack) == 100 and found.stack.source_row[[0, -1]].tolist() == [0, len(stack) - 1]
    assert "100 of 600, spread evenly, measured" in found.report()[0]


@pytest.mark.filterwarnings("ignore:.*images are blank:UserWarning")
@pytest.mark.parametrize("kind", DIRTY)
def test_pictures_are_legible(stack, tmp_path, kind):
    found = inspect_particles(altered(stack, tmp_path / "x.mrcs", DIRTY[kind][0]))
    figure = inspection_figure(found)
    assert_legible(figure)
    titles = [axes.get_title() for axes in figure.axes]
    assert sum(title.startswith("row ") for title in titles) == 16
    expected = {"hot pixels": "1 hot px", "blank": "blank", "other units": "e6 times", "noise": "signal"}
    if kind in expected:
        assert expected[kind] in titles[-8]


def test_pictures_without_poses_ctf_or_many_images(stack, bright):
    for particles in (dataclasses.replace(stack, rotations=None), stack[:5], bright[:200]):
        assert_legible(inspection_figure(inspect_particles(particles)))


def test_the_worst_images_are_one_of_each_kind_first(stack, tmp_path):
    def change(images, rng):
        images[10:14] *= 40
        images[20:40] = set_pixels(images[20:40], slice(None), 500)
        images[50, 8:24, 8:24] += 20
        return images

    found = inspect_particles(altered(stack, tmp_path / "x.mrcs", change))
    first = worst(found, 8)
    assert {one.row for one in first[:3]} & set(range(20, 40)) and 50 in {one.row for one in first[:3]}
    assert {one.row for one in first[:3]} & set(range(10, 14)) and all(one.remarkable for one in first)
    assert len({one.row for one in first}) == 8
    said = reasons(found)
    assert said[20] == ["hot pixels, set to the background"] and said[0] == []
    assert said[10] == ["in other units, scaled to the others"]
    assert said[50] == ["more than 5 times the power of the median image"] and outliers(found.images.found)[50]


def test_files_are_written_only_when_asked_for_and_tables_are_alike_each_time(noisy_set, tmp_path, capsys):
    before = sorted(noisy_set.folder.iterdir())
    assert main(["inspect", str(noisy_set.star)]) == 0
    assert "picture" not in capsys.readouterr().out and sorted(noisy_set.folder.iterdir()) == before
    for name in ("first", "second"):
        assert main(["inspect", str(noisy_set.star), "--out", str(tmp_path / name)]) == 0
    said = capsys.readouterr().out
    assert f"picture        {tmp_path}/second/inspect.png; a row for each image measured: " in said
    assert (tmp_path / "first" / "inspect.csv").read_bytes() == (tmp_path / "second" / "inspect.csv").read_bytes()
    assert (
        (tmp_path / "first" / "inspect.png").stat().st_size > 1e5 < (tmp_path / "first" / "inspect.svg").stat().st_size
    )
    with open(tmp_path / "first" / "inspect.csv", newline="") as file:
        first, *rows = csv.reader(file)
    assert tuple(first) == COLUMNS and len(rows) == 600
    row = dict(zip(first, rows[41], strict=True))
    assert row["row"] == row["image"] == "42" and row["file"].endswith("particles.mrcs")
    assert row["left_out"] == "0" and row["why"] == "" and 0.8 < float(row["noise"]) < 1.2
    assert 0.5 < float(row["scale"]) < 1.5


def test_a_table_without_its_images_is_drawn(noisy_set, tmp_path, capsys):
    (tmp_path / "particles.star").write_text(noisy_set.star.read_text())
    assert main(["inspect", str(tmp_path / "particles.star"), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr()
    assert "inspect.png, of the table alone" in said.out and "missing" in said.err + said.out
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"inspect.png", "inspect.svg"}
    figure = table_figure(read_metadata(tmp_path / "particles.star", needs_ctf=True))
    assert_legible(figure)
    assert figure.axes[0].get_xlabel() == "defocus, µm" and figure.axes[1].collections
