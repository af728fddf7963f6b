"""Files written whole or not at all, alone or together, and their fingerprints.

What is written survives a kill, a full disk and a loss of power: it is complete on the disk before it gets its name.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from gsworkbench.errors import InputError

_waiting: ContextVar[list[tuple[Path, Path]] | None] = ContextVar("_waiting", default=None)


def require_plain_file(path: str | Path) -> None:
    """Raise InputError for a pipe, a device or a socket: reading one can wait or go on for ever. Absent files pass."""
    if (path := Path(path)).exists() and not path.is_file() and not path.is_dir():
        raise InputError("not a plain file", file=path, remedy="copy its contents to a file first")


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` if the block succeeds, else delete it.

    The temporary name keeps the suffix (`.mrc`, `.png`), which many writers use to choose a format, and is
    hidden, so that a killed run leaves nothing that looks finished. Inside a block of `together` the file gets its name
    at the end of that block. A disk that is full or cannot be written raises OSError with a sentence that says so.
    """
    path = Path(path)
    waiting = _waiting.get()
    with _named_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=f".part{path.suffix}")
        os.close(handle)
    temporary = Path(name)
    try:
        with _named_errors(path, among=(name,)):
            yield temporary
        with _named_errors(path):
            _finalise(temporary)
            if waiting is None:
                _rename({temporary: path})
            else:
                waiting.append((temporary, path))
    finally:
        if waiting is None or (temporary, path) not in waiting:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def appear_together(*, instead_of: Sequence[Path] = ()) -> Iterator[None]:
    """What `atomic_path` writes inside the block appears at its end, in the order of writing, or not at all.

    instead_of : files of an earlier state, which are removed in the same moment if they were not written anew. A kill
    in that moment (a millisecond) leaves what has its name already; so write last what says that all is there, and
    name it first in `instead_of`. Disk space for both states is needed. Blocks are not nested.
    """
    assert _waiting.get() is None
    waiting: list[tuple[Path, Path]] = []
    token = _waiting.set(waiting)
    try:
        yield
        for path in instead_of:
            path.unlink(missing_ok=True)
        _rename(dict(waiting))
    finally:
        _waiting.reset(token)
        for temporary, _ in waiting:
            temporary.unlink(missing_ok=True)


def _finalise(temporary: Path) -> None:
    """Give a file the rights of a new one (mkstemp's are its owner's alone), and bring it to the disk."""
    umask = os.umask(0)
    os.umask(umask)
    temporary.chmod(0o666 & ~umask)
    _sync(temporary)


def _rename(files: dict[Path, Path]) -> None:
    for temporary, path in files.items():
        os.replace(temporary, path)
    for folder in {path.parent for path in files.values()}:  # else a loss of power may undo the renaming
        _sync(folder)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _named_errors(path: Path, among: tuple[str, ...] = ()) -> Iterator[None]:
    """Turn an OSError into one that names `path` and what to do. `among` : only if it is about these files, or none."""
    try:
        yield
    except OSError as error:
        if among and error.filename is not None and str(error.filename) not in among:
            raise
        why = error.strerror or f"{error}: is the disk full?"  # NumPy says how much it could write, not why
        sentence = f"cannot be written ({why}); make room there or choose another folder"
        raise OSError(error.errno or 0, sentence, str(path)) from error


def strays(folder: Path) -> list[Path]:
    """Return what killed processes left of the files they were writing into a folder; or live ones are writing."""
    return sorted(folder.glob(".*-????????.part*"))


def remove(path: Path) -> None:
    """Delete a file that may be there, and what killed runs left of it under the names of `atomic_path`."""
    remove_strays_of(path)
    path.unlink(missing_ok=True)


def remove_strays_of(path: Path) -> None:
    """Delete what killed runs left of one file under the names of `atomic_path`."""
    for leftover in path.parent.glob(f".{glob.escape(path.stem)}-*.part{path.suffix}"):
        leftover.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically; NaN and infinity are refused (JSON has neither)."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
