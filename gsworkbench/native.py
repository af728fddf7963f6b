"""C++ sources with a plain C interface, built at first use for the processor at hand and kept in the user's cache.

A library is named by a hash of sources, options and platform: a checkout that moves on, or a home shared by unlike
machines, never meets a stale one, and the package stays free of binaries.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
from pathlib import Path

import torch

from gsworkbench.files import atomic_path

# No -ffast-math: it deletes the rounding to a quantum and, at link time, flushes denormals in the whole process.
OPTIONS = ("-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-fno-signed-zeros",
           "-fPIC", "-shared", "-fopenmp")  # fmt: skip
# By what torch calls the capability of the processor.
INSTRUCTIONS = {
    "AVX512": ("-mavx512f", "-mavx512vl", "-mavx512bw", "-mavx512dq", "-mavx2", "-mfma"),
    "AVX2": ("-mavx2", "-mfma"),
}


class BuildError(Exception):
    """The library cannot be built or loaded here; the message is a sentence that says why and what to do."""


@functools.cache
def library(source: Path) -> ctypes.CDLL:
    """Load the library of one C++ file; build it (a second or two) if no one has yet."""
    capability = torch.backends.cpu.get_cpu_capability()
    x86 = platform.machine() in ("x86_64", "AMD64")
    options = (*OPTIONS, *(INSTRUCTIONS.get(capability, ()) if x86 else ()))
    digest = hashlib.sha256(repr((options, platform.machine(), platform.libc_ver(), os.environ.get("CXX"))).encode())
    digest.update(source.read_bytes())
    path = cache_folder() / f"{source.stem}-{digest.hexdigest()[:16]}.so"
    if not path.exists():
        _build(source, path, options)
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise BuildError(f"the compiled {source.name} does not load ({error}); delete {path}") from error


def cache_folder() -> Path:
    """XDG_CACHE_HOME/gsworkbench, by default ~/.cache/gsworkbench."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gsworkbench"


def _build(source: Path, path: Path, options: tuple[str, ...]) -> None:
    compiler = _compiler()
    try:
        with atomic_path(path) as temporary:
            command = [*compiler, *options, str(source), "-o", str(temporary)]
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            if result.returncode:
                said = next((line for line in result.stderr.splitlines() if "error" in line), result.stderr.strip())
                raise BuildError(f"{compiler[0]} cannot compile {source.name} ({said[-300:]}); name another by CXX")
    except OSError as error:
        raise BuildError(f"{source.name} cannot be built ({error}); set XDG_CACHE_HOME to a folder to write") from error


def _compiler() -> list[str]:
    named = shlex.split(os.environ.get("CXX", ""))
    candidates = [named[0]] if named else ["g++", "clang++", "c++"]
    found = next((c for c in candidates if shutil.which(c)), None)
    if found is None:
        raise BuildError("there is no C++ compiler here; install one (apt install g++, conda install cxx-compiler)")
    return named or [found]
