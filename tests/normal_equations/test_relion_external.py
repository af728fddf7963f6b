"""What RELION hands to an external program: the same normal equations as ours, and what is refused."""

from dataclasses import replace

import mrcfile
import numpy as np
import pytest
import torch
from relion_files import STEM, write_external

from gsworkbench.errors import InputError
from gsworkbench.normal_equations.diagonal import diagonal, shell_sum
from gsworkbench.normal_equations.equations import accumulate
from gsworkbench.normal_equations.relion_external import read_relion_external, relion_equations, signal_power


@pytest.fixture(scope="module")
def sums(noisy_set):
    return accumulate(noisy_set.stack)


@pytest.mark.parametrize("hermitian", [True, False])
def test_the_equations_have_the_solution_of_our_own(sums, tmp_path, hermitian):
    ours = diagonal(sums)
    theirs = relion_equations(read_relion_external(write_external(tmp_path, sums, hermitian=hermitian)))
    assert torch.equal(theirs.weight, ours.weight)
    # Their noise has its own unit, and their map is a sum along rays where ours is an integral in A.
    unit, scale = ours.noise / theirs.noise, sums.pixel_size
    inside = ours.shell < 13
    ratio = theirs.kernel[inside] * unit * scale**2 / ours.kernel[inside]
    assert ratio.quantile(0.05) > 0.8 and ratio.quantile(0.95) < 1.2 and abs(ratio.median() - 1) < 0.1
    own, other = (e.data / (e.kernel + 0.05 * e.kernel.mean()) for e in (ours, theirs))
    product = float((own * other.conj()).real[inside].sum())
    square, second = (float(values.abs().square()[inside].sum()) for values in (own, other))
    assert product / square == pytest.approx(scale, rel=0.03)
    assert product / np.sqrt(square * second) > 0.99


def test_a_shell_that_weighs_little_is_not_drowned_by_its_neighbours(sums, tmp_path):
    """RELION's noise may differ a hundredfold from shell to shell: what solves the equations must not."""
    star = write_external(tmp_path, sums)
    plain = read_relion_external(star)
    axis = np.fft.fftfreq(64, 1 / 64)
    radius = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + np.arange(33) ** 2)
    factor = np.where(radius < 8, 0.01, 1).astype(np.float32)
    uneven = replace(plain, data=plain.data * factor, weight=plain.weight * factor)
    first, second = (relion_equations(sums) for sums in (plain, uneven))
    low = (first.shell > 0) & (first.shell < 4)
    one, two = (e.data[low] / e.kernel[low] for e in (first, second))
    assert (one - two).abs().square().sum() < 0.02 * one.abs().square().sum()


def test_a_plane_is_completed_once(sums, tmp_path):
    whole, halves = (read_relion_external(write_external(tmp_path / str(h), sums, hermitian=h)) for h in (True, False))
    assert np.allclose(whole.weight[:, :, 0], halves.weight[:, :, 0], rtol=1e-5)
    assert np.allclose(whole.data[:, :, 0], halves.data[:, :, 0], atol=1e-5 * np.abs(whole.data).max())


def test_nothing_counts_from_the_current_size_on(sums, tmp_path):
    read = read_relion_external(write_external(tmp_path, sums, size=20))
    equations = relion_equations(read)
    assert read.radius == 10
    beyond = equations.shell >= 10
    assert (
        not equations.weight[beyond].any() and not equations.data[beyond].any() and not equations.kernel[beyond].any()
    )
    assert equations.weight[~beyond].all()


def test_the_noise_is_that_of_the_data(noisy_set, tmp_path):
    """Beyond the signal, data have the variance that the weights say: in RELION's own units, 2 D^3 of the kernel."""
    rng = np.random.default_rng(0)
    stack = noisy_set.stack
    images = rng.normal(size=(len(stack), 32, 32)).astype(np.float32)
    with mrcfile.new(tmp_path / "particles.mrcs") as file:
        file.set_data(images)
    sums = accumulate(replace(stack, files=(tmp_path / "particles.mrcs",)))
    equations = relion_equations(read_relion_external(write_external(tmp_path, sums)))
    power = shell_sum(equations, equations.data.abs().square())
    expected = shell_sum(equations, equations.kernel) * equations.noise
    assert float(power[4:16].sum() / expected[4:16].sum()) == pytest.approx(1, abs=0.1)


def test_tau2_counts_with_its_factor(sums, tmp_path):
    star = write_external(tmp_path, sums)
    once = signal_power(read_relion_external(star))
    star.write_text(star.read_text().replace("_rlnTau2FudgeFactor 1.0", "_rlnTau2FudgeFactor 4.0"))
    assert torch.allclose(signal_power(read_relion_external(star)), 4 * once)


def test_files_are_found_where_the_star_file_lies(sums, tmp_path):
    star = write_external(tmp_path / "here", sums)
    moved = tmp_path / "moved"
    (tmp_path / "here").rename(moved)
    read = read_relion_external(moved / star.name)
    assert read.result == moved / f"{STEM}.mrc"


def _change(before, after):
    return lambda star: star.write_text(star.read_text().replace(before, after))


def _volume(name, change):
    def damage(star):
        path = star.with_name(f"{STEM}_{name}.mrc")
        content = path.read_bytes()
        array = np.frombuffer(content[1024:], np.float32)
        path.write_bytes(content[:1024] + change(array).astype(np.float32).tobytes())

    return damage


WRONG = {
    "no table data_external_reconstruct_general": _change("data_external_reconstruct_general", "data_general"),
    "no table data_external_reconstruct_tau2": _change("data_external_reconstruct_tau2", "data_tau2"),
    "there is no _rlnExtReconsWeight": _change("_rlnExtReconsWeight", "_rlnSomething"),
    "there is no _rlnReferenceTau2": _change("_rlnReferenceTau2 #2", "_rlnTau2 #2"),
    "2D classes": _change("_rlnReferenceDimensionality 3", "_rlnReferenceDimensionality 2"),
    "is not a whole number": _change("_rlnOriginalImageSize 32", "_rlnOriginalImageSize 32.5"),
    "is no number": _change("_rlnPaddingFactor 2.000000", "_rlnPaddingFactor nan"),
    "is not understood": _change("_rlnCurrentImageSize 32", "_rlnCurrentImageSize 34"),
    "run relion_refine with --pad 2": _change("_rlnPaddingFactor 2.000000", "_rlnPaddingFactor 1.000000"),
    "not the (68, 68, 35) of": _change("_rlnOriginalImageSize 32", "_rlnOriginalImageSize 34"),
    "16 shells for a box of 32": lambda star: star.write_text(star.read_text().rpartition("16 ")[0]),
    "there is no such file": lambda star: star.with_name(f"{STEM}_weight.mrc").unlink(),
    "NaN or infinite": _volume("data_real", lambda array: np.where(array == array.max(), np.nan, array)),
    "the weights are all 0": _volume("weight", lambda array: 0 * array),
    "there are weights below 0": _volume("weight", lambda array: -array),
}


@pytest.mark.parametrize("sentence", WRONG)
def test_what_is_not_understood_is_one_sentence(sums, tmp_path, sentence):
    star = write_external(tmp_path, sums)
    WRONG[sentence](star)
    with pytest.raises(InputError) as caught:
        read_relion_external(star)
    assert sentence in str(caught.value) and str(tmp_path) in str(caught.value)
