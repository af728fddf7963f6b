"""Does a map resolve all directions alike? Conical FSC, its sphericity, and how evenly the views sample.

Conical FSC and sphericity after Tan et al. 2017 (Nature Methods 14, 793); sampling compensation factor after Baldwin
and Lyumkis 2020 (Prog. Biophys. Mol. Biol. 150, 160). FSLC, which the GEM paper prints, is not here: its definition
is not stated there, and no other number goes by that name.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull

from gsworkbench.assessment.corrected import effective_samples
from gsworkbench.assessment.fsc import first_crossings, shell_weights
from gsworkbench.assessment.masks import Mask, described, inside_mask
from gsworkbench.assessment.power import last_shell, spectrum
from gsworkbench.assessment.transforms import transform
from gsworkbench.assessment.truth_estimate import HALF_MAP_THRESHOLD, estimated_curves, told_crossings, without_spikes
from gsworkbench.errors import InputError
from gsworkbench.io.mrc import Map

# Of all directions so many may lack a crossing, or samples, before the surface that they draw has no sphericity.
MOST_UNSEEN, MOST_UNSAMPLED = 0.03, 0.01
_CHUNK = 8192  # voxels compared with all directions at a time, small enough for the cache of a core


@dataclass(frozen=True)
class DirectionalFsc:
    """FSC inside cones about axes all round a half sphere.

    directions : (n, 3) unit vectors x, y, z. curves : (n, D // 2), shell by shell; NaN where a cone holds no power.
    values : (n,) A, where each curve first falls below `threshold`, interpolated; `finest` where it never does.
    half_angle : of the cones, degrees. sphericity : of the surface drawn by the crossings in all directions, 1 for a
    sphere; None where it was not measured, and `reason` says why. at_nyquist : fraction of directions that never cross.
    finest : A, where curves end: twice the voxel size, or coarser where the maps hold no power beyond.
    """

    directions: NDArray[np.float64]
    curves: NDArray[np.float64]
    values: NDArray[np.float64]
    half_angle: float
    threshold: float
    sphericity: float | None
    at_nyquist: float
    box_size: int
    voxel_size: float
    mask: str
    finest: float
    reason: str = ""

    def in_words(self) -> str:
        """Return the sphericity, or why there is none."""
        if self.sphericity is None:
            return f"sphericity not measurable, because {self.reason}"
        return f"sphericity {self.sphericity:.3f}"

    def without_sphericity(self, reason: str) -> DirectionalFsc:
        """Return it without a sphericity, for one more reason."""
        return replace(self, sphericity=None, reason=f"{self.reason} and {reason}" if self.reason else reason)

    def __str__(self) -> str:
        best, worst = self.directions[self.values.argmin()], self.directions[self.values.argmax()]
        return (
            f"{self.in_words()}; best {self.values.min():.2f} A along {_arrow(best)}, worst "
            f"{self.values.max():.2f} A along {_arrow(worst)} [FSC = {self.threshold:g} in cones of "
            f"{self.half_angle:g} degrees about {len(self.values)} directions, first crossing, interpolated, "
            f"mask: {self.mask}, box {self.box_size}, {self.voxel_size:.4g} A/voxel; "
            f"{100 * self.at_nyquist:.1f} % never cross]"
        )


def half_sphere(n: int) -> NDArray[np.float64]:
    """(n, 3) directions x, y, z spread evenly over the half sphere z > 0 (Fibonacci spiral)."""
    z = (np.arange(n) + 0.5) / n
    turn = np.pi * (1 + np.sqrt(5)) * np.arange(n)
    return np.stack([np.sqrt(1 - z**2) * np.cos(turn), np.sqrt(1 - z**2) * np.sin(turn), z], axis=1)


def directional_fsc(
    map_1: Map,
    map_2: Map,
    *,
    voxel_size: float,
    mask: Mask | None = None,
    n_directions: int = 200,
    half_angle: float = 20.0,
    threshold: float = 0.143,
) -> DirectionalFsc:
    """Return the FSC of two maps in each direction, from the Fourier voxels inside cones.

    A cone and its opposite are one, because of Friedel's law. The first shells hold too few voxels to have a direction:
    where a cone is empty the curve is NaN, and reading starts at the first shell whose cones hold 8 voxels.

    Parameters
    ----------
    map_1, map_2 : (D, D, D) arrays
        Maps on the same grid.
    voxel_size : float
        Angstrom.
    mask : Mask, optional
        Both maps are multiplied by it.
    n_directions : int
        Directions, spread evenly over a half sphere.
    half_angle : float
        Degrees, of the cones, 1 to 90.
    threshold : float
        Where the curves are read, between 0 and 1.

    Returns
    -------
    DirectionalFsc
        `values` holds the resolution in angstrom along each of `directions`, unit vectors in x, y, z order;
        `sphericity` is 1 if all directions are alike. As text, a summary.

    Raises
    ------
    InputError
        If the half angle or the threshold is impossible.

    Notes
    -----
    Tan et al. 2017 (Nature Methods 14, 793).

    Examples
    --------
    >>> import numpy as np
    >>> import gsworkbench as gs
    >>> truth, voxel_size = gs.read_map("ribosome/truth.mrc")
    >>> noisy = truth + np.random.default_rng(0).normal(size=truth.shape) * truth.std()
    >>> found = gs.directional_fsc(noisy, truth, voxel_size=voxel_size, n_directions=50)
    >>> found.directions.shape, found.values.shape
    ((50, 3), (50,))
    """
    if not 1 <= half_angle <= 90:
        raise InputError(f"the half-angle must lie between 1 and 90 degrees, not {half_angle:g}")
    if not 0 < threshold < 1:
        raise InputError(f"the threshold of an FSC must lie between 0 and 1, not {threshold:g}")
    box_size = len(map_1)
    pair = [transform(inside_mask(m, mask)) for m in (map_1, map_2)]
    directions = half_sphere(n_directions)
    curves = _in_cones(pair[0], pair[1], directions, half_angle).curves
    first, last = _first_shell(half_angle), last_shell(spectrum(map_1), spectrum(map_2))
    curves[:, last + 1 :] = np.nan
    read = curves.copy()
    read[:, :first] = 1.0
    end = box_size / 2 if last == box_size // 2 - 1 else float(last)
    crossings = first_crossings(read, threshold)
    never = (crossings >= box_size / 2) | ~(read[:, 1 : last + 1] < threshold).any(1)
    crossings[never] = end
    share = float(np.mean(never))
    found = DirectionalFsc(
        directions=directions,
        curves=curves,
        values=box_size * voxel_size / crossings,
        half_angle=half_angle,
        threshold=threshold,
        sphericity=sphericity(directions, crossings),
        at_nyquist=share,
        box_size=box_size,
        voxel_size=voxel_size,
        mask=described(mask),
        finest=box_size * voxel_size / end,
    )
    if share <= MOST_UNSEEN:
        return found
    limit = "Nyquist" if end == box_size / 2 else "the last shell in which the maps hold power"
    return found.without_sphericity(
        f"{100 * share:.1f} % of the directions never fall below {threshold:g} before {limit}, {found.finest:.2f} A, "
        "which cuts the surface off"
    )


@dataclass(frozen=True)
class DirectionalEstimate:
    """The estimate of the FSC of a half map to the unknown truth inside cones (truth_estimate.py).

    directions : (n, 3) unit vectors x, y, z. curves : (n, D // 2), the mean of both half maps; NaN in shells where
    the linear maps hardly agree in the cone, and where the half maps hold no power. values : (n,) A, where each falls
    below 0.378, interpolated, twice the voxel size where it never does; NaN where it cannot tell. sphericity : of the
    surface that they draw; None where it was not measured, and `reason` says why.
    """

    directions: NDArray[np.float64]
    curves: NDArray[np.float64]
    values: NDArray[np.float64]
    sphericity: float | None
    reason: str = ""

    @property
    def means(self) -> NDArray[np.float64]:
        """(n,) mean of each curve over the shells that have an estimate; NaN if none has."""
        told = np.isfinite(self.curves)
        sums, counts = np.where(told, self.curves, 0).sum(1), told.sum(1)
        return np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)

    def __str__(self) -> str:
        start = "estimated FSC of a half map to the truth: "
        untold = int(np.isnan(self.values).sum())
        if untold:
            return f"{start}cannot tell in {untold} of {len(self.values)} directions"
        best, worst = self.directions[self.values.argmin()], self.directions[self.values.argmax()]
        words = f"sphericity {self.sphericity:.3f}" if self.sphericity is not None else self.reason
        return (
            f"{start}{words}; best {self.values.min():.2f} A along {_arrow(best)}, worst {self.values.max():.2f} A "
            f"along {_arrow(worst)} [estimate = {HALF_MAP_THRESHOLD:g}, same cones, mask and box]"
        )


def directional_estimate(
    halves: tuple[Map, Map],
    linear: tuple[Map, Map],
    *,
    voxel_size: float,
    mask: Mask | None = None,
    n_directions: int = 200,
    half_angle: float = 20.0,
) -> DirectionalEstimate:
    """Estimate the FSC of two half maps to the unknown truth in the cones of `directional_fsc`.

    linear : unfiltered linear maps of the same half sets, in the same order. Nothing is said of a shell of a cone where
    they hardly agree, by the limits of `estimate_truth_fsc` with as many samples as the cone has.
    """
    box_size, directions = len(halves[0]), half_sphere(n_directions)
    v1, v2, b1, b2 = (transform(inside_mask(m, mask)) for m in (*halves, *without_spikes(*linear)))
    crossed_1, crossed_2, both = (_in_cones(*pair, directions, half_angle) for pair in ((v1, b2), (v2, b1), (b1, b2)))
    # A mask correlates neighbours: a cone has its share of the samples of the shell.
    independent = effective_samples(box_size, mask) / effective_samples(box_size)
    curves = estimated_curves(
        (crossed_1.curves, crossed_2.curves), both.curves, both.ratio, both.voxels * independent[: box_size // 2]
    )
    curves[:, last_shell(*map(spectrum, halves)) + 1 :] = np.nan
    crossings = told_crossings(curves, _first_shell(half_angle))
    found = DirectionalEstimate(directions, curves, box_size * voxel_size / crossings, None)
    if np.isnan(crossings).any():
        return replace(found, reason="cannot tell in all directions")
    never = float(np.mean(crossings >= box_size / 2))
    if never > MOST_UNSEEN:
        reason = f"{100 * never:.1f} % of the directions never fall below {HALF_MAP_THRESHOLD:g}"
        return replace(found, reason=f"sphericity not measurable, because {reason}")
    return replace(found, sphericity=sphericity(directions, crossings))


def sphericity(directions: NDArray[np.floating], radii: NDArray[np.floating]) -> float:
    """pi^(1/3) (6 V)^(2/3) / A of the surface at `radii` (n,) along `directions` (n, 3) and their opposites.

    Volume and area are those of the triangles that join neighbouring directions, divided by what a sphere gives.
    """
    points = np.concatenate([directions, -directions])
    triangles = ConvexHull(points).simplices

    def measure(surface: NDArray[np.floating]) -> float:
        a, b, c = surface[triangles].transpose(1, 0, 2)
        normals = np.cross(b - a, c - a)
        area = 0.5 * np.linalg.norm(normals, axis=1).sum()
        volume = np.abs((a * normals).sum(1)).sum() / 6
        return float(np.pi ** (1 / 3) * (6 * volume) ** (2 / 3) / area)

    return measure(points * np.tile(radii, 2)[:, None]) / measure(points)


@dataclass(frozen=True)
class Sampling:
    """How evenly the views of a data set fill Fourier space.

    density : (m,) of `directions` (m, 3): how many central slices pass, over the mean of an even distribution.
    compensation : sampling compensation factor 1 / <1 / density>: 1 for even views, 0.81 for side views all round,
    and 0 where a direction is not sampled at all. unsampled : fraction of directions that no slice passes.
    """

    directions: NDArray[np.float64]
    density: NDArray[np.float64]
    compensation: float
    unsampled: float

    def __str__(self) -> str:
        unsampled = f"{100 * self.unsampled:.1f} % of directions unsampled"
        return f"sampling compensation factor {self.compensation:.3f}, {unsampled}"


def sampling(rotations: NDArray[np.floating], n_directions: int = 500, half_width: float = 0.05) -> Sampling:
    """Sampling of Fourier space by the views of `rotations` (n, 3, 3), map frame to microscope frame.

    A slice is perpendicular to its viewing direction, the last row of its rotation. It counts for the directions
    within arcsin(half_width) of it: half a Fourier voxel at shell 1 / (2 half_width), shell 10 by default.
    """
    directions = half_sphere(n_directions)
    views = np.asarray(rotations)[:, 2, :]
    passing = np.zeros(n_directions)
    for start in range(0, len(views), 4096):
        passing += (np.abs(directions @ views[start : start + 4096].T) < half_width).sum(1)
    density = passing / (len(views) * half_width)  # |cosine| is uniform on 0...1 for even views
    unsampled = float(np.mean(density == 0))
    return Sampling(directions, density, 0.0 if unsampled else float(1 / np.mean(1 / density)), unsampled)


@dataclass(frozen=True)
class _Cones:
    """(n, D // 2) each: FSC of two maps in n cones, the power of the second over that of the first (NaN where a cone
    holds no power), and the number of Fourier voxels in the whole transform."""

    curves: NDArray[np.float64]
    ratio: NDArray[np.float64]
    voxels: NDArray[np.float64]


def _in_cones(
    first: NDArray[np.complex128], second: NDArray[np.complex128], directions: NDArray[np.float64], half_angle: float
) -> _Cones:
    """Correlate two transforms inside double cones of `half_angle` degrees about `directions` (n, 3)."""
    shells, units, products, weights, scale = _by_shell(first, second)
    axes = directions.T.astype(np.float32)
    cosine = np.cos(np.radians(half_angle)) - 1e-6  # single precision
    curves, ratio = (np.full((len(directions), len(first) // 2), np.nan) for _ in range(2))
    voxels = np.zeros(curves.shape)
    for shell in range(1, len(first) // 2):
        sums = np.zeros((3, len(directions)))
        for start in range(shells[shell], shells[shell + 1], _CHUNK):
            here = slice(start, min(start + _CHUNK, shells[shell + 1]))
            inside = (np.abs(units[here] @ axes) >= cosine).astype(np.float32)
            sums += products[:, here] @ inside
            voxels[:, shell] += weights[here] @ inside
        power = np.sqrt(sums[1] * sums[2])
        np.divide(sums[0], power, out=curves[:, shell], where=power > 0)
        np.divide(scale * sums[2], sums[1], out=ratio[:, shell], where=power > 0)
    return _Cones(curves, ratio, voxels)


def _by_shell(
    first: NDArray[np.complex128], second: NDArray[np.complex128]
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], float]:
    """Sort the voxels inside Nyquist by rounded shell: starts of shells, unit vectors (n, 3), products (3, n), weights.

    The products are cross term and the two powers, times 2 for voxels whose mate is not stored, which is their
    weight; scaled to stay in single precision. Last comes the scale of the second power over that of the first.
    """
    n = len(first)
    k = np.rint(np.fft.fftfreq(n, 1 / n)).astype(np.float32)
    kx = np.arange(n // 2 + 1, dtype=np.float32)
    distance = np.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + kx**2)
    shell = np.rint(distance).astype(np.int16).ravel()
    kept = np.flatnonzero((shell > 0) & (shell < n // 2))
    kept = kept[np.argsort(shell[kept], kind="stable")]
    z, y, x = np.unravel_index(kept, first.shape)
    units = np.stack([kx[x], k[y], k[z]], axis=1) / distance.ravel()[kept][:, None]
    a, b, weight = first.ravel()[kept], second.ravel()[kept], shell_weights(n)[x]
    products = np.stack([(a * b.conj()).real, np.abs(a) ** 2, np.abs(b) ** 2]) * weight
    scale = products[1:].max(1, initial=np.finfo(float).tiny)
    products /= np.array([np.sqrt(scale.prod()), *scale])[:, None]
    starts = np.searchsorted(shell[kept], np.arange(n // 2 + 1))
    ratio = min(float(scale[1]) / float(scale[0]), 1e60)  # an empty map has the smallest power there is
    return starts, units, products.astype(np.float32), weight.astype(np.float32), ratio


def _first_shell(half_angle: float) -> int:
    """The first shell whose double cone holds 8 voxels: 4 pi s^2 (1 - cos) of them."""
    return int(np.ceil(np.sqrt(8 / (4 * np.pi * (1 - np.cos(np.radians(half_angle)))))))


def _arrow(direction: NDArray[np.floating]) -> str:
    return "(" + ", ".join(f"{c:.2f}" for c in direction) + ")"
