"""FSC by physics and by a second, independent way of computing it."""

import numpy as np
import pytest

from gsworkbench.assessment.agreement import agreement
from gsworkbench.assessment.definitions import DEFINITIONS, judge
from gsworkbench.assessment.fsc import FscCurve, fourier_shell_correlation, resolution, shell_indices, write_fsc_csv
from gsworkbench.assessment.judge_defaults import PROGRAMS
from gsworkbench.assessment.masks import Mask, automatic_mask, doubtful_mask, spherical_mask
from gsworkbench.errors import InputError

BOX = 24


def noise(seed, box=BOX):
    return np.random.default_rng(seed).standard_normal((box, box, box))


def lowpassed(volume, shell):
    transform = np.fft.rfftn(volume)
    transform[shell_indices(len(volume)) > shell] = 0
    return np.fft.irfftn(transform, s=volume.shape, axes=(0, 1, 2))


def fsc(a, b, **keywords):
    return fourier_shell_correlation(a, b, voxel_size=2.0, **keywords)


def test_equals_a_sum_over_the_whole_transform_voxel_by_voxel():
    a, b = noise(0), noise(0) + noise(1)
    f, g = np.fft.fftn(a), np.fft.fftn(b)
    k = np.fft.fftfreq(BOX, 1 / BOX)
    shell = np.rint(np.linalg.norm(np.stack(np.meshgrid(k, k, k)), axis=0))
    expected = [
        (f * g.conj())[shell == s].sum().real
        / np.sqrt((abs(f[shell == s]) ** 2).sum() * (abs(g[shell == s]) ** 2).sum())
        for s in range(BOX // 2 + 1)
    ]
    np.testing.assert_allclose(fsc(a, b).values, expected, atol=1e-12)


def test_a_map_with_itself_is_one_and_its_negative_minus_one():
    np.testing.assert_allclose(fsc(noise(0), 3 * noise(0)).values, 1, atol=1e-12)
    np.testing.assert_allclose(fsc(noise(0), -noise(0)).values, -1, atol=1e-12)


def test_independent_noise_is_zero_within_its_errors():
    # n Fourier voxels of a shell are n / 2 independent complex pairs: the error of an FSC of zero is 1 / sqrt(n).
    k = np.fft.fftfreq(BOX, 1 / BOX)
    counts = np.bincount(np.rint(np.linalg.norm(np.stack(np.meshgrid(k, k, k)), axis=0)).astype(int).ravel())[
        : BOX // 2
    ]
    z = [fsc(noise(2 * i), noise(2 * i + 1)).values[1 : BOX // 2] * np.sqrt(counts[1:]) for i in range(30)]
    assert abs(np.mean(z)) < 0.15
    assert 0.8 < np.std(z) < 1.2
    assert np.mean(np.abs(z) > 3) < 0.02


def test_known_signal_to_noise_gives_snr_over_one_plus_snr():
    values = [fsc(noise(3 * i) + noise(3 * i + 1), noise(3 * i) + noise(3 * i + 2)).mean() for i in range(20)]
    assert np.mean(values) == pytest.approx(0.5, abs=0.02)  # SNR 1


def test_shells_without_power_are_nan_not_one():
    values = fsc(lowpassed(noise(0), 6), lowpassed(noise(1), 6)).values
    assert np.isfinite(values[:7]).all()
    assert np.isnan(values[7:]).all()


def curve(values, box=20):
    return FscCurve("fsc_unmasked", np.array(values, float), box, 2.0)


def test_resolution_is_the_last_shell_before_the_first_below():
    found = resolution(curve([1, 0.9, 0.8, 0.5, 0.1, 0.3, 0.3, 0, 0, 0, 0]))
    assert (found.shell, found.angstrom) == (3, pytest.approx(20 * 2 / 3))
    assert "no crossing" not in str(found)


def test_no_crossing_is_a_value_of_its_own():
    found = resolution(curve([1] * 10 + [0]))  # the Nyquist shell does not count
    assert found.angstrom is None and found.shell is None
    assert "no crossing below Nyquist (4.00 A)" in str(found)


def test_below_from_the_start_and_shells_without_power():
    assert resolution(curve([1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])).angstrom == pytest.approx(40)
    assert resolution(curve([1, 0.9, np.nan, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9])).shell == 1


def test_maps_that_do_not_match_are_refused():
    with pytest.raises(InputError, match="same box"):
        fsc(noise(0), noise(0, 20))
    with pytest.raises(InputError, match="mask has shape"):
        fsc(noise(0), noise(1), mask=Mask(np.ones((4, 4, 4))))


def test_csv_holds_every_curve_with_its_mask(tmp_path):
    mask = spherical_mask(BOX, 2.0)
    curves = [fsc(noise(0), noise(0) + noise(1)), fsc(noise(0), noise(1), mask=mask)]
    write_fsc_csv(tmp_path / "fsc.csv", curves)
    lines = (tmp_path / "fsc.csv").read_text().splitlines()
    assert mask.description in lines[0]
    assert lines[1] == "shell,frequency_per_angstrom,resolution_angstrom,fsc_unmasked,fsc_masked"
    cells = lines[2 + 3].split(",")
    assert float(cells[2]) == pytest.approx(BOX * 2 / 3, abs=1e-3)
    assert float(cells[3]) == pytest.approx(curves[0].values[3], abs=1e-6)


def test_the_spherical_mask_is_a_sphere_with_a_cosine_edge():
    made = spherical_mask(32, 2.0, radius=16, edge=8)
    mask, name = made.values, made.description
    assert mask[16, 16, 16] == 1 and mask[0, 16, 16] == 0
    for axis in range(3):  # 20 A out along any axis is half way down
        index = [16, 16, 16]
        index[axis] = 26
        assert mask[tuple(index)] == pytest.approx(0.5, abs=1e-6)
    assert mask[26, 26, 16] == 0  # a cylinder along x would let this through
    assert "16 A" in name and "8 A" in name


def test_the_automatic_mask_holds_the_density_and_little_else():
    axis = (np.arange(48) - 24) * 3.0
    r = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
    ball = (r < 30).astype(float)
    made = automatic_mask(ball + 0.05 * noise(1, 48), 3.0)
    mask, name = made.values, made.description
    assert (mask[r < 30] > 0.99).all()
    assert mask[r > 60].max() == 0
    assert "low-pass" in name and "level" in name


def test_agreement_measures_slope_shift_and_hand():
    truth = lowpassed(noise(4) * spherical_mask(BOX, 2.0, radius=12, edge=6).values, 7)
    k = np.fft.fftfreq(BOX)
    moved = np.fft.ifftn(np.fft.fftn(1.5 * truth) * np.exp(-2j * np.pi * (0.03 * k - 0.02 * k[:, None, None]))).real
    found = agreement(moved + 7, truth)
    assert found.slope == pytest.approx(1.5, rel=5e-3)
    np.testing.assert_allclose(found.shift_voxels, (0.03, 0, -0.02), atol=2e-3)
    assert found.correlation > 0.99 > abs(found.mirrored_correlation)
    mirrored = agreement(np.roll(truth[::-1], 1, axis=0), truth)
    assert mirrored.mirrored_correlation == pytest.approx(1)


def ball(box, radius, voxel_size=1.0):
    axis = (np.arange(box) - box // 2) * voxel_size
    return (np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2) < radius).astype(float)


@pytest.mark.parametrize("voxel_size", [1.0, 3.0, 6.0, 20.0])
def test_the_automatic_mask_has_an_edge_of_five_voxels_at_least(voxel_size):
    mask = automatic_mask(ball(48, 9) + 0.02 * noise(1, 48), voxel_size)
    profile = mask.values[24, 24, 24:]
    assert (np.count_nonzero((profile > 0.01) & (profile < 0.99)) + 1) * voxel_size >= min(12, 5 * voxel_size)
    dilation, edge = max(6, 2 * voxel_size), max(12, 5 * voxel_size)
    assert f"dilated {dilation:.3g} A, soft edge {edge:.3g} A" in mask.description
    assert profile[11] > 0.99  # two voxels beyond the ball


@pytest.mark.parametrize("offset", [-1000.0, 3.0, 1000.0])
def test_a_constant_changes_no_mask(offset):
    volume = ball(32, 7) + 0.1 * noise(1, 32)
    lifted, plain = (automatic_mask(v, 2.0).values for v in (volume + offset, volume))
    np.testing.assert_allclose(lifted, plain, atol=1e-6)


@pytest.mark.parametrize(
    ("volume", "words"),
    [
        (noise(2, 32), "nothing that could be a particle"),
        (-5 * ball(32, 7) + 0.1 * noise(1, 32), "inverted contrast"),
        (np.pad(np.full((1, 1, 1), 1e4), (15, 16)) + noise(3, 32), "a few extreme voxels"),
        (ball(32, 15.5), "no particle fills that much"),
    ],
)
def test_masks_that_cannot_be_right_say_so(volume, words):
    assert words in doubtful_mask(automatic_mask(volume, 2.0))


@pytest.mark.parametrize(("radius", "box"), [(3, 64), (6, 32), (9, 32)])
def test_masks_of_small_and_large_particles_are_right(radius, box):
    mask = automatic_mask(ball(box, radius) + 0.02 * noise(1, box), 5.0)
    assert mask.description.startswith("automatic: low-pass") and doubtful_mask(mask) is None
    assert doubtful_mask(Mask(mask.values, "my mask.mrc")) is doubtful_mask(None) is None


@pytest.mark.parametrize("offset", [-1000.0, -1.0, 7.0, 1000.0])
@pytest.mark.parametrize("definition", ["RELION", "cryoSPARC", "cryoDRGN", "GEM/CryoNeRF"])
def test_a_constant_in_the_maps_changes_no_digit(definition, offset):
    signal = lowpassed(noise(4, 32) * ball(32, 9), 8)
    halves = [(signal / signal.std() + 0.5 * noise(i, 32)).astype(np.float32) for i in (1, 2)]
    lifted = [(halves[0] + offset).astype(np.float32), (halves[1] + np.float32(-0.4 * offset)).astype(np.float32)]
    hard = Mask((ball(32, 9) > 0).astype(np.float32))
    for mask in ("own", spherical_mask(32, 2.0, radius=18, edge=10), hard):
        as_they_are, with_it = (judge(*pair, definition, voxel_size=2.0, mask=mask) for pair in (halves, lifted))
        for plain, other in zip(as_they_are.curves, with_it.curves, strict=True):
            first = 2 if definition == "cryoDRGN" else 1  # its shell 1 holds the constant and nothing else
            np.testing.assert_allclose(other.values[first:-1], plain.values[first:-1], atol=2e-5, err_msg=plain.name)
        assert [r.angstrom for r in as_they_are.resolutions] == pytest.approx([r.angstrom for r in with_it.resolutions])


def test_a_mask_does_not_fill_shells_that_are_empty():
    halves = [lowpassed(noise(4, 32) * ball(32, 9) * 3 + noise(i, 32), 9) for i in (1, 2)]
    found = judge(*halves, voxel_size=2.0, mask=spherical_mask(32, 2.0, radius=14, edge=6))
    for curve in found.curves:
        assert np.isnan(curve.values[10:16]).all(), curve.name
    assert all(r.shell is not None and r.shell <= 9 for r in found.resolutions)


def test_the_command_line_names_the_definitions_that_there_are():
    assert set(PROGRAMS) == set(DEFINITIONS)
