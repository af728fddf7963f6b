"""Each alarm rings for its mistake and is silent without it."""

import dataclasses

import numpy as np
import pytest
from scipy import ndimage

from gsworkbench.assessment import alarms
from gsworkbench.assessment.definitions import judge
from gsworkbench.assessment.fsc import FscCurve, fourier_shell_correlation, resolution, shell_indices
from gsworkbench.assessment.honesty import overstatement
from gsworkbench.assessment.masks import Mask, spherical_mask

BOX, VOXEL = 32, 3.0


def noise(seed, box=BOX):
    return np.random.default_rng(seed).standard_normal((box, box, box))


def filtered(volume, gain):
    transform = np.fft.rfftn(volume) * gain(shell_indices(len(volume)))
    return np.fft.irfftn(transform, s=volume.shape, axes=(0, 1, 2))


@pytest.fixture(scope="module")
def truth():
    mask = spherical_mask(BOX, VOXEL, radius=15, edge=12).values
    return filtered(noise(0) * mask, lambda s: 40 * np.exp(-((s / 6) ** 2)))


@pytest.fixture(scope="module")
def halves(truth):
    return [truth + noise(i) for i in (1, 2)]


def fsc(a, b, **keywords):
    return fourier_shell_correlation(a, b, voxel_size=VOXEL, **keywords)


def test_two_percent_shared_particles_ring():
    file_index, image_index = np.zeros(1010, int), np.r_[np.arange(1000), np.arange(10)]
    half_set = np.r_[np.arange(1000) % 2 + 1, 2 - np.arange(10) % 2]  # the last ten once more, in the other half
    said = alarms.particles_in_both_halves(file_index, image_index, half_set)
    assert "10 of 505" in said and "0.0198" in said
    other_file = np.r_[np.zeros(1000, int), np.ones(10, int)]
    assert alarms.particles_in_both_halves(other_file, image_index, half_set) is None


def test_copies_of_images_ring_though_rescaled_and_on_a_common_blob():
    rng = np.random.default_rng(0)
    blob = ndimage.gaussian_filter(rng.standard_normal((32, 32)), 4) * 4
    images = ndimage.gaussian_filter(rng.standard_normal((200, 32, 32)), (0, 1, 1)) + blob
    half_set = np.arange(200) % 2 + 1
    assert alarms.identical_images(alarms.fingerprints(images), half_set) is None
    copies = images.copy()
    copies[[101, 103]] = 3 * images[[0, 2]] + 1  # images of half set 2 that are those of half set 1
    assert "2 of 100" in alarms.identical_images(alarms.fingerprints(copies), half_set)


def test_near_coordinates_ring_within_a_micrograph_only():
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(np.arange(10), np.arange(10)), -1).reshape(-1, 2) * 200.0
    coordinates = np.concatenate([grid, grid + rng.uniform(-5, 5, grid.shape)])
    half_set = np.repeat([1, 2], 100)
    same, other = np.zeros(200, int), np.repeat([0, 1], 100)
    assert "100 of 100" in alarms.near_coordinates(same, coordinates, half_set, 20)
    assert alarms.near_coordinates(other, coordinates, half_set, 20) is None


def test_a_shared_start_rings(truth, halves):
    start = filtered(noise(7), lambda s: s > 5)
    biased = [half + 1.5 * start for half in halves]
    found = resolution(fsc(*biased))
    assert "started from explains" in alarms.shared_initialisation(*biased, start, found)
    low_passed = filtered(truth, lambda s: s <= 2) + 0.1 * filtered(noise(8), lambda s: s <= 2)
    assert alarms.shared_initialisation(*halves, low_passed, resolution(fsc(*halves))) is None


def test_a_curve_that_rises_again_rings_and_noise_does_not():
    values = np.array([1, 0.9, 0.6, 0.2, 0.02, 0.1, 0.5, 0.3, 0.1, 0, 0])
    curve = FscCurve("fsc_masked", values, 20, 2.0)
    said = alarms.rises_again(curve, np.full(11, 0.03))
    assert "falls to 0.02 at 10.00 A" in said and "0.50 at 6.67 A" in said
    assert alarms.rises_again(curve, np.full(11, 0.2)) is None  # within its errors
    falling = dataclasses.replace(curve, values=np.linspace(1, 0, 11))
    assert alarms.rises_again(falling, np.full(11, 0.01)) is None


def test_independent_noise_rings_nothing():
    quiet = 0
    for seed in range(0, 40, 2):
        found = judge(noise(seed), noise(seed + 1), voxel_size=VOXEL, mask="none")
        quiet += alarms.rises_again(found.curves[0], found.errors["fsc_unmasked"]) is None
    assert quiet >= 19


def test_shells_without_power_ring(halves):
    cut = [filtered(half, lambda s: s <= 10) for half in halves]
    assert "5 shells from 8.73 A on" in alarms.empty_shells(fsc(*cut))
    assert alarms.empty_shells(fsc(*halves)) is None


def test_unmasked_reaching_further_rings():
    def read(values):
        return resolution(FscCurve("fsc_unmasked", np.array(values), 8, 2.0))

    short, far, end = read([1, 0.5, 0, 0, 0]), read([1, 0.5, 0.5, 0, 0]), read([1, 1, 1, 1, 1])
    assert "16.00 A" in alarms.reaches_too_far(far, short)
    assert "no crossing" in alarms.reaches_too_far(end, short)
    assert alarms.reaches_too_far(short, far) is None and alarms.reaches_too_far(end, end) is None


def test_maps_masked_beyond_their_cutoff_ring(truth):
    mask = np.zeros((BOX, BOX, BOX))
    mask[9:23, 10:22, 11:20] = 1
    cut = [filtered(truth + 0.3 * noise(i), lambda s: s <= 8) for i in (1, 2)]
    masked = [volume * mask for volume in cut]
    assert "filtered and then masked" in alarms.agree_where_empty(*masked, fsc(*masked))
    assert alarms.agree_where_empty(*cut, fsc(*cut)) is None
    soft = spherical_mask(BOX, VOXEL, radius=24, edge=15).values
    unfiltered = [(truth + 2 * noise(i)) * soft for i in (1, 2)]
    assert alarms.agree_where_empty(*unfiltered, fsc(*unfiltered)) is None  # empty corners, but the curve falls


def test_a_tight_mask_on_random_phases_rings():
    curve = FscCurve("fsc_randomized_masked", np.array([1, 1, 0.9, 0.8, 0.6, 0.4, 0.3, 0.2, 0.2]), 16, 2.0)
    at = resolution(FscCurve("fsc_corrected", np.array([1, 1, 1, 1, 1, 0.9, 0, 0, 0]), 16, 2.0))
    assert "agree by 0.40 at 6.40 A, 4 shells beyond" in alarms.mask_still_agrees(curve, at, from_shell=1)
    assert alarms.mask_still_agrees(dataclasses.replace(curve, values=np.zeros(9)), at, from_shell=1) is None
    assert "agree by 0.30" in alarms.mask_still_agrees(curve, at, from_shell=2)  # not read where every mask leaks
    assert alarms.mask_still_agrees(curve, at, from_shell=4) is None


@pytest.mark.parametrize("start", [9, 12, 13, 14, 15])
def test_a_good_mask_rings_nothing_though_phases_are_random_from_near_nyquist_only(start):
    """The mask carries agreement some shells beyond the start; near Nyquist there is nothing farther to read."""
    mask = spherical_mask(BOX, VOXEL, radius=18, edge=12)
    signal = filtered(noise(7) * mask.values, lambda s: np.where(s < start, 30.0, 1.0))
    found = judge(*(signal + noise(i) for i in (1, 2)), "RELION", voxel_size=VOXEL, mask=mask)
    read = {r.curve: r for r in found.resolutions}
    if found.randomised_from is None:
        assert start >= 14 and "of 16" in found.notes[0] and found.curve("fsc_corrected") is None
        return
    assert found.randomised_from == start
    randomised = found.curve("fsc_randomized_masked")
    assert randomised.values[start] > 0.3  # what used to ring
    assert alarms.mask_still_agrees(randomised, read["fsc_corrected"], start) is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda v: -v, "its sign flipped"),
        (lambda v: np.roll(v[::-1, ::-1, ::-1], 1, (0, 1, 2)), "its hand inverted"),
        (lambda v: np.roll(v[::-1], 1, 0), "its hand inverted"),
        (lambda v: ndimage.affine_transform(v, np.full(3, 0.5), np.full(3, 8), order=3), "half its size"),
        (lambda v: ndimage.affine_transform(v, np.full(3, 2.0), np.full(3, -16), order=3), "twice its size"),
    ],
)
def test_a_map_unlike_the_truth_rings_by_name(truth, change, words):
    assert words in alarms.unlike_truth(change(truth) + 0.1 * noise(5), truth)


def test_a_map_like_the_truth_rings_nothing(truth, halves):
    assert alarms.unlike_truth(sum(halves), truth) is None
    assert alarms.unlike_truth(noise(4), truth) is None  # noise is unlike the truth in every way


def test_overstatement_is_zero_for_independent_errors_and_not_for_shared_ones(truth):
    honest, biased = [], []
    for seed in range(0, 60, 3):
        for bias, found in ((0.0, honest), (0.7, biased)):
            pair = [truth + bias * noise(seed) + noise(seed + i) for i in (1, 2)]
            found.append(overstatement(fsc(*pair), fsc(sum(pair) / 2, truth)).mean)
    assert abs(np.mean(honest)) < 0.01
    assert np.mean(biased) > 0.1
    assert alarms.shared_bias(float(np.mean(honest))) is None
    assert "share a bias" in alarms.shared_bias(float(np.mean(biased)))


def test_the_same_map_twice_rings_and_a_good_pair_does_not(halves):
    assert "the same map" in alarms.same_map_twice(halves[0], 3 * halves[0] + 1)
    assert alarms.same_map_twice(*halves) is None
    assert "10 times" in alarms.unlike_scales(10 * halves[0], halves[0])
    assert alarms.unlike_scales(*halves) is None


def test_held_out_errors_that_do_not_bear_out_the_half_maps_ring():
    falling = np.array([-0.5, -0.9, -1.0])
    assert alarms.held_out_disagrees(falling, 0.97 * falling, 0.9) is None
    said = alarms.held_out_disagrees(falling, np.array([-0.5, -0.8, -0.72]), 0.9)
    assert "10 % above its best" in said and "0.90" in said
    assert "explains of held-out particles 0 %" in alarms.held_out_disagrees(falling, -0.2 * falling, 0.9)
    assert "30 %" in alarms.held_out_disagrees(falling, 0.3 * falling, 0.9)


def test_overstatement_compares_like_with_like(halves):
    with pytest.raises(ValueError, match="differ"):
        overstatement(fsc(*halves), fsc(*halves, mask=Mask(np.ones((BOX,) * 3), "all")))


def test_gather_keeps_sentences_once():
    assert alarms.gather(["a", None, "b", "a"]) == ["a", "b"]
