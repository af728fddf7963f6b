"""cryoSPARC .cs files: one NumPy structured array each, passthrough files joined on uid.

Poses are read from alignments3D alone: rotation vectors of A^T, shifts in pixels of alignments3D/psize_A. Not read:
ab-initio classes, multi-class poses (both refused), beam tilt and higher aberrations (ignored with a note), the
compressed CSDAT format (refused). alignments3D/alpha, the scale of each image, goes into the CTF's scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gsworkbench.errors import InputError
from gsworkbench.geometry.rotations import rotation_vectors_to_matrices
from gsworkbench.io.files import require_plain_file
from gsworkbench.io.npz import check_header
from gsworkbench.particles.formats.columns import check_pixel_size, common_box, common_value, integers, numbers
from gsworkbench.particles.formats.ctf_columns import check_ctf, ctf_notes
from gsworkbench.particles.formats.metadata import ONE_FILAMENT, Metadata, stated, unique_names
from gsworkbench.particles.stack import CtfParameters, Float64, Picks

HEADER_BYTES = 2**24  # of the list of fields; NumPy's own limit of 10,000 is less than 100 classes need
CTF_COLUMNS = {
    "defocus_u": "ctf/df1_A",
    "defocus_v": "ctf/df2_A",
    "defocus_angle": "ctf/df_angle_rad",
    "voltage_kv": "ctf/accel_kv",
    "spherical_aberration_mm": "ctf/cs_mm",
    "amplitude_contrast": "ctf/amp_contrast",
    "phase_shift": "ctf/phase_shift_rad",
    "b_factor": "ctf/bfactor",
    "scale": "ctf/scale",
}
SHIFT_UNIT = "alignments3D/psize_A"
ALPHA = "alignments3D/alpha"
IN_RADIANS = ("defocus_angle", "phase_shift")
IGNORED = ("ctf/tilt_A", "ctf/trefoil_A", "ctf/tetra_A", "ctf/anisomag")


_CENTRE = ("center_x_frac", "center_y_frac")


@dataclass(frozen=True)
class Fields:
    """The columns of a .cs file, with those of its passthrough files in the same row order."""

    file: Path
    columns: dict[str, NDArray[Any]]

    def __contains__(self, name: str) -> bool:
        return name in self.columns

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self.columns:
            remedy = "give the job's passthrough file with --passthrough"
            if name.startswith("ctf/"):
                remedy += ", --ctf FILE with a cryoDRGN ctf.pkl, or --no-ctf for images without contrast transfer"
            raise InputError(f"there is no field {name}", file=self.file, remedy=remedy)
        return self.columns[name]

    def numbers(self, name: str, default: Float64 | float | None = None, *, width: int | None = None) -> Float64:
        """Return a field as float64, (n,) or with a width (n, width); `default` where it is absent, else InputError."""
        if name not in self and default is not None:
            return np.broadcast_to(np.asarray(default, float), len(self["uid"])).copy()
        result = numbers(self[name], name, self.file)
        wanted = (len(result),) if width is None else (len(result), width)
        if result.shape != wanted:
            raise InputError(f"{name} has the shape {result.shape}, not {wanted}", file=self.file)
        return result


def read_cryosparc(
    path: Path,
    passthrough: Sequence[str | Path] = (),
    *,
    needs_ctf: bool = True,
    needs_grid: bool = True,
    needs_images: bool = True,
    pixel_size: float | None = None,
    own_pixels: bool = False,
) -> Metadata:
    """Read the particles of a .cs file, with the fields it lacks from `passthrough` files.

    pixel_size : A, in place of the file's; with `own_pixels` the file's own is taken where it states one. Without
    `needs_grid`, a pixel size and a box that are contradictory are None and stop nothing. Without `needs_images`, the
    file may name no images.
    """
    fields = Fields(path, _joined(path, passthrough))
    _refuse_exposures(fields)
    n = len(fields["uid"])
    stacks: tuple[str, ...] = ()
    stack_index, image_index = np.zeros(n, np.int64), np.arange(n)
    if needs_images or {"blob/path", "blob/idx"} <= set(fields.columns):
        stacks, stack_index = unique_names(_stack_names(fields))
        image_index = _image_index(fields)
    rotations, shifts = _poses(fields)
    ctf, notes = _ctf(fields) if needs_ctf else (None, ())
    own = stated(_pixel_size, fields, needed=needs_grid) if pixel_size is None or own_pixels else None
    unit, unit_notes = _units(fields)
    return Metadata(
        stacks=stacks,
        stack_index=stack_index,
        image_index=image_index,
        box_size=stated(_box_size, fields, needed=needs_grid),
        pixel_size=own or pixel_size,
        ctf=ctf,
        rotations=rotations,
        shifts_angstrom=shifts,
        half_set=_half_sets(fields),
        data_sign=integers(fields.numbers("blob/sign", np.ones(n)), "blob/sign", path, allowed=(-1, 1)).astype(np.int8),
        picks=_picks(fields),
        optics_group=_whole(fields, "ctf/exp_group_id"),
        unit=unit,
        class_number=_whole(fields, "alignments3D/class"),
        notes=(*unit_notes, *notes),
        source=path,
    )


def _refuse_exposures(fields: Fields) -> None:
    kind = next((name for name in ("micrograph_blob/path", "movie_blob/path") if name in fields), None)
    if "blob/path" not in fields and kind is not None:
        raise InputError(
            f"the file lists exposures (field {kind}), not particles",
            file=fields.file,
            remedy="give the particles .cs of an extraction or a refinement",
        )


def _whole(fields: Fields, name: str) -> NDArray[np.int64] | None:
    return integers(fields.numbers(name), name, fields.file) if name in fields else None


def _pixel_size(fields: Fields) -> float | None:
    name = "blob/psize_A"
    if name not in fields:
        return None
    return check_pixel_size(common_value(fields.numbers(name), name, fields.file), name, fields.file)


def _units(fields: Fields) -> tuple[NDArray[np.int64] | None, tuple[str, ...]]:
    """(n,) the specimen of each particle, and a note where that is a filament; None where each image is its own."""
    source = "sym_expand/src_uid"  # of symmetry expansion: images made anew from one are of one specimen
    name = next((name for name in (source, "filament/filament_uid") if name in fields), None)
    if name is None:
        return None, ()
    uids = fields[name]
    if uids.ndim != 1 or uids.dtype.kind not in "iu":
        raise InputError(f"{name} holds {uids.dtype} of shape {uids.shape}, not whole numbers", file=fields.file)
    unit = np.unique(uids, return_inverse=True)[1].ravel().astype(np.int64)
    if name == source:
        return unit if unit.any() and unit.max() + 1 < len(unit) else None, ()
    if not unit.any():
        return None, (ONE_FILAMENT,) if uids.any() else ()
    note = (
        f"the particles are segments of {unit.max() + 1:,} filaments (field {name}): each filament stays in one half "
        "set, and helical symmetry is not imposed"
    )
    return unit, (note,)


def read_array(path: str | Path) -> NDArray[Any]:
    """Return the structured array of a .cs file as a read-only memory map; nothing in the file is run.

    A memory map cannot be longer than its file, so a forged shape costs no memory.
    """
    require_plain_file(path)
    try:
        with open(path, "rb") as file:
            magic = file.read(6)
    except OSError as error:
        raise InputError(f"the file cannot be read ({error.strerror})", file=path) from error
    if magic == b"\x95CSDAT":
        raise InputError(
            "the file is in cryoSPARC's compressed CSDAT format, which is not read",
            file=path,
            remedy="load it with cryosparc-tools (Dataset.load) and save it in the NumPy format",
        )
    if magic != b"\x93NUMPY":
        raise InputError("not a .cs file, it does not begin as a NumPy array does", file=path)
    try:
        with open(path, "rb") as file:
            check_header(file, Path(path).stat().st_size)
        array = np.load(path, mmap_mode="r", allow_pickle=False, max_header_size=HEADER_BYTES)
    except Exception as error:  # a forged header can fail in many ways; say NumPy's reason without its advice
        if "object" in str(error).lower():
            raise InputError("the file holds Python objects, which are not read", file=path) from error
        raise InputError(f"the file is truncated or damaged ({type(error).__name__})", file=path) from error
    if array.ndim != 1 or not len(array) or array.dtype.names is None or "uid" not in array.dtype.names:
        raise InputError("not a .cs file, it holds no rows with a field uid", file=path)
    if array["uid"].ndim != 1 or array["uid"].dtype.kind not in "iu":
        raise InputError(f"not a .cs file, its uid are {array.dtype['uid']} and not whole numbers", file=path)
    for name in array.dtype.names:
        text = np.ascontiguousarray(array[name]) if array[name].dtype.kind == "U" else np.zeros(0, "U1")
        codes = text.view(text.dtype.byteorder + "u4") if text.size else np.zeros(1)
        if codes.max() > 0x10FFFF:  # at which NumPy fails with a SystemError
            raise InputError(f"{name} holds bytes that are no text", file=path)
    if array.offset + array.nbytes != Path(path).stat().st_size:
        raise InputError(f"the header says {len(array)} rows but the file is longer", file=path)
    return array


def _joined(path: Path, passthrough: Sequence[str | Path]) -> dict[str, NDArray[Any]]:
    """Return all fields by name, those of the passthrough files in the row order of the first file."""
    main = read_array(path)
    columns = {name: main[name] for name in main.dtype.names or ()}
    for other in passthrough:
        array = read_array(other)
        order = _matching_rows(main["uid"], array["uid"], path, other)
        columns |= {name: array[name][order] for name in array.dtype.names or () if name not in columns}
    return columns


def _matching_rows(wanted: NDArray[Any], uids: NDArray[Any], path: Path, other: str | Path) -> NDArray[np.int64]:
    order = np.argsort(uids, kind="stable")
    if (np.diff(uids[order]) == 0).any():
        raise InputError("a uid occurs in two rows", file=other)
    place = np.minimum(np.searchsorted(uids[order], wanted), len(uids) - 1)
    absent = uids[order[place]] != wanted
    if absent.any():
        row = int(np.flatnonzero(absent)[0])
        raise InputError(
            f"uid {wanted[row]} is not in {other} ({np.count_nonzero(absent)} of {len(wanted)} are not)",
            file=path,
            row=row + 1,
        )
    return order[place]


def _stack_names(fields: Fields) -> list[str]:
    """Return blob/path as text, without the '>' that exports put before it."""
    paths = fields["blob/path"].tolist()
    texts = [p.decode("utf-8", "surrogateescape") if isinstance(p, bytes) else str(p) for p in paths]
    return [text.removeprefix(">") for text in texts]


def _image_index(fields: Fields) -> NDArray[np.int64]:
    index = integers(fields.numbers("blob/idx"), "blob/idx", fields.file)
    if (index < 0).any():
        row = int(np.flatnonzero(index < 0)[0])
        raise InputError(f"blob/idx must count from 0, not {index[row]}", file=fields.file, row=row + 1)
    return index


def _box_size(fields: Fields) -> int | None:
    if "blob/shape" not in fields:
        return None
    height, width = fields.numbers("blob/shape", width=2).T
    if (height != width).any():
        row = int(np.flatnonzero(height != width)[0])
        problem = f"blob/shape is {height[row]:g} x {width[row]:g}, and images must be square"
        raise InputError(problem, file=fields.file, row=row + 1)
    return common_box(height, "blob/shape", fields.file)


def _poses(fields: Fields) -> tuple[Float64 | None, Float64]:
    """Return rotations (n, 3, 3), None without alignments3D, and shifts (n, 2) in A."""
    if "alignments3D/pose" not in fields:
        others = sorted(
            {n.split("/")[0] for n in fields.columns if n.startswith(("alignments3D_", "alignments_class"))}
        )
        if others:
            raise InputError(
                f"poses only as {', '.join(others)}, and alignments3D alone is read",
                file=fields.file,
                remedy="run a homogeneous refinement and give its particles",
            )
        return None, np.zeros((len(fields["uid"]), 2))
    pixel_sizes = fields.numbers(SHIFT_UNIT)
    for extreme in (np.argmin, np.argmax):  # they may differ by row: alignments at several boxes
        row = int(extreme(pixel_sizes))
        check_pixel_size(float(pixel_sizes[row]), SHIFT_UNIT, fields.file, row + 1, otherwise="")
    shifts = fields.numbers("alignments3D/shift", width=2) * pixel_sizes[:, None]
    return rotation_vectors_to_matrices(fields.numbers("alignments3D/pose", width=3)), shifts


def _picks(fields: Fields) -> Picks | None:
    """Return picked positions in A, without refined shifts; None where the fields of `location` are not all there."""
    size = next((name for name in ("location/micrograph_psize_A", "blob/psize_A") if name in fields), None)
    uid, shape, *centre = (f"location/{name}" for name in ("micrograph_uid", "micrograph_shape", *_CENTRE))
    if size is None or any(name not in fields for name in (uid, shape, *centre)):
        return None
    names, index = unique_names(map(str, fields[uid].tolist()))
    fractions = np.column_stack([fields.numbers(name) for name in centre])
    extent = fields.numbers(shape, width=2)[:, ::-1]  # of y, x
    return Picks(names, index, fractions * extent * fields.numbers(size)[:, None])


def _half_sets(fields: Fields) -> NDArray[np.int8]:
    """Return split + 1; a split of one value is no split."""
    split = fields.numbers("alignments3D/split", 0)
    if np.ptp(split) == 0:
        return np.zeros(len(split), np.int8)
    return (integers(split, "alignments3D/split", fields.file, allowed=(0, 1)) + 1).astype(np.int8)


def _ctf(fields: Fields) -> tuple[CtfParameters, tuple[str, ...]]:
    defocus_u = fields.numbers(CTF_COLUMNS["defocus_u"])
    defaults: dict[str, Float64 | float] = {
        "defocus_v": defocus_u,
        "defocus_angle": 0.0,
        "phase_shift": 0.0,
        "b_factor": 0.0,
        "scale": 1.0,
    }
    columns = {name: fields.numbers(field, defaults.get(name)) for name, field in CTF_COLUMNS.items()}
    columns |= {name: np.degrees(columns[name]) for name in IN_RADIANS}
    ctf = check_ctf(CtfParameters(**columns), CTF_COLUMNS, fields.file)
    alpha, alpha_notes = _alpha(fields)
    if alpha is not None:
        ctf = replace(ctf, scale=ctf.scale * alpha)
    return ctf, (*_ignored(fields), *alpha_notes, *ctf_notes(ctf, CTF_COLUMNS))


def _alpha(fields: Fields) -> tuple[Float64 | None, tuple[str, ...]]:
    """The scale of each image that a refinement found, None where there is none, and a note of its use."""
    if ALPHA not in fields:
        return None, ()
    try:
        alpha = fields.numbers(ALPHA)
    except InputError:
        return None, (f"{ALPHA} is not a number in every row and will be ignored",)
    if np.ptp(alpha) == 0:
        return None, ()
    if not ((alpha >= 1e-3) & (alpha <= 1e3)).all():
        return None, (f"{ALPHA} is not between 0.001 and 1000 in every row and will be ignored",)
    low, middle, high = np.percentile(alpha, [5, 50, 95])
    spread = f"median {middle:.3g}, 5 to 95 %: {low:.3g} to {high:.3g}"
    return alpha, (f"the images are scaled by {ALPHA} ({spread}), as part of their CTF",)


def _ignored(fields: Fields) -> tuple[str, ...]:
    """A sentence on the fields that say something which is not modelled."""
    found = [name for name in IGNORED if name in fields and _says_something(fields[name])]
    if not found:
        return ()
    verb = "is" if len(found) == 1 else "are"
    return (f"{fields.file}: {', '.join(found)} {verb} not modelled and will be ignored",)


def _says_something(values: NDArray[Any]) -> bool:
    return values.dtype.kind not in "biuf" or bool(values.any())
