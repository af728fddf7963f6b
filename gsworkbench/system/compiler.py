"""Loads the compiled C++: from the wheel if it carries what is needed, else compiled at first use.

What is compiled here is kept in the user's cache. The name of a library holds a digest of sources, options and platform
(kernels/build.py): an edited source, an editable install, or a home shared by unlike machines never meets a stale one.

The libraries need an OpenMP runtime, libgomp.so.1, and link it dynamically. torch, which is imported first, has loaded
the one it ships under that very name, so the loader takes that one: there is one runtime with one pool of threads, and
none has to be installed. A second, static copy would start threads of its own beside torch's.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import platform
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import torch

from gsworkbench.io.files import atomic_path, remove_strays_of
from gsworkbench.io.locks import held
from gsworkbench.kernels.build import BUILT, capabilities, file_name, options


class BuildError(Exception):
    """The library cannot be built or loaded here; the message is a sentence that says why and what to do."""


def capability() -> str:
    """Return "AVX512", "AVX2" or "baseline": the instructions of the libraries that are used here."""
    found = torch.backends.cpu.get_cpu_capability()
    return found if found in capabilities() else "baseline"


@functools.cache
def library(*sources: Path) -> ctypes.CDLL:
    """Load the library of some C++ files of one folder; compile it (some seconds) if no one has yet."""
    carried = BUILT / file_name(sources, capability())
    if carried.exists():
        with contextlib.suppress(OSError):  # a wheel for another system; compile it here
            return ctypes.CDLL(str(carried))
    path = cache_folder() / file_name(sources, capability(), platform.libc_ver(), os.environ.get("CXX"))
    if not path.exists():
        with _only_one(path):
            if not path.exists():
                _build(sources, path, options(capability()))
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise BuildError(f"the compiled {sources[0].name} does not load ({error}); delete {path}") from error


def cache_folder() -> Path:
    """XDG_CACHE_HOME/gsworkbench, by default ~/.cache/gsworkbench."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gsworkbench"


@contextlib.contextmanager
def _only_one(path: Path) -> Iterator[None]:
    """Wait for whoever builds the same library, and remove what was left by one that was killed."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # a folder that cannot be written is told of by the build
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(held(path.with_suffix(".lock"), path, wait=True))
            remove_strays_of(path)
        yield


def _build(sources: tuple[Path, ...], path: Path, options: tuple[str, ...]) -> None:
    compiler = _compiler()
    try:
        with atomic_path(path) as temporary:
            command = [*compiler, *options, *map(str, sources), "-o", str(temporary)]
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            if result.returncode:
                said = next((line for line in result.stderr.splitlines() if "error" in line), result.stderr.strip())
                raise BuildError(f"{compiler[0]} cannot compile {sources[0].name} ({said[-300:]}); name another by CXX")
    except OSError as error:
        raise BuildError(
            f"{sources[0].name} cannot be built ({error}); set XDG_CACHE_HOME to a folder that can be written"
        ) from error


def _compiler() -> list[str]:
    named = shlex.split(os.environ.get("CXX", ""))
    candidates = [named[0]] if named else ["g++", "clang++", "c++"]
    found = next((c for c in candidates if shutil.which(c)), None)
    if found is None:
        raise BuildError(
            f"there is no C++ compiler here ({', '.join(candidates)}); install one (apt install g++, or conda install "
            "cxx-compiler), or name one by CXX"
        )
    return named or [found]
