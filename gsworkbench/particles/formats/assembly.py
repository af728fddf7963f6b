"""From metadata to a ParticleStack: find the image files, ask them for their box, and check that all fits together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gsworkbench.errors import InputError
from gsworkbench.io import mrc
from gsworkbench.particles.formats import cryodrgn
from gsworkbench.particles.formats.ctf_columns import ctf_notes, no_ctf
from gsworkbench.particles.formats.grid import CROPPED, Stated, image_pixel_size
from gsworkbench.particles.formats.metadata import Metadata, class_counts
from gsworkbench.particles.formats.paths import MissingImages, first_outside, resolve_stacks
from gsworkbench.particles.stack import Float64, ParticleStack


def to_stack(
    metadata: Metadata,
    source: Path,
    *,
    stack: str | Path | None = None,
    datadir: str | Path | None = None,
    poses: str | Path | None = None,
    ctf: str | Path | None = None,
    indices: str | Path | None = None,
    data_sign: int | None = None,
    pixel_size: float | None = None,
    image_scale: str | None = None,
    without_ctf: bool = False,
    class_number: int | None = None,
    strict_paths: bool = False,
    identities_only: bool = False,
) -> ParticleStack:
    """Make the ParticleStack of the rows that `indices` and `class_number` select; see readers.read_particles.

    identities_only : for telling particles apart, so that their pixel size need not be known.
    """
    n = len(metadata.image_index)
    if not n:
        raise InputError("there are no particles", file=source)
    pose_rows = cryodrgn.read_poses(poses) if poses else None
    ctf_rows = cryodrgn.read_ctf(ctf) if ctf else None
    _check_counts(n, source, poses, pose_rows, ctf, ctf_rows)
    rows = np.arange(n) if indices is None else cryodrgn.read_indices(indices, n)
    rows, class_notes = _of_class(metadata.class_number, rows, class_number, source)

    files, file_index = _locate(metadata, rows, source, stack, datadir)
    if strict_paths and stack is None:
        _refuse_outside(files, file_index, rows, source, datadir)
    box_size, headers = _common_box(files, file_index, metadata.image_index[rows], rows, source)
    table = Stated(source.name, metadata.box_size, metadata.pixel_size)
    if source.suffix not in (".star", ".cs") and ctf_rows is None:  # of images alone, nothing else says it
        table = Stated("the header", None, next((size for _, size in headers if size not in (None, 1)), None))
    stated = None if ctf_rows is None else Stated(Path(str(ctf)).name, ctf_rows.box_size, ctf_rows.pixel_size)
    if identities_only:
        pixel_size = pixel_size or metadata.pixel_size or 1.0
    elif pixel_size is None:
        pixel_size = image_pixel_size(box_size, headers, table, stated, source, image_scale)

    ctf_parameters = no_ctf(n) if without_ctf else ctf_rows.ctf if ctf_rows else metadata.ctf
    if ctf_parameters is None:
        raise InputError("there is no CTF", file=source, remedy="give --ctf FILE with a cryoDRGN ctf.pkl, or --no-ctf")
    rotations, shifts = metadata.rotations, metadata.shifts_angstrom
    if pose_rows:
        leading = stated or table
        box_of_poses = leading.box_size if image_scale == CROPPED and leading.box_size else box_size
        rotations, shifts = pose_rows.rotations, pose_rows.shifts * box_of_poses * pixel_size
    if not identities_only:
        _check_shifts(shifts[rows], rows, box_size * pixel_size, source)

    def chosen(column: Any) -> Any:
        return None if column is None else column[rows]

    return ParticleStack(
        files=files,
        file_index=file_index,
        image_index=metadata.image_index[rows],
        box_size=box_size,
        pixel_size=pixel_size,
        ctf=ctf_parameters[rows],
        rotations=chosen(rotations),
        shifts_angstrom=shifts[rows],
        half_set=metadata.half_set[rows],
        data_sign=metadata.data_sign[rows] if data_sign is None else np.full(len(rows), data_sign, np.int8),
        source=source,
        source_row=rows,
        picks=chosen(metadata.picks),
        optics_group=chosen(metadata.optics_group),
        unit=chosen(metadata.unit),
        class_number=chosen(metadata.class_number),
        norm_correction=chosen(metadata.norm_correction),
        notes=(*class_notes, *metadata.notes, *(ctf_notes(ctf_rows.ctf, cryodrgn.CTF_COLUMNS) if ctf_rows else ())),
    )


def _of_class(
    classes: NDArray[np.int64] | None, rows: NDArray[np.int64], wanted: int | None, source: Path
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return the rows of the class that is wanted, all by default, with a note where several classes are mixed."""
    if wanted is None:
        several = class_counts(None if classes is None else classes[rows])
        if several is None or several.count(",") == 0:
            return rows, ()
        return rows, (f"particles of several classes are taken together ({several}): give --class N for one of them",)
    if classes is None:
        raise InputError("the file has no classes to choose from", file=source, remedy="leave out --class")
    kept = rows[classes[rows] == wanted]
    if not len(kept):
        raise InputError(
            f"no particle is of class {wanted}", file=source, remedy=f"there are {class_counts(classes[rows])}"
        )
    return kept, ()


def _check_counts(
    n: int,
    source: Path,
    poses: str | Path | None,
    pose_rows: cryodrgn.PoseRows | None,
    ctf: str | Path | None,
    ctf_rows: cryodrgn.CtfRows | None,
) -> None:
    counts = {str(poses): len(pose_rows.rotations)} if pose_rows else {}
    counts |= {str(ctf): len(ctf_rows.ctf.defocus_u)} if ctf_rows else {}
    if any(count != n for count in counts.values()):
        listed = ", ".join(f"{count} in {file}" for file, count in counts.items())
        raise InputError(f"{n} particles here but {listed}", file=source, remedy="one file is of other particles")


def _check_shifts(shifts: Float64, rows: NDArray[np.int64], edge: float, source: Path) -> None:
    """A particle moved by more than its box (A) is not in its image: the unit of the shifts must be another one."""
    too_far = np.abs(shifts).max(axis=1) > edge * (1 + 1e-6)
    if too_far.any():
        k = int(np.flatnonzero(too_far)[0])
        x, y = shifts[k]
        raise InputError(
            f"the shift of {x:g}, {y:g} A exceeds the box of {edge:g} A",
            file=source,
            row=int(rows[k]) + 1,
            remedy="check the unit of its shifts and the pixel size",
        )


def _locate(
    metadata: Metadata, rows: NDArray[np.int64], source: Path, stack: str | Path | None, datadir: str | Path | None
) -> tuple[tuple[Path, ...], NDArray[np.int64]]:
    """Return the image files of the chosen rows and each row's place among them."""
    if stack is not None:
        if not Path(stack).is_file():
            raise MissingImages("there is no such image stack", file=stack, remedy="give --stack FILE")
        if len(metadata.stacks) > 1 and len(np.unique(metadata.image_index)) < len(metadata.image_index):
            raise InputError(
                f"image numbers repeat over {len(metadata.stacks)} stacks, so that one stack cannot stand in for them",
                file=source,
                remedy="give --datadir FOLDER instead of --stack",
            )
        return (Path(stack).absolute(),), np.zeros(len(rows), np.int64)
    used, name_index = np.unique(metadata.stack_index[rows], return_inverse=True)
    found = resolve_stacks([metadata.stacks[i] for i in used], source, datadir)
    # One file may go by several names: ./a.mrcs and a.mrcs, or links. Its images are the same particles by each.
    resolved = [path.resolve() for path in found]
    files: dict[Path, Path] = {}
    for real, path in zip(resolved, found, strict=True):
        files.setdefault(real, path)
    place = {real: k for k, real in enumerate(files)}
    return tuple(files.values()), np.array([place[real] for real in resolved], np.int64)[name_index]


def _refuse_outside(
    files: tuple[Path, ...],
    file_index: NDArray[np.int64],
    rows: NDArray[np.int64],
    source: Path,
    datadir: str | Path | None,
) -> None:
    k = first_outside(files, source, datadir)
    if k is not None:
        raise InputError(
            f"{files[k]} lies outside the data folder, which --strict-paths refuses",
            file=source,
            row=int(rows[np.flatnonzero(file_index == k)[0]]) + 1,
            remedy="give the --datadir FOLDER that images may come from",
        )


def _common_box(
    files: tuple[Path, ...],
    file_index: NDArray[np.int64],
    image_index: NDArray[np.int64],
    rows: NDArray[np.int64],
    source: Path,
) -> tuple[int, list[tuple[Path, float | None]]]:
    """Return the box size that all files share, and each file with the pixel size (A) of its header.

    Every image index must lie within its file.
    """
    shapes = [mrc.stack_shape(file) for file in files]
    boxes = [box for _, box, _ in shapes]
    if len(set(boxes)) > 1:
        other = next(i for i, box in enumerate(boxes) if box != boxes[0])
        raise InputError(f"{files[0]} has images of {boxes[0]} px, {files[other]} of {boxes[other]} px", file=source)
    sizes = np.array([n for n, _, _ in shapes])[file_index]
    beyond = image_index >= sizes
    if beyond.any():
        k = int(np.flatnonzero(beyond)[0])
        raise InputError(
            f"there is no image {image_index[k] + 1} in {files[file_index[k]]}, which holds {sizes[k]}",
            file=source,
            row=int(rows[k]) + 1,
        )
    return boxes[0], [(file, size) for file, (_, _, size) in zip(files, shapes, strict=True)]
