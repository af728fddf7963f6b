"""Fourier shell correlation and the resolution read off it.

FSC(s) = Re sum_s F1 conj(F2) / sqrt(sum_s |F1|^2 sum_s |F2|^2) over the voxels whose |k| rounds to s (Harauz and
van Heel 1986; shells as RELION's). A number never travels alone: curve and resolution carry their definition.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gsworkbench.errors import InputError
from gsworkbench.files import atomic_path

Map = NDArray[np.floating]


@dataclass(frozen=True)
class FscCurve:
    """One FSC curve with its definition.

    name : what it is, and its column in fsc.csv: fsc_unmasked, fsc_masked, fsc_randomized_masked, fsc_corrected, or
        with the suffix _truth for a map against a known truth.
    values : (box_size // 2 + 1,) one per shell, 0 to Nyquist; NaN where a map has no power.
    box_size, voxel_size : px, A.
    mask : the mask in words, with its radii in A; "none" without one.
    """

    name: str
    values: NDArray[np.float64]
    box_size: int
    voxel_size: float
    mask: str = "none"

    @property
    def frequencies(self) -> NDArray[np.float64]:
        """Spatial frequency of each shell, 1/A."""
        return np.arange(len(self.values)) / (self.box_size * self.voxel_size)

    @property
    def nyquist_angstrom(self) -> float:
        return 2 * self.voxel_size

    def mean(self) -> float:
        """Mean over shells 1 to Nyquist - 1; a shell without power counts as zero."""
        return float(np.nan_to_num(self.values[1 : self.box_size // 2]).mean())


@dataclass(frozen=True)
class Resolution:
    """Where a curve falls below a threshold.

    angstrom : None if it never does: "no crossing", a value of its own, not Nyquist.
    shell : the shell read, None without a crossing.
    """

    angstrom: float | None
    shell: int | None
    threshold: float
    rule: str
    nyquist_angstrom: float
    curve: str
    mask: str

    def __str__(self) -> str:
        where = f"{self.curve}, FSC = {self.threshold:g}, {self.rule}, mask: {self.mask}"
        if self.angstrom is None:
            return f"no crossing below Nyquist ({self.nyquist_angstrom:.2f} A) [{where}]"
        return f"{self.angstrom:.2f} A [{where}]"


def shell_indices(box_size: int) -> NDArray[np.int64]:
    """(D, D, D // 2 + 1) shell of each voxel of numpy's rfftn: |k| rounded to the nearest integer."""
    k = np.fft.fftfreq(box_size, 1 / box_size)
    kx = np.arange(box_size // 2 + 1)
    return np.rint(np.sqrt(k[:, None, None] ** 2 + k[None, :, None] ** 2 + kx**2)).astype(np.int64)


def fourier_shell_correlation(
    map_1: Map,
    map_2: Map,
    *,
    voxel_size: float,
    mask: Map | None = None,
    mask_name: str = "none",
    name: str | None = None,
) -> FscCurve:
    """Correlate two (D, D, D) maps shell by shell, after multiplying both by `mask` if one is given."""
    if map_1.shape != map_2.shape or map_1.ndim != 3 or len(set(map_1.shape)) != 1:
        raise InputError(f"maps must be cubes of the same box, not {map_1.shape} and {map_2.shape}")
    if mask is not None and mask.shape != map_1.shape:
        raise InputError(f"the mask has shape {mask.shape}, the maps {map_1.shape}")
    box_size = len(map_1)
    masked = [m.astype(np.float64) * (1 if mask is None else mask) for m in (map_1, map_2)]
    first, second = (np.fft.rfftn(m) for m in masked)
    shells = shell_indices(box_size).ravel()
    weight = np.full(box_size // 2 + 1, 2.0)  # Friedel mates
    weight[[0, -1]] = 1.0
    weights = np.broadcast_to(weight, first.shape).ravel()

    def shell_sum(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(shells, values.ravel() * weights)[: box_size // 2 + 1].astype(np.float64)

    cross = shell_sum((first * second.conj()).real)
    power_1, power_2 = (shell_sum(np.abs(f) ** 2) for f in (first, second))
    # Power at the rounding of the transform is no power: maps cut off in Fourier space have shells like that.
    empty = [p <= 1e-14 * max(p.sum(), np.finfo(float).tiny) for p in (power_1, power_2)]
    values = np.full(len(cross), np.nan)
    np.divide(cross, np.sqrt(power_1 * power_2), out=values, where=~(empty[0] | empty[1]))
    name = name or ("fsc_unmasked" if mask is None else "fsc_masked")
    return FscCurve(name, values, box_size, voxel_size, mask_name)


def resolution(curve: FscCurve, threshold: float = 0.143) -> Resolution:
    """Read the resolution: the last shell before the first one, from shell 1 on, whose FSC is below `threshold`.

    Shells up to Nyquist - 1 count. If none is below, there is no crossing.
    """
    values = np.nan_to_num(curve.values[1 : curve.box_size // 2])  # a shell without power is below any threshold
    below = np.flatnonzero(values < threshold)
    shell = int(below[0]) if len(below) else None  # values[i] is shell i + 1, so this is the shell before
    angstrom = None if shell is None else curve.box_size * curve.voxel_size / max(shell, 1)
    rule = "last shell before the first below"
    return Resolution(angstrom, shell, threshold, rule, curve.nyquist_angstrom, curve.name, curve.mask)


def write_fsc_csv(path: str | Path, curves: Sequence[FscCurve]) -> None:
    """Write curves of one box as fsc.csv: shell, frequency_per_angstrom, resolution_angstrom, then a column per curve.

    A first line `# ...` says box, voxel size and masks. NaN is written as an empty field.
    """
    first = curves[0]
    masks = "; ".join(f"{c.name}: {c.mask}" for c in curves)
    with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        file.write(f"# box_size {first.box_size}, voxel_size {first.voxel_size:g} A, masks: {masks}\n")
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["shell", "frequency_per_angstrom", "resolution_angstrom", *(c.name for c in curves)])
        for shell, frequency in enumerate(first.frequencies):
            angstrom = "" if shell == 0 else f"{1 / frequency:.4f}"
            cells = ("" if np.isnan(c.values[shell]) else f"{c.values[shell]:.6f}" for c in curves)
            table.writerow([shell, f"{frequency:.8f}", angstrom, *cells])


def read_fsc_csv(path: str | Path) -> list[FscCurve]:
    """Read the curves that `write_fsc_csv` wrote; anything else raises InputError."""
    with open(path, newline="", encoding="utf-8") as file:
        header = re.fullmatch(r"# box_size (\d+), voxel_size (\S+) A, masks: (.*)\n", file.readline())
        if header is None:
            raise InputError("not an fsc.csv", file=path, remedy="give one that this program wrote")
        rows = list(csv.DictReader(file))
    masks = dict(item.split(": ", 1) for item in re.split("; (?=fsc_)", header[3]))
    return [
        FscCurve(name, np.array([float(row[name] or "nan") for row in rows]), int(header[1]), float(header[2]), mask)
        for name, mask in masks.items()
    ]
