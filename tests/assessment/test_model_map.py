"""The map of an atomic model against gemmi's structure factors and the simulator's, and its frame."""

import gemmi
import mrcfile
import numpy as np
import pytest

from gsworkbench.assessment.model_map import model_map
from gsworkbench.cli.main import main
from gsworkbench.errors import InputError
from gsworkbench.io.mrc import map_origin, read_map, write_map
from gsworkbench.molecules import centred, load_molecule, read_atoms
from gsworkbench.simulation.simulate import potential

GRID = {"box_size": 32, "voxel_size": 2.5}
EDGE = 80.0


@pytest.fixture(scope="module")
def atoms():
    rng = np.random.default_rng(0)
    elements = rng.choice([6, 7, 8, 15, 30], 200).astype(np.uint8)
    return rng.uniform(20, 60, (200, 3)), elements


def structure(coordinates, elements, edge=EDGE):
    """What a coordinate file of these atoms says, in a cubic cell."""
    made = gemmi.Structure()
    made.cell = gemmi.UnitCell(edge, edge, edge, 90, 90, 90)
    made.spacegroup_hm = "P 1"
    chain = gemmi.Chain("A")
    for i, (place, number) in enumerate(zip(coordinates, elements, strict=True)):
        residue = gemmi.Residue()
        residue.name, residue.seqid = "UNL", gemmi.SeqId(str(i + 1))
        atom = gemmi.Atom()
        atom.name = gemmi.Element(int(number)).name
        atom.element, atom.pos, atom.b_iso, atom.occ = gemmi.Element(int(number)), gemmi.Position(*place), 30.0, 1.0
        residue.add_atom(atom)
        chain.add_residue(residue)
    model = gemmi.Model(1)
    model.add_chain(chain)
    made.add_model(model)
    return made


def test_transform_is_gemmis_structure_factor(atoms):
    volume = model_map(*atoms, **GRID, origin=np.zeros(3), b_factor=30.0)
    transform = np.fft.fftn(volume) * GRID["voxel_size"] ** 3
    entry = structure(*atoms)
    calculate = gemmi.StructureFactorCalculatorE(entry.cell).calculate_sf_from_model
    for kx, ky, kz in [(0, 0, 0), (1, 2, 3), (-4, 5, 0), (3, -7, 9), (0, 0, -12), (15, 5, 1)]:
        theirs = calculate(entry[0], (kx, ky, kz)).conjugate()  # crystallographers' F has exp(+2 pi i h . x)
        assert transform[kz, ky, kx] == pytest.approx(theirs, abs=1e-4 * abs(transform[0, 0, 0]))
    assert abs(transform[12, 12, 12]) < 1e-6 * abs(transform[0, 0, 0])  # beyond |k| = D/2


def test_a_centred_molecule_gives_the_simulators_potential(atoms):
    molecule = centred(*atoms, np.full(200, "A"))
    middle = np.full(3, EDGE / 2)
    ours = model_map(molecule.coordinates, molecule.elements, **GRID, origin=-middle, b_factor=40.0)
    theirs = potential(molecule, box_size=32, pixel_size=2.5, b_factor=40.0)
    np.testing.assert_allclose(ours, theirs, atol=1e-5 * theirs.max())


@pytest.mark.parametrize("origin", [(0, 0, 0), (-7.5, 5.0, 12.5)])
def test_an_atom_lies_at_its_coordinate_from_the_origin_z_y_x(origin):
    place = np.array([[25.0, 40.0, 50.0]])
    volume = model_map(place, np.array([8]), **GRID, origin=np.array(origin), b_factor=200.0)
    highest = np.unravel_index(volume.argmax(), volume.shape)
    np.testing.assert_allclose(np.array(highest)[::-1] * 2.5 + origin, place[0])


def test_atoms_outside_the_map_are_refused(atoms):
    with pytest.raises(InputError, match=r"of 200 atoms lie outside the map, .* from 30\.0, 0\.0, 0\.0 to 110\.0"):
        model_map(*atoms, **GRID, origin=np.array([30.0, 0, 0]), b_factor=30.0)


def test_origin_of_the_header_before_its_start_indices_before_zero(tmp_path):
    path = tmp_path / "m.mrc"
    write_map(path, np.zeros((4, 4, 4)), 2.5)
    assert map_origin(path).tolist() == [0, 0, 0]
    with mrcfile.open(path, "r+") as file:
        file.nstart = (1, -2, 3)
    np.testing.assert_allclose(map_origin(path), [2.5, -5.0, 7.5])
    with mrcfile.open(path, "r+") as file:
        file.header.mapc, file.header.maps = 3, 1  # columns run along z, sections along x
    np.testing.assert_allclose(map_origin(path), [7.5, -5.0, 2.5])
    with mrcfile.open(path, "r+") as file:
        file.header.origin = (10, 20, 30)
    np.testing.assert_allclose(map_origin(path), [10, 20, 30])


@pytest.fixture
def half_maps(atoms, tmp_path):
    """Noisy maps of the atoms whose frame is 7.5 A off in x, and the atoms as a file."""
    signal = model_map(*atoms, **GRID, origin=np.array([7.5, 0, 0]), b_factor=50.0)
    paths = [tmp_path / f"half{k}.mrc" for k in (1, 2)]
    for seed, path in enumerate(paths):
        write_map(path, signal + signal.std() * np.random.default_rng(seed).standard_normal(signal.shape), 2.5)
        with mrcfile.open(path, "r+") as file:
            file.nstart = (3, 0, 0)
    structure(*atoms).make_mmcif_document().write_file(str(tmp_path / "model.cif"))
    return paths, tmp_path / "model.cif"


def test_fsc_to_a_model_in_the_maps_frame(half_maps, capsys):
    (half_1, half_2), model = half_maps
    coordinates, elements, _ = read_atoms(model)
    assert (len(coordinates), elements.max()) == (200, 30)
    command = ["fsc", str(half_1), str(half_2), "--model", str(model), "--mask", "sphere"]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "fsc_unmasked_model, FSC = 0.5" in said and "fsc_masked_model" in said and "alarm" not in said
    mean = float(next(line for line in said.splitlines() if "unmasked_model" in line).split("mean FSC")[1])
    assert mean > 0.6
    with mrcfile.open(half_1, "r+") as file:
        file.nstart = (0, 0, 0)  # the frame is lost
    assert main(command) == 0
    lost = next(line for line in capsys.readouterr().out.splitlines() if "unmasked_model" in line)
    assert float(lost.split("mean FSC")[1]) < 0.3


def test_a_map_unlike_the_model_rings(half_maps, capsys):
    paths, model = half_maps
    for path in paths:
        volume, _ = read_map(path)
        with mrcfile.open(path, "r+") as file:
            file.set_data(-volume)
    assert main(["fsc", *map(str, paths), "--model", str(model)]) == 0
    assert "alarm: the map agrees better with the model with its sign flipped" in capsys.readouterr().out


def test_a_model_outside_the_map_is_named(half_maps, capsys):
    paths, model = half_maps
    for path in paths:
        with mrcfile.open(path, "r+") as file:
            file.nstart = (900, 0, 0)
    assert main(["fsc", *map(str, paths), "--model", str(model)]) == 2
    assert "model.cif: 200 of 200 atoms lie outside the map" in capsys.readouterr().err


def test_a_real_molecule_needs_little_time_and_keeps_its_charge():
    ribosome = load_molecule("ribosome")
    volume = model_map(
        ribosome.coordinates, ribosome.elements, box_size=32, voxel_size=12.0, origin=np.full(3, -192.0), b_factor=60.0
    )
    total = sum(gemmi.Element(int(z)).c4322.calculate_sf(0.0) for z in ribosome.elements)
    assert volume.sum() * 12.0**3 == pytest.approx(total, rel=1e-6)
