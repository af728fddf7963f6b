"""A fit and a backprojection are combined as particles ask that neither was made of."""

import dataclasses

import numpy as np
import pytest
import torch

from gsworkbench.assessment.fsc import fourier_shell_correlation
from gsworkbench.methods.combination import Candidate, combine, molecule, weigh
from gsworkbench.normal_equations.classical_map import classical_map
from gsworkbench.normal_equations.diagonal import added, diagonal, wiener_map
from gsworkbench.normal_equations.equations import accumulate


@pytest.fixture(scope="module")
def halves(noisy_set):
    stack = noisy_set.stack
    sums = [accumulate(stack[k::2]) for k in (0, 1)]
    return sums, [diagonal(s) for s in sums]


def likeness(volume, truth):
    return fourier_shell_correlation(np.asarray(volume), truth, voxel_size=12.0).mean()


def weighed(halves, first, second):
    _, problems = halves
    made = [Candidate(p, v, wiener_map(p).numpy()) for p, v in zip(problems, (first, second), strict=True)]
    return made, weigh([(made[0], problems[1]), (made[1], problems[0])])


def test_the_classical_map_of_a_problem_is_that_of_its_sums(halves):
    sums, problems = halves
    classical = classical_map(sums[0])
    assert np.abs(wiener_map(problems[0]).numpy() - classical).max() < 1e-4 * classical.std()


def test_equations_of_parts_add_up(noisy_set, halves):
    sums, problems = halves
    whole, together = diagonal(sums[0] + sums[1]), added(*problems, 300, 300)
    assert float((whole.data - together.data).abs().max()) < 1e-5 * float(whole.data.abs().max())
    both = (problems[0].kernel > 0) & (problems[1].kernel > 0)  # what is below zero is cut off, of each
    difference = (whole.kernel - together.kernel).abs()
    assert float(difference[both].max()) < 1e-5 * float(whole.kernel.max()) and bool((together.kernel >= 0).all())
    assert whole.noise == pytest.approx(together.noise)


def test_a_fit_that_is_right_takes_over(noisy_set, halves):
    truth = noisy_set.truth.copy()
    made, weights = weighed(halves, truth, truth)
    assert weights.mean > 0.5 and weights.share[10:15].min() > 0.6 and weights.sentences() == []
    combined = combine(made[0], weights)
    assert likeness(combined, truth) > likeness(made[0].backprojected, truth) + 0.1


@pytest.mark.parametrize("kind", ["nothing", "noise", "mirror image", "another molecule"])
def test_a_fit_that_is_wrong_is_replaced(noisy_set, halves, kind):
    truth = noisy_set.truth.copy()
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(truth.shape).astype(np.float32) * truth.std()
    wrong = {
        "nothing": np.zeros_like(truth),
        "noise": noise,
        "mirror image": np.roll(truth[::-1], 1, 0).copy(),
        "another molecule": np.ascontiguousarray(np.roll(truth, 9, 2)),
    }[kind]
    made, weights = weighed(halves, wrong, wrong)
    assert weights.mean < 0.05
    assert "the map is the backprojection" in weights.sentences()[0]
    for candidate in made:
        combined = likeness(combine(candidate, weights), truth)
        assert combined > likeness(candidate.backprojected, truth) - 0.005


def test_a_fit_that_is_right_at_low_frequencies_alone_serves_those(noisy_set, halves):
    """A map of a few blobs: its low shells are better than the backprojection's, its high ones are wrong."""
    truth = noisy_set.truth
    k = np.fft.fftfreq(32, 1 / 32)
    radius = np.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + k**2)
    noise = np.fft.fftn(np.random.default_rng(1).standard_normal(truth.shape))
    transform = np.where(radius < 5.5, np.fft.fftn(truth), noise * np.abs(np.fft.fftn(truth)).mean() / 200)
    fitted = np.fft.ifftn(transform).real.astype(np.float32)
    _, weights = weighed(halves, fitted, fitted)
    assert weights.share[1:5].mean() > 0.4 > 0.1 > weights.share[9:13].mean()


def test_maps_have_nothing_in_the_corners_of_fourier_space(noisy_set, halves):
    made, weights = weighed(halves, noisy_set.truth.copy(), noisy_set.truth.copy())
    spiky = dataclasses.replace(made[0], fitted=np.random.default_rng(0).standard_normal((32,) * 3).astype(np.float32))
    transform = torch.fft.rfftn(torch.from_numpy(combine(spiky, weights)))
    beyond = spiky.equations.shell >= 16
    assert float(transform[beyond].abs().max()) < 1e-4 * float(transform.abs().max())


def test_a_support_is_where_the_molecule_is(noisy_set):
    mask = molecule(noisy_set.truth)
    assert 0.02 < mask.mean() < 0.5 and mask.min() >= 0 and mask.max() <= 1
    inside = float((noisy_set.truth**2 * mask).sum() / (noisy_set.truth**2).sum())
    assert inside > 0.97
    assert (molecule(np.zeros((16,) * 3, np.float32)) == 1).all()
