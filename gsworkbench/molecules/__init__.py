"""Molecules whose atoms ship with the package, and those of a user's coordinate file.

An embedded molecule is NAME.npz, with NAME.txt beside it saying where it comes from; tools/embed_molecules.py makes
both. Atoms are points with an element: occupancies and B factors of the entry are not kept. PARTS are some chains of
one, centred anew.
"""

from __future__ import annotations

import gzip
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gsworkbench.errors import InputError

QUANTUM = 0.01  # A, the grid of embedded coordinates
_NUMBER = re.compile(rb"[-+]?(\d+\.?\d*|\.\d+)")

MOLECULES: dict[str, str] = {
    "ribosome": "80S ribosome of P. locustae (PDB 6ZU5), a stand-in for the Pf80S of EMPIAR-10028",
    "large_subunit": "its large subunit, with chains left out a stand-in for the assembly intermediates of "
    "EMPIAR-10076, which are bacterial",
    "spliceosome": "yeast spliceosomal B complex (PDB 5NRL), the molecule of EMPIAR-10180 itself",
    "chaperonin": "yeast CCT/TRiC chaperonin (PDB 4V8R, one of its two complexes), pseudo-symmetric, a stand-in for "
    "the RAG complex of EMPIAR-10049, of which there is no model here",
}

# Part -> the molecule it is of, and how the names of its chains begin.
PARTS: dict[str, tuple[str, str]] = {"large_subunit": ("ribosome", "L")}


@dataclass(frozen=True)
class Molecule:
    """n atoms, hydrogens left out.

    coordinates : (n, 3) float64 A, xyz, the centre of mass at the origin.
    elements : (n,) uint8 atomic numbers.
    chains : (n,) str, the chain each atom is in.
    """

    coordinates: NDArray[np.float64]
    elements: NDArray[np.uint8]
    chains: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.coordinates)

    @property
    def radius(self) -> float:
        """Distance of the farthest atom from the origin, A."""
        return float(np.sqrt((self.coordinates**2).sum(1).max()))


def load_molecule(name: str) -> Molecule:
    """Load an embedded molecule, a name of MOLECULES."""
    if name not in MOLECULES:
        raise InputError(f"there is no molecule {name!r}", remedy=f"the embedded ones are {', '.join(MOLECULES)}")
    whole, begins = PARTS.get(name, (name, ""))
    with np.load(Path(__file__).parent / f"{whole}.npz", allow_pickle=False) as file:
        steps = file["steps"].astype(np.int64)  # (3, n), in quanta, each atom from the one before
        chains = file["chain_names"][file["chain_index"]]
        kept = np.char.startswith(chains, begins)
        return centred(QUANTUM * steps.cumsum(axis=1).T[kept], file["elements"][kept], chains[kept])


def read_molecule(path: str | Path) -> Molecule:
    """Read a coordinate file as `read_atoms` does, and move the centre of mass to the origin."""
    return centred(*read_atoms(path))


def read_atoms(path: str | Path) -> tuple[NDArray[np.float64], NDArray[np.uint8], NDArray[np.str_]]:
    """Read the first model of a .cif or .pdb file (.gz too), without hydrogens, waters and alternative conformations.

    Returns coordinates (n, 3) in A in the frame of the file, atomic numbers (n,) and chains (n,). A file that is
    missing, cannot be parsed or has no atoms, and atoms of unknown element or place, raise InputError.
    """
    import gemmi

    if not Path(path).is_file():
        raise InputError(
            "no such file", file=path, remedy=f"give a .cif or .pdb file, or one of {', '.join(MOLECULES)}"
        )
    try:
        structure = gemmi.read_structure(str(path))
        structure.setup_entities()
        structure.remove_alternative_conformations()
        structure.remove_hydrogens()
        structure.remove_waters()
        atoms = [
            (chain.name, f"atom {atom.serial} ({atom.name})", atom)
            for chain in (structure[0] if len(structure) else ())
            for residue in chain
            for atom in residue
        ]  # names are decoded here, and may not be UTF-8
        if structure.input_format == gemmi.CoorFormat.Pdb:
            _check_coordinates(path)
    except InputError:
        raise
    except (RuntimeError, ValueError, OSError, EOFError, zlib.error) as error:
        raise InputError(f"not a coordinate file ({error})", file=path, remedy="give a .cif or .pdb file") from error
    if not atoms:
        raise InputError("there are no atoms but hydrogens and waters", file=path, remedy="give a .cif or .pdb file")
    elements = np.array([atom.element.atomic_number for _, _, atom in atoms], np.uint8)
    if not elements.all():
        unknown = atoms[int(np.flatnonzero(elements == 0)[0])][1]
        raise InputError(f"{unknown} is of unknown element", file=path)
    coordinates = np.array([atom.pos.tolist() for _, _, atom in atoms])
    lost = np.flatnonzero(~np.isfinite(coordinates).all(axis=1))
    if len(lost):
        raise InputError(
            f"{atoms[lost[0]][1]} has coordinates that are not numbers", file=path, remedy="correct or delete it"
        )
    return coordinates, elements, np.array([chain for chain, _, _ in atoms])


def _check_coordinates(path: str | Path) -> None:
    """Refuse a .pdb file with an atom in its first model whose x, y or z is no number: gemmi takes that for 0."""
    with open(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"  # not all that is named .gz is
    with gzip.open(path) if packed else open(path, "rb") as file:
        for row, line in enumerate(file, 1):
            record = line[:6].upper().rstrip()
            if record in (b"END", b"ENDMDL"):
                return
            if record[:4] not in (b"ATOM", b"HETA"):
                continue
            if not all(_NUMBER.fullmatch(line[start : start + 8].strip()) for start in (30, 38, 46)):
                raise InputError(
                    f"atom {line[6:11].decode('latin-1').strip()} has coordinates that are not numbers",
                    file=path,
                    row=row,
                    remedy="correct or delete it",
                )


def centred(coordinates: NDArray[np.float64], elements: NDArray[np.uint8], chains: NDArray[np.str_]) -> Molecule:
    """Return the molecule with its centre of mass moved to the origin."""
    import gemmi

    masses = np.array([gemmi.Element(z).weight for z in range(int(elements.max()) + 1)])[elements]
    return Molecule(coordinates - masses @ coordinates / masses.sum(), elements, chains)
