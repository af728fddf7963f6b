"""MRC files: image stacks read through memory maps, maps read and written whole.

A stack is n square images, whatever its header calls itself (RELION's have space group 0, many others 1), and its
pixel size is taken from x alone (relion_project leaves the cell's z at zero). Origins (nxstart, origin) change no
number, for the centre is voxel D/2; `map_place` reads them and `write_map` writes them. Modes 0, 1, 2, 6 and 12, either
byte order, with or without map ID and machine stamp, .gz and .bz2. Not read: complex transforms, 4-bit images, volume
stacks.
"""

from __future__ import annotations

import bz2
import contextlib
import functools
import gzip
import os
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from gsworkbench import __version__
from gsworkbench.errors import InputError, Note
from gsworkbench.io.byte_order import ITEM_BYTES, byte_order
from gsworkbench.io.files import atomic_path, require_plain_file

ITEMS = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}  # of the modes we read

PIECE_BYTES = 2**16

# A map, (D, D, D) = z, y, x: of any precision, and in float32, as files and methods have them.
Map = NDArray[np.floating]
Volume = NDArray[np.float32]


@dataclass(frozen=True)
class Header:
    """What we use of an MRC header.

    shape (sections, rows, columns); voxel_sizes (x, y, z) in A, 0 where the header has none; axes: which of x, y, z
    (1, 2, 3) the sections, rows and columns run along; unsigned_bytes: mode 0 as IMOD once wrote it.
    """

    shape: tuple[int, int, int]
    voxel_sizes: tuple[float, float, float]
    axes: tuple[int, int, int]
    unsigned_bytes: bool


def read_images(path: str | Path, indices: NDArray[np.integer], *, warn_of_blank: bool = True) -> NDArray[np.float32]:
    """Read the images at `indices` (m,), counted from 0, as (m, D, D) float32, in the order asked for.

    Raises InputError for a file that is unsound, an index beyond its end, and pixels that are NaN or infinite. Warns of
    images that are the same everywhere.
    """
    stack, indices = _open(path), np.asarray(indices)
    outside = (indices < 0) | (indices >= len(stack))
    if outside.any():
        raise InputError(f"there is no image {indices[outside][0] + 1}, the stack holds {len(stack)}", file=path)
    images = stack[indices].astype(np.float32)
    broken = ~np.isfinite(images).all(axis=(1, 2))
    if broken.any():
        raise InputError(f"image {indices[broken][0] + 1} has pixels that are NaN or infinite", file=path)
    if warn_of_blank:
        _warn_of_blank(images, indices, path)
    return images


def announce_images(path: str | Path, indices: NDArray[np.integer]) -> None:
    """Have the system begin to read what lies between the first and the last of these images, and return at once.

    Does nothing for compressed files, which are read whole, where few of the images in between are wanted, and on
    systems other than Unix.
    """
    if len(indices) == 0 or not hasattr(os, "posix_fadvise") or not Path(path).exists() or _opener(path) is not open:
        return
    images = _open(path)
    size, first, count = images[0].nbytes, int(indices.min()), int(np.ptp(indices)) + 1
    if isinstance(images, np.memmap) and count <= 4 * len(indices):
        start, length = images.offset + first * size, count * size
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), start, length, os.POSIX_FADV_WILLNEED)


def _warn_of_blank(images: NDArray[np.float32], indices: NDArray[np.integer], path: str | Path) -> None:
    """Extraction at the edge of a micrograph leaves such images, and a copy that was cut off leaves many."""
    uniform = (images[:, 0] == images[:, :1, 0]).all(axis=1)  # the first row alone: few images need a second look
    blank = [index for index, image in zip(indices[uniform], images[uniform], strict=True) if not np.ptp(image)]
    if blank:
        sentence = (
            f"{path}: {len(blank)} of {len(images)} images are blank (all pixels alike), first image {blank[0] + 1}"
        )
        warnings.warn(f"{sentence}; they add nothing to a map, leave them out", Note, stacklevel=4)


def stack_shape(path: str | Path) -> tuple[int, int, float | None]:
    """Return (number of images, box size in px, pixel size in A or None if the header has none).

    Reads the header and compares it with the size of the file. Images must be square with an even side, because the
    centre of an odd box lies half a pixel elsewhere.
    """
    header = read_header(path)
    n, height, width = header.shape
    if height != width:
        raise InputError(f"the images are {width} x {height} px, not square", file=path)
    if width % 2:
        raise InputError(
            f"the images have an odd side of {width} px",
            file=path,
            remedy="crop or pad them to an even box with the program that extracted them",
        )
    return n, width, header.voxel_sizes[0] or None


@dataclass(frozen=True)
class MapPlace:
    """Where a header puts a map: its ORIGIN in A (MRC 2014), and the indices of its first column, row and section.

    Both are in the order x, y, z. Most maps have zeros in both.
    """

    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    starts: tuple[int, int, int] = (0, 0, 0)


def read_map(path: str | Path, *, voxel_size: float | None = None) -> tuple[NDArray[np.float32], float]:
    """Read a map from an MRC or CCP4 file, which may be compressed with gzip or bzip2.

    Parameters
    ----------
    path : str or Path
        The file. Its axis order (mapc, mapr, maps) is applied.
    voxel_size : float, optional
        Angstrom. It replaces the voxel size of the header.

    Returns
    -------
    volume : (D, D, D) float32 array
        The voxels in z, y, x order. The array is a copy, independent of the file.
    voxel_size : float
        Angstrom.

    Raises
    ------
    InputError
        If the file is not a readable map, the map is not a cube with an even side, the header has no voxel size or
        one that differs between the axes, or a voxel is NaN or infinite.

    Examples
    --------
    >>> import gsworkbench as gs
    >>> volume, voxel_size = gs.read_map("ribosome/truth.mrc")
    >>> volume.shape, voxel_size
    ((32, 32, 32), 12.0)
    """
    header = read_header(path)
    if len(set(header.shape)) > 1 or header.shape[0] % 2:
        voxels = " x ".join(map(str, header.shape[::-1]))
        raise InputError(f"the map has {voxels} voxels, not a cube of even side", file=path)
    _check_axes(header, path)
    size = voxel_size or map_voxel_size(path)
    if size is None:
        raise InputError("the header has no voxel size", file=path, remedy="give --voxel-size, in A")
    data = np.transpose(_open(path, keep=False), [header.axes.index(axis) for axis in (3, 2, 1)])
    volume = np.array(data, np.float32, order="C")  # the caller's own, whatever becomes of the file
    broken = np.count_nonzero(~np.isfinite(volume))
    if broken:
        raise InputError(f"{broken} voxels are NaN or infinite", file=path)
    return volume, size


def map_voxel_size(path: str | Path) -> float | None:
    """Return the voxel size in A that a map's header says, None where it says none; voxels must be cubes."""
    x, y, z = read_header(path).voxel_sizes
    if not (x and y and z):
        return None
    if not np.allclose([y, z], x, rtol=1e-3):
        sizes = f"{x:.5g} x {y:.5g} x {z:.5g} A"
        raise InputError(f"the voxels are {sizes}, not cubes", file=path, remedy="if that is wrong, give --voxel-size")
    return x


def map_place(path: str | Path) -> MapPlace:
    """Return where the header puts a map; values that are not finite count as zero."""
    raw, header = _raw_header(path), read_header(path)
    _check_axes(header, path)
    origin = np.nan_to_num(np.array([raw.origin.x, raw.origin.y, raw.origin.z], np.float64), posinf=0.0, neginf=0.0)
    starts = np.array([raw.nzstart, raw.nystart, raw.nxstart])  # of sections, rows and columns
    x, y, z = (int(starts[header.axes.index(axis)]) for axis in (1, 2, 3))
    return MapPlace((float(origin[0]), float(origin[1]), float(origin[2])), (x, y, z))


def map_origin(path: str | Path, voxel_size: float | None = None) -> NDArray[np.float64]:
    """(3,) x, y, z in A of voxel [0, 0, 0] of a map in the frame of its atomic model.

    The header's ORIGIN where one is set (MRC 2014), else the start indices times the voxel size (`voxel_size` where it
    is given, else the header's), as in EMDB's files and as ChimeraX reads them; zero in most maps, so that a coordinate
    is the voxel's index times the voxel size.
    """
    place = map_place(path)
    if any(place.origin):
        return np.array(place.origin)
    return np.array(place.starts) * (np.array(read_header(path).voxel_sizes) if voxel_size is None else voxel_size)


def write_map(
    path: str | Path,
    volume: NDArray[np.floating],
    voxel_size: float,
    label: str = "map",
    *,
    place: MapPlace | None = None,
) -> None:
    """Write a map as an MRC file of float32 voxels, with space group 1 and axes x, y, z.

    The file appears under its name when it is complete. The same map gives the same bytes.

    Parameters
    ----------
    path : str or Path
        The file to write. An existing file is replaced.
    volume : (D, D, D) array
        The voxels in z, y, x order.
    voxel_size : float
        Angstrom.
    label : str
        Text of the header's label, which begins with the version of this program and is cut at 80 characters.
    place : MapPlace, optional
        Origin and start indices of the header, usually those of the map that this one was made from. Zero by default.

    Raises
    ------
    ValueError
        If a voxel is NaN or infinite.

    Examples
    --------
    >>> import numpy as np
    >>> import gsworkbench as gs
    >>> gs.write_map("blob.mrc", np.ones((4, 4, 4)), 1.5)
    >>> gs.read_map("blob.mrc")[1]
    1.5
    """
    import mrcfile

    if not np.isfinite(volume).all():
        raise ValueError(f"{path}: the map to write has voxels that are NaN or infinite")
    with atomic_path(path) as temporary, mrcfile.new(temporary, np.asarray(volume, np.float32), overwrite=True) as mrc:
        mrc.set_volume()
        mrc.voxel_size = voxel_size
        if place is not None:
            mrc.header.origin.x, mrc.header.origin.y, mrc.header.origin.z = place.origin
            mrc.header.nxstart, mrc.header.nystart, mrc.header.nzstart = place.starts
        _set_label(mrc, label)


@contextlib.contextmanager
def new_image_stack(
    path: str | Path, n: int, box_size: int, pixel_size: float, *, dtype: type[np.floating[Any]] = np.float32
) -> Iterator[NDArray[Any]]:
    """Yield a writable memory map (n, box_size, box_size) of `dtype`; on success it becomes the stack `path`.

    float32 is MRC mode 2, float16 mode 12.
    """
    import mrcfile

    shape = (n, box_size, box_size)
    with atomic_path(path) as temporary:
        mode = {np.float32: 2, np.float16: 12}[dtype]
        _reserve(temporary, 1024 + ITEM_BYTES[mode] * n * box_size**2)
        with mrcfile.new_mmap(temporary, shape, mrc_mode=mode, overwrite=True) as mrc:
            _reserve(temporary, temporary.stat().st_size)  # once more: it begins by cutting the file to nothing
            mrc.set_image_stack()
            mrc.voxel_size = pixel_size
            yield mrc.data
            _set_statistics(mrc.header, mrc.data)
            _set_label(mrc, "particles")


def _reserve(path: Path, size: int) -> None:
    """Take the disk space of a file that would be all holes: a full disk under a memory map is the end (SIGBUS)."""
    if hasattr(os, "posix_fallocate"):
        with open(path, "rb+") as file:
            os.posix_fallocate(file.fileno(), 0, size)


def read_header(path: str | Path) -> Header:
    """Read and check a header: a size we can read, and a file as long as it says (compressed files aside)."""
    raw = _raw_header(path)
    shape = (int(raw.nz), int(raw.ny), int(raw.nx))
    if int(raw.mode) not in ITEM_BYTES:
        raise InputError(f"data of mode {raw.mode} are not read, only modes 0, 1, 2, 6 and 12", file=path)
    if min(shape) < 1 or raw.nsymbt < 0:
        raise InputError(f"the header is damaged: {shape[2]} x {shape[1]} x {shape[0]} pixels", file=path)
    if 401 <= raw.ispg <= 630:
        raise InputError("the file is a stack of volumes", file=path, remedy="give one volume or a stack of images")
    if _opener(path) is open:
        data_bytes = Path(path).stat().st_size - 1024 - int(raw.nsymbt)
        _check_length(path, shape, data_bytes, ITEM_BYTES[int(raw.mode)])
    voxel_sizes = [_voxel_size(float(raw.cella[a]), int(raw[f"m{a}"])) for a in "xyz"]
    imod_stamp, imod_flags = np.frombuffer(raw.extra2.tobytes()[40:48], raw.dtype["nx"])
    unsigned = raw.mode == 0 and imod_stamp == 1146047817 and not imod_flags & 1
    axes = (int(raw.maps), int(raw.mapr), int(raw.mapc))
    axes = axes if any(axes) else (3, 2, 1)  # headers that leave much at zero mean the usual axes
    return Header(shape, (voxel_sizes[0], voxel_sizes[1], voxel_sizes[2]), axes, bool(unsigned))


def _raw_header(path: str | Path) -> Any:
    """Return the header's 1024 bytes as a record in the file's byte order; the extended header stays unread."""
    from mrcfile.dtypes import HEADER_DTYPE

    require_plain_file(path)
    with _mrc_errors(path), _opener(path)(path, "rb") as file:
        data = file.read(HEADER_DTYPE.itemsize)
        length = Path(path).stat().st_size if _opener(path) is open else None
        order = byte_order(data, length) if len(data) == HEADER_DTYPE.itemsize else None
        if order is None and data[208:211] == b"MAP":
            raise ValueError("the header's sizes and mode are no MRC file's in either byte order")
        if order is None:
            raise ValueError("no map ID at byte 208, and what stands first are no sizes and mode in either byte order")
        return np.frombuffer(data, HEADER_DTYPE)[0].view(np.dtype((np.record, HEADER_DTYPE.newbyteorder(order))))


def _check_length(path: str | Path, shape: tuple[int, int, int], data_bytes: int, item_bytes: int) -> None:
    """A file shorter than its header says, or longer by whole images, is refused; a few stray bytes are not."""
    n, height, width = shape
    found = data_bytes / (height * width * item_bytes)
    if found < n:
        raise InputError(f"the file is truncated: its header says {n} images, it holds {max(found, 0):.4g}", file=path)
    if found >= n + 1:
        raise InputError(f"the header says {n} images, the file holds {found:.4g}", file=path, remedy="correct nz")


def _check_axes(header: Header, path: str | Path) -> None:
    if sorted(header.axes) != [1, 2, 3]:
        raise InputError(
            f"the header is damaged: columns, rows and sections run along axes {header.axes[::-1]}", file=path
        )


def _voxel_size(cell: float, intervals: int) -> float:
    size = cell / intervals if intervals > 0 else 0.0
    return size if np.isfinite(size) and size > 0 else 0.0


def _open(path: str | Path, *, keep: bool = True) -> NDArray[Any]:
    """Return the file's data (sections, rows, columns).

    With `keep`, they stay open, or decompressed in memory, for the next call while the file is unchanged.
    """
    try:
        state = Path(path).stat()
        opened = _memory_map if _opener(path) is open else _decompressed
    except OSError as error:
        raise InputError(f"the file cannot be read ({error.strerror})", file=path) from error
    version = (state.st_dev, state.st_ino, state.st_mtime_ns, state.st_ctime_ns, state.st_size)
    return (opened if keep else opened.__wrapped__)(str(path), (os.path.abspath(path), *version))


@functools.lru_cache(maxsize=8)
def _memory_map(path: str, file: tuple[str | int, ...]) -> NDArray[Any]:
    """`file`, here and below: what tells this file, in this state, from others that `path` may lead to."""
    raw, header = _raw_header(path), read_header(path)
    with _mrc_errors(path):
        return np.memmap(path, _item_type(raw, header), "r", 1024 + int(raw.nsymbt), header.shape)


@functools.lru_cache(maxsize=1)
def _decompressed(path: str, file: tuple[str | int, ...]) -> NDArray[Any]:
    raw, header = _raw_header(path), read_header(path)
    dtype = _item_type(raw, header)
    n, height, width = header.shape
    with _mrc_errors(path), _opener(path)(path, "rb") as stream:
        stream.seek(1024 + int(raw.nsymbt))
        data = _read_at_most(stream, (n + 1) * height * width * dtype.itemsize)
    _check_length(path, header.shape, len(data), dtype.itemsize)
    return np.frombuffer(data, dtype, n * height * width).reshape(header.shape)


def _item_type(raw: Any, header: Header) -> np.dtype[Any]:
    """The type of a pixel in the file's byte order."""
    kind = "u1" if header.unsigned_bytes else ITEMS[int(raw.mode)]
    return np.dtype(kind).newbyteorder(raw.dtype["nx"].byteorder)


def _read_at_most(file: IO[bytes], size: int) -> bytearray:
    """Read `size` bytes or to the end, in pieces: a forged header costs no more memory than there is data."""
    data = bytearray()
    while len(data) < size and (piece := file.read(min(size - len(data), PIECE_BYTES))):
        data += piece
    return data


def _opener(path: str | Path) -> Any:
    """Return what opens the file: gzip.open, bz2.open or open, by its first bytes."""
    with open(path, "rb") as file:
        first = file.read(2)
    return gzip.open if first == b"\x1f\x8b" else bz2.open if first == b"BZ" else open


@contextlib.contextmanager
def _mrc_errors(path: str | Path) -> Iterator[None]:
    """Turn what mrcfile says about an unsound file, its warnings included, into an InputError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            yield
    except FileNotFoundError as error:
        raise InputError("there is no such file", file=path) from error
    except (ValueError, OSError, EOFError, RuntimeWarning, zlib.error, MemoryError) as error:
        raise InputError(f"not a readable MRC file ({str(error).rstrip('.')})", file=path) from error


def _set_label(mrc: Any, label: str) -> None:
    mrc.header.label[:] = b""
    mrc.header.label[0] = f"gsworkbench {__version__}: {label}".encode("ascii", "replace")[:80]
    mrc.header.nlabl = 1


def _set_statistics(header: Any, images: NDArray[np.float32]) -> None:
    """Set minimum, maximum, mean and standard deviation image by image; mrcfile's own would hold all in memory."""
    mean = np.mean([image.mean(dtype=np.float64) for image in images])
    header.dmin = np.min([image.min() for image in images])
    header.dmax = np.max([image.max() for image in images])
    header.dmean = mean
    header.rms = np.sqrt(np.mean([np.square(image - mean).mean(dtype=np.float64) for image in images]))
