"""The judge by physics, and against RELION's and cryoDRGN's own programs on the same maps."""

import shutil
import subprocess
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import starfile

from gsworkbench.assessment.bootstrap import bootstrap_error
from gsworkbench.assessment.corrected import (
    corrected_curve,
    effective_samples,
    half_bit,
    noise_substitution,
    randomise_phases,
    standard_error,
)
from gsworkbench.assessment.definitions import DEFINITIONS, judge
from gsworkbench.assessment.fsc import FscCurve, Shells, fourier_shell_correlation, resolution, shell_indices
from gsworkbench.assessment.masks import Mask, MaskRecipe, make_mask, spherical_mask
from gsworkbench.assessment.sharpening import sharpen
from gsworkbench.cli.main import main
from gsworkbench.errors import InputError
from gsworkbench.io.mrc import read_map, write_map

BOX, VOXEL = 32, 3.0


def noise(seed, box=BOX):
    return np.random.default_rng(seed).standard_normal((box, box, box))


def filtered(volume, gain):
    """Multiply every shell by gain(shell)."""
    transform = np.fft.rfftn(volume) * gain(shell_indices(len(volume)))
    return np.fft.irfftn(transform, s=volume.shape, axes=(0, 1, 2))


@pytest.fixture(scope="module")
def mask():
    return spherical_mask(BOX, VOXEL, radius=24, edge=9)


@pytest.fixture(scope="module")
def halves(mask):
    """Half maps whose FSC falls from 1 to 0, float32 as they come from a file."""
    signal = filtered(noise(0) * mask.values, lambda s: 3 * np.exp(-((s / 7) ** 2)))
    return [(signal + 0.5 * noise(i)).astype(np.float32) for i in (1, 2)]


# relion_postprocess 3.1.3 (Debian) on `halves` and `mask`: --angpix 3 --adhoc_bfac 0; shells 1 to 16.
RELION_UNMASKED = (
    0.658247, 0.730663, 0.584181, 0.647746, 0.515187, 0.521763, 0.400706, 0.210501, 0.138587, 0.031001,
    0.061767, 0.012134, 0.006095, 0.016249, 0.004605, 0.021472,
)  # fmt: skip
RELION_MASKED = (
    0.957289, 0.966460, 0.961970, 0.920200, 0.893475, 0.878226, 0.854848, 0.721230, 0.495706, 0.338973,
    0.262718, 0.206202, 0.161199, 0.052113, 0.041389, 0.005938,
)  # fmt: skip
# cryoDRGN 4.3.1, cryodrgn.commands_utils.fsc.get_fsc_curve on `halves`, without and with `mask`; entries 1 to 15.
CRYODRGN_UNMASKED = (
    -1.000000, 0.749738, 0.712028, 0.618123, 0.639994, 0.495451, 0.504768, 0.319453, 0.155600, 0.095323,
    0.040876, 0.029788, 0.017143, -0.000761, 0.034716,
)  # fmt: skip
CRYODRGN_MASKED = (
    1.000000, 0.974267, 0.969490, 0.957151, 0.916654, 0.885622, 0.876662, 0.814331, 0.636755, 0.450128,
    0.296775, 0.235052, 0.204235, 0.078218, 0.043060,
)  # fmt: skip
# The same program's calculate_cryosparc_fscs with masks of its own making, around the mean of the half maps.
CRYODRGN_LOOSE = (
    -1.000000, 0.750052, 0.712885, 0.617289, 0.640811, 0.496228, 0.505664, 0.319778, 0.156570, 0.095321,
    0.040708, 0.030058, 0.017633, -0.000873, 0.034923,
)  # fmt: skip
CRYODRGN_TIGHT = (
    1.000000, 0.932077, 0.854181, 0.822662, 0.800586, 0.699357, 0.644624, 0.509363, 0.332090, 0.275409,
    0.201964, 0.122838, 0.083239, 0.077211, 0.069661,
)  # fmt: skip
CRYODRGN_CORRECTED = (
    1.000000, 0.932077, 0.854181, 0.822662, 0.800586, 0.699357, 0.644624, 0.509363, 0.302793, 0.286957,
    0.186449, 0.128344, 0.103671, 0.093542, 0.081350,
)  # fmt: skip


def test_relion_definition_gives_what_relion_printed(halves, mask):
    found = judge(*halves, "RELION", voxel_size=VOXEL, mask=mask, keep_offset=True)
    np.testing.assert_allclose(found.curve("fsc_unmasked").values[1:], RELION_UNMASKED, atol=2e-5)
    np.testing.assert_allclose(found.curve("fsc_masked").values[1:], RELION_MASKED, atol=2e-5)


@pytest.fixture(scope="module")
def relion(halves, mask, tmp_path_factory):
    """A folder where relion_postprocess judged and sharpened `halves` inside `mask`: half1.mrc, pp.star, pp.mrc, ..."""
    if shutil.which("relion_postprocess") is None:
        pytest.skip("relion_postprocess is not on PATH")
    folder = tmp_path_factory.mktemp("relion")
    for name, volume in zip(("half1", "half2", "mask"), (*halves, mask.values), strict=True):
        write_map(folder / f"{name}.mrc", volume, VOXEL)
    command = "relion_postprocess --i half1.mrc --i2 half2.mrc --mask mask.mrc --angpix 3 --auto_bfac --o pp"
    subprocess.run(command.split(), cwd=folder, capture_output=True, check=False)  # fails at its PDF without gs
    return folder


def test_relion_definition_equals_relion_run_here(halves, mask, relion):
    blocks = starfile.read(relion / "pp.star")
    theirs, general = blocks["fsc"], blocks["general"]
    found = judge(*halves, "RELION", voxel_size=VOXEL, mask=mask, keep_offset=True)
    start = found.randomised_from
    column = "rlnFourierShellCorrelation{}".format
    for name, label in (("fsc_unmasked", column("UnmaskedMaps")), ("fsc_masked", column("MaskedMaps"))):
        np.testing.assert_allclose(found.curve(name).values[1:], theirs[label][1:], atol=1e-3)
    corrected = found.curve("fsc_corrected").values
    np.testing.assert_allclose(corrected[1 : start + 2], theirs[column("Corrected")][1 : start + 2], atol=1e-3)
    assert general["rlnRandomiseFrom"] == pytest.approx(BOX * VOXEL / start)
    z = (corrected - theirs[column("Corrected")])[start + 2 :] / found.errors["fsc_corrected"][start + 2 :]
    assert np.abs(z).max() < 4  # their random phases are other ones
    assert general["rlnFinalResolution"] == pytest.approx(found.resolution.angstrom, rel=0.11)  # within a shell


def test_sharpening_gives_relions_map_b_factor_and_guinier_plot(halves, relion):
    blocks = starfile.read(relion / "pp.star")
    general = blocks["general"]
    # Their curve, so that their random phases do not blur the comparison.
    curve = FscCurve("fsc_corrected", blocks["fsc"]["rlnFourierShellCorrelationCorrected"].to_numpy(), BOX, VOXEL)
    found = sharpen((halves[0] + halves[1]) / 2, curve, to_nyquist=True)
    assert found.b_factor == pytest.approx(general["rlnBfactorUsedForSharpening"], rel=1e-3)
    assert found.fit.intercept == pytest.approx(general["rlnFittedInterceptGuinierPlot"], abs=1e-3)
    assert found.fit.correlation == pytest.approx(general["rlnCorrelationFitGuinierPlot"], abs=1e-3)
    for name, values in found.amplitudes.items():
        np.testing.assert_allclose(values, blocks["guinier"][f"rlnLogAmplitudes{name.capitalize()}"], atol=1e-3)
    theirs = read_map(relion / "pp.mrc")[0]
    np.testing.assert_allclose(found.volume, theirs, atol=1e-3 * theirs.std())


def test_postprocess_gives_relions_maps_and_files_from_the_same_files(relion, halves, mask, tmp_path, capsys):
    files = [str(relion / name) for name in ("half1.mrc", "half2.mrc")]
    theirs = starfile.read(relion / "pp.star")
    b_factor = theirs["general"]["rlnBfactorUsedForSharpening"]
    command = ["postprocess", *files, "--mask", str(relion / "mask.mrc"), "--out", str(tmp_path)]
    assert main([*command, f"--sharpen={b_factor}"]) == 0  # theirs, for the fitted one depends on random phases
    ours = starfile.read(tmp_path / "postprocess.star")
    assert set(ours) == set(theirs) == {"general", "fsc", "guinier"}
    assert ours["general"]["rlnBfactorUsedForSharpening"] == pytest.approx(b_factor)
    assert f"sharpened by a B factor of {b_factor:.1f} A^2" in capsys.readouterr().out
    for name in ("", "_masked"):
        mine, relions = read_map(tmp_path / f"postprocess{name}.mrc")[0], read_map(relion / f"pp{name}.mrc")[0]
        assert np.corrcoef(mine.ravel(), relions.ravel())[0, 1] > 0.95
        assert mine.std() == pytest.approx(relions.std(), rel=0.1)
    # Element by element the XML that depositors send to EMDB.
    mine, relions = (ElementTree.parse(path).getroot() for path in (tmp_path / "fsc.xml", relion / "pp_fsc.xml"))
    assert [e.tag for e in mine.iter()] == [e.tag for e in relions.iter()]
    assert mine.keys() == relions.keys()
    assert all(mine.get(axis) == relions.get(axis) for axis in ("xaxis", "yaxis"))
    points = [np.array([[float(leaf.text) for leaf in point] for point in root]) for root in (mine, relions)]
    np.testing.assert_allclose(points[0][1:, 0], points[1][1:, 0], rtol=1e-5)
    # The first shells are not touched by random phases. RELION leaves a constant in the maps, postprocess does not.
    for read, keep_offset in zip(points, (False, True), strict=True):
        found = judge(*halves, "RELION", voxel_size=VOXEL, mask=mask, keep_offset=keep_offset)
        np.testing.assert_allclose(read[:3, 1], found.curve("fsc_corrected").values[:3], atol=1e-3)


def test_a_given_b_factor_is_applied_and_a_coarse_map_gets_none(halves):
    mean = (halves[0] + halves[1]) / 2
    curve = FscCurve("fsc_masked", np.linspace(1, 0.2, BOX // 2 + 1), BOX, VOXEL)
    plain, sharp = (sharpen(mean, curve, b) for b in (0.0, -100.0))
    shells = np.arange(BOX // 2 + 1) / (BOX * VOXEL)
    gain = (sharp.amplitudes["sharpened"] - plain.amplitudes["sharpened"])[1:-1]
    np.testing.assert_allclose(gain, 25 * shells[1:-1] ** 2, atol=0.02)
    weights = np.exp(plain.amplitudes["weighted"] - plain.amplitudes["original"])
    np.testing.assert_allclose(weights[1:], np.sqrt(2 * curve.values / (1 + curve.values))[1:], rtol=1e-6)
    coarse = sharpen(mean, FscCurve("fsc_masked", curve.values, BOX, 6.0))
    assert coarse.b_factor == 0 and "fewer than 3 shells" in coarse.note
    ended = sharpen(mean, FscCurve("fsc_masked", np.r_[np.ones(5), 0, np.ones(11)], BOX, VOXEL), 0.0)
    assert (ended.amplitudes["weighted"][5:] == -99).all()


def test_cryodrgn_definition_gives_what_cryodrgn_printed(halves, mask):
    found = judge(*halves, "cryoDRGN", voxel_size=VOXEL, mask=mask, keep_offset=True)
    np.testing.assert_allclose(found.curve("fsc_unmasked").values[1:16], CRYODRGN_UNMASKED, atol=2e-5)
    np.testing.assert_allclose(found.curve("fsc_masked").values[1:16], CRYODRGN_MASKED, atol=2e-5)


def test_cryodrgn_definition_makes_cryodrgns_masks_and_corrects_like_it(halves):
    found = judge(*halves, "cryoDRGN", voxel_size=VOXEL, keep_offset=True)
    np.testing.assert_allclose(found.curve("fsc_loose").values[1:16], CRYODRGN_LOOSE, atol=2e-5)
    np.testing.assert_allclose(found.curve("fsc_masked").values[1:16], CRYODRGN_TIGHT, atol=2e-5)
    corrected, start = found.curve("fsc_corrected").values[1:16], found.randomised_from
    np.testing.assert_allclose(corrected[:start], CRYODRGN_CORRECTED[:start], atol=2e-5)
    z = (corrected - CRYODRGN_CORRECTED)[start:] / found.errors["fsc_corrected"][1:16][start:]
    assert np.abs(z).max() < 4  # their random phases are other ones


def test_the_same_maps_under_every_definition_say_whose_it_is(halves):
    for name, definition in DEFINITIONS.items():
        found = judge(*halves, name, voxel_size=VOXEL)
        assert found.definition is definition
        for r in found.resolutions:
            assert f"{name} definition, box 32, 3 A/voxel" in str(r)
            assert "FSC = 0.143" in str(r) and "mask: " in str(r)
    with pytest.raises(InputError, match="RELION, cryoSPARC, cryoDRGN, GEM/CryoNeRF"):
        judge(*halves, "EMAN", voxel_size=VOXEL)


def test_rules_read_different_resolutions_off_a_curve_that_rises_again():
    values = [1, 0.9, 0.8, 0.5, 0.1, 0.05, 0.3, 0.2, 0.1, 0, 0]
    curve = FscCurve("fsc_unmasked", np.array(values), 20, 2.0)
    read = {rule: resolution(curve, 0.143, rule) for rule in ("before first below", "last at or above", "interpolated")}
    assert read["before first below"].shell == 3
    assert read["last at or above"].shell == 7
    assert read["interpolated"].shell == pytest.approx(3 + (0.5 - 0.143) / 0.4)
    assert read["interpolated"].angstrom == pytest.approx(40 / (3 + (0.5 - 0.143) / 0.4))


@pytest.mark.parametrize("rule", ["before first below", "last at or above", "interpolated"])
def test_a_curve_above_the_threshold_to_the_end_crosses_under_no_rule(rule):
    found = resolution(FscCurve("fsc_unmasked", np.ones(11), 20, 2.0), 0.143, rule)
    assert found.angstrom is None and "no crossing" in str(found)


def test_random_phases_keep_amplitudes_and_leave_a_real_map():
    volume = noise(3)
    changed = randomise_phases(volume, 5, seed=1)
    f, g = np.fft.fftn(volume), np.fft.fftn(changed)
    np.testing.assert_allclose(np.abs(g), np.abs(f), rtol=1e-6, atol=1e-6)  # so the stored planes were Hermitian
    k = np.fft.fftfreq(BOX, 1 / BOX)
    r = np.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + k**2)
    np.testing.assert_allclose(g[r < 5], f[r < 5], atol=1e-6)
    beyond = r >= 5
    phases = np.exp(1j * (np.angle(g) - np.angle(f)))[beyond]
    assert abs(phases.mean()) < 4 / np.sqrt(beyond.sum() / 2)
    np.testing.assert_array_equal(changed, randomise_phases(volume, 5, seed=1))
    assert not np.allclose(changed, randomise_phases(volume, 5, seed=2))


def test_correction_removes_what_a_tight_mask_adds():
    # A common signal up to shell 8 and independent noise: nothing real beyond, but the mask carries shell 8 outwards.
    box = 48
    axis = np.arange(box) - box // 2
    tight = np.zeros((box, box, box))
    tight[(axis[:, None, None] / 9) ** 2 + (axis[:, None] / 7) ** 2 + (axis / 11) ** 2 < 1] = 1
    masked, corrected = [], []
    for seed in range(12):
        signal = filtered(noise(3 * seed, box), lambda s: s <= 8)
        pair = [40 * signal + filtered(noise(3 * seed + i, box), lambda s: s > 8) for i in (1, 2)]
        random = [randomise_phases(v, 12, 2 * seed + i) for i, v in enumerate(pair)]
        t = fourier_shell_correlation(*pair, voxel_size=VOXEL, mask=Mask(tight))
        n = fourier_shell_correlation(*random, voxel_size=VOXEL, mask=Mask(tight))
        masked.append(t.values[14:21])
        corrected.append(corrected_curve(t, n, 14).values[14:21])
    assert np.min(masked) > 0.2
    assert np.abs(np.mean(corrected, axis=0)).max() < 0.06


def test_signal_to_noise_known_in_every_shell_gives_snr_over_one_plus_snr():
    ratio = 4 * np.exp(-np.arange(40) / 4)
    values = []
    for seed in range(0, 36, 3):
        signal = filtered(noise(seed), lambda s: np.sqrt(ratio[s]))
        pair = [signal + noise(seed + i) for i in (1, 2)]
        values.append(judge(*pair, "RELION", voxel_size=VOXEL, mask="none").curves[0].values[3:16])
    np.testing.assert_allclose(np.mean(values, axis=0), (ratio / (1 + ratio))[3:16], atol=0.06)


@pytest.mark.parametrize("fraction", [0.02, 0.2, 0.5])
def test_shared_particles_put_a_floor_under_pure_noise(fraction):
    # Half maps of pure noise, linear in the particles: a fraction of them counted in both.
    values = []
    for seed in range(0, 24, 3):
        shared = np.sqrt(fraction) * noise(seed)
        pair = [shared + np.sqrt(1 - fraction) * noise(seed + i) for i in (1, 2)]
        values.append(fourier_shell_correlation(*pair, voxel_size=VOXEL).values[4:16])
    assert np.mean(values) == pytest.approx(fraction, abs=0.01)


@pytest.mark.parametrize("use_mask", [False, True])
def test_standard_errors_are_the_scatter_over_seeds(mask, use_mask):
    m = mask if use_mask else None
    samples = effective_samples(BOX, m)
    truth = {0.0: 0, 0.6: 1.5}  # FSC -> signal-to-noise
    for expected, ratio in truth.items():
        z = []
        for seed in range(0, 90, 3):
            signal = np.sqrt(ratio) * noise(seed)
            curve = fourier_shell_correlation(*(signal + noise(seed + i) for i in (1, 2)), voxel_size=VOXEL, mask=m)
            z.append((curve.values - expected)[4:16] / standard_error(curve, samples)[4:16])
        assert abs(np.mean(z)) < 0.25
        assert 0.8 < np.std(z) < 1.25


@pytest.mark.parametrize("radius", [None, 24.0])
def test_bootstrapped_errors_are_the_scatter_over_seeds(radius):
    m = None if radius is None else spherical_mask(BOX, VOXEL, radius=radius, edge=9)
    samples = effective_samples(BOX, m)
    curves, errors = [], []
    for seed in range(0, 60, 3):
        signal = 1.2 * noise(seed)
        pair = [signal + noise(seed + i) for i in (1, 2)]
        curves.append(fourier_shell_correlation(*pair, voxel_size=VOXEL, mask=m).values)
        errors.append(bootstrap_error(*pair, samples, Shells(), m, seed=seed))
    ratio = np.mean(errors, axis=0)[4:16] / np.std(curves, axis=0, ddof=1)[4:16]
    assert ratio.mean() == pytest.approx(1, abs=0.15)


def test_the_bootstrap_sees_noise_that_the_formula_does_not():
    # A tenth of all components carries most of the power, so that fewer than the formula supposes decide a shell.
    f, g = (np.random.default_rng(i).standard_normal((40, BOX, BOX, BOX // 2 + 1, 2)) @ [1, 1j] for i in (1, 2))
    loud = np.where(np.random.default_rng(0).random(f.shape[1:]) < 0.1, 10.0, 1.0)
    pairs = [[np.fft.irfftn(loud * h, (BOX,) * 3, (0, 1, 2)) for h in pair] for pair in zip(f, g, strict=True)]
    curves = np.array([fourier_shell_correlation(*pair, voxel_size=VOXEL).values for pair in pairs])
    samples = effective_samples(BOX)
    scatter = curves.std(axis=0)[5:16].mean()
    drawn = bootstrap_error(*pairs[0], samples, Shells())[5:16].mean()
    assert (1 / np.sqrt(samples[5:16])).mean() < 0.5 * scatter
    assert drawn == pytest.approx(scatter, rel=0.25)


def test_effective_samples_without_a_mask_are_all_voxels():
    k = np.fft.fftfreq(BOX, 1 / BOX)
    r = np.rint(np.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + k**2)).astype(int)
    np.testing.assert_array_equal(effective_samples(BOX), np.bincount(r.ravel())[: BOX // 2 + 1])
    np.testing.assert_allclose(
        effective_samples(BOX, Mask(np.ones((BOX,) * 3)))[3:], effective_samples(BOX)[3:], rtol=0.05
    )


def test_half_bit_falls_towards_its_limit_and_reads_a_resolution(halves, mask):
    height = half_bit(effective_samples(256))
    assert (np.diff(height[2:60:4]) < 0).all()
    assert height[-2] == pytest.approx(0.2071 / 1.2071, abs=0.01)
    curve = fourier_shell_correlation(*halves, voxel_size=VOXEL, mask=mask)
    found = resolution(curve, half_bit(effective_samples(BOX, mask)), criterion="half-bit")
    assert "half-bit" in str(found)
    assert found.angstrom > resolution(curve, 0.143).angstrom


def test_no_corrected_curve_where_the_sampling_limits():
    signal = noise(0)
    found = judge(*(signal + 0.1 * noise(i) for i in (1, 2)), "RELION", voxel_size=VOXEL)
    assert found.curve("fsc_corrected") is None and found.randomised_from is None
    assert "never falls below 0.8" in found.notes[0]
    assert found.resolution.angstrom is None


def test_noise_substitution_takes_a_shared_bias_out():
    # A method that overfits adds the same made-up detail to both half maps, whatever the phases of the images were.
    bias = filtered(noise(9), lambda s: s > 6)
    signal = filtered(noise(8), lambda s: 2 * np.exp(-((s / 6) ** 4)))
    halves = [signal + bias + noise(i) for i in (1, 2)]
    substituted = [filtered(signal, lambda s: s <= 8) + bias + noise(i) for i in (3, 4)]
    found = noise_substitution(halves, substituted, from_angstrom=BOX * VOXEL / 8, voxel_size=VOXEL)
    beyond = slice(11, 16)
    assert found.measured.values[beyond].mean() == pytest.approx(0.5, abs=0.05)
    assert found.substituted.values[beyond].mean() == pytest.approx(0.5, abs=0.05)
    assert found.corrected.values[beyond].mean() == pytest.approx(0, abs=0.06)


def test_masks_by_recipe(halves):
    mean = sum(halves) / 2
    made = make_mask(MaskRecipe("grown", dilation=6, edge=6), mean, VOXEL)
    tight, words = made.values, made.description
    loose = make_mask(MaskRecipe("grown", dilation=25, edge=15), mean, VOXEL).values
    assert (tight[mean >= mean.max() / 2] == 1).all()
    assert (loose >= tight).all() and loose.sum() > tight.sum()
    assert "dilated 6 A, soft edge 6 A" in words
    sphere = make_mask(MaskRecipe("sphere"), mean, VOXEL).values
    assert sphere[16, 16, 16 + 13] == 1 and sphere[16, 16, 0] == 0
