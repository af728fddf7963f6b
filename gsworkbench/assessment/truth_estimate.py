"""The FSC of a map to the unknown truth, estimated with the linear map of the other half set.

Half-map FSC says how much two fits agree. Maps that a method regularises (Gaussians, neural fields, masked or filtered
voxels) also agree about the mistakes of the method, and then it says too much. A linear map, which is the least-squares
backprojection without any filter, is the truth plus noise. The noise of the linear map B2 of half set 2 is independent
of whatever was made from half set 1, so B2 can stand for the truth, once its own noise is accounted for by FSC(B1, B2):

    FSC(V1, truth) = <V1, B2> / (|V1| |T|),    |T|^2 = <B1, B2>,

where V1 is the map of half set 1 by any program, <,> is the sum over a shell, and |T|^2 is the power of the truth that
two linear maps measure without their noise. The estimate is the mean of this and of the same for half set 2. Where both
linear maps have equal noise it is FSC(V1, B2) / sqrt(FSC(B1, B2)); it also holds where one has more noise.

What it cannot see are mistakes that both linear maps share: wrong poses, a wrong CTF, the wrong hand, particles that
are in both half sets. Then it estimates the FSC to the map that these poses and this CTF allow.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gsworkbench.assessment.bootstrap import bootstrap_statistic, real_product
from gsworkbench.assessment.corrected import effective_samples
from gsworkbench.assessment.fsc import (
    FscCurve,
    Resolution,
    Shells,
    correlate_transforms,
    first_crossings,
    resolution,
    shell_indices,
    shell_weights,
)
from gsworkbench.assessment.masks import Mask, described, inside_mask
from gsworkbench.assessment.transforms import inverse, transform
from gsworkbench.errors import InputError
from gsworkbench.io.mrc import Map

Transform = NDArray[np.complex128]
ROUNDED = Shells()
HALF_MAP_THRESHOLD = 0.378  # sqrt(0.143): a full map of independent halves has 0.5 there
LEAST = 0.1  # FSC of the linear half maps below which nothing is said
SIGNIFICANCE = 4.0  # standard deviations that it must be above zero, on Fisher's scale
_SPIKE = 30.0  # times the median power of a shell's difference: far beyond what Gaussian noise reaches
_MOST_SPIKES = 0.01  # of a shell; where there are more, they are no exceptions and stay


@dataclass(frozen=True)
class TruthEstimate:
    """Estimated FSC of half maps to the unknown truth.

    half : of a half map, the mean of the two; fsc_unmasked_estimate or fsc_masked_estimate. full : of the mean of the
        half maps, if their errors are independent; the same name with _full. linear : FSC between the linear maps.
        half and full are at most 1, and NaN in shells where nothing can be said.
    error, full_error : (D // 2 + 1,) standard errors of half and full by formula. bootstrap : that of half, drawn from
        the components.
    agreement : (D // 2 + 1,) FSC between the half maps. product : of the estimates of both half maps.
    """

    half: FscCurve
    full: FscCurve
    linear: FscCurve
    error: NDArray[np.float64]
    full_error: NDArray[np.float64]
    bootstrap: NDArray[np.float64]
    agreement: NDArray[np.float64]
    product: NDArray[np.float64]

    @property
    def told(self) -> NDArray[np.bool_]:
        """(D // 2 + 1,) the shells below Nyquist that have an estimate."""
        told = np.isfinite(self.half.values)
        told[self.half.box_size // 2 :] = False
        return told

    @property
    def finest(self) -> int:
        """The last shell before the first gap among those that have an estimate; 0 if none has.

        The first shells hold so few components that they may have none.
        """
        first = int(np.argmax(self.told))
        return first + int(np.argmin(self.told[first:])) - 1 if self.told.any() else 0

    @property
    def resolution(self) -> Resolution | None:
        """Where the estimate of a half map falls below 0.378; None if it ends before it does.

        A half map's 0.378 is a full map's 0.5, and a half-map FSC of 0.143, where the errors of the halves are
        independent.
        """
        values = np.where(self.told, self.half.values, 1.0)
        values[self.finest + 1 :] = -1
        read = resolution(dataclasses.replace(self.half, values=values), HALF_MAP_THRESHOLD)
        ended = self.finest < self.half.box_size // 2 - 1 and read.shell == self.finest
        return None if ended or self.finest == 0 else read

    @property
    def mean(self) -> float:
        """Mean of the estimate over the shells that have one; NaN if none has."""
        return float(self.half.values[self.told].mean()) if self.told.any() else float("nan")

    @property
    def mean_error(self) -> float:
        """Standard error of the mean, the shells taken as independent; NaN if none has an estimate."""
        told = self.told
        return float(np.sqrt(np.square(self.error[told]).sum()) / told.sum()) if told.any() else float("nan")

    @property
    def overstatement(self) -> tuple[float, float]:
        """By how much the half maps agree more than the data bear out: mean of F - c1 c2 and its standard error.

        F is the FSC between the half maps and c1, c2 the estimates of both; the mean is over shells that have one. It
        is 0 on average where the half maps have independent errors. (0, infinity) if no shell has an estimate.
        """
        told = self.told
        if not told.any():
            return 0.0, float("inf")
        difference = self.agreement[told] - self.product[told]
        error = np.sqrt(np.square(2 * self.half.values[told] * self.error[told]).sum()) / told.sum()
        return float(np.nan_to_num(difference).mean()), float(error)

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers for run.json."""
        read, (more, error) = self.resolution, self.overstatement
        edge = self.half.box_size * self.half.voxel_size
        return {
            "mean": None if not self.told.any() else self.mean,
            "mean_error": None if not self.told.any() else self.mean_error,
            "half_map_fsc_mean": float(np.nan_to_num(self.agreement[self.told]).mean()) if self.told.any() else None,
            "told_shells": int(self.told.sum()),
            "told_to_angstrom": edge / self.finest if self.finest else None,
            "overstatement": more,
            "overstatement_error": error if np.isfinite(error) else None,
            "resolution": None if read is None else dataclasses.asdict(read),
            "mask": self.half.mask,
        }

    def report(self) -> list[str]:
        """Return the lines to print."""
        if self.finest == 0 or not self.told.any():
            return [f"{self.half.name}: cannot tell, because the linear half maps agree in no shell"]
        edge = self.half.box_size * self.half.voxel_size
        read, (more, error) = self.resolution, self.overstatement
        reach = f"it can tell up to {edge / self.finest:.2f} A"
        where = f"{self.half.name}, {reach}" if read is None else f"{read}, {reach}"
        return [
            f"{where}; mean FSC of a half map to the truth {self.mean:.4f} ({self.mean_error:.4f})",
            f"{self.half.name}: the half maps agree by {more:+.4f} ({error:.4f}) more than this estimate allows",
        ]


def estimate_truth_fsc(
    halves: tuple[Map, Map],
    linear: tuple[Map, Map],
    *,
    voxel_size: float,
    mask: Mask | None = None,
    shells: Shells = ROUNDED,
    definition: str = "rounded",
) -> TruthEstimate:
    """Estimate the FSC of two half maps to the unknown truth, shell by shell.

    Parameters
    ----------
    halves : pair of (D, D, D) arrays
        Half maps by any program.
    linear : pair of (D, D, D) arrays
        Least-squares backprojections of the same two half sets, in the same order, without filter and mask.
    voxel_size : float
        Angstrom, of all four maps.
    mask : Mask, optional
        All four maps are multiplied by it.
    shells : Shells
        How Fourier voxels are summed into shells.
    definition : str
        Whose shells these are, which the curves carry along.

    Returns
    -------
    TruthEstimate
        The estimate with its errors, and NaN where nothing can be said.

    Raises
    ------
    InputError
        If the maps differ in size.

    Examples
    --------
    >>> import numpy as np
    >>> import gsworkbench as gs
    >>> rng = np.random.default_rng(0)
    >>> truth, noise = rng.standard_normal((16, 16, 16)), rng.standard_normal((2, 16, 16, 16))
    >>> linear = (truth + noise[0], truth + noise[1])
    >>> found = gs.estimate_truth_fsc(linear, linear, voxel_size=1.0)
    >>> bool(abs(found.half.values[4:8].mean() - 0.71) < 0.05)  # sqrt(1 / 2): as much noise as signal
    True
    """
    if len({m.shape for m in (*halves, *linear)}) != 1:
        shapes = ", ".join(str(m.shape) for m in (*halves, *linear))
        raise InputError(f"half maps and linear maps must have one box, not {shapes}")
    box_size, name = len(halves[0]), f"fsc_{'unmasked' if mask is None else 'masked'}_estimate"
    v1, v2, b1, b2 = (transform(inside_mask(m, mask)) for m in (*halves, *without_spikes(*linear)))
    crossed_1, crossed_2, linear_fsc = (correlate_transforms(*pair, shells) for pair in ((v1, b2), (v2, b1), (b1, b2)))
    power_1, power_2 = (_shell_power(b, shells) for b in (b1, b2))
    samples = effective_samples(box_size, mask)
    told = can_tell(linear_fsc, samples)
    told[[0, box_size // 2]] = False  # one voxel correlates with any other; at Nyquist, maps are cut off
    told &= np.isfinite(crossed_1) & np.isfinite(crossed_2)
    values, product, error = (np.full(len(told), np.nan) for _ in range(3))
    over_1, over_2 = _over_truth(linear_fsc[told], power_2[told] / power_1[told])
    c1, c2 = crossed_1[told] * np.sqrt(over_2), crossed_2[told] * np.sqrt(over_1)
    values[told], product[told] = np.minimum((c1 + c2) / 2, 1), c1 * c2  # noise alone takes an FSC above 1
    noise = np.maximum(over_1 - 1, 0), np.maximum(over_2 - 1, 0), 1 / linear_fsc[told] - 1
    error[told] = _standard_error((c1, c2), noise, samples[told])
    half = FscCurve(name, values, box_size, voxel_size, described(mask), definition)
    # Errors of the two halves are taken as independent: C^2 = 2 c^2 / (1 + c^2).
    squared = np.clip(values, 0, 1) ** 2
    full = np.where(values < 0, values, np.sqrt(2 * squared / (1 + squared)))
    full_error = error * np.sqrt(2) / (1 + squared) ** 1.5
    return TruthEstimate(
        half,
        dataclasses.replace(half, name=f"{name}_full", values=full),
        dataclasses.replace(half, name=f"{name}_linear", values=linear_fsc),
        error,
        full_error,
        np.where(told, _bootstrap((v1, v2), (b1, b2), samples, shells), np.nan),
        correlate_transforms(v1, v2, shells),
        product,
    )


def can_tell(linear_fsc: NDArray[np.float64], samples: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether the linear maps agree enough; samples : real degrees of freedom behind each FSC."""
    return np.nan_to_num(linear_fsc) > np.maximum(LEAST, np.tanh(SIGNIFICANCE / np.sqrt(np.maximum(samples, 1e-6))))


def estimated_curves(
    crossed: tuple[NDArray[np.float64], NDArray[np.float64]],
    linear_fsc: NDArray[np.float64],
    ratio: NDArray[np.float64],
    samples: NDArray[np.float64],
) -> NDArray[np.float64]:
    """(n, shells) estimates of a half map in n cones or windows, the mean of both halves; NaN where it cannot tell.

    crossed : FSC of half map 1 with linear map 2, and of half map 2 with linear map 1. linear_fsc, ratio : FSC of the
    linear maps, and the power of the second over that of the first. samples : real degrees of freedom. All (n, shells).
    """
    told = can_tell(linear_fsc, samples) & np.isfinite(crossed[0]) & np.isfinite(crossed[1])
    told[:, 0] = False
    over_1, over_2 = _over_truth(linear_fsc[told], ratio[told])
    curves = np.full(told.shape, np.nan)
    curves[told] = (crossed[0][told] * np.sqrt(over_2) + crossed[1][told] * np.sqrt(over_1)) / 2
    return curves


def told_crossings(curves: NDArray[np.float64], first: int = 1) -> NDArray[np.float64]:
    """(n,) shell where each of the (n, shells) curves falls below 0.378, interpolated; NaN where it cannot be told.

    The number of shells if it never does. Reading begins at the first shell from `first` on that has an estimate, as
    has the next: among many curves of noise single shells have one by chance. It ends at the first gap.
    """
    told = np.isfinite(curves)
    told[:, :first] = False
    pairs = told[:, :-1] & told[:, 1:]
    start = np.where(pairs.any(1), pairs.argmax(1), curves.shape[1])
    read = np.where(np.arange(curves.shape[1]) < start[:, None], 1.0, np.nan_to_num(curves, nan=-1.0))
    crossings = first_crossings(read, HALF_MAP_THRESHOLD)
    below = read < HALF_MAP_THRESHOLD
    there = below.argmax(1)
    gap = below.any(1) & ~told[np.arange(len(told)), there]
    return np.where(gap | ~pairs.any(1), np.nan, crossings)


def _over_truth(
    linear_fsc: NDArray[np.float64], ratio: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Power of each linear map over that of the truth, 1 and what noise adds; ratio : of the second to the first."""
    amplitude = np.sqrt(ratio)
    return 1 / (amplitude * linear_fsc), amplitude / linear_fsc


def _standard_error(
    estimates: tuple[NDArray[np.float64], NDArray[np.float64]],
    noise: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]],
    samples: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Standard error of the estimate that comes from the noise of the two linear maps, of some shells.

    estimates : c1 and c2, of both half maps. noise : power of the noise over that of the truth in B1 and in B2, q1 and
    q2, and q if both had the same.

    With c the mean of c1 and c2 and n real degrees of freedom, the noise N2 of B2 enters through <V1, N2> and, by |T|,
    through <T, N2>: variance q2 (1 - 2 c c1 + c^2) / (4 n). N1 likewise, and the product of both c^2 q1 q2 / (4 n).
    Where V1 is right, the noise of numerator and denominator is the same and cancels.
    """
    c1, c2 = (np.clip(c, -1, 1) for c in estimates)
    c = (c1 + c2) / 2
    q1, q2, q = noise
    unequal = q2 * (1 - 2 * c * c1 + c**2) + q1 * (1 - 2 * c * c2 + c**2) + c**2 * q1 * q2
    # The same for equal halves: a bound below, for q1 or q2 can come out as 0 by chance.
    return np.sqrt(np.maximum(unequal, 2 * q * (1 - c**2) + (c * q) ** 2) / (4 * samples))


def _bootstrap(
    halves: tuple[Transform, Transform],
    linear: tuple[Transform, Transform],
    samples: NDArray[np.float64],
    shells: Shells,
) -> NDArray[np.float64]:
    """Standard error of the estimate by bootstrap. It holds how unlike the components of the map are too."""
    (v1, v2), (b1, b2) = halves, linear
    pairs = ((v1, b2), (v2, b1), (v1, v1), (v2, v2), (b1, b2))

    def estimate(sums: NDArray[np.float64]) -> NDArray[np.float64]:
        crossed_1, crossed_2, power_1, power_2, truth = sums
        return np.asarray((crossed_1 / np.sqrt(power_1) + crossed_2 / np.sqrt(power_2)) / np.sqrt(truth) / 2)

    return bootstrap_statistic([real_product(*pair) for pair in pairs], estimate, samples, shells)


def _shell_power(half: NDArray[np.complex128], shells: Shells) -> NDArray[np.float64]:
    """(D // 2 + 1,) power of a transform as `transform` stores it."""
    n = len(half) // 2 + 1
    weights = np.broadcast_to(shell_weights(len(half), shells), half.shape).ravel()
    index = shell_indices(len(half), shells).ravel()
    power = np.zeros(n)
    power += np.bincount(index, (half.real**2 + half.imag**2).ravel() * weights, minlength=n)[:n]
    return power


def without_spikes(first: Map, second: Map) -> tuple[Map, Map]:
    """Take the few Fourier components out of two linear maps in which they differ beyond all measure.

    Least squares divides by the CTFs squared. Where hardly any particle contributes to a component of one half set, its
    noise can outweigh that of the whole shell, and a mask spreads it over the neighbouring shells.
    """
    f, g = transform(first), transform(second)
    power = np.abs(f - g) ** 2
    index = np.minimum(shell_indices(len(first)), len(first) // 2 + 1)
    spikes = np.zeros(power.shape, bool)
    order = np.argsort(index, axis=None, kind="stable")
    starts = np.searchsorted(index.ravel()[order], np.arange(len(first) // 2 + 3))
    for start, end in pairwise(starts[1:]):
        inside = order[start:end]
        found = inside[power.flat[inside] > _SPIKE * np.median(power.flat[inside])] if end > start else inside
        if len(found) <= _MOST_SPIKES * (end - start):
            spikes.flat[found] = True
    if not spikes.any():
        return first, second
    return inverse(np.where(spikes, 0, f)), inverse(np.where(spikes, 0, g))
