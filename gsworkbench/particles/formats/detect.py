"""Files of particles that are not read, and what their programs can write in place of them."""

from __future__ import annotations

from pathlib import Path

from gsworkbench.errors import InputError

OTHERS = {  # by suffix: what the file is, and what to do
    ".par": ("a parameter file of Frealign or cisTEM", "export the refinement in RELION's format and give that .star"),
    ".cistem": ("a binary file of cisTEM", "export the refinement package in RELION's format and give that .star"),
    ".lst": ("a list of images of EMAN2", "export the particles from EMAN2 for RELION and give that .star"),
    ".lsx": ("a list of images of EMAN2", "export the particles from EMAN2 for RELION and give that .star"),
    ".hdf": ("an image file of EMAN2", "export the particles from EMAN2 for RELION and give that .star"),
    ".h5": ("an image file in HDF5", "convert the images to .mrcs and give a .star that names them"),
    ".csg": (
        "a result group of cryoSPARC, which only names other files",
        "give the particles .cs that it names, and its passthrough file with --passthrough",
    ),
    ".sqlite": ("a database of Scipion or Xmipp", "export the particles to RELION's format and give that .star"),
    ".xmd": ("a metadata file of Xmipp", "export the particles to RELION's format and give that .star"),
    ".db": ("a database of cisTEM", "export the refinement package in RELION's format and give that .star"),
}


def unknown_format(path: Path) -> InputError:
    """The error for a file whose suffix no reader has."""
    if path.suffix.lower() in OTHERS:
        what, remedy = OTHERS[path.suffix.lower()]
        return InputError(f"the file is {what}, which is not read", file=path, remedy=remedy)
    return InputError(
        f"particles are not read from {path.suffix or 'a file without a suffix'}",
        file=path,
        remedy="give a .star, .cs, .mrcs, .mrc or .txt",
    )
