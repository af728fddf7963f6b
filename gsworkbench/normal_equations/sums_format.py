"""The file of sums, version 4: its arrays and its header, as docs/reference/sums.md describes them to other programs.

A file holds the sums over one set of particles, or over two that are disjoint: those that a map is fitted to, and the
held-out ones that say what the fit misses. Nothing in it is a particle; the identities of particles may be left out.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gsworkbench.errors import InputError
from gsworkbench.io.files import atomic_path
from gsworkbench.io.npz import load_archive
from gsworkbench.normal_equations.insertion import PADDING, Float64

FORMAT, VERSION = "gsworkbench sums", 4
READABLE = (3, 4)
_SETS = ("training", "held_out")  # entries of the header, and what precedes the names of arrays
_PREFIX = {"training": "", "held_out": "held_out_"}
_OWN = ("energy_sum", "noise_sum", "data_quantum", "ctf_quantum", "images", "n_particles")  # of each set


@dataclass(frozen=True)
class SumsOfSet:
    """Sums over one set of particles as a file has them.

    grid_sums : (3, m). particles : (n,) sorted identities; (0,) if they were left out. numbers : the entries of the
    header that are this set's own.
    """

    grid_sums: Float64
    particles: NDArray[np.uint64]
    numbers: dict[str, Any] = field(default_factory=dict)


def write_sums(
    path: str | Path, shared: dict[str, Any], sets: list[SumsOfSet], *, identities: bool = True, single: bool = False
) -> None:
    """Write one or two sets of sums, atomically.

    shared : the entries of the header that hold for both. identities : whether those of particles, and the sample of
    their images, go into the file. single : whether sums are rounded to float32: half the size, no longer exact.
    """
    header: dict[str, Any] = {"format": FORMAT, "version": VERSION} | shared
    arrays: dict[str, NDArray[Any]] = {}
    for name, of_set in zip(_SETS, sets, strict=False):
        numbers = dict(of_set.numbers)
        arrays[f"{_PREFIX[name]}sums"] = of_set.grid_sums.astype(np.float32) if single else of_set.grid_sums
        if identities and len(of_set.particles):
            arrays[f"{_PREFIX[name]}particles"] = of_set.particles
        if not identities:
            numbers["images"] = ()
        if single:
            numbers |= {"data_quantum": 0.0, "ctf_quantum": 0.0}
        header[name] = numbers
    text = np.frombuffer(json.dumps(header).encode(), np.uint8)
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, header=text, **arrays)  # type: ignore[arg-type]


def read_sums(path: str | Path) -> tuple[dict[str, Any], list[SumsOfSet]]:
    """Return the shared entries of the header, and one or two sets of sums.

    Raises InputError for a file that is damaged, no file of sums, or of a version that this program does not know.
    """
    try:
        file = load_archive(path)
        header = _entries(json.loads(file["header"].tobytes()), path)
        box_size = int(header["box_size"])
        names = [name for name in _SETS if name in header]
        if names[:1] != ["training"]:
            raise ValueError("no training sums")
        if not 0 < box_size**3 < file["sums"].size:
            raise ValueError("fewer sums than a map of this box has")  # before a grid is made for it
        shape = (3, int(np.count_nonzero(nodes(box_size, header["engine"]))))
        sets = [_set(file, _PREFIX[name], header[name], shape) for name in names]
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError("there is no such file", file=path) from error
    except Exception as error:  # zipfile and NumPy meet damage with errors of a dozen types
        raise InputError("not a file of sums, or a damaged one", file=path, remedy="accumulate them again") from error
    return {name: value for name, value in header.items() if name not in _SETS}, sets


def read_header(path: str | Path) -> dict[str, Any]:
    """Return the header of a file of sums, as version 4 has it, without reading the sums."""
    with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
        return _entries(json.loads(file["header"].tobytes()), path)


def _entries(header: dict[str, Any], path: str | Path) -> dict[str, Any]:
    """The header of any version that can be read, in the form of version 4."""
    version = header.get("version")
    if version not in READABLE:
        known = " and ".join(map(str, READABLE))
        problem = f"the sums are of version {version}, this program reads versions {known}"
        raise InputError(problem, file=path, remedy="accumulate them again")
    if version == 3:  # one set, whose numbers stand among the others
        own = {name: header.pop(name) for name in _OWN if name in header}
        header = header | {"training": own, "density_unit": None}
    return header


def _set(file: dict[str, NDArray[Any]], prefix: str, numbers: dict[str, Any], shape: tuple[int, int]) -> SumsOfSet:
    sums = file[f"{prefix}sums"]
    if sums.shape != shape or sums.dtype.kind != "f":
        raise ValueError("the sums are not those of this box")
    if not all(np.isfinite(part).all() for part in sums):
        raise ValueError("sums that are not finite")
    none = np.empty(0, np.uint64)
    particles = file.get(f"{prefix}particles", none)
    if particles.ndim != 1 or particles.dtype != np.uint64:
        raise ValueError("identities are one row of 64-bit numbers")
    numbers = {name: numbers[name] for name in _OWN if name in numbers}
    count = int(numbers.setdefault("n_particles", len(particles)))
    if count < 0 or (len(particles) and len(particles) != count):
        raise ValueError("as many identities as particles, or none")
    for name in ("energy_sum", "noise_sum"):
        numbers[name] = float(numbers[name])
        if not 0 <= numbers[name] < np.inf:
            raise ValueError(f"{name} is a sum of squares")
    return SumsOfSet(np.asarray(sums, np.float64), particles, numbers)


@functools.lru_cache(maxsize=2)
def nodes(box_size: int, engine: str) -> NDArray[np.bool_]:
    """(2 D, 2 D, D + 1) the nodes that sums are kept of: what a sample inside the disc can reach; by finufft, all."""
    edge = PADDING * box_size
    if engine == "finufft":
        return np.ones((edge, edge, edge // 2 + 1), bool)
    k2 = np.rint(np.fft.fftfreq(edge, 1 / edge) ** 2).astype(np.int32)
    reach = edge // 2 + 2
    return k2[:, None, None] + k2[:, None] + k2[: edge // 2 + 1] <= reach**2
