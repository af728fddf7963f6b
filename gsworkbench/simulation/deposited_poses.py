"""Poses, shifts and CTF of real particles, as they were refined for EMPIAR entries, to simulate particles with.

They are read where the package recovar has them, and are no part of ours: its licence is non-commercial. Nothing of it
is imported or run; `pip install --no-deps recovar==1.0.5` is enough. Without it, simulate.OPTICS has the quantiles.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gsworkbench.errors import InputError, NotRun
from gsworkbench.io.files import sha256
from gsworkbench.particles.formats.cryodrgn import read_ctf, read_poses
from gsworkbench.particles.stack import CtfParameters, Float64

DEPOSITED = "deposited"  # as Simulation.poses: these poses, shifts and CTF, row by row
PACKAGE = "recovar"
REMEDY = "pip install --no-deps recovar==1.0.5"

# Entry -> file in the package -> SHA-256.
FILES: dict[str, dict[str, str]] = {
    "empiar_10076": {
        "recovar/assets/poses_10076.pkl": "0fe399ca95607beaa362871f9ca890c606cbe39bf964ca35a1d8311d3b3bd282",
        "recovar/assets/ctf_10076.pkl": "1202d426491bdaa05d3df22bef1e5ed881ed3f36c64fac82fce8cecc206e2e68",
    },
    "empiar_10180": {
        "recovar/assets/poses_10180.pkl": "c43c8da2014685122ec8cd601a0fec163c74f5fb470c9b6b07c38fac121c2f10",
        "recovar/assets/ctf_10180.pkl": "f020dbb1df3d6d4500b71cbb0ed26ddc9b92afd3335c3e2851ef5c109c85ef29",
    },
}


@dataclass(frozen=True)
class Deposited:
    """n particles: rotations (n, 3, 3), shifts_angstrom (n, 2), and their CTF."""

    rotations: Float64
    shifts_angstrom: Float64
    ctf: CtfParameters

    def __len__(self) -> int:
        return len(self.rotations)

    def __getitem__(self, rows: NDArray[np.integer]) -> Deposited:
        return Deposited(self.rotations[rows], self.shifts_angstrom[rows], self.ctf[rows])


def is_installed() -> bool:
    """Whether the files of all entries are there; cheap, for keys of what depends on it."""
    return all(paths and all(path.is_file() for path in paths) for paths in map(_places, FILES))


def deposited_files(entry: str) -> list[Path]:
    """Return the files of an entry of FILES: poses, CTF. Where they are not installed, NotRun."""
    if entry not in FILES:
        raise InputError(
            f"no deposited poses of {entry!r} are at hand", remedy=f"there are those of {', '.join(FILES)}"
        )
    paths = _places(entry)
    if not paths or not all(path.is_file() for path in paths):
        raise NotRun("the data set", f"the deposited poses and CTF of {entry} are not installed here", remedy=REMEDY)
    return paths


def read_deposited(entry: str) -> Deposited:
    """Read poses and CTF of an entry, after checking that the files are the ones known here."""
    paths = deposited_files(entry)
    for path, expected in zip(paths, FILES[entry].values(), strict=True):
        if sha256(path) != expected:
            raise InputError("not the file that is known here: its SHA-256 differs", file=path, remedy=REMEDY)
    poses, ctf = read_poses(paths[0]), read_ctf(paths[1])
    return Deposited(poses.rotations, poses.shifts * ctf.box_size * ctf.pixel_size, ctf.ctf)


def _places(entry: str) -> list[Path]:
    try:
        package = metadata.distribution(PACKAGE)
    except metadata.PackageNotFoundError:
        return []
    return [Path(str(package.locate_file(name))) for name in FILES[entry]]
