"""The fit to normal equations: its error against direct sums, what it recovers, and what held-out particles tell."""

import dataclasses

import numpy as np
import pytest
import torch

from gsworkbench.assessment.agreement import agreement
from gsworkbench.assessment.fsc import fourier_shell_correlation
from gsworkbench.errors import InputError
from gsworkbench.imaging.residual import form_images
from gsworkbench.io.mrc import new_image_stack
from gsworkbench.methods.one_pass import PREVIEW, OnePass
from gsworkbench.methods.one_pass_fit import FitContext, fit_one_pass, preview
from gsworkbench.normal_equations.classical_map import backproject
from gsworkbench.normal_equations.diagonal import (
    diagonal,
    error_and_gradient,
    from_transform,
    misfit_power,
    objective,
    proven_share,
    to_transform,
    wiener_background,
)
from gsworkbench.normal_equations.equations import accumulate
from gsworkbench.simulation import simulate
from gsworkbench.simulation.simulation_config import Simulation
from gsworkbench.system.progress import reporting

SMALL = OnePass(n_gaussians=300, n_boosted_steps=15, n_steps=30, n_final_steps=20)


def split(stack):
    """Normal equations of nine tenths and of the tenth held out."""
    held = np.arange(len(stack)) % 10 == 0
    return accumulate(stack[~held]), accumulate(stack[held])


@pytest.fixture(scope="module")
def clean(clean_set):
    return split(clean_set.stack)


@pytest.fixture(scope="module")
def noisy(noisy_set):
    return split(noisy_set.stack)


def blob(box_size, sigma, seed):
    """A smooth random map within about a quarter of the box."""
    rng = np.random.default_rng(seed)
    axis = np.arange(box_size) - box_size // 2
    volume = np.zeros((box_size,) * 3)
    for _ in range(12):
        z, y, x = rng.normal(0, 3, 3)
        r2 = (axis[:, None, None] - z) ** 2 + (axis[:, None] - y) ** 2 + (axis - x) ** 2
        volume += rng.normal() * np.exp(-r2 / (2 * sigma**2))
    return volume


def test_error_and_gradient_are_those_of_the_squared_error_over_all_particles(noisy_set):
    """Differences of the error equal sums over exact central slices of two maps; the gradient equals differences."""
    stack = noisy_set.stack
    aim = objective(diagonal(accumulate(stack)))
    images = torch.from_numpy(stack.images()).double()
    kept = torch.fft.irfft2(torch.fft.rfft2(images) * (simulate_disc(32)), s=(32, 32))

    def direct(volume):
        projections = torch.from_numpy(simulate.project(volume, stack.rotations, pixel_size=stack.pixel_size))
        return squares(form_images(projections, stack) - kept) - squares(kept)

    def squares(pictures):
        """The background of an image, k = 0, counts in no error."""
        return float(((pictures - pictures.mean((1, 2), keepdim=True)) ** 2).sum())

    scale = float(np.abs(noisy_set.truth).max())
    first, second = (scale * blob(32, 2.0, seed) for seed in (0, 1))
    for volume in (first, second):
        error, _ = error_and_gradient(aim, torch.from_numpy(volume).float())
        assert error == pytest.approx(direct(volume), rel=5e-3)
    _, gradient = error_and_gradient(aim, torch.from_numpy(first).float())
    step = 1e-2
    slope = (direct(first + step * second) - direct(first - step * second)) / (2 * step)
    assert float((gradient * torch.from_numpy(second)).sum()) == pytest.approx(slope, rel=1e-2)


def simulate_disc(box_size):
    k = torch.fft.fftfreq(box_size, 1 / box_size)
    kx = torch.arange(box_size // 2 + 1)
    return k[:, None] ** 2 + kx**2 < (box_size / 2) ** 2


def test_hand_centre_and_scale(clean_set, clean):
    found = agreement(fit_one_pass(*clean, SMALL).volume, clean_set.truth)
    assert found.slope == pytest.approx(1, abs=0.02)
    assert np.abs(found.shift_voxels).max() < 0.05
    assert found.correlation > 0.97 > found.mirrored_correlation + 0.3


def test_better_than_backprojection_of_the_same_particles(noisy_set, noisy):
    ours = fourier_shell_correlation(fit_one_pass(*noisy, SMALL).volume, noisy_set.truth, voxel_size=12.0)
    theirs = fourier_shell_correlation(backproject(noisy_set.stack), noisy_set.truth, voxel_size=12.0)
    assert ours.mean() > theirs.mean()


def test_the_same_seed_gives_the_same_bits(noisy):
    first, again = (fit_one_pass(*noisy, SMALL, FitContext(3)) for _ in range(2))
    assert np.array_equal(first.volume, again.volume)
    other = fit_one_pass(*noisy, SMALL, FitContext(4))
    assert not np.array_equal(first.volume, other.volume)


def test_the_map_is_the_mixture_plus_the_background(noisy):
    fitted = fit_one_pass(*noisy, SMALL)

    g = fitted.gaussians
    mixture = g.voxelize(32, 12.0).numpy()
    assert np.abs(mixture + fitted.background - fitted.volume).max() < 1e-5 * np.abs(fitted.volume).max()
    plain = fit_one_pass(*noisy, dataclasses.replace(SMALL, background=False))
    assert plain.background is None and plain.held_out is None


def test_what_a_mixture_cannot_hold_is_found_and_put_back(clean_set, clean):
    """A map lacks a smooth hull, as solvent would make one: held-out particles see it, the background restores it."""
    fitted, held = (diagonal(e) for e in clean)
    truth = torch.from_numpy(clean_set.truth.copy())
    axis = torch.arange(32) - 16
    r2 = axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2
    hull = 0.3 * truth.max() * torch.exp(-r2 / (2 * 6.0**2))
    lacking = torch.fft.rfftn(truth - hull)
    power = misfit_power(held, lacking)
    expected = torch.fft.rfftn(hull).abs().square()
    for shell in (1, 2):  # at 3 the hull is gone
        mean = float(expected[held.shell == shell].mean())
        assert mean == pytest.approx(float(power[shell]), rel=0.3)
    back = wiener_background(fitted, lacking, power)
    difference = from_transform(back) - hull
    difference -= difference.mean()  # images do not say what the mean of the map is
    assert float(difference.square().sum()) < 0.05 * float(hull.square().sum())
    assert proven_share(held, lacking, back)[1:3] == pytest.approx([1, 1], abs=0.1)
    backwards = proven_share(held, lacking, -back)
    assert not backwards.any()
    nothing = misfit_power(held, torch.fft.rfftn(truth))
    assert float(nothing[1:4].sum()) < 0.05 * float(power[1:4].sum())


def test_the_held_out_error_is_above_the_fitted_one_and_falls(noisy):
    curve = fit_one_pass(*noisy, SMALL).held_out.curve
    assert all(held > fitted for _, fitted, held in curve)
    assert curve[-1][1] < curve[0][1] < 0


def test_a_background_needs_held_out_particles(noisy_set):
    stack = noisy_set.stack
    with pytest.raises(InputError, match="held-out"):
        fit_one_pass(accumulate(stack), None, SMALL)


def test_the_number_of_gaussians_is_chosen_by_held_out_particles(noisy, noisy_set):
    """More data ask for no fewer Gaussians; the ladder ends where doubling no longer pays."""
    config = dataclasses.replace(SMALL, n_gaussians="auto")
    fitted = fit_one_pass(*noisy, config)
    number, ladder = len(fitted.gaussians), fitted.held_out.ladder
    assert [n for n, *_ in ladder] == [187 * 2**i for i in range(len(ladder))]
    assert len(ladder) > 1 and number == ladder[-2][0]
    *errors, last = [error for _, error, _ in ladder]
    assert errors == sorted(errors, reverse=True) and last > min(1.01 * errors[-1], errors[-1] - 2 * ladder[-1][2])
    few = len(fit_one_pass(*split(noisy_set.stack[np.arange(100)]), config).gaussians)
    assert few <= number <= 3000
    with pytest.raises(InputError, match="held-out"):
        fit_one_pass(noisy[0], None, dataclasses.replace(config, background=False))


@pytest.fixture(scope="module")
def pure_noise(tmp_path_factory):
    folder = tmp_path_factory.mktemp("noise")
    return simulate.simulate(Simulation(n_particles=600, box_size=32, pixel_size=12.0, snr=0.0, seed=5), folder)


@pytest.mark.parametrize("n_gaussians", [300, "auto"])
def test_half_maps_of_pure_noise_do_not_agree_and_it_is_said(pure_noise, n_gaussians):
    """Also with the number chosen by the data: held-out particles then ask for the fewest."""
    config = dataclasses.replace(SMALL, n_gaussians=n_gaussians)
    halves = [split(pure_noise[np.arange(600) % 2 == seed]) for seed in (0, 1)]
    fits = [fit_one_pass(*half, config, FitContext(seed)) for seed, half in enumerate(halves)]
    fsc = fourier_shell_correlation(fits[0].volume, fits[1].volume, voxel_size=12.0).values[2:15]
    samples = 2 * np.pi * np.arange(2, 15) ** 2
    assert np.abs(fsc.mean()) < 4 / np.sqrt(samples.sum()) + 0.05
    for fit in fits:
        assert fit.held_out.signal < 3
        assert "no signal" in fit.held_out.warnings()[0]
    if n_gaussians == "auto":
        assert all(len(fit.gaussians) == 187 for fit in fits)


def test_held_out_particles_see_less_of_a_map_from_shuffled_poses(noisy_set):
    stack = noisy_set.stack
    order = np.random.default_rng(0).permutation(len(stack))
    wrong = dataclasses.replace(stack, rotations=stack.rotations[order])
    right = fit_one_pass(*split(stack), SMALL).held_out
    assert right.signal > 20 and not any("no signal" in sentence for sentence in right.warnings())
    shuffled = fit_one_pass(*split(wrong), SMALL).held_out
    assert shuffled.signal < right.signal / 2


def test_what_gaussians_miss_is_said(clean_set, clean):
    """Eight Gaussians cannot hold a ribosome; three hundred hold most of it at 24 A."""
    few = fit_one_pass(*clean, dataclasses.replace(SMALL, n_gaussians=8)).held_out
    many = fit_one_pass(*clean, dataclasses.replace(SMALL, n_gaussians=1000)).held_out
    assert few.missed > 0.1 > many.missed
    assert "Gaussians alone miss" in few.warnings()[0]


def test_signed_weights_hold_what_lies_below_zero(noisy_set, tmp_path):
    """A positive blob beside a negative one: a start from the data finds both, and a non-negative mixture cannot."""
    stack = noisy_set.stack[np.arange(200)]
    axis = (torch.arange(32) - 16).double()
    places = ((axis[:, None, None] ** 2 + axis[:, None] ** 2 + (axis - x) ** 2) for x in (5, -5))
    white, dark = (torch.exp(-r2 / (2 * 2.5**2)) for r2 in places)
    pair = (white - dark).numpy()
    projections = torch.from_numpy(simulate.project(pair, stack.rotations, pixel_size=12.0))
    images = form_images(projections, stack).float().numpy()
    with new_image_stack(tmp_path / "pair.mrcs", 200, 32, 12.0) as file:
        file[:] = images
    files = {"files": (tmp_path / "pair.mrcs",), "file_index": np.zeros(200, np.int64)}
    sums = accumulate(dataclasses.replace(stack, **files, image_index=np.arange(200)))
    fits = {}
    for weights in ("signed", "non-negative"):
        config = dataclasses.replace(SMALL, weights=weights, background=False)
        fits[weights] = fit_one_pass(sums, None, config)
    assert float(fits["signed"].gaussians.weights.min()) < 0 <= float(fits["non-negative"].gaussians.weights.min())
    error = {w: np.square(f.volume - pair).sum() / np.square(pair).sum() for w, f in fits.items()}
    assert error["signed"] < 0.5 * error["non-negative"]


def test_a_random_start_takes_no_look_at_the_data_and_still_fits(clean_set, clean):
    """As the papers start: centres from N(0, spread^2), the same for any data; slower, but it arrives."""
    sums = clean[0] + clean[1]
    config = dataclasses.replace(SMALL, start="random", n_gaussians=1000, background=False)
    still = dataclasses.replace(config, n_boosted_steps=0, n_steps=1, learning_rate=1e-9)
    begin = fit_one_pass(sums, None, still, FitContext(2)).gaussians
    assert float(begin.means.std()) == pytest.approx(config.initial_spread * 32 * 12, rel=0.1)
    other = fit_one_pass(clean[0], None, still, FitContext(2)).gaussians
    assert torch.allclose(begin.means, other.means, atol=1e-3)
    longer = dataclasses.replace(config, n_boosted_steps=30, n_steps=90)
    fsc = fourier_shell_correlation(
        fit_one_pass(sums, None, longer, FitContext(2)).volume, clean_set.truth, voxel_size=12.0
    )
    assert fsc.mean() > 0.9


def test_a_preview_reports_progress_and_can_be_stopped(clean_set, clean):
    seen = []
    with reporting(lambda stage, done, of: seen.append((stage, done, of))):
        whole = preview(clean[0], PREVIEW, n_gaussians=1000)
    assert [s for s in seen if s[2] == 45] == [("fit", step, 45) for step in range(46)]
    assert fourier_shell_correlation(whole.volume, clean_set.truth, voxel_size=12.0).mean() > 0.9

    def stop(stage, done, of):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), reporting(stop):
        preview(clean[0], PREVIEW, n_gaussians=300)


def test_held_out_particles_bear_out_signal_and_not_noise(noisy):
    fitted, held = (diagonal(e) for e in noisy)
    nothing = torch.zeros_like(held.data)
    signal = wiener_background(fitted, nothing, misfit_power(held, nothing))
    assert proven_share(held, nothing, signal)[1:4].mean() > 0.8
    noise = to_transform(torch.randn(32, 32, 32, generator=torch.Generator().manual_seed(0)))
    scale = signal.abs().square().mean().sqrt() / noise.abs().square().mean().sqrt()
    assert proven_share(held, nothing, noise * scale)[4:16].mean() < 0.2


def test_a_shell_without_data_has_no_power(noisy):
    """k = 0 is asked of no image: where its neighbours leave nothing there either, nothing is divided by nothing."""
    fitted, held = (diagonal(e) for e in noisy)
    empty = held.shell == 0
    nothing = [
        dataclasses.replace(
            p, kernel=torch.where(empty, 0.0, p.kernel), data=torch.where(empty, torch.tensor(0.5 + 0j), p.data)
        )
        for p in (fitted, held)
    ]
    power = misfit_power(nothing[1], torch.zeros_like(held.data))
    assert power[0] == 0 and bool(torch.isfinite(power).all())
    assert bool(torch.isfinite(wiener_background(nothing[0], torch.zeros_like(held.data), power)).all())
