"""Keep memory that was freed for the next array, instead of fetching and clearing pages from the system each time.

A fit makes and drops arrays of megabytes at every step; with the C library's and NumPy's defaults, clearing their pages
took a fifth of the processor time of a reconstruction. Only for programs of our own (cli.py): a notebook keeps its own.
"""

from __future__ import annotations

import ctypes
import os
import sys

# From malloc.h of the GNU C library.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


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
