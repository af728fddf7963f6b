"""Do two half maps lie on each other, in the same hand and contrast? If not, their FSC is that of the mistake.

Half map 2 is turned in the 48 ways in which axes can be exchanged and reversed, shifted, and negated, and compared
with half map 1. Both are whitened first, that is, every shell of their transforms is brought to the same power, so that
the correlation is the mean of the FSC over all Fourier components of the band, and noise makes it scatter by a known
amount.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gsworkbench.assessment.fsc import shell_indices, shell_weights
from gsworkbench.assessment.transforms import cropped, inverse, transform
from gsworkbench.io.mrc import Map

Half = NDArray[np.complex128]

BOXES = (8, 12, 16, 32, 64)  # maps are compared on grids this coarse, so that noise beyond the signal does not drown it
FINE_BOX = 128  # and shifts are measured on one this fine
LEAST_GAIN = 0.1  # in correlation, for a change of half map 2 to be reported
LEAST_SHIFT = 0.2  # voxels
_ERRORS = 6.0  # standard errors that a gain or a shift must exceed
_OF_RESOLUTION = 25  # a shift below this fraction of the resolution changes no FSC


@dataclass(frozen=True)
class Turn:
    """A way to exchange the axes z, y, x of a map, and to reverse some of them about voxel D // 2."""

    axes: tuple[int, ...]
    reversed: tuple[int, ...]

    def __call__(self, volume: Map) -> Map:
        turned = np.transpose(volume, self.axes)
        if not self.reversed:
            return turned
        return np.roll(np.flip(turned, self.reversed), 1, self.reversed)

    @property
    def mirrors(self) -> bool:
        parity = sum(a > b for a, b in itertools.combinations(self.axes, 2)) + len(self.reversed)
        return parity % 2 == 1

    def __str__(self) -> str:
        names = [f"{'-' if i in self.reversed else ''}{'zyx'[axis]}" for i, axis in enumerate(self.axes)]
        if self.axes == (0, 1, 2):
            along = " and ".join("zyx"[i] for i in self.reversed)
            known = {0: "", 1: f"reversed along {along}", 3: "inverted through its centre"}
            still = "".join("zyx"[i] for i in range(3) if i not in self.reversed)
            return known.get(len(self.reversed), f"turned by 180 degrees about {still}")
        words = f"given its axes in the order {', '.join(names)} instead of z, y, x"
        fixed = [i for i in range(3) if self.axes[i] == i]
        if len(fixed) == 1 and not self.mirrors:
            angle = 90 if fixed[0] not in self.reversed else 180
            return f"turned by {angle} degrees ({words})"
        return words


@dataclass(frozen=True)
class Change:
    """What must be done to half map 2 for it to lie on half map 1.

    shift : (x, y, z) voxels that it is moved by, after it is turned. before, after : correlation of the whitened maps,
    over the band that was compared. finest : A, how far that band reaches.
    """

    turn: Turn
    negated: bool
    shift: tuple[float, float, float]
    before: float
    after: float
    finest: float


def turns() -> Iterator[Turn]:
    """All 48 turns, those that change least first: of two that a symmetric molecule allows, the plainer is said."""
    found = [
        Turn(axes, back)
        for axes in itertools.permutations(range(3))
        for n in range(4)
        for back in itertools.combinations(range(3), n)
    ]
    return iter(sorted(found, key=lambda t: (t.axes != (0, 1, 2), len(t.reversed))))


def needed_change(half_1: Map, half_2: Map, voxel_size: float) -> Change | None:
    """Return how half map 2 must be changed to lie on half map 1, or None where it does, as far as noise lets one tell.

    A change counts where it raises the correlation by LEAST_GAIN and by more than noise could; a shift alone also where
    it is more than LEAST_SHIFT voxels, a 25th of the resolution, and six of its standard errors.
    """
    box = len(half_1)
    halves = transform(half_1), transform(half_2)
    best: tuple[float, Change] | None = None
    for size in sorted({min(size, box) for size in BOXES}):
        coarse = [_whitened(cropped(half, size)) for half in halves]
        found = _best_turn(coarse[0], coarse[1], box, voxel_size)
        if found is not None and (best is None or found[0] > best[0]):
            best = found
    # What was found on a coarse grid is located on a fine one.
    fine = [_whitened(cropped(half, min(box, FINE_BOX))) for half in halves]
    scale = len(fine[0]) / box
    turn = best[1].turn if best else next(turns())
    sign = -1.0 if best and best[1].negated else 1.0
    turned = transform(sign * turn(inverse(fine[1]))) if best else fine[1]
    start = np.array(best[1].shift) if best else np.zeros(3)
    shift, error, resolved = _shift(fine[0], turned, start * scale)
    shift, error = shift / scale, error / scale
    if best:
        return dataclasses.replace(best[1], shift=_three(shift))
    length = float(np.linalg.norm(shift))
    if resolved is None or length < max(LEAST_SHIFT, box / resolved / scale / _OF_RESOLUTION, _ERRORS * error):
        return None
    moved = fine[1] * _phases(len(fine[1]), shift * scale)
    shells = shell_indices(len(fine[0]))
    used = (shells >= 1) & (shells <= resolved)
    before, after = (_correlation(fine[0], second, used) for second in (fine[1], moved))
    return Change(turn, False, _three(shift), before, after, box * voxel_size / resolved) if after > before else None


def out_of_register(half_1: Map, half_2: Map, voxel_size: float) -> str | None:
    """Half maps of which one must be negated, mirrored, turned or shifted to lie on the other."""
    found = needed_change(half_1, half_2, voxel_size)
    if found is None:
        return None
    length = float(np.linalg.norm(found.shift))
    done, means = [], []
    if found.negated:
        done.append("negated")
        means.append("one of them has inverted contrast")
    if str(found.turn):
        done.append(str(found.turn))
        means.append("one is the mirror image of the other" if found.turn.mirrors else "they do not face the same way")
    if length >= LEAST_SHIFT:
        x, y, z = found.shift
        angstrom = f"{length * voxel_size:.2f} A"
        done.append(f"moved by {x:.2f}, {y:.2f}, {z:.2f} voxels along x, y, z, that is by {angstrom}")
        means.append("they are shifted against each other")
    anticorrelate = "the half maps anticorrelate: " if found.negated and not str(found.turn) else ""
    return (
        f"{anticorrelate}half map 2 agrees with half map 1 after it is {' and '.join(done)}: their correlation up to "
        f"{found.finest:.3g} A is then {found.after:.2f} instead of {found.before:.2f}; {' and '.join(means)}, so the "
        "FSC is that of the mistake; bring them into register and judge them again"
    )


def _best_turn(first: Half, second: Half, box: int, voxel_size: float) -> tuple[float, Change] | None:
    """Return the best change by turning, negating and shifting by whole voxels, with how many errors it gains.

    first, second : whitened, of maps of `box` voxels that were cropped in Fourier space.
    """
    size = len(first)
    used = (first != 0) & (second != 0)
    if not used.any():
        return None
    weights = np.broadcast_to(shell_weights(size), first.shape)
    n = float(weights[used].sum()) / 2  # complex components
    maps = [inverse(half) for half in (first, second)]
    error = 1 / np.sqrt(2 * n * _filled(*maps))
    norm = size**3 / (2 * n)  # of the inverse transform, so that a map with itself correlates by 1 at the origin
    before = _correlation(first, second, used)
    if before < -max(LEAST_GAIN, _ERRORS * error):  # found without any search, so less is enough
        return -2 * before / error, Change(next(turns()), True, (0, 0, 0), before, -before, 2 * box * voxel_size / size)
    best: tuple[float, Turn, NDArray[np.int64]] | None = None
    for turn in turns():
        peaks = inverse(first * transform(turn(maps[1])).conj()) * norm
        peak = int(np.argmax(np.abs(peaks)))
        value = float(peaks.flat[peak])
        if best is None or abs(value) > abs(best[0]) + max(0.01, error):
            best = value, turn, np.array(np.unravel_index(peak, peaks.shape))
    assert best is not None
    value, turn, at = best
    gain = abs(value) - before
    if gain < max(LEAST_GAIN, _ERRORS * np.sqrt(2) * error) or abs(value) < 2 * LEAST_GAIN:
        return None
    shift = (at + size // 2) % size - size // 2
    if not str(turn) and value > 0 and np.abs(shift).max() == 0:
        return None
    z, y, x = (float(s) * box / size for s in shift)
    return gain / error, Change(turn, value < 0, (x, y, z), before, abs(value), 2 * box * voxel_size / size)


def _shift(first: Half, second: Half, start: NDArray[np.float64]) -> tuple[NDArray[np.float64], float, int | None]:
    """Return how far (x, y, z voxels) the second map must be moved to lie on the first, its error, and the last shell
    that still tells: None if none does.

    Newton's method on the correlation, every shell weighted by what its FSC says of its phases.
    """
    size = len(first)
    shells = shell_indices(size)
    weights = np.broadcast_to(shell_weights(size), first.shape)
    inside = np.flatnonzero(_used(size))
    frequencies = np.stack([axis.ravel()[inside] for axis in _frequencies(size)[::-1]])
    cross = (first * second.conj()).ravel()[inside]
    index, weight = shells.ravel()[inside], weights.ravel()[inside]
    counts = np.bincount(index, weight, minlength=size // 2)
    filled = _filled(inverse(first), inverse(second))
    shift, error, last = start.astype(np.float64), np.inf, None
    for _ in range(6):
        turned = cross * np.exp(2j * np.pi * (shift @ frequencies))
        f = np.bincount(index, weight * turned.real, minlength=size // 2) / np.maximum(counts, 1)
        f[1:] = np.convolve(np.r_[f[1:2], f[1:], f[-1:]], np.ones(3) / 3, "valid")
        least = np.clip(3 / np.sqrt(np.maximum(counts[1:] * filled, 1)), 0.143, 0.5)
        below = np.flatnonzero(f[1:] < least) + 1
        last = (int(below[0]) if len(below) else size // 2) - 1
        if last < 2:
            return shift, np.inf, None
        f = np.clip(f, 0, 0.9)
        gain = np.where(np.arange(size // 2) <= last, f / (1 - f**2), 0)[index] * weight
        slope = 2 * np.pi * frequencies @ (gain * turned.imag)
        angle = 2 * np.pi * frequencies
        curvature = (angle * (gain * np.maximum(f, 0.143)[index])) @ angle.T
        step = np.linalg.solve(curvature, slope)
        scatter = (angle * (gain**2 * (1 - f**2)[index] / 2 / filled)) @ angle.T
        error = float(np.sqrt(np.trace(np.linalg.solve(curvature, np.linalg.solve(curvature, scatter).T))))
        shift = shift - np.clip(step, -0.5, 0.5)
        if np.abs(step).max() < 1e-3:
            break
    return shift, error, last


def _phases(size: int, shift: NDArray[np.float64]) -> NDArray[np.complex128]:
    """What a transform is multiplied by to move the map by `shift`, voxels x, y, z."""
    z, y, x = _frequencies(size)
    return np.exp(-2j * np.pi * (shift[0] * x + shift[1] * y + shift[2] * z))


def _frequencies(size: int) -> list[NDArray[np.float64]]:
    k = np.fft.fftfreq(size)
    return list(np.meshgrid(k, k, np.fft.rfftfreq(size), indexing="ij"))


def _used(size: int) -> NDArray[np.bool_]:
    shells = shell_indices(size)
    return (shells >= 1) & (shells < size // 2)


def _whitened(half: Half) -> Half:
    """Bring every shell to a mean power of 1; shell 0, those from Nyquist on and those without power become 0."""
    size = len(half)
    shells, used = shell_indices(size), _used(size)
    weights = np.broadcast_to(shell_weights(size), half.shape)
    power = np.bincount(shells[used], (np.abs(half) ** 2 * weights)[used], minlength=size // 2)
    counts = np.maximum(np.bincount(shells[used], weights[used], minlength=size // 2), 1)
    there = power > 1e-14 * power.sum()
    gain = np.where(there, 1 / np.sqrt(np.where(there, power / counts, 1)), 0)
    return np.where(used, half * gain[np.minimum(shells, size // 2 - 1)], 0)


def _correlation(first: Half, second: Half, used: NDArray[np.bool_]) -> float:
    weights = np.broadcast_to(shell_weights(len(first)), first.shape)[used]
    f, g = first[used], second[used]
    power = np.sqrt((weights * np.abs(f) ** 2).sum() * (weights * np.abs(g) ** 2).sum())
    return float((weights * (f * g.conj()).real).sum() / power) if power else 0.0


def _filled(*maps: Map) -> float:
    """Return the share of the box in which maps hold anything: components of a small object are not independent."""
    from scipy import ndimage

    energy = sum(ndimage.uniform_filter(m**2, 3, mode="wrap") for m in maps)
    return float(np.sum(energy) ** 2 / (np.size(energy) * np.sum(energy**2)))


def _three(values: NDArray[np.float64]) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in values)
    return x, y, z
