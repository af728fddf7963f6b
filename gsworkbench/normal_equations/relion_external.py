"""The sums over particles that RELION hands to an external reconstruction program, and their normal equations.

With `--external_reconstruct`, relion_refine (3.1 and later) writes what it has backprojected, instead of dividing it
itself: the numerator, sum of CTF times image, and the weight, sum of CTF^2, both over the variance of the noise and
over orientations by their probability. They stand on the half grid of the box padded twice (`--pad 2`, RELION's
default), spread trilinearly, with nothing from the current resolution of the refinement on. They are b and K of
equations.py: those of one iteration, whose poses RELION has just determined.

RELION divides the transform of an image by its pixels, D^2, and calls sigma^2 the variance of the real part alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gsworkbench.errors import InputError
from gsworkbench.imaging.fourier import map_shells
from gsworkbench.io.mrc import read_header, read_images
from gsworkbench.io.star_tables import read_tables
from gsworkbench.normal_equations.diagonal import DiagonalEquations
from gsworkbench.normal_equations.insertion import PADDING

GENERAL, SPECTRA = "external_reconstruct_general", "external_reconstruct_tau2"
_FLAT = 0.2  # of the mean weight at a radius: nodes with more count alike, nodes with less by their weight
_SYMMETRIC = 1e-3  # of the largest weight: planes x = 0 of RELION are symmetric to float32, or not at all


@dataclass(frozen=True)
class RelionSums:
    """What RELION wrote for one map.

    data : (E, E, E // 2 + 1) complex64 numerator on the padded grid, E = 2 D, laid out as by rfftn, of maps
    about their centre; a Friedel pair counts once, but on the plane x = 0 both stand there, each the sum of both.
    weight : the same of the weight, float32. box_size : D. radius : shells from here on hold nothing.
    tau2 : (D / 2 + 1,) RELION's power of the signal per shell, in its units, times rlnTau2FudgeFactor.
    fsc : (D / 2 + 1,) between RELION's linear half maps; 0 where there are none.
    result : the file in which RELION expects the map.
    """

    data: NDArray[np.complex64]
    weight: NDArray[np.float32]
    box_size: int
    radius: int
    tau2: NDArray[np.float64]
    fsc: NDArray[np.float64]
    result: Path


def read_relion_external(path: str | Path) -> RelionSums:
    """Read a file `*_external_reconstruct.star` and the volumes that it names.

    As RELION does, paths are taken from the current folder; where there is nothing, from the folder of the file.

    Raises
    ------
    InputError
        If a table, a label or a volume is absent, is of another size than the file says, or holds what is no number.
    """
    tables = read_tables(path)
    for name in (GENERAL, SPECTRA):
        if name not in tables:
            raise InputError(
                f"there is no table data_{name}", file=path, remedy="give the file that relion_refine names"
            )
    general, spectra = tables[GENERAL].iloc[0], tables[SPECTRA]

    if _integer(general, "rlnReferenceDimensionality", path) != 3:
        raise InputError("these are the sums of 2D classes", file=path, remedy="leave --external_reconstruct away")
    box_size, size = (_integer(general, f"rln{name}ImageSize", path) for name in ("Original", "Current"))
    padding = _number(general, "rlnPaddingFactor", path)
    edge = PADDING * box_size
    if padding != PADDING:
        raise InputError(f"the box is padded {padding:g} times", file=path, remedy="run relion_refine with --pad 2")
    if not (box_size >= 4 and box_size % 2 == 0 and 0 < size <= box_size):
        raise InputError(f"a box of {box_size} px at size {size} is not understood", file=path)
    shape = (edge, edge, edge // 2 + 1)
    real, imaginary, weight = (
        _volume(general, f"rlnExtRecons{name}", shape, path) for name in ("DataReal", "DataImag", "Weight")
    )
    if weight.min() < 0 or not weight.any():
        problem = "the weights are all 0" if not weight.any() else "there are weights below 0"
        raise InputError(problem, file=path, remedy="look for what went wrong in this iteration of RELION")
    n = box_size // 2 + 1
    if len(spectra) != n:
        raise InputError(f"{len(spectra)} shells for a box of {box_size} px, which has {n}", file=path)
    fudge = _number(general, "rlnTau2FudgeFactor", path)
    tau2, fsc = (
        np.array([_number(row, label, path) for _, row in spectra.iterrows()])
        for label in ("rlnReferenceTau2", "rlnGoldStandardFsc")
    )
    data = np.empty(shape, np.complex64)
    data.real, data.imag = real, imaginary
    return RelionSums(
        *_hermitian(data, weight), box_size, size // 2, fudge * tau2, fsc,
        _place(_value(general, "rlnExtReconsResult", path), path),
    )  # fmt: skip


def relion_equations(sums: RelionSums, pixel_size: float = 1.0) -> DiagonalEquations:
    """Return the normal equations of RELION's sums: their map has the scale of RELION's own.

    Lags of K beyond D/2 are cut off, as in `diagonal`, and so are places of b: both mix neighbouring components. RELION
    weighs shells by the noise that it finds in them, at times a hundred times more in one than in the next (the first
    shells, after the first iteration), and what little a component has would drown in what its neighbours leave there.
    So numerator and weight of each node of the padded grid are divided by its weight plus a part of the mean at its
    radius, and multiplied by the level of the node and its neighbours when the box has been cut. A shell of sums.radius
    or beyond weighs nothing.
    """
    box = sums.box_size
    places = torch.arange(box)
    lags = torch.where(places < box // 2, places, places - box)
    shell = map_shells(box)
    inside = (shell < min(sums.radius, box // 2)).float()
    weight = torch.from_numpy(sums.weight).double()
    even = 1 / (weight + _FLAT * _ring_means(weight)).clamp_min(1e-300)
    even[weight == 0] = 0
    counted = weight * even
    level = (_blurred(counted) / _blurred(counted * even).clamp_min(1e-300))[::PADDING, ::PADDING, ::PADDING] * inside
    # Both sums are real maps about voxel 0; transforms over D^2 on the image's side and on the map's leave D^-2, D^-4.
    data = torch.fft.rfftn(_voxels(torch.from_numpy(sums.data) * even, lags)) * level / box**2
    kernel = torch.fft.rfftn(_voxels(counted, lags)).real.clamp_min(0) * level / box**4
    return DiagonalEquations(
        data=(data * torch.from_numpy(_half_box_phase(box))).to(torch.complex64),
        kernel=kernel.float(),
        weight=inside,
        noise=2.0 * box**3,
        shell=shell,
        pixel_size=pixel_size,
    )


def _ring_means(weight: Tensor) -> Tensor:
    """The mean of a half grid over all nodes at the same distance from the origin, at each node."""
    edge = weight.shape[0]
    axis = torch.fft.fftfreq(edge, 1 / edge, dtype=torch.float64)
    last = torch.arange(edge // 2 + 1, dtype=torch.float64)
    ring = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + last**2).sqrt().round().long()
    return (torch.bincount(ring.flatten(), weight.flatten()) / torch.bincount(ring.flatten()))[ring]


def _blurred(grid: Tensor) -> Tensor:
    """Each node of a real half grid with its neighbours, by weights of 1, 2, 1 along each axis."""
    mate = (-torch.arange(grid.shape[0])) % grid.shape[0]
    for axis in (0, 1):
        grid = 2 * grid + grid.roll(1, axis) + grid.roll(-1, axis)
    before = grid[mate][:, mate][:, :, 1:2]  # the mirrored plane x = -1
    after = grid[mate][:, mate][:, :, -2:-1]
    return 2 * grid + torch.cat([before, grid[:, :, :-1]], 2) + torch.cat([grid[:, :, 1:], after], 2)


def signal_power(sums: RelionSums) -> Tensor:
    """(number of shells,) power of a component of the map that RELION's tau2 stands for, 0 beyond its table."""
    power = torch.zeros(int(map_shells(sums.box_size).max()) + 1, dtype=torch.float64)
    power[: len(sums.tau2)] = torch.from_numpy(2 * sums.box_size**4 * sums.tau2)
    return power


def _voxels(grid: Tensor, places: Tensor) -> Tensor:
    """The map at `places` along each axis of a padded half grid, less what spreading over nodes did to it."""
    edge = grid.shape[0]
    volume = torch.fft.irfftn(grid.to(torch.complex128), s=(edge,) * 3)
    volume = volume[places][:, places][:, :, places] * edge**3
    spread = torch.sinc(places.double() / edge) ** 2
    return volume / (spread[:, None, None] * spread[:, None] * spread)


def _half_box_phase(box: int) -> NDArray[np.float32]:
    """(D, D, D / 2 + 1) the transform's factor where the centre of a map moves from voxel 0 to voxel D / 2."""
    sign = 1.0 - 2.0 * (np.arange(box) % 2)
    return (sign[:, None, None] * sign[:, None] * sign[: box // 2 + 1]).astype(np.float32)


def _hermitian(
    data: NDArray[np.complex64], weight: NDArray[np.float32]
) -> tuple[NDArray[np.complex64], NDArray[np.float32]]:
    """The same with a plane x = 0 on which each component holds the sum of itself and its mate.

    Some programs of RELION have done that before they write, and some have not; only the file tells.
    """
    mate = (-np.arange(len(weight))) % len(weight)
    plane = weight[:, :, 0]
    mirrored = plane[mate][:, mate]
    if np.abs(plane - mirrored).max() > _SYMMETRIC * weight.max():
        data, weight = data.copy(), weight.copy()
        data[:, :, 0] += data[mate, :, 0][:, mate].conj()
        weight[:, :, 0] = plane + mirrored
    return data, weight


def _volume(general: Any, label: str, shape: tuple[int, ...], path: str | Path) -> NDArray[np.float32]:
    file = _place(_value(general, label, path), path)
    found = read_header(file).shape
    if found != shape:
        raise InputError(f"the volume has {found} values, not the {shape} of {Path(path).name}", file=file)
    return read_images(file, np.arange(shape[0]), warn_of_blank=False)


def _place(name: str, path: str | Path) -> Path:
    """Where a file is: RELION counts from the folder that it runs in, and puts all of them beside each other."""
    if Path(path).exists() and Path(name).parent.exists() and Path(name).parent.samefile(Path(path).parent):
        return Path(name)
    return Path(path).parent / Path(name).name


def _value(row: Any, label: str, path: str | Path) -> str:
    if label not in row:
        raise InputError(f"there is no _{label}", file=path, remedy="RELION 3.1 or later writes it")
    return str(row[label])


def _number(row: Any, label: str, path: str | Path) -> float:
    text = _value(row, label, path)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"the value {text} of _{label} is no number", file=path)
    return value


def _integer(row: Any, label: str, path: str | Path) -> int:
    value = _number(row, label, path)
    if value != int(value):
        raise InputError(f"the value {value} of _{label} is not a whole number", file=path)
    return int(value)
