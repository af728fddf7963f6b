"""Half maps that do not lie on each other are named with what is wrong; those that do are left in peace."""

import re

import numpy as np
import pytest

from gsworkbench.assessment.fsc import shell_indices
from gsworkbench.assessment.masks import spherical_mask
from gsworkbench.assessment.register import needed_change, out_of_register, turns

VOXEL = 2.0


def noise(seed, box):
    return np.random.default_rng(seed).standard_normal((box,) * 3)


def molecule(seed, box, finest=0.25):
    """A blob without symmetry, its signal down to about `finest` cycles per voxel, of standard deviation 1."""
    inside = spherical_mask(box, 1.0, radius=0.2 * box, edge=0.15 * box).values
    inside = inside * np.roll(inside, (box // 10, box // 14, -box // 12), (0, 1, 2))
    transform = np.fft.rfftn((noise(seed, box) + 0.7) * inside)
    volume = np.fft.irfftn(
        transform * np.exp(-((shell_indices(box) / (finest * box)) ** 2)), s=(box,) * 3, axes=(0, 1, 2)
    )
    return volume / volume.std()


def moved(volume, x, y, z):
    k, kx = np.fft.fftfreq(len(volume)), np.fft.rfftfreq(len(volume))
    phases = np.exp(-2j * np.pi * (x * kx + y * k[:, None] + z * k[:, None, None]))
    return np.fft.irfftn(np.fft.rfftn(volume) * phases, s=volume.shape, axes=(0, 1, 2))


def pair(seed, box, snr=1.0):
    signal = np.sqrt(snr) * molecule(seed, box)
    return signal + noise(1000 + seed, box), signal + noise(2000 + seed, box)


CHANGES = {
    "negated": (lambda v: -v, "one of them has inverted contrast"),
    "mirrored along z": (lambda v: np.roll(v[::-1], 1, 0), "the mirror image of the other"),
    "mirrored and not rolled back": (lambda v: v[::-1], "the mirror image of the other"),
    "point inversion": (lambda v: np.roll(v[::-1, ::-1, ::-1], 1, (0, 1, 2)), "the mirror image of the other"),
    "axes in numpy's order": (lambda v: v.T, "the mirror image of the other"),
    "turned by 90 degrees": (lambda v: np.rot90(v, axes=(0, 1)), "do not face the same way"),
    "turned by 180 degrees": (lambda v: np.roll(v[:, ::-1, ::-1], 1, (1, 2)), "do not face the same way"),
    "three voxels": (lambda v: np.roll(v, (3, -1, 2), (0, 1, 2)), "shifted against each other"),
    "half the box": (lambda v: np.roll(v, len(v) // 2, 1), "shifted against each other"),
    "negated and mirrored": (lambda v: -np.roll(v[::-1], 1, 0), "one of them has inverted contrast and one is"),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(("seed", "box"), [(0, 32), (1, 48)])
def test_what_is_wrong_is_named(change, seed, box):
    alter, words = CHANGES[change]
    first, second = pair(seed, box, snr=3.0)
    said = out_of_register(first, alter(second), VOXEL)
    assert words in said and "the FSC is that of the mistake" in said
    assert ("anticorrelate" in said) == (change == "negated")


@pytest.mark.parametrize("shift", [(0.5, 0, 0), (-1.5, 0.7, 0), (0.3, 0.3, -0.3), (4, -2.25, 1)])
def test_shifts_are_measured_in_fractions_of_a_voxel(shift):
    first, second = pair(2, 48, snr=10.0)
    found = needed_change(first, moved(second, *shift), VOXEL)
    np.testing.assert_allclose(found.shift, -np.array(shift), atol=0.05)
    assert str(found.turn) == "" and not found.negated
    said = re.search(r"that is by (\S+) A", out_of_register(first, moved(second, *shift), VOXEL))
    assert float(said[1]) == pytest.approx(np.linalg.norm(shift) * VOXEL, abs=0.1)


def test_a_shift_that_changes_no_fsc_is_not_told():
    first, second = pair(2, 48, snr=10.0)
    assert needed_change(first, moved(second, 0.05, 0, 0), VOXEL) is None


def good_pairs(seed, box):
    """Half maps of many kinds in which nothing is wrong."""
    axis = np.arange(box) - box // 2
    r = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
    first, second = noise(7 * seed, box), noise(7 * seed + 1, box)
    twofold = molecule(seed, box)
    twofold = twofold + np.roll(twofold[:, ::-1, ::-1], 1, (1, 2))
    sphere = np.exp(-((r / (0.15 * box)) ** 2))
    smooth = molecule(seed, box, finest=0.1)
    ball = np.where(r < 0.2 * box, 1.0, 0.0)
    yield "noise", first, second
    yield "masked noise", first * ball, second * ball
    yield "noise in a soft mask", first * sphere, second * sphere
    yield "a sphere", 5 * sphere + 0.3 * first, 5 * sphere + 0.3 * second
    yield "twofold symmetry", twofold + first, twofold + second
    yield "smooth, with next to no noise", smooth + 0.01 * first * sphere, smooth + 0.01 * second * sphere
    for snr in (0.003, 0.02, 0.1, 1.0, 30.0):
        yield f"SNR {snr}", *pair(seed, box, snr)


@pytest.mark.parametrize("box", [16, 24, 32, 48])
@pytest.mark.parametrize("seed", [3, 4])
def test_good_half_maps_ring_nothing(seed, box):
    said = {name: out_of_register(first, second, VOXEL) for name, first, second in good_pairs(seed, box)}
    assert {name: words for name, words in said.items() if words} == {}


def test_turns_are_all_different_and_half_of_them_mirror():
    volume = noise(0, 4)
    found = list(turns())
    assert len({turn(volume).tobytes() for turn in found}) == 48
    assert sum(turn.mirrors for turn in found) == 24
    assert str(found[0]) == "" and all(str(turn) for turn in found[1:])
