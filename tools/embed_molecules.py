"""Make the embedded molecules of gsworkbench/molecules from coordinate files.

    python tools/embed_molecules.py --ribosome 6zu5.cif.gz --spliceosome 5nrl.cif.gz --chaperonin 4v8r.pdb.gz

Each file may be .cif or .pdb (.gz too), or an .npz with arrays coords (n, 3), elements and chain_ids. Only the
molecules that are given are made. Run again on the same files, it writes the same bytes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import gemmi
import numpy as np

from gsworkbench.io.files import atomic_path, sha256, write_text
from gsworkbench.molecules import QUANTUM, Molecule, centred, read_molecule

ENTRIES = {
    "ribosome": ("6ZU5", "80S ribosome of Paranosema locustae, cryo-EM", ""),
    "spliceosome": ("5NRL", "pre-catalytic spliceosome (B complex) of Saccharomyces cerevisiae, cryo-EM", ""),
    "chaperonin": (
        "4V8R",
        "CCT/TRiC chaperonin of Saccharomyces cerevisiae, X-ray",
        "The entry holds two complexes; the one of chains A... was kept.\n",
    ),
}


def read(path: Path) -> Molecule:
    """Read a coordinate file, or an .npz with arrays coords, elements and chain_ids."""
    if path.suffix != ".npz":
        return read_molecule(path)
    with np.load(path, allow_pickle=False) as file:
        elements = np.array([gemmi.Element(name).atomic_number for name in file["elements"]], np.uint8)
        kept = elements > 1
        return centred(file["coords"][kept].astype(float), elements[kept], file["chain_ids"][kept])


def one_complex(molecule: Molecule) -> Molecule:
    """Return the first of the two complexes of 4V8R, chains A..."""
    kept = np.char.startswith(molecule.chains, "A")
    return centred(molecule.coordinates[kept], molecule.elements[kept], molecule.chains[kept])


def embed(molecule: Molecule, name: str, source: Path, folder: Path) -> None:
    """Write NAME.npz and NAME.txt. Steps from atom to atom are small, so they compress far better than coordinates."""
    quanta = np.rint(molecule.coordinates / QUANTUM).astype(np.int64)
    steps = np.diff(quanta, axis=0, prepend=0)
    if np.abs(steps).max() > np.iinfo(np.int16).max:
        raise SystemExit(f"{source}: two atoms in succession are too far apart for 16 bits")
    names, index = np.unique(molecule.chains, return_inverse=True)
    with atomic_path(folder / f"{name}.npz") as temporary, open(temporary, "wb") as file:
        np.savez_compressed(
            file,
            steps=np.ascontiguousarray(steps.T.astype(np.int16)),
            elements=molecule.elements,
            chain_index=index.astype(np.uint8),
            chain_names=names,
        )
    write_text(folder / f"{name}.txt", provenance(molecule, name, source))


def provenance(molecule: Molecule, name: str, source: Path) -> str:
    entry, title, selection = ENTRIES[name]
    symbols, counts = np.unique([gemmi.Element(int(z)).name for z in molecule.elements], return_counts=True)
    content = ", ".join(f"{symbol} {count}" for symbol, count in zip(symbols, counts, strict=True))
    return (
        f"{name}.npz: atoms of PDB entry {entry}, {title}.\n"
        f"https://www.rcsb.org/structure/{entry}. Data of the PDB archive are CC0 1.0 (public domain).\n"
        f"{len(molecule)} atoms in {len(set(molecule.chains))} chains: {content}.\n"
        f"Made by tools/embed_molecules.py from a copy of the entry, {source.name},\n"
        f"sha256 {sha256(source)}.\n"
        f"{selection}Hydrogens, waters and alternative conformations were left out, the centre of mass was moved to\n"
        f"the origin, and coordinates were rounded to {QUANTUM} A. Occupancies and B factors were not kept.\n"
        f"Arrays: steps (3, n) int16, xyz from the atom before in {QUANTUM} A; elements (n,) atomic numbers;\n"
        "chain_index (n,) into chain_names.\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, (entry, title, _) in ENTRIES.items():
        parser.add_argument(f"--{name}", type=Path, metavar="FILE", help=f"PDB entry {entry}, {title}")
    here = Path(__file__).resolve().parents[1] / "gsworkbench" / "molecules"
    parser.add_argument("--out", type=Path, default=here, help="folder to write to (default: the package's)")
    arguments = parser.parse_args()
    for name in ENTRIES:
        source = getattr(arguments, name)
        if source is not None:
            molecule = one_complex(read(source)) if name == "chaperonin" else read(source)
            embed(molecule, name, source, arguments.out)


if __name__ == "__main__":
    main()
