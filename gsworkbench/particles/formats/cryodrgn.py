"""cryoDRGN's files: poses, CTF and index pickles, lists of stacks.

poses.pkl: (rotations (N, 3, 3), shifts (N, 2) as fractions of the box), or rotations alone. ctf.pkl: (N, 9) rows of
D, pixel size, defocus U and V, angle, kV, Cs, amplitude contrast, phase shift. The rows follow the images as they lie
in the stack; nothing in these files can prove that they do. cryoDRGN's CTF is the negative of ours, which its files
do not show.
"""

from __future__ import annotations

import pickle
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gsworkbench.errors import InputError, first_few
from gsworkbench.geometry.rotations import is_rotation
from gsworkbench.io import mrc
from gsworkbench.io.files import atomic_path, require_plain_file
from gsworkbench.io.pickles import load_arrays
from gsworkbench.particles.formats.columns import common_value, numbers
from gsworkbench.particles.formats.ctf_columns import check_ctf
from gsworkbench.particles.formats.metadata import Metadata
from gsworkbench.particles.formats.paths import resolve_stacks
from gsworkbench.particles.stack import CtfParameters, Float64, ParticleStack

CTF_COLUMNS = {  # of ctf.pkl after D and pixel size, by our name for them
    "defocus_u": "defocus U",
    "defocus_v": "defocus V",
    "defocus_angle": "defocus angle",
    "voltage_kv": "voltage",
    "spherical_aberration_mm": "Cs",
    "amplitude_contrast": "amplitude contrast",
    "phase_shift": "phase shift",
}


@dataclass(frozen=True)
class PoseRows:
    """poses.pkl: rotations (n, 3, 3) and shifts (n, 2) in fractions of the box."""

    rotations: Float64
    shifts: Float64


@dataclass(frozen=True)
class CtfRows:
    """ctf.pkl: the CTF of n particles, and the box (px) and pixel size (A) of the images it was made for."""

    ctf: CtfParameters
    box_size: float
    pixel_size: float

    def pixel_size_at(self, box_size: int) -> float:
        """Return the pixel size of the same images Fourier-cropped or padded to `box_size`."""
        return self.pixel_size * self.box_size / box_size


def read_poses(path: str | Path) -> PoseRows:
    """Read a poses.pkl; matrices that are no rotations, and shifts beyond the box, raise InputError."""
    value = load_arrays(path)
    parts = value if isinstance(value, tuple | list) else (value,)
    shapes = [np.shape(part) for part in parts]
    n = shapes[0][0] if shapes and shapes[0] else 0
    if shapes not in ([(n, 3, 3)], [(n, 3, 3), (n, 2)]):
        listed = first_few(shapes)
        raise InputError(f"poses are arrays (N, 3, 3) and (N, 2), here the shapes are {listed}", file=path)
    rotations = numbers(parts[0], "rotation", Path(path))
    shifts = numbers(parts[1], "shift", Path(path)) if len(parts) == 2 else np.zeros((n, 2))
    _refuse_row(~is_rotation(rotations), "the matrix is not a rotation", path)
    too_far = np.abs(shifts).max(axis=1, initial=0) > 1
    _refuse_row(too_far, "the shift exceeds the box", path, "shifts must be fractions of the box")
    return PoseRows(rotations, shifts)


def read_ctf(path: str | Path) -> CtfRows:
    """Read a ctf.pkl; NaN (which cryoDRGN writes for a column that its source lacked) raises InputError."""
    table = load_arrays(path)
    if not isinstance(table, np.ndarray) or table.ndim != 2 or table.shape[1] != 9:
        found = f"an array {table.shape}" if isinstance(table, np.ndarray) else f"a {type(table).__name__}"
        raise InputError(f"the CTF is one array (N, 9), not {found}", file=path)
    names = ["box size", "pixel size", *CTF_COLUMNS.values()]
    box_sizes, pixel_sizes, *columns = (numbers(table[:, k], name, Path(path)) for k, name in enumerate(names))
    n = len(table)
    if n and (pixel_sizes > 0).all() and np.ptp(edges := box_sizes * pixel_sizes) <= 1e-4 * edges[0]:
        box_sizes, pixel_sizes = (
            np.full(n, box_sizes[0]),
            np.full(n, pixel_sizes[0]),
        )  # one field of view, in any pixels
    ctf = CtfParameters(**dict(zip(CTF_COLUMNS, columns, strict=True)), b_factor=np.zeros(n), scale=np.ones(n))
    return CtfRows(
        check_ctf(ctf, CTF_COLUMNS, Path(path)),
        common_value(box_sizes, "box size", Path(path)),
        common_value(pixel_sizes, "pixel size", Path(path)),
    )


def read_indices(path: str | Path, n: int) -> NDArray[np.int64]:
    """Read an ind.pkl, array or list, in its own order; each index once and within n particles."""
    value = load_arrays(path)
    is_flat = isinstance(value, np.ndarray) or (isinstance(value, list) and not any(map(np.ndim, value)))
    indices = np.asarray(value if is_flat else [])
    if indices.ndim != 1 or not len(indices) or indices.dtype.kind not in "iu":
        raise InputError("the file holds no list of particle indices (whole numbers, counted from 0)", file=path)
    _refuse_row((indices < 0) | (indices >= n), f"the index is not one of {n} particles (counted from 0)", path)
    repeated = np.ones(len(indices), bool)
    repeated[np.unique(indices, return_index=True)[1]] = False
    _refuse_row(repeated, "the index stands here for the second time", path)
    return indices.astype(np.int64)


def read_stack_list(path: Path, datadir: str | Path | None = None) -> Metadata:
    """Read an image stack, or a .txt of stacks one a line (relative to the .txt), as particles in file order."""
    names = [str(path.absolute())]
    if path.suffix == ".txt":
        names = [line.strip() for line in _text(path).splitlines() if line.strip()]
        _refuse_row(_seen_before(names), "the stack is listed twice", path)
    files = resolve_stacks(names, path, datadir)
    _refuse_row(_seen_before([file.resolve() for file in files]), "the stack is listed twice, by another name", path)
    sizes = [mrc.stack_shape(file)[0] for file in files]
    n = sum(sizes)
    return Metadata(
        stacks=tuple(names),
        stack_index=np.repeat(np.arange(len(names)), sizes),
        image_index=np.concatenate([np.arange(size) for size in sizes]) if sizes else np.zeros(0, np.int64),
        box_size=None,
        pixel_size=None,
        ctf=None,
        rotations=None,
        shifts_angstrom=np.zeros((n, 2)),
        half_set=np.zeros(n, np.int8),
        data_sign=np.ones(n, np.int8),
    )


def poses_alone(path: str | Path) -> Metadata:
    """Read a poses.pkl as the metadata of particles whose images are not known; shifts (A) are not known either."""
    rotations = read_poses(path).rotations
    n = len(rotations)
    return Metadata(
        stacks=(),
        stack_index=np.zeros(n, np.int64),
        image_index=np.arange(n),
        box_size=None,
        pixel_size=None,
        ctf=None,
        rotations=rotations,
        shifts_angstrom=np.zeros((n, 2)),
        half_set=np.zeros(n, np.int8),
        data_sign=np.ones(n, np.int8),
        source=Path(path),
    )


def _seen_before(values: Sequence[Hashable]) -> NDArray[np.bool_]:
    first: dict[Hashable, int] = {}
    return np.array([first.setdefault(value, k) != k for k, value in enumerate(values)], bool)


def write_cryodrgn_pickles(poses_path: str | Path, ctf_path: str | Path, stack: ParticleStack) -> None:
    """Write a stack's poses and CTF as cryoDRGN's poses.pkl and ctf.pkl (float32), each atomically.

    Raises InputError where there are no poses, or B factors or scales, for which those files have no place.
    """
    rotations, ctf = stack.require_poses(), stack.ctf
    if ctf.b_factor.any() or (ctf.scale != 1).any():
        raise InputError("cryoDRGN's ctf.pkl cannot hold the CTF's B factors or scales", file=stack.source)
    shifts = stack.shifts_angstrom / (stack.box_size * stack.pixel_size)
    sizes = np.broadcast_to([stack.box_size, stack.pixel_size], (len(stack), 2))
    table = np.column_stack([sizes, *(getattr(ctf, name) for name in CTF_COLUMNS)])
    _write_pickle(poses_path, (rotations.astype(np.float32), shifts.astype(np.float32)))
    _write_pickle(ctf_path, table.astype(np.float32))


def _write_pickle(path: str | Path, value: object) -> None:
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        pickle.dump(value, file)


def _text(path: Path) -> str:
    require_plain_file(path)
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the list of stacks cannot be read ({error})", file=path) from error


def _refuse_row(bad: NDArray[np.bool_], problem: str, path: str | Path, remedy: str | None = None) -> None:
    if bad.any():
        raise InputError(problem, file=path, row=int(np.flatnonzero(bad)[0]) + 1, remedy=remedy)
