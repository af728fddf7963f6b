"""Readers of particle metadata and images, and their writers. Every reader ends in one ParticleStack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from gsworkbench.errors import InputError
from gsworkbench.particles import ParticleStack
from gsworkbench.readers.assembly import to_stack
from gsworkbench.readers.cryodrgn import poses_alone, read_stack_list, write_cryodrgn_pickles
from gsworkbench.readers.cryosparc import read_cryosparc
from gsworkbench.readers.metadata import Metadata
from gsworkbench.readers.mrc import (
    MapPlace,
    map_origin,
    map_place,
    map_voxel_size,
    new_image_stack,
    read_images,
    read_map,
    stack_shape,
    write_map,
)
from gsworkbench.readers.star import read_star, write_star, write_with_half_sets

__all__ = [
    "MapPlace",
    "Metadata",
    "map_origin",
    "map_place",
    "map_voxel_size",
    "new_image_stack",
    "read_images",
    "read_map",
    "read_metadata",
    "read_particles",
    "stack_shape",
    "write_cryodrgn_pickles",
    "write_map",
    "write_star",
    "write_with_half_sets",
]

IMAGES = (".mrcs", ".mrc", ".txt")  # suffixes of image stacks, and of lists of them


def _unknown(path: Path) -> InputError:
    return InputError(
        f"particles are not read from {path.suffix or 'a file without a suffix'}",
        file=path,
        remedy="give a .star, .cs, .mrcs, .mrc or .txt",
    )


def read_particles(
    path: str | Path,
    *,
    stack: str | Path | None = None,
    datadir: str | Path | None = None,
    poses: str | Path | None = None,
    ctf: str | Path | None = None,
    indices: str | Path | None = None,
    passthrough: Sequence[str | Path] = (),
    data_sign: int | None = None,
    pixel_size: float | None = None,
    strict_paths: bool = False,
) -> ParticleStack:
    """Read particles from RELION, cryoSPARC or cryoDRGN files; images stay on disk.

    Parameters
    ----------
    path : a .star, a .cs, or for cryoDRGN's pickles an image stack (.mrcs, .mrc) or a .txt that lists stacks.
    stack : an image stack that stands in for every path the metadata give; image numbers stay.
    datadir : a folder to look for images in, after the metadata file's own and the current one.
    poses, ctf : cryoDRGN's pickles, row by row as in `path`; they replace the poses or CTF of a .star or .cs.
    indices : cryoDRGN's ind.pkl, the rows to keep, in its order.
    passthrough : cryoSPARC's passthrough .cs files, which give the fields that `path` lacks.
    data_sign : +1 or -1, the factor that makes protein white; default blob/sign of a .cs, else +1.
    pixel_size : A, in place of the files' own.
    strict_paths : refuse images that lie, links followed, outside the metadata file's folder and `datadir`. Without,
        absolute paths and '..' are followed, as they are usual in RELION's projects.

    Raises InputError naming file, row and remedy for files that are absent, damaged, contradictory or incomplete.
    """
    path = Path(path)
    if data_sign not in (None, 1, -1):
        raise InputError(f"the data sign must be 1 or -1, not {data_sign}")
    if pixel_size is not None and not 0 < pixel_size < float("inf"):
        raise InputError(f"the pixel size must be positive, not {pixel_size}")
    if path.suffix == ".star":
        metadata = read_star(path, needs_ctf=ctf is None, pixel_size=pixel_size)
    elif path.suffix == ".cs":
        metadata = read_cryosparc(path, passthrough, needs_ctf=ctf is None)
    elif path.suffix in IMAGES:
        if poses is None or ctf is None:
            raise InputError("images alone have no poses and CTF", file=path, remedy="give --poses FILE and --ctf FILE")
        metadata = read_stack_list(Path(stack or path), datadir)
    else:
        raise _unknown(path)
    found = to_stack(
        metadata,
        path,
        stack=stack,
        datadir=datadir,
        poses=poses,
        ctf=ctf,
        indices=indices,
        data_sign=data_sign,
        pixel_size=pixel_size,
        strict_paths=strict_paths,
    )
    return replace(found, also_read=tuple(Path(p) for p in (poses, ctf, indices, *passthrough) if p is not None))


def read_metadata(
    path: str | Path,
    *,
    poses: str | Path | None = None,
    passthrough: Sequence[str | Path] = (),
    needs_ctf: bool = False,
) -> Metadata:
    """Read what a metadata file says of its particles; no image file needs to be there.

    Parameters
    ----------
    path : a .star, a .cs, a poses .pkl of cryoDRGN, or images (.mrcs, .mrc, .txt), which need `poses` and stay unread.
    poses : cryoDRGN's poses.pkl, row by row as in `path`; they replace the poses of a .star or .cs.
    passthrough : cryoSPARC's passthrough .cs files.
    needs_ctf : read the CTF too; without, `ctf` is None.

    Raises InputError naming file, row and remedy, as `read_particles` does.
    """
    path = Path(path)
    if path.suffix == ".star":
        found = read_star(path, needs_ctf=needs_ctf)
    elif path.suffix == ".cs":
        found = read_cryosparc(path, passthrough, needs_ctf=needs_ctf)
    elif path.suffix == ".pkl":
        return poses_alone(path)
    elif path.suffix in IMAGES:
        if poses is None:
            raise InputError("images alone have no poses", file=path, remedy="give --poses FILE, or a .star or .cs")
        return poses_alone(poses)
    else:
        raise _unknown(path)
    if poses is None:
        return found
    rows = poses_alone(poses)
    if len(rows) != len(found):
        raise InputError(
            f"{len(found)} particles here but {len(rows)} in {poses}", file=path, remedy="one of the files is stale"
        )
    return replace(found, rotations=rows.rotations)
