"""Atoms to lay over the map of a run: a file that is given, or the molecule that its particles were simulated from."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np

from gsworkbench.lab.opened_run import RunFolder
from gsworkbench.molecules import MOLECULES, Molecule, load_molecule

MOST_ATOMS = 8000  # of a simulated molecule: enough to see where it lies
_PHOSPHORUS, _CARBON = 15, 6


def atoms_beside(run: RunFolder, model: Path | None) -> Path | None:
    """`model`; or for a simulated set a temporary .pdb with some of its molecule's atoms; or None."""
    if model is not None:
        return model
    name = _simulated_from(run)
    if name is None:
        return None
    centre = len(run.maps["full"]) // 2 * run.voxel_size  # where our maps have the molecule's centre
    path = Path(tempfile.mkdtemp()) / f"{name}.pdb"
    path.write_text("\n".join(pdb_lines(load_molecule(name), centre)) + "\n", encoding="utf-8")
    return path


def pdb_lines(molecule: Molecule, centre: float) -> list[str]:
    """A trace of a molecule as PDB: every phosphorus, and carbons evenly, moved by `centre` A along each axis."""
    phosphorus = np.flatnonzero(molecule.elements == _PHOSPHORUS)[:MOST_ATOMS]
    carbon = np.flatnonzero(molecule.elements == _CARBON)
    step = max(1, len(carbon) // max(1, MOST_ATOMS - len(phosphorus)))
    lines = []
    for number, atom in enumerate([*phosphorus, *carbon[::step]][:MOST_ATOMS], 1):
        x, y, z = molecule.coordinates[atom] + centre
        kind = ("P", "  A") if molecule.elements[atom] == _PHOSPHORUS else ("C", "GLY")
        lines.append(
            f"ATOM  {number:5d}  {kind[0]:<3} {kind[1]} A{number:4d}    {x:8.3f}{y:8.3f}{z:8.3f}"
            f"  1.00 60.00          {kind[0]:>2}"
        )
    return [*lines, "END"]


def _simulated_from(run: RunFolder) -> str | None:
    """The embedded molecule that the particles of a run are of, by the record beside them."""
    sources = [Path(name) for name in run.record.get("inputs", {}) if name.endswith(".star")]
    places = [above / source for source in sources for above in (Path.cwd(), *run.folder.parents)]
    for source in places:
        record = source.parent / "run.json"
        if record.is_file():
            name = json.loads(record.read_text(encoding="utf-8")).get("config", {}).get("molecule")
            return name if name in MOLECULES else None
    return None
