"""Images as the world leaves them: what is measured of each, what is done to it, and what a user is told."""

import dataclasses

import numpy as np
import pytest

from gsworkbench.assessment.fsc import fourier_shell_correlation
from gsworkbench.cli.main import main
from gsworkbench.io.mrc import new_image_stack
from gsworkbench.normal_equations.classical_map import classical_map
from gsworkbench.normal_equations.equations import accumulate
from gsworkbench.particles.formats.relion import write_star
from gsworkbench.particles.image_statistics import (
    make_plan,
    measure_images,
    normalised,
    outliers,
    sentences,
    weighted_alike,
)

BOX = 32
AXIS = np.arange(BOX) - BOX // 2
RADIUS = np.hypot(AXIS[:, None], AXIS)


@pytest.fixture
def altered(noisy_set, tmp_path):
    """A function that makes the stack of noisy_set's images after a change: images (n, D, D) -> images."""

    def make(change):
        stack = noisy_set.stack
        path = tmp_path / f"altered{len(list(tmp_path.iterdir()))}.mrcs"
        with new_image_stack(path, len(stack), BOX, stack.pixel_size) as images:
            images[:] = change(stack.images().copy())
        return dataclasses.replace(
            stack, files=(path,), file_index=np.zeros(len(stack), np.int64), image_index=np.arange(len(stack))
        )

    return make


def said(stack):
    return " | ".join(sentences(measure_images(stack), stack))


def map_of(stack, *, as_they_are=False):
    if as_they_are:
        return classical_map(accumulate(stack))
    found = measure_images(stack)
    made = normalised(stack, found)[~outliers(found)]
    return classical_map(accumulate(made)) * made.normalisation.unit


def likeness(volume, truth):
    return fourier_shell_correlation(volume, truth, voxel_size=12.0).mean()


def test_images_as_they_should_be_give_no_sentence(noisy_set):
    found = measure_images(noisy_set.stack)
    assert sentences(found, noisy_set.stack) == [] and not outliers(found).any()
    assert found.plan.measure == "border" and found.plan.noise == pytest.approx(1, abs=0.03)
    assert found.noise == pytest.approx(1, abs=0.25) and not found.hot.any() and not found.plan.ramps


@pytest.mark.parametrize("offset", [0.5, -2.0, 3.0, 1000.0, -1000.0])
def test_a_constant_background_changes_no_digit(altered, noisy_set, offset):
    stack = altered(lambda images: images + offset)
    assert "have a background of" in said(stack) and "subtracted from each image" in said(stack)
    shown = [f"{likeness(map_of(s), noisy_set.truth):.4f}" for s in (stack, noisy_set.stack)]
    assert shown[0] == shown[1]
    as_it_is = likeness(map_of(stack, as_they_are=True), noisy_set.truth)
    assert as_it_is == pytest.approx(likeness(map_of(noisy_set.stack, as_they_are=True), noisy_set.truth), abs=2e-4)


def test_ramps_are_found_and_planes_subtracted(altered, noisy_set):
    slopes = np.random.default_rng(1).normal(0, 0.08, (600, 2))
    stack = altered(lambda d: d + slopes[:, :1, None] * AXIS + slopes[:, 1:, None] * AXIS[:, None])
    found = measure_images(stack)
    assert found.plan.ramps and np.abs(found.slope - slopes).std() < 0.01
    assert "rises from one side" in said(stack)
    assert likeness(map_of(stack), noisy_set.truth) > likeness(map_of(noisy_set.stack), noisy_set.truth) - 0.003


@pytest.mark.parametrize(
    "change, corners",
    [
        (lambda d: d * (RADIUS <= 14), 0.0),  # a hard mask
        (lambda d: d * np.clip((15.5 - RADIUS) / 3, 0, 1), 0.0),  # a soft one
        (lambda d: np.where(RADIUS >= 16, 0.5 * d, d), 0.5),
        (lambda d: np.where(RADIUS >= 16, 0.01 * d, d), 0.01),
        (lambda d: np.where(RADIUS >= 16, 5 * d, d), 5.0),
    ],
    ids=["hard mask", "soft mask", "half", "hundredth", "five times"],
)
def test_noise_is_measured_inside_where_corners_cannot_tell(altered, noisy_set, change, corners):
    stack = altered(change)
    found = measure_images(stack)
    assert found.plan.measure == "high frequencies" and found.plan.noise == pytest.approx(1, abs=0.06)
    assert np.sqrt(found.plan.corners) == pytest.approx(corners, abs=0.25 * corners + 0.02)
    assert ("more noise" if corners > 1 else "less noise") in said(stack)
    volume = map_of(stack)
    assert np.isfinite(volume).all()
    assert likeness(volume, noisy_set.truth) > likeness(map_of(noisy_set.stack), noisy_set.truth) - 0.01


def test_images_without_noise_count_alike(altered):
    stack = altered(
        lambda d: np.repeat(np.exp(-(RADIUS**2) / 18)[None], len(d), 0) * np.linspace(1, 2, len(d))[:, None, None]
    )
    found = measure_images(stack)
    assert found.plan.measure == "none" and np.ptp(found.noise) == 0 and found.noise[0] > 0
    assert "stronger than their noise" in said(stack) and not outliers(found).any()


def place(row, column, value, rows=slice(None, None, 40)):
    def change(images):
        images[rows, row, column] = value
        return images

    return change


@pytest.mark.parametrize(
    "change, pixels",
    [
        (place(5, 7, 3e4), 15),
        (place(0, 0, 3e4), 15),  # in the corner where the background is measured
        (place(16, 16, -200.0), 15),
        (place(slice(3, 5), slice(20, 22), 1000.0), 60),
        (place(9, 30, 60.0, slice(None)), 600),  # in every image
        (place(5, 7, 1e25), 15),
    ],
    ids=["one", "corner", "negative", "block", "every image", "huge"],
)
def test_hot_pixels_are_counted_and_removed(altered, noisy_set, change, pixels):
    stack = altered(change)
    found = measure_images(stack)
    assert found.hot.sum() == pixels and not outliers(found).any()
    assert f"{pixels:,} in all" in said(stack)
    assert np.abs(normalised(stack, found).images()).max() < 12
    assert likeness(map_of(stack), noisy_set.truth) > likeness(map_of(noisy_set.stack), noisy_set.truth) - 0.005


def test_strong_signal_is_not_taken_for_hot_pixels(clean_set):
    assert not measure_images(clean_set.stack).hot.any()


@pytest.mark.parametrize("unit", [1e-9, 1e-4, 1e5, 1e9])
def test_units_of_the_images_are_those_of_the_map(altered, noisy_set, unit):
    stack = altered(lambda d: d * unit)
    assert said(stack) == ""
    np.testing.assert_allclose(map_of(stack) / unit, map_of(noisy_set.stack), rtol=0, atol=0.02 * noisy_set.truth.std())


@pytest.mark.parametrize("row", [0, 7])
def test_an_image_in_other_units_is_brought_to_those_of_the_others(altered, noisy_set, row):
    def change(images):
        images[row] *= 1e6
        return images

    stack = altered(change)
    assert "1 image has" in said(stack) and f"(first row {row + 1})" in said(stack) and "other units" in said(stack)
    np.testing.assert_allclose(map_of(stack), map_of(noisy_set.stack), rtol=0, atol=0.02 * noisy_set.truth.std())


def test_blank_and_absurd_images_are_left_out_by_row(altered):
    def change(images):
        images[[0, 11]] = 3.0
        images[20] += 8 * np.exp(-(RADIUS**2) / 60)  # ice
        images[21] += 4 * np.exp(-(RADIUS**2) / 60)
        return images

    stack = altered(change)
    found = measure_images(stack)
    assert list(np.flatnonzero(outliers(found))) == [0, 11, 20]
    words = said(stack)
    assert "2 of 600 images are blank (first rows 1, 12) and are left out" in words
    assert "(first row 21) and is left out" in words and "(first row 22): ice, carbon" in words
    kept = " | ".join(sentences(found, stack, kept=True))
    assert "kept, as --keep-outliers asks" in kept


def test_each_image_weighs_by_its_own_noise(altered, noisy_set):
    """Noise of half and of twice the usual: the map is better than with one noise level for all."""
    noise = np.random.default_rng(5).standard_normal((600, BOX, BOX))
    level = np.where(np.arange(600) % 2 == 0, 0.0, 2.5)

    def change(images):
        return images + level[:, None, None] * noise

    stack = altered(change)
    found = measure_images(stack)
    assert np.median(found.noise[1::2]) == pytest.approx(np.hypot(1, 2.5), rel=0.05)
    made = normalised(stack, found)
    assert made.ctf.scale * made.normalisation.divisor == pytest.approx(made.normalisation.unit)
    assert likeness(map_of(stack), noisy_set.truth) > likeness(map_of(stack, as_they_are=True), noisy_set.truth) + 0.03
    alike = weighted_alike(made)
    np.testing.assert_allclose(
        alike.images(np.arange(3)),
        (stack.images(np.arange(3)) - found.offset[:3, None, None]) / made.normalisation.unit,
        atol=1e-5,
    )
    assert alike.ctf.scale == pytest.approx(1)


def test_what_is_measured_of_an_image_depends_on_no_other(noisy_set):
    """Parts of a table that different jobs read add up: with one plan, every image is treated alike everywhere."""
    plan = make_plan(noisy_set.stack)
    whole, part = measure_images(noisy_set.stack, plan), measure_images(noisy_set.stack[100:140], plan)
    for name in ("offset", "slope", "noise", "spread", "limit"):
        assert np.array_equal(getattr(whole, name)[100:140], getattr(part, name))


def test_normalised_images_go_with_their_particles(altered):
    stack = altered(lambda d: d + np.arange(len(d))[:, None, None])
    made = normalised(stack, measure_images(stack))
    order = np.array([5, 3, 599])
    assert np.array_equal(made[order].images(), made.images(order))
    assert np.abs(made[order].images().mean((1, 2))).max() < 0.2


@pytest.mark.parametrize("sign, remedy", [(None, "give --sign -1"), ("-1", "give --sign 1")])
@pytest.mark.parametrize("command", ["reconstruct", "backproject", "accumulate"])
def test_dark_protein_is_named_by_every_command_that_reads_images(
    altered, noisy_set, tmp_path, capsys, command, sign, remedy
):
    stack = altered(lambda d: -d) if sign is None else noisy_set.stack
    star = tmp_path / "images.star"
    write_star(star, stack)
    options = [] if sign is None else ["--sign", sign]
    assert main([command, str(star), "--out", str(tmp_path / "out"), *options]) == 2
    words = capsys.readouterr().err
    assert "protein is dark" in words and remedy in words
