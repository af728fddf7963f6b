"""RELION STAR files of 3.0 (one table), 3.1, 4 and 5 (optics groups): particles in, particles out.

A value is looked for in the particle's row, then in its optics group's, then among RELION's defaults; there is no
default for voltage, Cs, amplitude contrast and defocus. Helical segments are read as single particles, and tilt images
that a program exported one a row are too; both stay together in half sets. Not read: tables of tomography and of other
programs (refused), images that were multiplied by their CTF (refused), beam tilt and higher aberrations (noted).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gsworkbench import __version__
from gsworkbench.errors import InputError, first_few
from gsworkbench.geometry.rotations import euler_to_matrices, matrices_to_euler
from gsworkbench.io import star_tables
from gsworkbench.io.files import write_text
from gsworkbench.particles.formats.columns import check_pixel_size, common_box, common_value, integers, numbers
from gsworkbench.particles.formats.ctf_columns import NEEDS_CTF, check_ctf, ctf_notes
from gsworkbench.particles.formats.metadata import ONE_FILAMENT, Metadata, stated, unique_names
from gsworkbench.particles.formats.paths import is_file
from gsworkbench.particles.stack import CtfParameters, Float64, ParticleStack, Picks

PARTICLE_BLOCKS = ("particles", "images", "")
EULER_ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
SPECIMEN = "gsworkbenchSpecimen"  # our own column, where rows of one number belong into one half set
DATA_SIGN = "gsworkbenchDataSign"  # our own column, only where a sign is -1; RELION passes over names it does not know
CTF_COLUMNS = {
    "defocus_u": "rlnDefocusU",
    "defocus_v": "rlnDefocusV",
    "defocus_angle": "rlnDefocusAngle",
    "voltage_kv": "rlnVoltage",
    "spherical_aberration_mm": "rlnSphericalAberration",
    "amplitude_contrast": "rlnAmplitudeContrast",
    "phase_shift": "rlnPhaseShift",
    "b_factor": "rlnCtfBfactor",
    "scale": "rlnCtfScalefactor",
}
REFUSED = {  # columns that make the data something else than single particles with a plain CTF
    "rlnCtfDataAreCtfPremultiplied": "the images were multiplied by their CTF, which is not supported",
    "rlnCtfDataArePhaseFlipped": "the images were phase-flipped, which is not supported",
}
OTHERS = {  # how labels begin that tell what a file is, in place of single particles of RELION; what to do about it
    "rlnTomo": (
        "the particles are from tomography, which is not supported",
        "export their tilt images as 2D particles, one a row, as Warp and M do for cryoDRGN-ET",
    ),
    "rlnCtfImage": (
        "the particles are subtomograms, from tomography, which is not supported",
        "export their tilt images as 2D particles, one a row, as Warp and M do for cryoDRGN-ET",
    ),
    "cisTEM": (
        "this is a STAR file of cisTEM, which is not read",
        "export the refinement package in RELION's format and give that .star with its image stack",
    ),
}
DETECTOR = "1e4 rlnDetectorPixelSize / rlnMagnification"
ORIGINALS = ("rlnImageOriginalName", "rlnOriginalParticleName")  # the image that several were made from
TUBE, GROUP = "rlnHelicalTubeID", "rlnGroupName"
IGNORED = ("rlnBeamTiltX", "rlnBeamTiltY", "rlnOddZernike", "rlnEvenZernike", "rlnMagMat01", "rlnMagMat10")
DIGITS = set("123456789")  # of a number that is not zero
MAGNIFICATION = ("rlnMagMat00", "rlnMagMat11")  # ignored too, and 1 where nothing is magnified


@dataclass(frozen=True)
class Fields:
    """Columns of a particle table as text, with each particle's optics row behind them."""

    file: Path
    particles: Any  # data frame of strings
    optics: Any  # data frame of strings, or None
    group_row: NDArray[np.int64] | None  # (n,) row in `optics`

    def __contains__(self, label: str) -> bool:
        return label in self.particles or (self.optics is not None and label in self.optics)

    def numbers(
        self, label: str, default: Float64 | float | None = None, remedy: str = "add it, every particle needs it"
    ) -> Float64:
        """Return a column as (n,) float64: particle row, else optics row, else `default`, else InputError."""
        if label in self.particles:
            return numbers(self.particles[label], label, self.file)
        if self.optics is not None and label in self.optics:
            return numbers(self.optics[label], f"{label} of data_optics", self.file)[self.group_row]
        if default is None:
            raise InputError(f"there is no column {label}", file=self.file, remedy=remedy)
        return np.broadcast_to(np.asarray(default, float), len(self.particles)).copy()


def read_star(
    path: Path,
    *,
    needs_ctf: bool = True,
    needs_grid: bool = True,
    needs_images: bool = True,
    pixel_size: float | None = None,
    own_pixels: bool = False,
) -> Metadata:
    """Read the particles of a STAR file.

    pixel_size : A, in place of the file's, also for its origins in pixels. own_pixels : of these, the file's own pixel
    size is taken where it states one, because the images have other pixels than the table. Without `needs_grid`, a
    pixel size and a box that are absent or contradictory stop nothing: they are None, and origins in pixels zero.
    Without `needs_images`, a table may name no images, or images that would be refused.
    """
    fields = _fields(path, needs_images=needs_images)
    if needs_images:
        _refuse_unsupported(fields)
    stacks, stack_index, image_index = _images(fields)
    own = stated(_pixel_size, fields, needed=needs_grid) if pixel_size is None or own_pixels else None
    of_table = own or pixel_size
    n = len(stack_index)
    subsets = fields.numbers("rlnRandomSubset", 0)
    shifts = _shifts(fields, of_table if needs_grid else of_table or 0)
    ctf = _ctf(fields) if needs_ctf else None
    unit, unit_notes = _units(fields, stack_index)
    ignored = _ignored(fields)
    return Metadata(
        stacks=stacks,
        stack_index=stack_index,
        image_index=image_index,
        box_size=stated(_box_size, fields, needed=needs_grid),
        pixel_size=of_table,
        ctf=ctf,
        rotations=_rotations(fields),
        shifts_angstrom=shifts,
        half_set=integers(subsets, "rlnRandomSubset", path, allowed=(0, 1, 2)).astype(np.int8),
        data_sign=integers(fields.numbers(DATA_SIGN, np.ones(n)), DATA_SIGN, path, allowed=(-1, 1)).astype(np.int8),
        picks=_picks(fields, shifts, of_table),
        optics_group=_optics_groups(fields),
        unit=unit,
        class_number=_whole(fields, "rlnClassNumber"),
        norm_correction=_norm_correction(fields),
        notes=(
            *ignored,
            *_other_pixel_size(fields, own),
            *unit_notes,
            *(ctf_notes(ctf, CTF_COLUMNS) if ctf is not None else ()),
        ),
        source=path,
    )


def _images(fields: Fields) -> tuple[tuple[str, ...], NDArray[np.int64], NDArray[np.int64]]:
    """Names of stacks, each once, and (n,) of each particle which of them and its place in it, counted from 0."""
    n = len(fields.particles)
    if "rlnImageName" not in fields.particles:
        return (), np.zeros(n, np.int64), np.arange(n)
    pairs = [_image_name(name, row, fields.file) for row, name in enumerate(fields.particles["rlnImageName"])]
    stacks, stack_index = unique_names(name for _, name in pairs)
    return stacks, stack_index, np.array([number - 1 for number, _ in pairs], np.int64)


def _whole(fields: Fields, label: str) -> NDArray[np.int64] | None:
    """A column of whole numbers of the particle table, None where it has none."""
    return integers(fields.numbers(label), label, fields.file) if label in fields.particles else None


def _norm_correction(fields: Fields) -> Float64 | None:
    """A column that is only shown, so that nothing in it stops anyone."""
    try:
        return fields.numbers("rlnNormCorrection")
    except InputError:
        return None


def _optics_groups(fields: Fields) -> NDArray[np.int64] | None:
    if fields.group_row is not None and "rlnOpticsGroup" in fields.optics:
        groups = integers(fields.optics["rlnOpticsGroup"], "rlnOpticsGroup of data_optics", fields.file)
        return groups[fields.group_row]
    return _whole(fields, "rlnOpticsGroup")


def _units(fields: Fields, stack_index: NDArray[np.int64]) -> tuple[NDArray[np.int64] | None, tuple[str, ...]]:
    """(n,) the specimen of each particle where one has several rows, and notes that say so."""
    table = fields.particles
    own = _whole(fields, SPECIMEN)
    if own is not None:
        return own, ()
    if TUBE in fields.particles:
        micrographs = unique_names(table["rlnMicrographName"])[1] if "rlnMicrographName" in table else stack_index
        unit = _numbered(np.column_stack([micrographs, integers(fields.numbers(TUBE), TUBE, fields.file)]))
        if not unit.any():
            return None, (ONE_FILAMENT,)
        note = (
            f"the particles are segments of {unit.max() + 1:,} filaments (column {TUBE}): each filament stays in one "
            "half set, and helical symmetry is not imposed"
        )
        return unit, (note,)
    if GROUP in table and _tilted(fields, groups := unique_names(table[GROUP])[1]):
        note = (
            f"rows share an {GROUP}, each with its own dose: they are taken for the tilt images of "
            f"{groups.max() + 1:,} particles, whose images stay in one half set"
        )
        return groups, (note,)
    label = next((label for label in ORIGINALS if label in table), None)
    if label is not None:
        names, originals = unique_names(table[label])
        largest = int(np.bincount(originals).max())
        if 1 < largest <= len(originals) / 2 and len(names) > 1:
            note = (
                f"{len(originals):,} images were made from {len(names):,} (column {label}), and those of one stay in "
                "one half set"
            )
            return originals, (note,)
    return None, ()


def _tilted(fields: Fields, groups: NDArray[np.int64]) -> bool:
    """Whether rows that share a group are tilt images of one particle, and not RELION's groups of micrographs.

    Then B factors (dose) or scales (tilt) differ from row to row within a group, and either no micrograph has two rows
    of a group or the groups all have the same few values.
    """
    labels = [label for label in ("rlnCtfBfactor", "rlnCtfScalefactor") if label in fields.particles]
    sizes = np.bincount(groups)
    if not labels or len(sizes) < 2 or sizes.max() < 2:
        return False
    values = np.column_stack([fields.numbers(label) for label in labels])
    order = np.argsort(groups, kind="stable")
    same = groups[order][1:] == groups[order][:-1]
    if (np.diff(values[order], axis=0) != 0).any(axis=1)[same].mean() < 0.3:
        return False
    few = len(np.unique(values, axis=0)) <= 2 * sizes.max()
    if few or "rlnMicrographName" not in fields.particles:
        return few
    micrographs = unique_names(fields.particles["rlnMicrographName"])[1]
    return len(np.unique(np.column_stack([groups, micrographs]), axis=0)) == len(groups)


def _numbered(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n,) the place of each row (n, m) among the distinct ones."""
    return np.unique(rows, axis=0, return_inverse=True)[1].ravel().astype(np.int64)


def _fields(path: Path, *, needs_images: bool) -> Fields:
    """Read the tables and join each particle to its optics group by number."""
    tables = star_tables.read_tables(path)
    _refuse_others(tables, path)
    name = next((name for name in PARTICLE_BLOCKS if name in tables), None)
    wanted = "rlnImageName" if needs_images else "rlnAngleRot"
    if name is None or not {"rlnImageName", wanted} & set(tables[name]):
        found = first_few([f"data_{name}" for name in tables])
        raise InputError(f"no table of particles with a column {wanted} among {found}", file=path)
    particles, optics = tables[name], tables.get("optics")
    if not len(particles):
        raise InputError(f"the table data_{name} has no rows", file=path)
    return Fields(path, particles, optics, None if optics is None else _group_rows(particles, optics, path))


def _refuse_others(tables: Mapping[str, Any], path: Path) -> None:
    for table in tables.values():
        for start, (problem, remedy) in OTHERS.items():
            label = next((label for label in table if str(label).startswith(start)), None)
            if label is not None:
                raise InputError(f"{problem} (column {label})", file=path, remedy=remedy)


def _group_rows(particles: Any, optics: Any, path: Path) -> NDArray[np.int64]:
    """(n,) row of data_optics that each particle belongs to; a group alone is that of all particles."""
    for name, table in (("data_optics", optics), ("the particles", particles)):
        if "rlnOpticsGroup" not in table and len(optics) == 1:
            return np.zeros(len(particles), np.int64)
        if "rlnOpticsGroup" not in table:
            raise InputError(
                f"{name} have no column rlnOpticsGroup, and there are {len(optics)} optics groups",
                file=path,
                remedy="add the column, which says to which group each particle belongs",
            )
    groups = integers(optics["rlnOpticsGroup"], "rlnOpticsGroup of data_optics", path)
    if len(set(groups)) < len(groups):
        raise InputError("data_optics has two rows for one rlnOpticsGroup", file=path)
    wanted = integers(particles["rlnOpticsGroup"], "rlnOpticsGroup", path)
    absent = ~np.isin(wanted, groups)
    if absent.any():
        row = int(np.flatnonzero(absent)[0])
        has = first_few(groups, 20)
        raise InputError(f"optics group {wanted[row]} is not in data_optics, which has {has}", file=path, row=row + 1)
    order = np.argsort(groups)
    return order[np.searchsorted(groups[order], wanted)]


def _refuse_unsupported(fields: Fields) -> None:
    for label, problem in REFUSED.items():
        if label in fields and fields.numbers(label).any():
            raise InputError(f"{problem} (column {label})", file=fields.file)


def _ignored(fields: Fields) -> tuple[str, ...]:
    """A sentence on the columns that say something which is not modelled."""
    found = []
    for label in IGNORED:
        tables = [table for table in (fields.particles, fields.optics) if table is not None and label in table]
        if any(set(str(text)) & DIGITS for table in tables for text in set(table[label])):
            found.append(label)
    found += [label for label in MAGNIFICATION if label in fields and (fields.numbers(label) != 1).any()]
    if not found:
        return ()
    verb = "is" if len(found) == 1 else "are"
    return (f"{fields.file}: {', '.join(found)} {verb} not modelled and will be ignored",)


def _image_name(text: Any, row: int, path: Path) -> tuple[int, str]:
    """Split '000001@folder/stack.mrcs' into image number (from 1) and name."""
    number, at, name = str(text).partition("@")
    if not (at and name and number.isdecimal() and len(number) < 16 and int(number)):
        raise InputError(f"rlnImageName {text!r} is not NUMBER@STACK, counted from 1", file=path, row=row + 1)
    return int(number), name


def _pixel_size(fields: Fields) -> float | None:
    """Return the one pixel size (A) of all particles, None if the file has none."""
    if "rlnImagePixelSize" in fields:
        label, values = "rlnImagePixelSize", fields.numbers("rlnImagePixelSize")
    elif "rlnMagnification" in fields and "rlnDetectorPixelSize" in fields:
        label, values = DETECTOR, _pixels_of_detector(fields)
    elif "rlnPixelSize" in fields:
        label, values = "rlnPixelSize", fields.numbers("rlnPixelSize")
    else:
        return None
    _refuse_mixed_optics(fields, values, "pixel size")
    return check_pixel_size(common_value(values, label, fields.file), label, fields.file)


def _pixels_of_detector(fields: Fields) -> Float64:
    """(n,) pixel sizes (A) of RELION 3.0; magnifications may differ where detectors do."""
    magnification = fields.numbers("rlnMagnification")
    if not (magnification > 0).all():
        row = int(np.flatnonzero(~(magnification > 0))[0])
        problem = f"rlnMagnification must be positive, not {magnification[row]:g}"
        raise InputError(problem, file=fields.file, row=row + 1, remedy="correct it or give --pixel-size in A")
    return 1e4 * fields.numbers("rlnDetectorPixelSize") / magnification


def _other_pixel_size(fields: Fields, taken: float | None) -> tuple[str, ...]:
    """A note where the older columns of the pixel size contradict the newer one, which is taken."""
    if "rlnImagePixelSize" not in fields or not {"rlnMagnification", "rlnDetectorPixelSize"} <= set(fields.particles):
        return ()
    other = stated(lambda fields: float(np.median(_pixels_of_detector(fields))), fields, needed=False)
    if taken is None or other is None or abs(other - taken) <= 0.01 * taken:
        return ()
    return (f"the pixel size is {taken:.5g} A by rlnImagePixelSize, which is taken, and {other:.5g} A by {DETECTOR}",)


def _box_size(fields: Fields) -> int | None:
    if "rlnImageSize" not in fields:
        return None
    sizes = fields.numbers("rlnImageSize")
    _refuse_mixed_optics(fields, sizes, "box size")
    return common_box(sizes, "rlnImageSize", fields.file)


def _refuse_mixed_optics(fields: Fields, values: Float64, quantity: str) -> None:
    """Several optics groups on different grids: say which group has which."""
    if fields.group_row is None or np.ptp(values) <= 1e-4 * np.abs(values).max():
        return
    rows, first = np.unique(fields.group_row, return_index=True)
    groups = fields.optics["rlnOpticsGroup"].iloc[rows]
    table = first_few([f"group {group}: {values[k]:g}" for group, k in zip(groups, first, strict=True)], 20)
    raise InputError(
        f"the particles differ in {quantity} ({table})",
        file=fields.file,
        remedy="bring them to one box and pixel size first, or give one group's particles",
    )


def _rotations(fields: Fields) -> Float64 | None:
    present = [label for label in EULER_ANGLES if label in fields]
    if not present:
        return None
    if len(present) < 3:
        absent = [label for label in EULER_ANGLES if label not in fields]
        flat = "the angles of a 2D classification make no map, give the particles of a 3D refinement"
        remedy = flat if present == ["rlnAnglePsi"] else "add what is missing"
        raise InputError(f"there is {', '.join(present)} but no {', '.join(absent)}", file=fields.file, remedy=remedy)
    return euler_to_matrices(*(fields.numbers(label) for label in EULER_ANGLES))


def _shifts(fields: Fields, pixel_size: float | None) -> Float64:
    """(n, 2) origins in A: of 3.1 and later as they are, of 3.0 from pixels; zero if there are none."""
    for labels, in_pixels in ((("rlnOriginXAngst", "rlnOriginYAngst"), False), (("rlnOriginX", "rlnOriginY"), True)):
        present = [label for label in labels if label in fields]
        if len(present) == 1:
            raise InputError(f"there is {present[0]} but not its partner of {' and '.join(labels)}", file=fields.file)
        if present and in_pixels and pixel_size is None:
            raise InputError("origins in pixels but no pixel size", file=fields.file, remedy="give --pixel-size in A")
        if present:
            origins = np.column_stack([fields.numbers(label) for label in labels])
            return origins * pixel_size if in_pixels else origins  # type: ignore[operator]
    return np.zeros((len(fields.particles), 2))


def _picks(fields: Fields, shifts: Float64, pixel_size: float | None) -> Picks | None:
    """Return coordinates less origins, as RELION tells duplicates, in A; None where the file has no coordinates.

    They are in pixels of the micrographs; where the file does not say how large these are, in pixels of the images.
    """
    axes = ("rlnCoordinateX", "rlnCoordinateY")
    if any(label not in fields.particles for label in ("rlnMicrographName", *axes)):
        return None
    names, index = unique_names(fields.particles["rlnMicrographName"])
    known = ("rlnMicrographOriginalPixelSize", "rlnMicrographPixelSize")
    label = next((label for label in known if label in fields), None)
    if label is None and pixel_size is None:
        return None
    size = fields.numbers(label) if label else np.full(len(index), pixel_size)
    coordinates = np.column_stack([fields.numbers(axis) for axis in axes]) * size[:, None]
    return Picks(names, index, coordinates - shifts)


def _ctf(fields: Fields) -> CtfParameters:
    defocus_u = fields.numbers("rlnDefocusU", remedy=NEEDS_CTF)
    defaults: Mapping[str, Float64 | float] = {
        "defocus_v": defocus_u, "defocus_angle": 0, "phase_shift": 0, "b_factor": 0, "scale": 1,
    }  # fmt: skip
    columns = {name: fields.numbers(label, defaults.get(name), NEEDS_CTF) for name, label in CTF_COLUMNS.items()}
    table = fields.particles
    shared = GROUP in table and table[GROUP].nunique() < len(table)
    hint = f", and rows share an {GROUP} here, as the tilt images of one particle do" if shared else ""
    return check_ctf(CtfParameters(**columns), CTF_COLUMNS, fields.file, hint)


def write_star(path: str | Path, stack: ParticleStack, optics_group_name: str = "opticsGroup1") -> None:
    """Write a stack as a RELION 3.1 STAR file, atomically; image names are relative to the file's folder.

    Angles are written to 1e-6 degree, origins and defocus to 1e-4 A. Particles of different optics groups, voltage, Cs
    or amplitude contrast get an optics group each. A data sign of -1 goes into a column of our own, and so does the
    specimen where several particles are of one.
    """
    ctf = stack.ctf
    own_groups = np.zeros(len(stack)) if stack.optics_group is None else stack.optics_group
    constants = np.column_stack([ctf.voltage_kv, ctf.spherical_aberration_mm, ctf.amplitude_contrast, own_groups])
    groups, group = np.unique(constants, axis=0, return_inverse=True)
    names = [optics_group_name] + [f"{optics_group_name}_{k + 1}" for k in range(1, len(groups))]
    optics = {
        "rlnOpticsGroup": [str(k + 1) for k in range(len(groups))],
        "rlnOpticsGroupName": names,
        "rlnVoltage": _text(groups[:, 0], 4),
        "rlnSphericalAberration": _text(groups[:, 1], 6),
        "rlnAmplitudeContrast": _text(groups[:, 2], 6),
        "rlnImagePixelSize": [f"{stack.pixel_size:.9g}"] * len(groups),
        "rlnImageSize": [str(stack.box_size)] * len(groups),
        "rlnImageDimensionality": ["2"] * len(groups),
    }
    text = f"# version 30001, written by gsworkbench {__version__}\n\n" + _loop("optics", optics)
    text += "\n# version 30001\n\n" + _loop("particles", _particle_columns(Path(path), stack, group.ravel() + 1))
    write_text(path, text)


def _particle_columns(path: Path, stack: ParticleStack, group: NDArray[np.integer]) -> dict[str, list[str]]:
    ctf = stack.ctf
    columns = {"rlnImageName": _image_names(path, stack)}
    if stack.rotations is not None:
        columns |= {k: _text(v, 8) for k, v in zip(EULER_ANGLES, matrices_to_euler(stack.rotations).T, strict=True)}
    if stack.rotations is not None or stack.shifts_angstrom.any():
        columns |= {f"rlnOrigin{axis}Angst": _text(stack.shifts_angstrom[:, k], 6) for k, axis in enumerate("XY")}
    columns |= {CTF_COLUMNS[name]: _text(getattr(ctf, name), 4) for name in ("defocus_u", "defocus_v", "defocus_angle")}
    columns["rlnPhaseShift"] = _text(ctf.phase_shift, 6)
    if ctf.b_factor.any():
        columns["rlnCtfBfactor"] = _text(ctf.b_factor, 6)
    if (ctf.scale != 1).any():
        columns["rlnCtfScalefactor"] = _text(ctf.scale, 8)
    columns["rlnOpticsGroup"] = [str(k) for k in group]
    if stack.half_set.any():
        columns["rlnRandomSubset"] = [str(k) for k in stack.half_set]
    if stack.class_number is not None:
        columns["rlnClassNumber"] = [str(k) for k in stack.class_number]
    if stack.unit is not None:
        columns[SPECIMEN] = [str(k) for k in stack.unit]
    if (stack.data_sign != 1).any():
        columns[DATA_SIGN] = [str(k) for k in stack.data_sign]
    return columns


def write_with_half_sets(source: str | Path | None, path: str | Path, stack: ParticleStack) -> None:
    """Write `stack` with its half sets for other programs and for our own readers, atomically.

    Of a STAR `source` the stack's rows are kept as they stand, every table and column, and rlnRandomSubset is set or
    added. An image name changes only where it would no longer lead to its image from the new file's folder or the
    current one. A source of another format, one whose poses or CTF the stack does not use, and one particle written
    without a loop_ give a STAR file of ours (`write_star`).
    """
    if source is None or Path(source).suffix != ".star" or not _agrees(Path(source), stack):
        write_star(path, stack)
        return
    lines = star_tables.read_lines(source)
    blocks, _ = star_tables.scan(lines, source)
    block = next(blocks[name] for name in PARTICLE_BLOCKS if name in blocks)
    if not block.is_loop:
        write_star(path, stack)
        return
    rows = _leading_rows(Path(path), stack, [lines[block.row_lines[row]] for row in stack.source_row], block)
    header = lines[: block.last_label_line + 1]
    if "rlnRandomSubset" in block.labels:
        column = block.labels.index("rlnRandomSubset")
        rows = [_replaced(row, column, str(half)) for row, half in zip(rows, stack.half_set, strict=True)]
    else:
        header.append(f"_rlnRandomSubset #{len(block.labels) + 1}")
        rows = [f"{_uncommented(row)} {half}" for row, half in zip(rows, stack.half_set, strict=True)]
    between = lines[block.last_label_line + 1 : block.row_lines[0]]
    write_text(path, "\n".join(header + between + rows + lines[block.row_lines[-1] + 1 :]).rstrip("\n") + "\n")


def _agrees(source: Path, stack: ParticleStack) -> bool:
    """Whether the source's own poses and CTF are those of the stack (a cryoDRGN pickle may have replaced them)."""
    try:
        metadata = read_star(source, pixel_size=stack.pixel_size, own_pixels=True)
    except InputError:  # what it lacks came from elsewhere
        return False
    rows = stack.source_row
    if (rows >= len(metadata.image_index)).any():  # the file was shortened since it was read
        return False
    other_pixels = abs((metadata.pixel_size or stack.pixel_size) / stack.pixel_size - 1) > 0.01
    if metadata.box_size not in (None, stack.box_size) or other_pixels:  # images that the table was not written for
        return False
    assert metadata.ctf is not None
    pairs = [(getattr(metadata.ctf[rows], name), getattr(stack.ctf, name)) for name in CTF_COLUMNS]
    pairs.append((metadata.shifts_angstrom[rows], stack.shifts_angstrom))
    if metadata.rotations is not None and stack.rotations is not None:
        pairs.append((metadata.rotations[rows], stack.rotations))
    known = (metadata.rotations is None) == (stack.rotations is None)
    return known and all(np.allclose(a, b, rtol=1e-6, atol=1e-6) for a, b in pairs)


def _leading_rows(path: Path, stack: ParticleStack, rows: list[str], block: star_tables.Block) -> list[str]:
    """Return rows whose image names lead to their images from `path`: those that do stay as they are."""
    column = block.labels.index("rlnImageName")
    leads: dict[tuple[str, int], bool] = {}
    result = []
    for row, new, file, image in zip(rows, _image_names(path, stack), stack.file_index, stack.image_index, strict=True):
        number, _, name = star_tables.TOKEN.findall(row)[column].strip("\"'").partition("@")
        key = (name, int(file))
        if key not in leads:
            places = [folder / name for folder in (path.absolute().parent, Path.cwd())]
            leads[key] = {p.resolve() for p in places if is_file(p)} == {stack.files[file].resolve()}
        stays = leads[key] and int(number) == image + 1
        result.append(row if stays else _replaced(row, column, new))
    return result


def relative_names(path: Path, stack: ParticleStack) -> list[str]:
    """Return the name of each of the stack's files in a STAR file `path`, or raise InputError if it cannot hold one."""
    folder = path.absolute().parent
    files = [os.path.relpath(file, folder) for file in stack.files]
    for file in files:
        if set(file) & set("#\"'\n\r"):
            raise InputError("STAR files cannot hold a path with '#' or quotes", file=file, remedy="rename it")
        if any("\ud800" <= character <= "\udfff" for character in file):  # bytes that Python could not decode
            raise InputError("STAR files cannot hold a path that is not UTF-8", file=file, remedy="rename it")
    return files


def _image_names(path: Path, stack: ParticleStack) -> list[str]:
    files = relative_names(path, stack)
    places = zip(stack.file_index, stack.image_index, strict=True)
    return [_quoted(f"{image + 1:06d}@{files[file]}") for file, image in places]


def _quoted(text: str) -> str:
    return f'"{text}"' if len(text.split()) > 1 else text


def _text(values: NDArray[Any], decimals: int) -> list[str]:
    return [f"{value:.{decimals}f}" for value in values]


def _loop(name: str, columns: Mapping[str, list[str]]) -> str:
    labels = "".join(f"_{label} #{k}\n" for k, label in enumerate(columns, 1))
    rows = "".join(" ".join(row) + "\n" for row in zip(*columns.values(), strict=True))
    return f"data_{name}\n\nloop_\n{labels}{rows}"


def _replaced(row: str, column: int, value: str) -> str:
    """Return a row with one of its values replaced and everything else as it stands."""
    place = list(star_tables.TOKEN.finditer(row))[column]
    return row[: place.start()] + value + row[place.end() :]


def _uncommented(row: str) -> str:
    """Return a row without a comment at its end: what follows '#' would hide a value added there."""
    return row.partition("#")[0].rstrip()
