"""The files that `inspect --out` writes: the picture, and the table of the images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gsworkbench.inspection.findings import Inspection
from gsworkbench.inspection.image_table import write_image_table
from gsworkbench.io.files import atomic_path
from gsworkbench.io.locks import outputs
from gsworkbench.particles.formats.metadata import Metadata

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURES = ("inspect.png", "inspect.svg")
TABLE = "inspect.csv"


def write_inspection(folder: Path, found: Inspection) -> tuple[Path, Path]:
    """Write PICTURES and TABLE, which appear together, and return where the first picture and the table are."""
    from gsworkbench.inspection.figure import inspection_figure

    with outputs(folder):
        _save(folder, inspection_figure(found))
        with atomic_path(folder / TABLE) as temporary:
            write_image_table(temporary, found)
    return folder / PICTURES[0], folder / TABLE


def write_table_figure(folder: Path, table: Metadata) -> Path:
    """Write PICTURES of a table whose images are missing, and return where the first is."""
    from gsworkbench.inspection.figure import table_figure

    with outputs(folder):
        _save(folder, table_figure(table))
    return folder / PICTURES[0]


def _save(folder: Path, figure: Figure) -> None:
    from matplotlib import rc_context  # slow to import

    for name in PICTURES:
        # Without a salt, names inside an .svg are random.
        with rc_context({"svg.hashsalt": name}), atomic_path(folder / name) as temporary:
            figure.savefig(temporary, dpi=200, metadata={"Date": None} if name.endswith("svg") else None)
