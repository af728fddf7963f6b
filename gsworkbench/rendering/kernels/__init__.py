"""C++ kernels of the CPU backend: built at first use for the processor at hand, kept in the user's cache.

The library is named by a hash of sources, options and platform, so that a checkout that moves on, an editable
install, or a home shared by unlike machines never meets a stale one; the package itself stays free of binaries. It
has a plain C interface and knows nothing of torch.
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

FOLDER = Path(__file__).parent
SOURCES = ("project.cpp", "voxelize.cpp")
# No -ffast-math: it deletes the rounding that exp2 relies on and, at link time, flushes denormals in the whole process.
OPTIONS = ("-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-fno-signed-zeros",
           "-fPIC", "-shared", "-fopenmp", "-fvisibility=default")  # fmt: skip
# By what torch calls the capability of the processor. x86-64 and others without AVX2 get four lanes.
INSTRUCTIONS = {
    "AVX512": ("-mavx512f", "-mavx512vl", "-mavx512bw", "-mavx512dq", "-mavx2", "-mfma", "-mprefer-vector-width=512"),
    "AVX2": ("-mavx2", "-mfma"),
}


class BuildError(Exception):
    """The kernels cannot be built or loaded here; the message is a sentence that says why and what to do."""


def instructions() -> str:
    """Return "AVX512", "AVX2" or "baseline", what this processor (or ATEN_CPU_CAPABILITY, if set) allows."""
    capability = torch.backends.cpu.get_cpu_capability()
    return capability if capability in INSTRUCTIONS and platform.machine() in ("x86_64", "AMD64") else "baseline"


@functools.cache
def library(name: str) -> ctypes.CDLL:
    """Load the kernels for the instructions `name`; build them (some seconds) if no one has yet."""
    options = (*OPTIONS, *INSTRUCTIONS.get(name, ()))
    path = cache_folder() / f"kernels-{name}-{_fingerprint(options)}.so"
    if not path.exists():
        _build(path, options)
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise BuildError(f"the compiled kernels do not load ({error}); delete {path} to build them again") from error


def cache_folder() -> Path:
    """XDG_CACHE_HOME/gsworkbench, by default ~/.cache/gsworkbench."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gsworkbench"


def _fingerprint(options: tuple[str, ...]) -> str:
    digest = hashlib.sha256(repr((options, platform.machine(), platform.libc_ver(), os.environ.get("CXX"))).encode())
    for source in sorted([*FOLDER.glob("*.cpp"), *FOLDER.glob("*.h")]):
        digest.update(source.name.encode() + source.read_bytes())
    return digest.hexdigest()[:16]


def _build(path: Path, options: tuple[str, ...]) -> None:
    command = [*_compiler(), *options, *(str(FOLDER / name) for name in SOURCES)]
    try:
        with atomic_path(path) as temporary:
            result = subprocess.run([*command, "-o", str(temporary)], capture_output=True, text=True, check=False)
            if result.returncode:
                said = next((line for line in result.stderr.splitlines() if "error" in line), result.stderr.strip())
                raise BuildError(f"{command[0]} cannot compile the kernels: {said[-300:]}; name another compiler by CXX")
    except OSError as error:
        raise BuildError(f"the kernels cannot be written ({error}); set XDG_CACHE_HOME to a writable folder") from error


def _compiler() -> list[str]:
    named = shlex.split(os.environ.get("CXX", ""))
    found = next((c for c in ([named[0]] if named else ["g++", "clang++", "c++"]) if shutil.which(c)), None)
    if found is None:
        what = f"the compiler {named[0]} named by CXX is not there" if named else "there is no C++ compiler here"
        raise BuildError(f"{what}; install one (on Debian: apt install g++; conda install cxx-compiler) for kernels about 20 times faster")
    return named or [found]
