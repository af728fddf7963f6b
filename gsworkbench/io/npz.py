"""NumPy's own files, .npy and .npz: read without running anything in them, and without believing their headers.

NumPy takes the memory that a header asks for before it looks whether the file is as long. Here the header is compared
with the file first. Archives as `numpy.savez` writes them, not compressed; no objects.
"""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from gsworkbench.io.files import require_plain_file


def load_array(path: str | Path) -> NDArray[Any]:
    """Return the array of a .npy file, or raise OSError or ValueError: damaged, forged, or of Python objects."""
    require_plain_file(path)
    with open(path, "rb") as file:
        _check_member(file, Path(path).stat().st_size)
    return np.asarray(np.load(path, allow_pickle=False))


def load_archive(path: str | Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of a .npz file by name, or raise OSError or ValueError as `load_array` does."""
    require_plain_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(info.file_size for info in archive.infolist()) > Path(path).stat().st_size:
                raise ValueError("its arrays are longer than the file")  # the same bytes, listed again and again
            for info in archive.infolist():
                if info.compress_type != zipfile.ZIP_STORED:
                    raise ValueError(f"{info.filename} is compressed")
                with archive.open(info) as member:
                    _check_member(member, info.file_size)
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except OSError:
        raise
    except Exception as error:  # zipfile meets damage with errors of a dozen types
        raise ValueError(f"{type(error).__name__}: {error}") from error


def check_header(file: IO[bytes], size: int) -> tuple[int, int]:
    """Return the version of a .npy file of `size` bytes, or raise ValueError for a header too large."""
    version = np.lib.format.read_magic(file)
    start = file.tell()
    length = int.from_bytes(file.read(2 if version == (1, 0) else 4), "little")
    if length > size:
        raise ValueError(f"a header of {length} bytes in a file of {size}")
    if length > 10_000 and file.read(length).count(b",") > length // 6:  # Python's objects are larger than their text
        raise ValueError("a header of more values than names")
    file.seek(start)
    return version


def _check_member(file: IO[bytes], size: int) -> None:
    """Compare what a .npy header says with the `size` of all of it."""
    try:
        version = check_header(file, size)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    except Exception as error:  # the header is Python text, and fails as such
        raise ValueError(f"not an array of NumPy's ({type(error).__name__})") from error
    if dtype.kind not in "biuf" or min(shape, default=0) < 0:
        raise ValueError(f"an array of {dtype}, not of plain numbers")
    if math.prod(shape) * dtype.itemsize != size - file.tell():
        raise ValueError(f"an array of shape {shape} in {size - file.tell()} bytes")
