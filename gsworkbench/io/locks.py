"""One writer at a time: a folder or a file belongs to the process that makes it, and to no process that has died.

Locks are the kernel's (flock) on a hidden file, which names the holder and goes when the holder is done; what a killed
process leaves of it is no lock. On NFS they hold between machines where its lock service runs. Where a file system has
no locks (some clusters' scratch), work goes on without, and a warning says so.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from gsworkbench.errors import Note
from gsworkbench.io.files import appear_together, remove_strays_of, strays

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextlib.contextmanager
def lock_folder(folder: Path, *parts: str) -> Iterator[None]:
    """Hold a folder while its files are made, and remove what killed processes left in it and in its `parts`.

    One that another process holds raises BlockingIOError, which names that process. A folder that is new and stays
    empty is removed again.
    """
    new = [place for place in (folder, *folder.parents) if not place.exists()]
    with _named(folder):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        with held(folder / ".lock", folder):
            for stray in (stray for place in ("", *parts) for stray in strays(folder / place)):
                stray.unlink(missing_ok=True)
            yield
    finally:
        for place in new:
            with contextlib.suppress(OSError):  # there is something in it
                place.rmdir()


@contextlib.contextmanager
def outputs(folder: Path) -> Iterator[None]:
    """Hold a folder, as `lock_folder`, while a few files are made that appear together or not at all."""
    with lock_folder(folder), appear_together():
        yield


@contextlib.contextmanager
def lock_file(file: Path) -> Iterator[None]:
    """Hold a file that is being made, and remove what killed processes left of it."""
    with _named(file):
        file.parent.mkdir(parents=True, exist_ok=True)
    with held(file.with_name(f".{file.name}.lock"), file):
        remove_strays_of(file)
        yield


@contextlib.contextmanager
def held(lock: Path, what: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the file `lock`, which stands for `what`; if another process does, wait for it or raise BlockingIOError."""
    with _named(what):
        file = _acquire(lock, what, wait)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)  # before it is let go of: who waits for it notices and makes a new one
        file.close()


def _acquire(lock: Path, what: Path, wait: bool) -> TextIO:
    """Open and lock a file, and write who we are into it."""
    while True:
        with contextlib.ExitStack() as opened:
            file = opened.enter_context(open(lock, "a+", encoding="utf-8"))
            _lock(file, what, wait)
            if _same_file(lock, file):
                with contextlib.suppress(OSError):  # a full disk: then the lock has no name
                    file.truncate(0)
                    os.write(file.fileno(), f"process {os.getpid()} on {socket.gethostname()}\n".encode())
                opened.pop_all()  # it stays open as long as it is held
                return file


def _lock(file: TextIO, what: Path, wait: bool) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError as error:
        file.seek(0)
        holder = file.read().strip() or "another process"
        sentence = f"{holder} is writing there; wait for it, or choose another name"
        raise BlockingIOError(error.errno, sentence, str(what)) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        warnings.warn(f"{what}: this file system has no locks; start no second run into it", Note, stacklevel=2)


def _same_file(path: Path, file: TextIO) -> bool:
    """Whether a path still is the file that was opened: who let go of it may have removed it since."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    return False


@contextlib.contextmanager
def _named(what: Path) -> Iterator[None]:
    """Say of what cannot be written that it cannot be written."""
    try:
        yield
    except BlockingIOError:
        raise
    except OSError as error:
        sentence = f"cannot be written ({error.strerror}); choose another folder"
        raise OSError(error.errno, sentence, str(what)) from error
