"""Embedded molecules against the entries they come from, and the reading of coordinate files."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import gemmi
import numpy as np
import pytest
from scipy.spatial import cKDTree

import gsworkbench.molecules
from gsworkbench.errors import InputError
from gsworkbench.molecules import MOLECULES, PARTS, load_molecule, read_molecule

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
ATOMS = {"ribosome": 165_175, "large_subunit": 102_782, "spliceosome": 118_701, "chaperonin": 64_390}
CHAINS = {"ribosome": 74, "large_subunit": 42, "spliceosome": 58, "chaperonin": 16}

PDB = """\
CRYST1   50.000   50.000   50.000  90.00  90.00  90.00 P 1
ATOM      1  N   GLY A   1      10.000  10.000  10.000  1.00 10.00           N
ATOM      2  CA AGLY A   1      11.450  10.000  10.000  0.60 10.00           C
ATOM      3  CA BGLY A   1      11.900  10.000  10.000  0.40 10.00           C
ATOM      4  H   GLY A   1      10.000  10.900  10.000  1.00 10.00           H
ATOM      5  P     A B   2      20.000  12.000   8.000  1.00 10.00           P
HETATM    6  O   HOH C   1      30.000  30.000  30.000  1.00 10.00           O
END
"""


@pytest.mark.parametrize("name", MOLECULES)
def test_embedded_molecules_are_molecules(name):
    molecule = load_molecule(name)
    assert len(molecule) == ATOMS[name] == len(molecule.elements) == len(molecule.chains)
    assert len(np.unique(molecule.chains)) == CHAINS[name]
    assert molecule.elements.min() >= 4  # no hydrogen
    masses = np.array([gemmi.Element(int(z)).weight for z in molecule.elements])
    np.testing.assert_allclose(masses @ molecule.coordinates / masses.sum(), 0, atol=1e-9)
    nearest = cKDTree(molecule.coordinates).query(molecule.coordinates[::50], k=2)[0][:, 1]
    assert 1.2 < np.median(nearest) < 1.6  # A, bonded neighbours
    assert 80 < molecule.radius < 220


@pytest.mark.parametrize("name", [name for name in MOLECULES if name not in PARTS])
def test_embedded_molecules_have_their_provenance_and_are_small(name):
    folder = Path(gsworkbench.molecules.__file__).parent
    text = (folder / f"{name}.txt").read_text()
    assert "CC0" in text and "PDB entry" in text and str(ATOMS[name]) in text
    assert (folder / f"{name}.npz").stat().st_size < 1_000_000


def test_a_part_has_the_shape_it_has_in_the_whole():
    whole, part = load_molecule("ribosome"), load_molecule("large_subunit")
    moved = whole.coordinates[np.char.startswith(whole.chains, "L")] - part.coordinates
    assert np.ptp(moved, axis=0).max() < 1e-9 and np.linalg.norm(moved[0]) > 10


def test_embedded_ribosome_is_its_entry_to_the_quantum():
    source = DATA / "model_6zu5" / "mmcif_6zu5.cif.gz"
    if not source.exists():
        pytest.skip("the entry 6ZU5 is not at hand")
    entry, embedded = read_molecule(source), load_molecule("ribosome")
    np.testing.assert_array_equal(entry.elements, embedded.elements)
    np.testing.assert_array_equal(entry.chains, embedded.chains)
    assert np.abs(entry.coordinates - embedded.coordinates).max() < 0.0051


def test_the_chaperonin_is_two_rings_of_eight():
    molecule = load_molecule("chaperonin")
    subunits = [molecule.coordinates[molecule.chains == c].mean(0) for c in np.unique(molecule.chains)]
    assert len(subunits) == 16
    distances = np.linalg.norm(subunits, axis=1)
    assert np.ptp(distances) < 0.1 * distances.mean()  # all as far from the centre: one complex, not halves of two


def test_read_molecule_keeps_heavy_atoms_of_one_conformation(tmp_path):
    (tmp_path / "m.pdb").write_text(PDB)
    molecule = read_molecule(tmp_path / "m.pdb")
    assert molecule.elements.tolist() == [7, 6, 15]
    assert molecule.chains.tolist() == ["A", "A", "B"]
    np.testing.assert_allclose(molecule.coordinates[1] - molecule.coordinates[0], [1.45, 0, 0], atol=1e-6)
    np.testing.assert_allclose(molecule.coordinates[2] - molecule.coordinates[0], [10, 2, -2], atol=1e-6)


NO_ELEMENT = PDB.replace("  N   GLY", "  X   GLY").replace(" N\n", " X\n")


@pytest.mark.parametrize("text", [None, "not a molecule\n", NO_ELEMENT])
def test_files_that_are_no_molecules_are_refused_by_name(tmp_path, text):
    path = tmp_path / "wrong.pdb"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=r"wrong\.pdb"):
        read_molecule(path)


@pytest.mark.parametrize("number", ["xx.xxx", "nan", "inf", "", "1.2.3", "1_0.00", "********"])
@pytest.mark.parametrize("suffix", [".pdb", ".pdb.gz"])
def test_atoms_of_a_pdb_file_without_a_place_are_refused(tmp_path, number, suffix):
    """gemmi reads most of these as 0, or as what stands before the first letter."""
    text = PDB.replace("  20.000  12.000   8.000", f"{number:>8}  12.000   8.000").encode()
    path = tmp_path / f"lost{suffix}"
    path.write_bytes(gzip.compress(text) if suffix.endswith("gz") else text)
    with pytest.raises(InputError, match=r"lost\.pdb.*, row 6: atom 5 has coordinates that are not numbers; correct"):
        read_molecule(path)


def test_a_packed_file_that_ends_too_early_is_refused(tmp_path):
    packed = gzip.compress(PDB.removesuffix("END\n").encode())
    (tmp_path / "cut.pdb.gz").write_bytes(packed[:-8])  # gemmi does not miss the checksum
    with pytest.raises(InputError, match=r"cut\.pdb\.gz: not a coordinate file"):
        read_molecule(tmp_path / "cut.pdb.gz")


def test_only_the_first_model_of_a_pdb_file_is_looked_at(tmp_path):
    path = tmp_path / "models.pdb"
    model = PDB.removesuffix("END\n") + "ENDMDL\n"
    path.write_text(f"MODEL        1\n{model}MODEL        2\n{model.replace('  12.000', '  xx.xxx')}END\n")
    assert len(read_molecule(path)) == 3


@pytest.mark.parametrize("number", ["?", ".", "nan", "inf", "xx.xxx"])
def test_atoms_of_an_mmcif_file_without_a_place_are_refused(tmp_path, number):
    (tmp_path / "whole.pdb").write_text(PDB)
    text = gemmi.read_structure(str(tmp_path / "whole.pdb")).make_mmcif_document().as_string()
    (tmp_path / "whole.cif").write_text(text)
    assert len(read_molecule(tmp_path / "whole.cif")) == 3
    assert len(re.findall(r" 20(\.0*)? ", text)) == 1
    (tmp_path / "lost.cif").write_text(re.sub(r" 20(\.0*)? ", f" {number} ", text))
    with pytest.raises(InputError, match=r"lost\.cif: atom 5 \(P\) has coordinates that are not numbers; correct"):
        read_molecule(tmp_path / "lost.cif")


@pytest.mark.parametrize("old, new", [(b"GLY A", b"GLY \xe9"), (b" CA A", b" C\xe9 A")], ids=["chain", "atom"])
def test_names_that_are_not_utf_8_are_refused(tmp_path, old, new):
    (tmp_path / "names.pdb").write_bytes(PDB.encode().replace(old, new))
    with pytest.raises(InputError, match=r"names\.pdb: not a coordinate file .*can't decode"):
        read_molecule(tmp_path / "names.pdb")


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(InputError, match="ribosome, large_subunit, spliceosome, chaperonin"):
        load_molecule("ribosom")
