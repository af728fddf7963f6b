"""The noise of the linear map between parts of the particles: against noise that is known, and end to end."""

from __future__ import annotations

import json

import numpy as np
import pytest

from gsworkbench.assessment.map_names import ERRORS
from gsworkbench.assessment.region_means import region_mean
from gsworkbench.cli.main import main
from gsworkbench.errors import InputError
from gsworkbench.imaging.fourier import map_shells
from gsworkbench.io.mrc import new_image_stack, read_images, read_map, write_map
from gsworkbench.methods.error_map import PARTS, deal_parts, map_errors
from gsworkbench.normal_equations.classical_map import least_squares
from gsworkbench.normal_equations.equations import accumulate
from gsworkbench.particles.read import read_particles
from gsworkbench.simulation.simulate import simulate
from gsworkbench.simulation.simulation_config import Simulation


def low_passed(truth):
    transform = np.fft.rfftn(truth.astype(np.float64))
    transform[map_shells(len(truth)).numpy() >= len(truth) // 2] = 0
    return np.fft.irfftn(transform, s=truth.shape, axes=(0, 1, 2))


def ball(radius):
    axis = np.arange(32) - 16
    return (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2 <= radius**2).astype(float)


@pytest.fixture(scope="module")
def noisy(noisy_set, tmp_path_factory):
    return map_errors(noisy_set.stack, tmp_path_factory.mktemp("errors") / ERRORS[2])


@pytest.fixture(scope="module")
def parts(noisy):
    return read_images(noisy.parts, np.arange(PARTS * 32)).reshape(PARTS, 32, 32, 32)


def test_parts_are_even_and_keep_specimens_together(noisy_set):
    stack = noisy_set.stack
    dealt = deal_parts(stack, 3)
    assert set(np.bincount(dealt)) <= {len(stack) // PARTS, len(stack) // PARTS + 1}
    assert not np.array_equal(dealt, deal_parts(stack, 4))
    twice = stack[np.repeat(np.arange(len(stack)), 2)]
    assert (deal_parts(twice, 3).reshape(-1, 2).std(1) == 0).all()
    with pytest.raises(InputError, match="63 independent particles are too few for an error map of 32 parts"):
        deal_parts(stack[:63], 0)


def test_the_error_is_that_of_the_parts_and_the_parts_add_up_to_nothing(noisy, parts):
    """Least squares leaves no residual of all particles together."""
    error = np.sqrt(PARTS / (PARTS - 1) * np.square(parts.astype(np.float64)).sum(0))
    assert np.allclose(noisy.error, error, rtol=1e-4)
    assert np.abs(parts.sum(0)).max() < 0.01 * error.max()
    assert 0 <= noisy.left_out < 0.1


def test_the_error_is_that_of_a_map_of_other_noise(noisy_set, noisy, tmp_path_factory):
    """Images of noise alone, of the same strength, poses and CTF: their linear map is as strong as the error says."""
    folder = tmp_path_factory.mktemp("other")
    images = noisy_set.stack.images()
    with new_image_stack(folder / "particles.mrcs", len(images), 32, 12.0) as stack:
        stack[:] = np.random.default_rng(7).standard_normal(images.shape)  # the noise of the set has variance 1
    (folder / "particles.star").write_text(noisy_set.star.read_text())
    noise = map_errors(read_particles(folder / "particles.star"), folder / ERRORS[2])
    assert np.sqrt(np.mean(noise.volume**2)) == pytest.approx(np.sqrt(np.mean(noisy.error**2)), rel=0.1)


def test_the_linear_map_of_particles_without_noise_is_the_truth(tmp_path):
    """Means of regions are right to a thousandth of the highest density; plain least squares misses by several."""
    simulation = Simulation(n_particles=1000, box_size=32, pixel_size=12.0, snr=1e6, seed=11)
    stack = simulate(simulation, tmp_path)
    truth = read_map(tmp_path / "truth.mrc")[0]
    found = map_errors(stack, tmp_path / ERRORS[2])
    stored = read_images(found.parts, np.arange(PARTS * 32)).reshape(PARTS, 32, 32, 32)
    plain = least_squares(accumulate(stack))
    worst = []
    for radius in (2, 4, 6, 9):
        mask = ball(radius)
        weights = mask / mask.sum() - 1 / mask.size
        target = np.vdot(low_passed(truth), weights)
        got = region_mean(found.volume, stored, mask).value
        worst.append([abs(got - target), abs(np.vdot(plain, weights) - target)])
    ours, theirs = np.max(worst, axis=0) / truth.max()
    assert ours < 1.5e-3
    assert theirs > 3e-3


def test_reconstruct_writes_an_error_map_and_region_reads_it(noisy_set, tmp_path, capsys):
    run = tmp_path / "run"
    assert main(["backproject", str(noisy_set.star), "--out", str(run), "--error-map", "--no-half-maps"]) == 0
    assert "the particles are read once more, in 32 parts" in capsys.readouterr().out
    assert all((run / name).is_file() for name in ERRORS) and not (run / "checkpoints").exists()
    record = json.loads((run / "run.json").read_text())
    assert record["results"]["error_map"]["parts"] == 32
    write_map(tmp_path / "ball.mrc", ball(5), 12.0)
    assert main(["region", str(run), "--mask", str(tmp_path / "ball.mrc"), "--mask", "sphere"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    linear = read_map(run / ERRORS[1])[0]
    stored = read_images(run / ERRORS[2], np.arange(PARTS * 32)).reshape(PARTS, 32, 32, 32)
    found = region_mean(linear, stored, ball(5))
    assert str(found) in first and "95 % interval" in first and second.startswith("sphere (")
    truth = low_passed(noisy_set.truth)
    mask = ball(5)
    assert abs(found.value - (np.vdot(truth, mask) / mask.sum() - truth.mean())) < 4 * found.error
    assert main(["backproject", str(noisy_set.star), "--out", str(run), "--no-half-maps"]) == 0
    assert not any((run / name).exists() for name in ERRORS)  # a new run leaves nothing of an old one
    assert main(["region", str(run), "--mask", "sphere"]) == 2
    assert "this folder has no error_map.mrc" in capsys.readouterr().err
