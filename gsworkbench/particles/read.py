"""Readers of particle metadata and images, and their writers. Every reader ends in one ParticleStack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from gsworkbench.errors import InputError
from gsworkbench.io.mrc import (
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
from gsworkbench.particles.formats.assembly import to_stack
from gsworkbench.particles.formats.columns import check_pixel_size
from gsworkbench.particles.formats.cryodrgn import poses_alone, read_stack_list, write_cryodrgn_pickles
from gsworkbench.particles.formats.cryosparc import read_cryosparc
from gsworkbench.particles.formats.detect import unknown_format
from gsworkbench.particles.formats.grid import IMAGE_SCALES
from gsworkbench.particles.formats.metadata import Metadata
from gsworkbench.particles.formats.relion import read_star, write_star, write_with_half_sets
from gsworkbench.particles.stack import ParticleStack

__all__ = [
    "MapPlace",
    "Metadata",
    "map_origin",
    "map_place",
    "map_voxel_size",
    "new_image_stack",
    "read_identities",
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
    image_scale: str | None = None,
    no_ctf: bool = False,
    class_number: int | None = None,
    strict_paths: bool = False,
) -> ParticleStack:
    """Read particles from RELION, cryoSPARC or cryoDRGN files. Images stay on disk until they are needed.

    Parameters
    ----------
    path : str or Path
        A RELION .star file, a cryoSPARC .cs file, or for cryoDRGN's pickles an image stack (.mrcs, .mrc) or a .txt file
        that lists stacks.
    stack : str or Path, optional
        An image stack that replaces every image path in the metadata. Image numbers stay the same.
    datadir : str or Path, optional
        A folder to look for images in, after the folder of `path` and the current folder.
    poses, ctf : str or Path, optional
        cryoDRGN's pickles, with one row for each row of `path`. They replace the poses or the CTF of a .star or .cs
        file.
    indices : str or Path, optional
        cryoDRGN's ind.pkl: the rows to keep, in its order.
    passthrough : sequence of paths
        cryoSPARC's passthrough .cs files, which hold fields that `path` lacks.
    data_sign : 1 or -1, optional
        The factor that makes protein white. By default that of blob/sign in a .cs file, else +1.
    pixel_size : float, optional
        Angstrom. It replaces what the files say.
    image_scale : "downsampled" or "cropped", optional
        What was done to the images after the metadata were written. "downsampled": the same field of view in fewer
        pixels. "cropped": the same pixel size, with pixels cut off or padded.
    no_ctf : bool
        The images have no contrast transfer: the CTF is 1 at every frequency, whatever the files say.
    class_number : int, optional
        Keep only the particles of this class, numbered as in the file (RELION from 1, cryoSPARC from 0).
    strict_paths : bool
        Refuse images outside the folder of `path` and `datadir`. By default absolute paths and ".." are followed,
        because RELION projects use them.

    Returns
    -------
    ParticleStack
        Poses are rotations from the map frame to the microscope frame; shifts are in angstrom, and shifting an image by
        +shift centres it (see CONVENTIONS.md).

    Raises
    ------
    InputError
        If a file is absent, damaged, incomplete or contradicts another. The message names file, row and remedy.

    Examples
    --------
    >>> import gsworkbench as gs
    >>> particles = gs.read_particles("ribosome/particles.star")
    >>> len(particles), particles.box_size, particles.pixel_size
    (40, 32, 12.0)
    >>> particles[:3].images().shape
    (3, 32, 32)
    """
    path = Path(path)
    if data_sign not in (None, 1, -1):
        raise InputError(f"the data sign must be 1 or -1, not {data_sign}")
    if pixel_size is not None:
        check_pixel_size(pixel_size, "the pixel size that is asked for", None, otherwise="")
    if image_scale not in (None, *IMAGE_SCALES):
        raise InputError(f"images are {' or '.join(IMAGE_SCALES)}, not {image_scale!r}")
    if no_ctf and ctf is not None:
        raise InputError("a CTF file and no CTF exclude each other", remedy="give --ctf or --no-ctf, not both")
    needs_ctf = ctf is None and not no_ctf
    own_pixels = image_scale is not None
    if path.suffix == ".star":
        metadata = read_star(path, needs_ctf=needs_ctf, pixel_size=pixel_size, own_pixels=own_pixels)
    elif path.suffix == ".cs":
        metadata = read_cryosparc(path, passthrough, needs_ctf=needs_ctf, pixel_size=pixel_size, own_pixels=own_pixels)
    elif path.suffix in IMAGES:
        if poses is None or needs_ctf:
            raise InputError(
                "images alone have no poses and CTF",
                file=path,
                remedy="give --poses FILE and --ctf FILE, or --no-ctf in place of --ctf for images without contrast "
                "transfer",
            )
        metadata = read_stack_list(Path(stack or path), datadir)
    else:
        raise unknown_format(path)
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
        image_scale=image_scale,
        without_ctf=no_ctf,
        class_number=class_number,
        strict_paths=strict_paths,
    )
    return replace(found, also_read=tuple(Path(p) for p in (poses, ctf, indices, *passthrough) if p is not None))


def read_identities(
    path: str | Path,
    *,
    stack: str | Path | None = None,
    datadir: str | Path | None = None,
    passthrough: Sequence[str | Path] = (),
) -> ParticleStack:
    """Read which image each particle is and the half set it is in, for telling whether half sets share any.

    Poses may be absent, the CTF is not read (the stack has none, as with `no_ctf`), and the pixel size is not compared.
    """
    path = Path(path)
    if path.suffix == ".star":
        metadata = read_star(path, needs_ctf=False, needs_grid=False)
    elif path.suffix == ".cs":
        metadata = read_cryosparc(path, passthrough, needs_ctf=False, needs_grid=False)
    elif path.suffix in IMAGES:
        metadata = read_stack_list(Path(stack or path), datadir)
    else:
        raise unknown_format(path)
    return to_stack(metadata, path, stack=stack, datadir=datadir, without_ctf=True, identities_only=True)


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
    needs_ctf : read the CTF too; without, `ctf` is None, and a pixel size that is absent or impossible stops nothing.

    Raises InputError naming file, row and remedy, as `read_particles` does.
    """
    path = Path(path)
    if path.suffix == ".star":
        found = read_star(path, needs_ctf=needs_ctf, needs_grid=needs_ctf, needs_images=False)
    elif path.suffix == ".cs":
        found = read_cryosparc(path, passthrough, needs_ctf=needs_ctf, needs_grid=needs_ctf, needs_images=False)
    elif path.suffix == ".pkl":
        return poses_alone(path)
    elif path.suffix in IMAGES:
        if poses is None:
            raise InputError("images alone have no poses", file=path, remedy="give a .star, a .cs or a poses .pkl")
        return poses_alone(poses)
    else:
        raise unknown_format(path)
    if poses is None:
        return found
    rows = poses_alone(poses)
    if len(rows) != len(found):
        raise InputError(
            f"{len(found)} particles here but {len(rows)} in {poses}",
            file=path,
            remedy="one file is of other particles",
        )
    return replace(found, rotations=rows.rotations)
