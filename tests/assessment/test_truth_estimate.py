"""The FSC to the unknown truth by the other half's linear map, on maps whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from gsworkbench.assessment.assess import assess
from gsworkbench.assessment.definitions import judge
from gsworkbench.assessment.fsc import fourier_shell_correlation
from gsworkbench.assessment.masks import spherical_mask
from gsworkbench.assessment.transforms import inverse, transform
from gsworkbench.assessment.truth_estimate import estimate_truth_fsc
from gsworkbench.errors import InputError

D, VOXEL = 32, 2.0
SHELLS = slice(1, D // 2)


def molecule(rng):
    """(D, D, D) blobs in the middle of the box, with power at all frequencies."""
    z, y, x = np.indices((D, D, D)) - D / 2
    return rng.standard_normal((D, D, D)) * np.exp(-(x**2 + y**2 + z**2) / 60)


def maps(seed, *, noise=(1.0, 1.0), shared=0.0, blur=0.0):
    """Truth, linear half maps, and half maps of a regularising method: blurred, with a mistake that both make."""
    rng = np.random.default_rng(seed)
    truth = molecule(rng)
    sd = truth.std()
    linear = [truth + sd * n * rng.standard_normal(truth.shape) for n in noise]
    mistake = shared * molecule(rng)
    halves = [ndimage.gaussian_filter(m, blur) + mistake for m in linear]
    return truth, tuple(halves), tuple(linear)


def true_fsc(halves, truth, mask):
    to_truth = [fourier_shell_correlation(h, truth, voxel_size=VOXEL, mask=mask).values for h in halves]
    return (to_truth[0] + to_truth[1]) / 2


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("noise", [(1.0, 1.0), (0.5, 2.0)])
@pytest.mark.parametrize("shared", [0.0, 1.0])
def test_the_estimate_is_the_fsc_to_the_truth(masked, noise, shared):
    """Half maps that share a mistake agree about it; the estimate is not impressed, also with unequal noise."""
    mask = spherical_mask(D, VOXEL) if masked else None
    off, said_too_much, z = [], [], []
    for seed in range(4):
        truth, halves, linear = maps(seed, noise=noise, shared=shared, blur=0.5)
        found = estimate_truth_fsc(halves, linear, voxel_size=VOXEL, mask=mask)
        true = true_fsc(halves, truth, mask)[SHELLS]
        told = found.told[SHELLS]
        assert told.mean() > 0.6
        off.append(np.abs(found.half.values[SHELLS] - true)[told].mean())
        z.append(((found.half.values - true_fsc(halves, truth, mask)) / found.error)[SHELLS][told])
        agreement = fourier_shell_correlation(*halves, voxel_size=VOXEL, mask=mask).values[SHELLS]
        said_too_much.append((np.sqrt(np.clip(agreement, 0, None)) - true)[told].mean())
    assert np.mean(off) < 0.03
    assert np.mean(np.abs(np.concatenate(z)) < 2) > 0.9
    if shared:
        assert np.mean(said_too_much) > 5 * np.mean(off)


def test_random_phases_do_not_show_a_mistake_that_half_maps_share():
    """The corrected curve says of such half maps what the masked one says; the estimate says what is right."""
    truth, halves, linear = maps(0, shared=1.0)
    mask = spherical_mask(D, VOXEL)
    judged = judge(*halves, "RELION", voxel_size=VOXEL, mask=mask)
    corrected, start = judged.curve("fsc_corrected"), judged.randomised_from
    assert corrected is not None and start is not None
    found = estimate_truth_fsc(halves, linear, voxel_size=VOXEL, mask=mask)
    shells = found.told & (np.arange(D // 2 + 1) >= start + 2)
    true = true_fsc(halves, truth, mask)[shells]
    said = np.sqrt(np.clip(corrected.values[shells], 0, None))
    assert (said - true).mean() > 0.1
    assert np.abs(found.half.values[shells] - true).mean() < 0.02


def test_nothing_is_said_about_noise():
    """Thirty pairs of pure noise, without and with a mask, and fits that agree perfectly: no shell has an estimate."""
    mask = spherical_mask(D, VOXEL)
    for seed in range(30):
        rng = np.random.default_rng(seed)
        same = rng.standard_normal((D, D, D))
        linear = tuple(rng.standard_normal((2, D, D, D)))
        for m in (None, mask):
            found = estimate_truth_fsc((same, same), linear, voxel_size=VOXEL, mask=m)
            assert found.finest == 0 and not found.told.any()


def test_a_spike_in_one_half_set_does_not_spoil_a_masked_estimate():
    _, halves, linear = maps(0)
    half = transform(linear[0])
    half[5, 7, 3] *= 300
    spoilt = (inverse(half), linear[1])
    mask = spherical_mask(D, VOXEL)
    clean = estimate_truth_fsc(halves, linear, voxel_size=VOXEL, mask=mask)
    found = estimate_truth_fsc(halves, spoilt, voxel_size=VOXEL, mask=mask)
    both = clean.told & found.told
    assert both.sum() > 10
    np.testing.assert_allclose(found.half.values[both], clean.half.values[both], atol=0.02)


def test_the_full_map_of_independent_halves():
    """C^2 = 2 c^2 / (1 + c^2): the mean of the halves against the truth."""
    truth, halves, linear = maps(1)
    found = estimate_truth_fsc(halves, linear, voxel_size=VOXEL)
    mean = fourier_shell_correlation((halves[0] + halves[1]) / 2, truth, voxel_size=VOXEL).values
    told = found.told
    np.testing.assert_allclose(found.full.values[told], mean[told], atol=0.06)
    assert (found.full_error[told] > 0).all()


def test_maps_of_unlike_boxes_are_refused():
    truth, halves, linear = maps(2)
    with pytest.raises(InputError, match="one box"):
        estimate_truth_fsc(halves, (linear[0], truth[:16, :16, :16]), voxel_size=VOXEL)


# --- in an assessment


def alarms_of(halves, linear):
    volume = (halves[0] + halves[1]) / 2
    return " ".join(assess(volume, halves, None, voxel_size=VOXEL, linear=linear, mask="none").alarms)


def test_good_maps_raise_no_alarm_about_the_estimate():
    for seed in range(5):
        _, halves, linear = maps(seed, blur=0.5)
        assert "estimate" not in alarms_of(halves, linear) and "linear" not in alarms_of(halves, linear)


def test_a_shared_mistake_is_found_without_a_truth():
    for seed in range(5):
        _, halves, linear = maps(seed, shared=1.0, blur=0.5)
        assert "they share a bias" in alarms_of(halves, linear)


@pytest.mark.parametrize(
    ("what", "change", "words"),
    [
        ("order", lambda halves, linear: (halves, linear[::-1]), "in the order of the half maps"),
        ("both halves", lambda halves, linear: ((sum(linear) / 2,) * 2, linear), "from particles of both half sets"),
        ("filtered", lambda halves, linear: (halves, [filtered(m) for m in linear]), "seems to be filtered"),
    ],
)
def test_linear_maps_that_are_none_are_named(what, change, words):
    _, halves, linear = maps(3)
    assert words in alarms_of(*change(halves, linear))


def filtered(volume):
    half = transform(volume)
    k = np.abs(np.fft.fftfreq(D, 1 / D))
    radius = np.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + k[: D // 2 + 1] ** 2)
    return inverse(np.where(radius < 8, half, 0))


def test_numbers_and_lines():
    _, halves, linear = maps(4)
    found = assess((halves[0] + halves[1]) / 2, halves, None, voxel_size=VOXEL, linear=linear, mask="none")
    (estimate,) = found.estimates
    numbers = found.as_dict()["fsc_unmasked_estimate"]
    assert numbers["told_shells"] == estimate.told.sum() and abs(numbers["mean"] - estimate.mean) < 1e-12
    assert any("mean FSC of a half map to the truth" in line for line in found.report())


def test_nothing_is_read_off_noise():
    rng = np.random.default_rng(0)
    halves, linear = tuple(rng.standard_normal((2, D, D, D))), tuple(rng.standard_normal((2, D, D, D)))
    found = assess(halves[0], halves, None, voxel_size=VOXEL, linear=linear, mask="none")
    assert "cannot tell" in " ".join(found.report())
    assert found.as_dict()["fsc_unmasked_estimate"]["mean"] is None
    assert not [r for r in found.resolutions if r.curve.endswith("_estimate")]


def test_the_estimate_ends_where_it_ends():
    """Where the linear maps agree too little before the estimate falls below 0.378, no resolution is read."""
    rng = np.random.default_rng(1)
    truth = molecule(rng)
    half = transform(truth)
    k = np.fft.fftfreq(D, 1 / D)
    radius = np.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + np.arange(D // 2 + 1) ** 2)
    truth = inverse(half * (radius < 10))
    linear = tuple(truth + 0.3 * truth.std() * rng.standard_normal((D, D, D)) for _ in range(2))
    found = estimate_truth_fsc((truth, truth), linear, voxel_size=VOXEL)
    assert 8 <= found.finest <= 10 and found.resolution is None
