"""Which libraries the C++ files make, with which options, and under which names. Needs Python alone, as setup.py does.

The name of a library holds its first source, the instructions it is for, and a digest of sources, headers and options:
an edited source never meets a library that was compiled before the edit.
"""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path

KERNELS = Path(__file__).parent
BUILT = KERNELS / "built"  # what a wheel carries; absent in a checkout

# The sources of each library, without their suffix.
LIBRARIES = (("project", "voxelize"), ("optimiser",), ("training",), ("insertion",), ("tiles",))

# No -ffast-math: it deletes roundings that are meant and, at link time, flushes denormals in the whole process.
OPTIONS = ("-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-fno-signed-zeros",
           "-fPIC", "-shared", "-fopenmp", "-Wno-psabi")  # fmt: skip
# By what torch calls the capability of the processor (ATEN_CPU_CAPABILITY lowers it); others get the baseline.
INSTRUCTIONS = {
    "AVX512": ("-mavx512f", "-mavx512vl", "-mavx512bw", "-mavx512dq", "-mavx2", "-mfma"),
    "AVX2": ("-mavx2", "-mfma"),
}


def capabilities() -> list[str]:
    """Return the capabilities that libraries can be compiled for on this kind of processor."""
    return ["baseline", *INSTRUCTIONS] if platform.machine() in ("x86_64", "AMD64") else ["baseline"]


def options(capability: str) -> tuple[str, ...]:
    """Return the options of the compiler, without sources and output."""
    return (*OPTIONS, *INSTRUCTIONS.get(capability, ()))


def file_name(sources: tuple[Path, ...], capability: str, *more: object) -> str:
    """Return the file name of a library; `more` is whatever else must tell it from others."""
    digest = hashlib.sha256(repr((options(capability), platform.machine(), *more)).encode())
    for file in (*sources, *sorted(sources[0].parent.glob("*.h"))):
        digest.update(file.name.encode() + file.read_bytes())
    return f"{sources[0].stem}-{capability}-{digest.hexdigest()[:16]}.so"
