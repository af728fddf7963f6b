"""Maps from files that are to be compared: read onto one grid, with one voxel size, and with what must be said of it.

Headers are not always right: programs that do not know the voxel size write 1 A, or 0. A voxel size that the user gives
overrules every header; of a mask only the box must match.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gsworkbench.errors import InputError
from gsworkbench.io.mrc import Map, MapPlace, map_place, map_voxel_size, read_header, read_map

SAME_SIZE = 0.01  # voxel sizes that differ by no more are the same
_LARGEST = 1e4  # A; no voxel is larger


@dataclass(frozen=True)
class MapsOnOneGrid:
    """Maps, then masks, in the order in which they were asked for.

    volumes : (D, D, D) each. voxel_size : A, of all. place : where the header of the first map puts it. notes :
    sentences on headers that do not agree or cannot be right.
    """

    volumes: tuple[Map, ...]
    voxel_size: float
    place: MapPlace
    notes: tuple[str, ...]


def read_maps(
    first: Path, *others: Path, masks: Sequence[str | Path] = (), voxel_size: float | None = None
) -> MapsOnOneGrid:
    """Read maps, then masks, that must have the box of the first.

    voxel_size : A, overrules the headers of all of them. A map that is the same everywhere, and headers that
    contradict each other, raise InputError.
    """
    if voxel_size is not None and not 0 < voxel_size < _LARGEST:
        raise InputError(f"a voxel size of {voxel_size:g} A is not possible", remedy="give --voxel-size in A per voxel")
    maps = (first, *others)
    size, notes = (voxel_size, _overruled(maps, voxel_size)) if voxel_size else _agreed_size(maps)
    volumes: list[Map] = []
    for path in (*maps, *map(Path, masks)):
        volume, _ = read_map(path, voxel_size=size)
        if volumes and volume.shape != volumes[0].shape:
            raise InputError(
                f"its grid, {len(volume)} voxels of {_said(path, size)}, is not that of {first}, {len(volumes[0])} "
                f"voxels of {size:.4g} A",
                file=path,
            )
        volumes.append(volume)
    for path, volume in zip(maps, volumes, strict=False):  # a mask may be the same everywhere
        if not np.ptp(volume) > 0:
            raise InputError("all voxels of the map have the same value, so it cannot be compared", file=path)
    notes += [note for mask in masks if (note := _other_size(Path(mask), size))]
    notes += [note for path in (*others[:1], *map(Path, masks)) if (note := _other_place(first, path, size))]
    return MapsOnOneGrid(tuple(volumes), size, map_place(first), tuple(notes))


def unknown_size(size: float | None) -> bool:
    """Whether a header's voxel size may be that of a program that did not know: none, or 1 A exactly."""
    return size is None or abs(size - 1) < 1e-6


def _agreed_size(paths: Sequence[Path]) -> tuple[float, list[str]]:
    """Return the voxel size that the headers of maps agree on, and what must be said of those that say another."""
    said = [map_voxel_size(path) for path in paths]
    pairs = list(zip(paths, said, strict=True))
    known = [(path, size) for path, size in pairs if size is not None and not unknown_size(size)]
    if not known:
        if all(size is None for size in said):
            raise InputError("the header has no voxel size", file=paths[0], remedy="give --voxel-size, in A per voxel")
        which = ", ".join(path.name for path, size in pairs if size is not None)
        return 1.0, [
            f"{which}: the header says 1 A per voxel, which programs write that do not know it; if that is wrong, give "
            "--voxel-size"
        ]
    (first, size), *rest = known
    for path, other in rest:
        if abs(other / size - 1) > SAME_SIZE:
            raise InputError(
                f"its grid, {_box(path)} voxels of {other:.4g} A, is not that of {first}, {_box(first)} voxels of "
                f"{size:.4g} A",
                file=path,
                remedy="if a header is wrong, give --voxel-size, in A per voxel",
            )
    return size, [
        f"{path.name}: the header says {'no voxel size' if other is None else '1 A per voxel'}, as programs write that "
        f"do not know it; {size:.4g} A is taken, as the header of {first.name} says"
        for path, other in pairs
        if unknown_size(other)
    ]


def _overruled(paths: Sequence[Path], size: float) -> list[str]:
    """Name the maps whose header says another voxel size than the one given."""
    return [
        f"{path.name}: --voxel-size {size:.4g} A overrules the header, which says {_said(path, size)}"
        for path in paths
        if _said(path, size) != f"{size:.4g} A"
    ]


def _said(path: Path, size: float) -> str:
    """What a header says of the voxel size, in words; "SIZE A" where it says `size` within SAME_SIZE."""
    try:
        found = map_voxel_size(path)
    except InputError:  # not cubes
        return " x ".join(f"{s:.4g}" for s in read_header(path).voxel_sizes) + " A"
    if found is None:
        return "nothing of it"
    return f"{size if abs(found / size - 1) <= SAME_SIZE else found:.4g} A"


def _box(path: Path) -> int:
    return read_header(path).shape[0]


def _other_size(mask: Path, size: float) -> str | None:
    """Only the box of a mask must match: it says of each voxel how much of it counts."""
    said = _said(mask, size)
    if said == f"{size:.4g} A":
        return None
    return f"{mask.name}: the mask's header says {said}, the maps have voxels of {size:.4g} A; the maps' is taken"


def _other_place(first: Path, path: Path, size: float) -> str | None:
    """Maps are compared voxel by voxel, wherever their headers put them."""
    ours, theirs = map_place(first), map_place(path)
    if np.allclose(ours.origin, theirs.origin, atol=0.01 * size) and ours.starts == theirs.starts:
        return None
    return (
        f"{path.name} and {first.name} lie in different places by their headers (ORIGIN {_numbers(theirs.origin)} and "
        f"{_numbers(ours.origin)} A, first voxel {_numbers(theirs.starts)} and {_numbers(ours.starts)}): they are "
        f"compared voxel by voxel, and what is made of them lies where {first.name} lies"
    )


def _numbers(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"
