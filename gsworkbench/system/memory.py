"""Memory: how much there is, how it looks when there is no more, and keeping what was freed for the next array.

A fit makes and drops arrays of megabytes at every step; with the C library's and NumPy's defaults, clearing their pages
took a fifth of the processor time of a reconstruction (at 256^3, where arrays are of 64 MB and more, a third; keeping
these too costs a fifth more memory). Only for programs of our own (cli/main.py): a notebook keeps its own.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

# From malloc.h of the GNU C library.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4

CONTROL_GROUPS = Path("/sys/fs/cgroup")


def keep_freed_memory() -> None:
    """Applies to what is allocated from now on; to NumPy's huge pages, if it is not imported yet. Linux only."""
    if not sys.platform.startswith("linux"):
        return
    # Where memory is fragmented, making a huge page takes longer than many small ones.
    os.environ.setdefault("NUMPY_MADVISE_HUGEPAGE", "0")
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def available_memory() -> int | None:
    """Bytes that this process may still take: what the system has free, or its control group if that is less.

    None where the system does not say (other than Linux).
    """
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        (free,) = (int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
        groups = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return None
    own = [CONTROL_GROUPS / line.removeprefix("0::/") for line in groups if line.startswith("0::/")]
    folders = [folder for start in own for folder in (start, *start.parents)]
    return min([free, *(left for folder in folders if (left := _left_in(folder)) is not None)])


def peak_memory() -> int:
    """Largest resident memory of this process so far, in bytes.

    On Linux that of the program alone: getrusage counts what the process had before it became this program, which is
    what the process that started it had.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: Python's and NumPy's, or PyTorch's on a CPU or GPU."""
    words = str(error)
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and ("can't allocate memory" in words or "out of memory" in words)
    )


def _left_in(folder: Path) -> int | None:
    """What the limit of a control group (a container's, a job's) leaves, if it has one; cached files count as free."""
    try:
        limit = int((folder / "memory.max").read_text(encoding="ascii"))
        used = int((folder / "memory.current").read_text(encoding="ascii"))
        statistics = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
    except (OSError, ValueError):  # no such file, or "max"
        return None
    return max(0, limit - used + int(statistics.get("file", 0)))
