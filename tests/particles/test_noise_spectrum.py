"""The noise spectrum measured in the corners: of white and coloured noise, whatever lies in the middle."""

import dataclasses
import json

import numpy as np
import pytest

from gsworkbench.cli.main import main
from gsworkbench.errors import InputError
from gsworkbench.io.mrc import new_image_stack
from gsworkbench.methods.one_pass import OnePass
from gsworkbench.methods.reconstruction_config import ReconstructionConfig
from gsworkbench.normal_equations.equations import accumulate
from gsworkbench.particles.image_statistics import measure_images, normalised
from gsworkbench.particles.noise_spectrum import chosen_noise, measured_noise
from gsworkbench.reconstruction.run import reconstruct
from gsworkbench.simulation.simulate import simulate
from gsworkbench.simulation.simulation_config import Simulation

POWER = 1 / (1 + (8 * np.arange(32) / 32) ** 2) + 0.3


def test_white_noise_has_its_variance_in_every_shell(noisy_set):
    """At 1 the simulated noise; the CTF carries a little of the particle outwards in the low shells."""
    spectrum = measured_noise(noisy_set.stack)
    assert spectrum.shape == (17,)
    assert spectrum[8:].mean() == pytest.approx(1, abs=0.03)
    assert spectrum.min() > 0.95 and spectrum.max() < 1.3


def test_a_coloured_spectrum_is_found(tmp_path):
    np.save(tmp_path / "noise.npy", POWER)
    config = Simulation(n_particles=800, box_size=32, pixel_size=12.0, snr=0.05, noise=str(tmp_path / "noise.npy"))
    stack = simulate(config, tmp_path / "set")
    k = np.fft.fftfreq(32, 1 / 32)
    everywhere = POWER[np.rint(np.hypot(k[:, None], k)).astype(int)]
    true = (POWER / everywhere.mean())[:17]
    assert measured_noise(stack)[3:16] / true[3:16] == pytest.approx(1, abs=0.12)
    assert np.array_equal(measured_noise(stack[::-1]), measured_noise(stack))


def test_choices(noisy_set, tmp_path):
    assert chosen_noise("white", noisy_set.stack) is None
    np.save(tmp_path / "noise.npy", POWER)
    assert np.array_equal(chosen_noise(str(tmp_path / "noise.npy"), noisy_set.stack), POWER)
    with pytest.raises(InputError, match=r"absent\.npy: not a noise spectrum"):
        chosen_noise(str(tmp_path / "absent.npy"), noisy_set.stack)


def test_measured_spectra_divide_the_sums(noisy_set, tmp_path):
    stack = normalised(noisy_set.stack, measure_images(noisy_set.stack))
    arguments = ["accumulate", str(noisy_set.star), "--out", str(tmp_path / "x.npz"), "--noise-spectrum", "measured"]
    assert main(arguments) == 0
    expected = accumulate(stack, noise_spectrum=measured_noise(stack))
    expected.save(tmp_path / "y.npz")
    assert (tmp_path / "x.npz").read_bytes() == (tmp_path / "y.npz").read_bytes()
    assert expected.weighted and expected.noise_power == 32**2  # of a component of unit spectrum


@pytest.mark.parametrize("command", [["backproject"], ["reconstruct", "--n-gaussians", "64"]])
def test_maps_are_on_the_same_scale_with_it(noisy_set, tmp_path, command):
    more = ["--noise-spectrum", "measured", "--mask", "none", "--truth", str(noisy_set.truth_file)]
    assert main([command[0], str(noisy_set.star), "--out", str(tmp_path), *command[1:], *more]) == 0
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["config"]["noise_spectrum"] == "measured"
    assert record["results"]["agreement"]["slope"] == pytest.approx(1, abs=0.3)
    assert record["results"]["fsc_unmasked_truth"]["mean"] > 0.7


def test_the_stochastic_method_refuses_it(noisy_set, tmp_path, capsys):
    arguments = [str(noisy_set.star), "--out", str(tmp_path / "out"), "--noise-spectrum", "measured"]
    assert main(["reconstruct", *arguments, "--method", "stochastic"]) == 2
    assert "knows white noise only" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_optics_groups_with_images_enough_have_spectra_of_their_own(noisy_set, tmp_path):
    stack = noisy_set.stack
    groups = np.where(np.arange(600) < 300, 4, 9)
    images = stack.images().copy()
    images[300:] *= 2
    with new_image_stack(tmp_path / "two.mrcs", 600, 32, stack.pixel_size) as file:
        file[:] = images
    two = dataclasses.replace(stack, files=(tmp_path / "two.mrcs",), optics_group=groups)
    spectra = chosen_noise("measured", two)
    assert spectra.shape == (600, 17)
    assert spectra[300:, 8:].mean() / spectra[:300, 8:].mean() == pytest.approx(4, rel=0.05)
    few = dataclasses.replace(two, optics_group=np.where(np.arange(600) < 20, 4, 9))
    assert chosen_noise("measured", few).shape == (17,)
    table = accumulate(two[::2], noise_spectrum=spectra[::2])
    assert table.weighted and table.noise_power == 32**2


def test_a_reconstruction_takes_spectra_by_group(noisy_set, tmp_path):
    stack = dataclasses.replace(noisy_set.stack, optics_group=np.arange(600) % 2)
    config = ReconstructionConfig(method="backprojection", noise_spectrum="measured", mask="none")
    assert np.isfinite(reconstruct(stack, tmp_path, config).volume).all()
    fitted = ReconstructionConfig(
        settings=OnePass(n_gaussians=64, n_boosted_steps=2, n_steps=4, n_final_steps=2),
        noise_spectrum="measured",
        mask="none",
    )
    assert np.isfinite(reconstruct(stack, tmp_path / "fit", fitted).volume).all()
