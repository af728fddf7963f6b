"""The FSC to the unknown truth by direction and by place, on maps whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from gsworkbench.assessment.directional import directional_estimate, directional_fsc
from gsworkbench.assessment.local import local_estimate, local_resolution
from gsworkbench.assessment.local_judging import direct, localise
from gsworkbench.assessment.map_names import LINEAR, REGULARISED
from gsworkbench.assessment.masks import spherical_mask
from gsworkbench.assessment.truth_estimate import told_crossings
from gsworkbench.cli.main import main
from gsworkbench.io.mrc import read_map, write_map

D, VOXEL = 48, 2.0
MASK = spherical_mask(D, VOXEL, radius=30, edge=6)
WINDOWS = {"window": 40.0, "step": 8.0}


def molecule(rng):
    """(D, D, D) density in a ball, with power that falls smoothly and ends nowhere."""
    z, y, x = np.indices((D, D, D)) - D / 2
    return ndimage.gaussian_filter(rng.standard_normal((D, D, D)) * (x**2 + y**2 + z**2 < 16**2), 0.4)


@pytest.fixture(scope="module")
def known():
    """Truth, half maps that share a mistake at fine detail, and linear maps."""
    rng = np.random.default_rng(0)
    truth, mistake = molecule(rng), molecule(rng)
    linear = tuple(truth + 0.7 * truth.std() * rng.standard_normal(truth.shape) for _ in range(2))
    mistake = mistake - ndimage.gaussian_filter(mistake, 1.5)
    halves = tuple(ndimage.gaussian_filter(m, 0.7) + mistake for m in linear)
    return truth, halves, linear


@pytest.fixture(scope="module")
def noise():
    """Half maps that agree perfectly about noise, and linear maps of noise."""
    rng = np.random.default_rng(1)
    same = rng.standard_normal((D, D, D))
    return (same, same + 1e-3 * rng.standard_normal((D, D, D))), tuple(rng.standard_normal((2, D, D, D)))


def off(values, true):
    """Mean difference of frequencies, in Fourier voxels, where there are values."""
    told = np.isfinite(values)
    return np.abs(D * VOXEL * (1 / values - 1 / true))[told].mean()


def test_by_direction_it_is_the_fsc_to_the_truth(known):
    truth, halves, linear = known
    found = directional_estimate(halves, linear, voxel_size=VOXEL, mask=MASK)
    to_truth = [directional_fsc(h, truth, voxel_size=VOXEL, mask=MASK, threshold=0.378) for h in halves]
    true = D * VOXEL / np.mean([D * VOXEL / t.values for t in to_truth], 0)
    told = np.isfinite(found.curves)
    curves = (to_truth[0].curves + to_truth[1].curves) / 2
    assert np.abs(found.curves - curves)[told].mean() < 0.05
    agreement = directional_fsc(*halves, voxel_size=VOXEL, mask=MASK)
    said = np.sqrt(np.clip(agreement.curves, 0, None))
    assert np.abs(said - curves)[told].mean() > 3 * np.abs(found.curves - curves)[told].mean()
    assert np.isfinite(found.values).mean() > 0.5
    assert off(agreement.values, true) > 3 * off(found.values, true)


def test_by_place_it_is_the_resolution_to_the_truth(known):
    truth, halves, linear = known
    named = {"voxel_size": VOXEL, "mask": MASK, **WINDOWS}
    found = local_estimate(halves, linear, **named)
    true = np.mean([local_resolution(h, truth, threshold=0.378, **named).values for h in halves], 0)
    agreement = local_resolution(*halves, threshold=0.143, **named)
    np.testing.assert_array_equal(found.points, agreement.points)
    assert np.isfinite(found.values).mean() > 0.5
    assert off(agreement.values, true) > 3 * off(found.values, true)
    assert "A in the median" in str(found)


def test_a_direction_without_data_cannot_be_told(known):
    """A missing cone in the linear maps: along it they agree about nothing."""
    truth, _, _ = known
    rng = np.random.default_rng(2)
    k = np.fft.fftfreq(D, 1 / D)
    z, r = k[:, None, None], np.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + np.arange(D // 2 + 1) ** 2)
    seen = np.abs(z) <= np.cos(np.radians(40)) * r
    signal = np.fft.irfftn(np.fft.rfftn(truth) * seen, s=truth.shape, axes=(0, 1, 2))
    linear = tuple(signal + 0.1 * truth.std() * rng.standard_normal(truth.shape) for _ in range(2))
    found = directional_estimate(linear, linear, voxel_size=VOXEL)
    tilt = np.degrees(np.arccos(found.directions[:, 2]))
    assert np.isnan(found.values[tilt < 10]).all() and np.isnan(found.means[tilt < 10]).all()
    assert np.isfinite(found.values[tilt > 65]).all() and found.means[tilt > 65].min() > 0.8
    assert found.sphericity is None and f"cannot tell in {np.isnan(found.values).sum()} of 200" in str(found)


def test_nothing_is_said_about_noise(noise):
    halves, linear = noise
    for mask in (None, MASK):
        found = directional_estimate(halves, linear, voxel_size=VOXEL, mask=mask)
        assert np.isnan(found.values).all() and found.sphericity is None
        assert str(found).endswith("cannot tell in 200 of 200 directions")
    local = local_estimate(halves, linear, voxel_size=VOXEL, mask=MASK, **WINDOWS)
    assert np.isnan(local.values).all() and not local.resolution.any()
    assert f"cannot tell at {len(local.points)} of {len(local.points)} points" in str(local)


def test_where_only_one_part_has_signal_the_rest_is_zero(known):
    """Linear maps that agree in one half of the box alone."""
    truth, _, _ = known
    rng = np.random.default_rng(3)
    here = (np.arange(D) < D // 2)[:, None, None]
    linear = tuple(truth * here + 0.3 * truth.std() * rng.standard_normal(truth.shape) for _ in range(2))
    mistake = molecule(rng)
    halves = tuple(ndimage.gaussian_filter(m, 1.0) + (mistake - ndimage.gaussian_filter(mistake, 1.5)) for m in linear)
    found = local_estimate(halves, linear, voxel_size=VOXEL, mask=MASK, window=24.0, step=6.0)
    told, z = np.isfinite(found.values), found.points[:, 0]
    assert told[z < D // 2 - 6].mean() > 0.5 and not told[z > D // 2 + 13].any()
    assert (found.resolution[tuple(found.points[~told].T)] == 0).all()
    assert (found.resolution[tuple(found.points[told].T)] > 0).all()
    assert (found.resolution[MASK.values <= 0.5] == 0).all()


def test_crossings_are_read_before_the_first_gap():
    nan = np.nan
    curves = np.array(
        [
            [nan, nan, 0.9, 0.6, 0.2, 0.1],  # interpolated
            [nan, 0.9, 0.8, nan, 0.1, 0.1],  # a gap before it falls
            [nan, nan, 0.9, nan, nan, nan],  # one shell alone, by chance
            [nan, 0.9, 0.9, 0.9, 0.9, 0.9],  # it never falls
            [nan, 0.1, nan, 0.9, 0.2, 0.9],  # the first has no next
            [nan] * 6,
        ]
    )
    expected = [3 + 0.222 / 0.4, nan, nan, 6, 3 + 0.522 / 0.7, nan]
    np.testing.assert_allclose(told_crossings(curves), expected)


# --- the commands


@pytest.fixture(scope="module")
def folder(known, tmp_path_factory):
    _, halves, linear = known
    folder = tmp_path_factory.mktemp("run")
    for name, volume in zip((*REGULARISED, *LINEAR), (*halves, *linear), strict=True):
        write_map(folder / name, volume.astype(np.float32), VOXEL)
    return folder


def test_directional_has_more_columns_and_one_more_line(folder, tmp_path, capsys):
    halves = [folder / name for name in REGULARISED]
    with_linear = direct(*halves, out=tmp_path / "with", linear=(folder / LINEAR[0], folder / LINEAR[1]))
    without = direct(*halves, out=tmp_path / "without")
    assert len(with_linear.results) == 2 and len(without.results) == 1
    old, new = ((tmp_path / name / "directional.csv").read_text().splitlines() for name in ("without", "with"))
    assert old[1] == "x,y,z,resolution_angstrom" and all(line.count(",") == 3 for line in old[1:])
    assert new[1] == f"{old[1]},estimate_resolution_angstrom,estimate_mean" and new[0] == old[0]
    assert [line.rsplit(",", 2)[0] for line in new][1:] == old[1:]
    # The command finds the linear maps of a reconstruction by name.
    assert main(["directional", str(folder), "--out", str(tmp_path / "command")]) == 0
    assert (tmp_path / "command" / "directional.csv").read_text().splitlines() == new
    assert "estimated FSC of a half map to the truth: " in capsys.readouterr().out


def test_localres_writes_one_more_map(folder, tmp_path, capsys):
    halves = [folder / name for name in REGULARISED]
    localise(*halves, out=tmp_path / "without", **WINDOWS)
    assert not (tmp_path / "without" / "locres_estimate.mrc").exists()
    linear = ["--linear", *(str(folder / name) for name in LINEAR)]
    words = [*map(str, halves), *linear, "--window", "40", "--step", "8", "--out", str(tmp_path / "with")]
    assert main(["localres", *words]) == 0
    said = capsys.readouterr().out
    assert "local resolution by the estimated FSC" in said and "cannot tell at" in said
    old, new = (read_map(tmp_path / name / "locres.mrc")[0] for name in ("without", "with"))
    np.testing.assert_array_equal(old, new)
    estimate, size = read_map(tmp_path / "with" / "locres_estimate.mrc")
    assert estimate.max() > 0 and size == pytest.approx(VOXEL) and (estimate[old == 0] == 0).all()


def test_linear_maps_in_the_wrong_order_are_named(folder, tmp_path):
    linear = [folder / name for name in LINEAR]
    found = direct(*linear, out=tmp_path, linear=(linear[1], linear[0]))
    assert any("in the wrong order" in alarm for alarm in found.alarms)
