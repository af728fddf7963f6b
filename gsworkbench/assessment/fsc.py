"""Fourier shell correlation and the resolution read off it.

FSC(s) = Re sum_s F1 conj(F2) / sqrt(sum_s |F1|^2 sum_s |F2|^2) over the voxels of shell s (Harauz and van Heel 1986).
Programs differ in what a shell is and in how a crossing is read; both are arguments here and named sets of them are
in definitions.py. A number never travels alone: curve and resolution carry their definition.
"""

from __future__ import annotations

import csv
import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gsworkbench.assessment.masks import Mask, described, inside_mask
from gsworkbench.assessment.transforms import transform
from gsworkbench.errors import InputError
from gsworkbench.io.files import atomic_path
from gsworkbench.io.mrc import Map

Crossing = Literal["before first below", "last at or above", "interpolated"]

NO_POWER = 1e-14  # of a map's power: a shell with less holds the rounding of single precision

RULES: dict[Crossing, str] = {
    "before first below": "last shell before the first below",
    "last at or above": "last shell at or above",
    "interpolated": "first crossing, interpolated",
}


@dataclass(frozen=True)
class Shells:
    """How Fourier voxels are summed into shells.

    radius : the shell of a voxel at distance |k| from the origin: |k| rounded, |k| cut ("floor"), or the integer above
        it ("floor + 1": shell i holds i - 1 <= |k| < i).
    mates : "all" sums over the whole transform. "stored" sums over the half that a real transform stores, as RELION
        does, so that the plane kx = 0 counts twice.
    """

    radius: Literal["round", "floor", "floor + 1"] = "round"
    mates: Literal["all", "stored"] = "all"


@dataclass(frozen=True)
class FscCurve:
    """One FSC curve with its definition.

    name : what it is, and its column in fsc.csv: fsc_unmasked, fsc_masked, fsc_randomized_masked, fsc_corrected, or
        with the suffix _truth or _model for a map against a known truth or the map of an atomic model.
    values : (box_size // 2 + 1,) one per shell, 0 to Nyquist; NaN where a map has no power.
    box_size, voxel_size : px, A.
    mask : the mask in words, with its radii in A; "none" without one.
    definition : whose shells these are, a name of definitions.DEFINITIONS, or "rounded" for |k| rounded.
    """

    name: str
    values: NDArray[np.float64]
    box_size: int
    voxel_size: float
    mask: str = "none"
    definition: str = "rounded"

    @property
    def frequencies(self) -> NDArray[np.float64]:
        """Spatial frequency of each shell, 1/A."""
        return np.arange(len(self.values)) / (self.box_size * self.voxel_size)

    @property
    def nyquist_angstrom(self) -> float:
        return 2 * self.voxel_size

    @property
    def is_estimate(self) -> bool:
        """Whether it is an estimate of the FSC to the unknown truth, NaN where nothing can be said."""
        return self.name.endswith("_estimate")

    def mean(self) -> float:
        """Mean over shells 1 to Nyquist - 1; a shell without power counts as zero.

        Of an estimate, over the shells that have one; NaN if none has.
        """
        values = self.values[1 : self.box_size // 2]
        if self.is_estimate:
            told = values[np.isfinite(values)]
            return float(told.mean()) if len(told) else float("nan")
        return float(np.nan_to_num(values).mean())


@dataclass(frozen=True)
class Resolution:
    """Where a curve falls below a threshold.

    angstrom : None if it never does: "no crossing", a value of its own, not Nyquist.
    shell : the shell read, a fraction where the rule interpolates; None without a crossing.
    threshold : its height where it was read. criterion : its name, "0.143" or "half-bit".
    """

    angstrom: float | None
    shell: float | None
    threshold: float
    criterion: str
    rule: str
    nyquist_angstrom: float
    curve: str
    mask: str
    box_size: int
    voxel_size: float
    definition: str

    def __str__(self) -> str:
        criterion = f"FSC = {self.criterion}" if self.criterion[0].isdigit() else self.criterion
        where = (
            f"{self.curve}, {criterion}, {self.rule}, mask: {self.mask}; {self.definition} definition, "
            f"box {self.box_size}, {self.voxel_size:.4g} A/voxel"
        )
        if self.angstrom is None:
            return f"no crossing below Nyquist ({self.nyquist_angstrom:.2f} A) [{where}]"
        return f"{self.angstrom:.2f} A [{where}]"


def shell_indices(box_size: int, shells: Shells = Shells()) -> NDArray[np.int64]:
    """(D, D, D // 2 + 1) shell of each voxel of numpy's rfftn."""
    k = np.fft.fftfreq(box_size, 1 / box_size)
    kx = np.arange(box_size // 2 + 1)
    return _shell_of(k[:, None, None] ** 2 + k[None, :, None] ** 2 + kx**2, shells)


def _shell_of(squared: NDArray[np.floating], shells: Shells) -> NDArray[np.int64]:
    """Shell of voxels at squared distances from the origin."""
    distance = np.sqrt(squared)
    if shells.radius == "round":
        return np.rint(distance).astype(np.int64)
    return distance.astype(np.int64) + (shells.radius == "floor + 1")


def shell_weights(box_size: int, shells: Shells = Shells()) -> NDArray[np.float64]:
    """(D // 2 + 1,) how often a voxel of the stored half counts, by kx."""
    weights = np.full(box_size // 2 + 1, 2.0 if shells.mates == "all" else 1.0)
    weights[[0, -1]] = 1.0
    return weights


def fourier_shell_correlation(
    map_1: Map,
    map_2: Map,
    *,
    voxel_size: float,
    mask: Mask | None = None,
    name: str | None = None,
    shells: Shells = Shells(),
    definition: str = "rounded",
    keep_offset: bool = False,
) -> FscCurve:
    """Return the Fourier shell correlation of two maps.

    Parameters
    ----------
    map_1, map_2 : (D, D, D) arrays
        Maps on the same grid.
    voxel_size : float
        Angstrom.
    mask : Mask, optional
        Both maps are multiplied by it, and the curve carries its description. The mean of each map in the soft edge of
        the mask is subtracted first.
    name : str, optional
        Name of the curve. By default fsc_unmasked or fsc_masked.
    shells : Shells
        How Fourier voxels are summed into shells. By default the radius is rounded.
    definition : str
        Whose shells these are, a name of `DEFINITIONS`, which the curve carries along.
    keep_offset : bool
        Do not subtract the mean in the soft edge of the mask.

    Returns
    -------
    FscCurve
        `values` holds D // 2 + 1 correlations, from shell 0 to Nyquist, NaN where a map has no power; `frequencies`
        holds those of the shells in 1/angstrom.

    Raises
    ------
    InputError
        If the maps are not cubes with the same box, or the mask has another box.

    Notes
    -----
    Harauz and van Heel 1986 (Optik 73, 146).

    Examples
    --------
    >>> import numpy as np
    >>> import gsworkbench as gs
    >>> noise = np.random.default_rng(0).normal(size=(3, 32, 32, 32))
    >>> curve = gs.fourier_shell_correlation(noise[0] + noise[1], noise[0] + noise[2], voxel_size=2.0)
    >>> round(curve.mean(), 1)
    0.5
    """
    if map_1.shape != map_2.shape or map_1.ndim != 3 or len(set(map_1.shape)) != 1:
        raise InputError(f"maps must be cubes of the same box, not {map_1.shape} and {map_2.shape}")
    if mask is not None and mask.values.shape != map_1.shape:
        raise InputError(f"the mask has shape {mask.values.shape}, the maps {map_1.shape}")
    first, second = (transform(inside_mask(m, mask, keep_offset=keep_offset)) for m in (map_1, map_2))
    name = name or ("fsc_unmasked" if mask is None else "fsc_masked")
    values = correlate_transforms(first, second, shells)
    return FscCurve(name, values, len(map_1), voxel_size, described(mask), definition)


def correlate_transforms(
    first: NDArray[np.complex128], second: NDArray[np.complex128], shells: Shells
) -> NDArray[np.float64]:
    """(D // 2 + 1,) FSC of two transforms as `transform` stores them; NaN in shells where one has no power."""
    box_size, n = len(first), len(first) // 2 + 1
    k, kx = np.fft.fftfreq(box_size, 1 / box_size), np.arange(n)
    weights = np.broadcast_to(shell_weights(box_size, shells), (box_size, n)).ravel()
    sums = np.zeros((3, n))
    for kz, f, g in zip(k, first, second, strict=True):  # plane by plane, for whole maps do not fit a cache
        index = _shell_of(kz**2 + k[:, None] ** 2 + kx**2, shells).ravel()
        planes = (f.real * g.real + f.imag * g.imag, f.real**2 + f.imag**2, g.real**2 + g.imag**2)
        for total, plane in zip(sums, planes, strict=True):
            total += np.bincount(index, plane.ravel() * weights, minlength=n)[:n]
    cross, power_1, power_2 = sums
    # Power at the rounding of the transform is no power: maps cut off in Fourier space have shells like that.
    empty = [p <= NO_POWER * max(p.sum(), np.finfo(float).tiny) for p in (power_1, power_2)]
    values = np.full(n, np.nan)
    np.divide(cross, np.sqrt(power_1 * power_2), out=values, where=~(empty[0] | empty[1]))
    return values


def without_power(curve: FscCurve, unmasked: FscCurve) -> FscCurve:
    """Take the values from a masked curve where the maps themselves have no power: what it shows there is the mask."""
    return dataclasses.replace(curve, values=np.where(np.isnan(unmasked.values), np.nan, curve.values))


def resolution(
    curve: FscCurve,
    threshold: float | NDArray[np.float64] = 0.143,
    rule: Crossing = "before first below",
    criterion: str | None = None,
) -> Resolution:
    """Return the resolution at which an FSC curve falls below a threshold.

    Shells 1 to Nyquist - 1 count. If none of them is below the threshold (for "last at or above": if the last one is
    not), there is no crossing, which differs from a crossing at Nyquist.

    Parameters
    ----------
    curve : FscCurve
        As `fourier_shell_correlation` returns it.
    threshold : float or (D // 2 + 1,) array
        One height, or one for each shell. 0.143 is for half maps, 0.5 for a map and a known truth (Rosenthal and
        Henderson 2003, J. Mol. Biol. 333, 721).
    rule : {"before first below", "last at or above", "interpolated"}
        Which shell is read where the curve crosses.
    criterion : str, optional
        Name of the threshold. By default its height.

    Returns
    -------
    Resolution
        `angstrom` is None if there is no crossing. As text, the resolution with its curve, threshold, rule and mask.

    Examples
    --------
    >>> import numpy as np
    >>> import gsworkbench as gs
    >>> noise = np.random.default_rng(0).normal(size=(2, 32, 32, 32))
    >>> print(gs.resolution(gs.fourier_shell_correlation(noise[0], noise[1], voxel_size=2.0)))  # doctest: +ELLIPSIS
    64.00 A [fsc_unmasked, FSC = 0.143, last shell before the first below, mask: none; ...]
    >>> print(gs.resolution(gs.fourier_shell_correlation(noise[0], noise[0], voxel_size=2.0)).angstrom)
    None
    """
    heights = np.broadcast_to(threshold, curve.values.shape)[1 : curve.box_size // 2]
    above = np.nan_to_num(curve.values[1 : curve.box_size // 2], nan=-1.0) - heights  # no power is below anything
    shell = _last_above(above) if rule == "last at or above" else _before_first_below(above)
    if shell is not None and shell > 0 and rule == "interpolated":
        shell += float(above[int(shell) - 1] / (above[int(shell) - 1] - above[int(shell)]))
    return Resolution(
        angstrom=None if shell is None else curve.box_size * curve.voxel_size / max(shell, 1),
        shell=shell,
        threshold=float(np.interp(shell if shell is not None else len(heights), 1 + np.arange(len(heights)), heights)),
        criterion=criterion or f"{np.max(threshold):g}",
        rule=RULES[rule],
        nyquist_angstrom=curve.nyquist_angstrom,
        curve=curve.name,
        mask=curve.mask,
        box_size=curve.box_size,
        voxel_size=curve.voxel_size,
        definition=curve.definition,
    )


def first_crossings(curves: NDArray[np.floating], threshold: float) -> NDArray[np.float64]:
    """(n,) shell where each of the (n, shells) curves first falls below `threshold` from shell 1 on, interpolated.

    1 if it is below at once; the number of shells if it never is. Shells without power count as below.
    """
    above = np.nan_to_num(curves[:, 1:], nan=-1.0) - threshold
    below = above < 0
    first = np.where(below.any(1), below.argmax(1), above.shape[1])  # above[:, i] is shell i + 1
    rows, inner = np.arange(len(above)), (first > 0) & (first < above.shape[1])
    before, after = above[rows, np.maximum(first - 1, 0)], above[rows, np.minimum(first, above.shape[1] - 1)]
    fraction = np.divide(before, before - after, out=np.zeros(len(above)), where=inner)
    return np.where(first == above.shape[1], curves.shape[1], np.maximum(first + fraction, 1))


def _before_first_below(above: NDArray[np.float64]) -> float | None:
    """above[i] belongs to shell i + 1, so the first index below is the number of the shell before."""
    below = np.flatnonzero(above < 0)
    return int(below[0]) if len(below) else None


def _last_above(above: NDArray[np.float64]) -> float | None:
    at_least = np.flatnonzero(above >= 0)
    last = int(at_least[-1]) + 1 if len(at_least) else 0
    return None if last == len(above) else last


def write_fsc_csv(
    path: str | Path, curves: Sequence[FscCurve], columns: Mapping[str, NDArray[np.floating]] = MappingProxyType({})
) -> None:
    """Write curves of one box as fsc.csv: shell, frequency_per_angstrom, resolution_angstrom, then a column per curve.

    columns : name -> (D // 2 + 1,) of what else to write, such as errors. A first line `# ...` says box, voxel size,
    definition and masks. NaN is written as an empty field.
    """
    first = curves[0]
    written = {c.name: c.values for c in curves} | dict(columns)
    masks = "; ".join(f"{c.name}: {c.mask}" for c in curves)
    with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        grid = f"box_size {first.box_size}, voxel_size {first.voxel_size:g} A"
        file.write(f"# {grid}, definition {first.definition}, masks: {masks}\n")
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["shell", "frequency_per_angstrom", "resolution_angstrom", *written])
        for shell, frequency in enumerate(first.frequencies):
            angstrom = "" if shell == 0 else f"{1 / frequency:.4f}"
            cells = ("" if np.isnan(values[shell]) else f"{values[shell]:.6f}" for values in written.values())
            table.writerow([shell, f"{frequency:.8f}", angstrom, *cells])


def read_fsc_csv(path: str | Path) -> list[FscCurve]:
    """Read the curves that `write_fsc_csv` wrote; anything else raises InputError."""
    with open(path, newline="", encoding="utf-8") as file:
        header = re.fullmatch(r"# box_size (\d+), voxel_size (\S+) A, definition (.*?), masks: (.*)\n", file.readline())
        if header is None:
            raise InputError("not an fsc.csv", file=path, remedy="give one that this program wrote")
        rows = list(csv.DictReader(file))
    try:
        masks = dict(item.split(": ", 1) for item in re.split("; (?=fsc_)", header[4]))
        box_size, voxel_size, definition = int(header[1]), float(header[2]), header[3]
        values = {name: np.array([float(row[name] or "nan") for row in rows]) for name in masks}
    except (KeyError, TypeError, ValueError) as error:  # a column, a cell or a number is missing
        raise InputError("a damaged fsc.csv", file=path, remedy="judge the maps again") from error
    return [FscCurve(name, values[name], box_size, voxel_size, mask, definition) for name, mask in masks.items()]
