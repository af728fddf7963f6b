"""What the maps of a reconstruction are called. The name of half maps says whether anything was done to them.

RELION, and EMDB after it, call half maps that no filter touched `..._unfil`. Only those get this name here. Half maps
of fits, and backprojections with a filter, are regularised: they have the same name without it.
"""

from __future__ import annotations

from pathlib import Path

MAP = "run_class001.mrc"
LINEAR = ("linear_half1.mrc", "linear_half2.mrc")  # least-squares backprojections that stand for the truth
# Of `reconstruct --error-map`: standard errors, the linear map that they are of, and the error that each part brings.
ERRORS = ("error_map.mrc", "linear_all.mrc", "error_parts.mrcs")
UNFILTERED = ("run_half1_class001_unfil.mrc", "run_half2_class001_unfil.mrc")
REGULARISED = ("run_half1_class001.mrc", "run_half2_class001.mrc")


def find_half_maps(folder: Path) -> tuple[Path, Path] | None:
    """Return the half maps in the folder of a reconstruction, those without a filter first; None if there are no two.

    Earlier versions of this program called all half maps `..._unfil`.
    """
    for first, second in (UNFILTERED, REGULARISED):
        if (folder / first).is_file() and (folder / second).is_file():
            return folder / first, folder / second
    return None
