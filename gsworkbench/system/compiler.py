"""C++ sources with a plain C interface, built at first use for the processor at hand and kept in the user's cache.

A library is named by a hash of sources, options and platform: a checkout that moves on, an editable install, or a
home shared by unlike machines never meets a stale one, and the package stays free of binaries and of ties to torch.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
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

# No -ffast-math: it deletes roundings that are meant and, at link time, flushes denormals in the whole process.
OPTIONS = ("-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-fno-signed-zeros",
           "-fPIC", "-shared", "-fopenmp", "-Wno-psabi")  # fmt: skip
# By what torch calls the capability of the processor (ATEN_CPU_CAPABILITY lowers it); others get the baseline.
INSTRUCTIONS = {
    "AVX512": ("-mavx512f", "-mavx512vl", "-mavx512bw", "-mavx512dq", "-mavx2", "-mfma"),
    "AVX2": ("-mavx2", "-mfma"),
}


class BuildError(Exception):
    """The library cannot be built or loaded here; the message is a sentence that says why and what to do."""


def capability() -> str:
    """Return "AVX512", "AVX2" or "baseline": the instructions that libraries are built for here."""
    found = torch.backends.cpu.get_cpu_capability()
    return found if found in INSTRUCTIONS and platform.machine() in ("x86_64", "AMD64") else "baseline"


@functools.cache
def library(*sources: Path) -> ctypes.CDLL:
    """Load the library of some C++ files of one folder; build it (some seconds) if no one has yet."""
    options = (*OPTIONS, *INSTRUCTIONS.get(capability(), ()))
    digest = hashlib.sha256(repr((options, platform.machine(), platform.libc_ver(), os.environ.get("CXX"))).encode())
    for file in (*sources, *sorted(sources[0].parent.glob("*.h"))):
        digest.update(file.name.encode() + file.read_bytes())
    path = cache_folder() / f"{sources[0].stem}-{capability()}-{digest.hexdigest()[:16]}.so"
    if not path.exists():
        with _only_one(path):
            if not path.exists():
                _build(sources, path, options)
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
