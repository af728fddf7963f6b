"""Ways in for particles that are not a complete refinement: no CTF, several classes, one view, no images at hand."""

import json

import numpy as np
import pytest
import test_cryosparc as cs
import test_half_sets as specimens
import test_relion as star
from particle_files import BOX, OPTICS, PIXEL_SIZE, N, star_columns, star_text, write_images, write_pickle

from gsworkbench.cli.main import main
from gsworkbench.errors import InputError
from gsworkbench.geometry.rotations import random_rotations
from gsworkbench.particles.formats.ctf_columns import is_no_ctf
from gsworkbench.particles.read import read_identities, read_metadata, read_particles
from gsworkbench.particles.views import views_problem

CTF = ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "J1").mkdir()
    for stack in ("particles.mrcs", "J1/particles.mrcs"):
        write_images(tmp_path / stack)
    rotations = random_rotations(N, np.random.default_rng(0))
    write_pickle(tmp_path / "poses.pkl", (rotations, np.full((N, 2), 0.1)))
    return tmp_path


def sound(**columns):
    """A table of several views."""
    return star_columns() | specimens.angles(N) | columns


class TestNoCtf:
    def test_a_table_without_ctf(self, folder, capsys):
        path = star.write(folder, star_text(star.without(sound(), *CTF), OPTICS.replace("rlnVoltage", "rlnX")))
        with pytest.raises(InputError, match=r"no column rlnDefocusU; .*--ctf FILE .*--no-ctf for images without"):
            read_particles(path)
        assert is_no_ctf(read_particles(path, no_ctf=True).ctf)
        out = folder / "out"
        assert main(["backproject", str(path), "--no-ctf", "--out", str(out)]) == 0
        record = json.loads((out / "run.json").read_text())
        assert record["particles"]["no_ctf"] is True
        assert is_no_ctf(read_particles(out / "run_data.star").ctf)  # without the option

    def test_a_table_with_ctf_that_is_not_to_be_used(self, folder):
        broken = star.write(folder, star_text(sound(rlnDefocusU=["nan"] * N)))
        assert is_no_ctf(read_particles(broken, no_ctf=True).ctf)
        with pytest.raises(InputError, match="exclude each other; give --ctf or --no-ctf"):
            read_particles(broken, no_ctf=True, ctf=folder / "ctf.pkl")

    def test_images_with_poses_alone(self, folder, capsys):
        images, poses = folder / "particles.mrcs", folder / "poses.pkl"
        with pytest.raises(InputError, match="--no-ctf in place of --ctf"):
            read_particles(images, poses=poses)
        stack = read_particles(images, poses=poses, no_ctf=True)
        assert is_no_ctf(stack.ctf) and stack.pixel_size == PIXEL_SIZE  # of the header: nothing else says it
        np.testing.assert_allclose(stack.shifts_angstrom, 0.1 * BOX * PIXEL_SIZE)
        write_images(images, pixel_size=1.0)
        with pytest.raises(InputError, match="the pixel size is not given; give --pixel-size"):
            read_particles(images, poses=poses, no_ctf=True)
        assert main(["inspect", str(images), "--poses", str(poses), "--no-ctf", "--pixel-size", "3"]) == 0
        assert "CTF            none: 1 at every frequency" in capsys.readouterr().out

    def test_cryosparc(self, folder):
        path = cs.write(folder, cs.without(cs.EVERYTHING, *cs.CTF))
        with pytest.raises(InputError, match=r"no field ctf/df1_A; .*--passthrough.*--no-ctf"):
            read_particles(path)
        assert is_no_ctf(read_particles(path, no_ctf=True).ctf)


class TestClasses:
    def test_one_of_several(self, folder, capsys):
        path = star.write(folder, star_text(sound(rlnClassNumber=[3, 1, 2, 3, 1, 3])))
        mixed = read_particles(path)
        assert [note for note in mixed.notes if "classes 1 to 3: 2, 1, 3" in note and "--class N" in note]
        one = read_particles(path, class_number=3)
        assert one.source_row.tolist() == [0, 3, 5] and one.notes == ()
        np.testing.assert_array_equal(one.ctf.defocus_u, mixed.ctf.defocus_u[[0, 3, 5]])
        chosen = write_pickle(folder / "ind.pkl", [5, 4, 0])
        assert read_particles(path, class_number=3, indices=chosen).source_row.tolist() == [5, 0]
        with pytest.raises(InputError, match="no particle is of class 4; there are classes 1 to 3: 2, 1, 3"):
            read_particles(path, class_number=4)
        with pytest.raises(InputError, match="no classes to choose from; leave out --class"):
            read_particles(star.write(folder, star_text(sound()), "bare.star"), class_number=1)
        assert main(["inspect", str(path)]) == 0
        assert "classes 1 to 3: 2, 1, 3" in capsys.readouterr().out

    def test_the_command_line_notes_and_takes_one(self, folder, capsys):
        path = str(star.write(folder, star_text(sound(rlnClassNumber=[1, 5] * (N // 2)))))
        assert main(["backproject", path, "--out", str(folder / "out")]) == 0
        said = capsys.readouterr()
        assert said.out.count("classes 1, 5: 3, 3") == 1 and "note: particles of several classes" in said.out
        assert "UserWarning" not in said.err
        warnings = json.loads((folder / "out" / "run.json").read_text())["warnings"]
        assert [w for w in warnings if "classes 1, 5: 3, 3" in w]
        assert main(["accumulate", path, "--out", str(folder / "sums.npz")]) == 0
        assert "note: particles of several classes" in capsys.readouterr().out
        assert main(["accumulate", path, "--class", "5", "--out", str(folder / "sums.npz")]) == 0
        said = capsys.readouterr().out
        assert "sums of 3 particles" in said and "note:" not in said

    def test_cryosparc_counts_from_zero(self, folder):
        classes = {"alignments3D/class": np.array([0, 1, 1, 0, 2, 0], np.uint32)}
        path = cs.write(folder, cs.EVERYTHING | classes)
        assert "classes 0 to 2: 3, 2, 1" in read_particles(path).notes[0]
        assert read_particles(path, class_number=0).source_row.tolist() == [0, 3, 5]


def test_alpha_of_cryosparc_scales_the_ctf(folder):
    alpha = np.float32([0.8, 1.2, 1.0, 0.9, 1.1, 1.3])
    scale = {"ctf/scale": np.full(N, 0.5, np.float32)}
    stack = read_particles(cs.write(folder, cs.EVERYTHING | scale | {"alignments3D/alpha": alpha}))
    np.testing.assert_allclose(stack.ctf.scale, 0.5 * alpha, rtol=1e-6)
    assert ["scaled by alignments3D/alpha (median 1.05, 5 to 95 %: 0.825" in note for note in stack.notes] == [True]


@pytest.mark.parametrize(
    "alpha", [[1, 1, 1, 1, 1, 1], [1, 0, 1, 1, 1, 2], [1, np.nan, 1, 1, 1, 2], [-1, 1, 2, 1, 1, 1]]
)
def test_alpha_that_is_none(folder, alpha):
    stack = read_particles(cs.write(folder, cs.EVERYTHING | {"alignments3D/alpha": np.float32(alpha)}))
    assert (stack.ctf.scale == 1).all()
    assert ["will be ignored" in note for note in stack.notes] == [True] * (len(set(alpha)) > 1)


def test_norm_correction_is_shown_and_not_applied(folder, capsys):
    path = star.write(folder, star_text(sound(rlnNormCorrection=[0.7, 0.8, 0.9, 1.0, 1.1, 1.2])))
    assert (read_particles(path).ctf.scale == 1).all()
    assert main(["inspect", str(path)]) == 0
    assert "rlnNormCorrection 0.95 (5 to 95 %: 0.725 to 1.175), shown" in capsys.readouterr().out


class TestOneDirection:
    @pytest.mark.parametrize("tilt", [0, 0.7, 180, 63])
    def test_particles_of_a_2d_classification_are_refused(self, folder, capsys, tilt):
        rng = np.random.default_rng(0)
        psi = list(rng.uniform(-180, 180, N).round(2))
        columns = sound(rlnAngleRot=[20 if tilt > 1 else 0] * N, rlnAngleTilt=[tilt] * N, rlnAnglePsi=psi)
        path = str(star.write(folder, star_text(columns)))
        for command in ("backproject", "reconstruct", "accumulate"):
            assert main([command, path, "--out", str(folder / "out")]) == 2
            assert "seen from one direction: this is a 2D classification" in capsys.readouterr().err
            assert not (folder / "out").exists()
        assert main(["inspect", path]) == 0
        said = capsys.readouterr().out
        assert "poses          all particles are seen from one direction" in said and "as given" not in said

    def test_front_and_back_are_one_direction_and_a_few_degrees_are_not(self, folder):
        def read(tilts):
            columns = sound(rlnAngleRot=[0] * N, rlnAngleTilt=tilts)
            return views_problem(read_particles(star.write(folder, star_text(columns))))

        assert read([0, 180, 0, 180, 180, 0]) is not None
        assert read([0, 0, 0, 0, 0, 5]) is None
        assert views_problem(read_particles(star.write(folder, star_text(sound())))) is None


class TestWithoutImages:
    def test_inspect_says_what_the_table_holds_and_what_is_missing(self, folder, capsys):
        columns = sound(rlnClassNumber=[1, 2] * (N // 2), rlnOpticsGroup=[1, 1, 1, 1, 2, 2])
        columns["rlnImageName"] = [f"{k + 1}@elsewhere.mrcs" for k in range(N)]
        path = str(star.write(folder, star_text(columns, OPTICS + "2 b 200 1.4 0.1 2.5 8\n")))
        assert main(["inspect", path]) == 2
        said = capsys.readouterr()
        for wanted in (
            "particles      6 in 1 file(s), first elsewhere.mrcs", "box            8 px of 2.5 A", "defocus        1.4",
            "300 kV, Cs 2.7 mm, amplitude contrast 0.1: 4 particles", "200 kV, Cs 1.4 mm, amplitude contrast 0.1: 2",
            "half sets      3 and 3", "classes 1 to 2: 3, 3", "views          second moments", "optics groups  2: 4, 2",
        ):  # fmt: skip
            assert wanted in said.out
        assert "1 of 1 image files are missing: elsewhere.mrcs; give --stack FILE or --datadir FOLDER" in said.err
        assert main(["inspect", path, "--stack", str(folder / "gone.mrcs")]) == 2
        said = capsys.readouterr()
        assert "particles      6" in said.out and "no such image stack; give --stack FILE" in said.err

    def test_metadata_alone(self, folder):
        gone = sound(rlnImageName=[f"{k + 1}@gone.mrcs" for k in range(N)])
        path = star.write(folder, star_text(gone, OPTICS.replace("2.5 8", "1e9 8")))
        table = read_metadata(path)  # views need no pixel size
        assert len(table) == N and table.require_poses().shape == (N, 3, 3) and table.ctf is None
        assert table.half_set.tolist() == [1, 2] * (N // 2) and table.pixel_size is None
        with pytest.raises(InputError, match=r"looks like|no detector"):
            read_metadata(path, needs_ctf=True)
        other = read_metadata(path, poses=folder / "poses.pkl")
        np.testing.assert_array_equal(other.rotations, read_metadata(folder / "poses.pkl").rotations)
        images = read_metadata(folder / "gone.mrcs", poses=folder / "poses.pkl")
        np.testing.assert_array_equal(other.rotations, images.rotations)
        with pytest.raises(InputError, match=r"images alone have no poses; give a .star, a .cs or a poses .pkl"):
            read_metadata(folder / "gone.mrcs")
        with pytest.raises(InputError, match="6 particles here but 2 in"):
            read_metadata(path, poses=write_pickle(folder / "two.pkl", np.tile(np.eye(3), (2, 1, 1))))
        no_poses = star.write(folder, star_text(star.without(gone, "rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")))
        with pytest.raises(InputError, match="there are no orientations"):
            read_metadata(no_poses).require_poses()

    def test_views_of_tables_that_name_no_images(self, folder):
        angles = {name: sound()[name] for name in ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")}
        path = star.write(folder, star_text(angles, optics=""))
        assert read_metadata(path).require_poses().shape == (N, 3, 3)
        with pytest.raises(InputError, match="no table of particles with a column rlnImageName"):
            read_particles(path)
        with pytest.raises(InputError, match="no table of particles with a column rlnAngleRot"):
            read_metadata(star.write(folder, "data_other\n\nloop_\n_rlnX\n1\n"))
        alone = cs.write(folder, cs.POSES | {"uid": cs.BLOB["uid"]})
        assert read_metadata(alone).require_poses().shape == (N, 3, 3)
        flipped = sound(rlnCtfDataArePhaseFlipped=[1] * N)
        assert len(read_metadata(star.write(folder, star_text(flipped)))) == N

    def test_cryosparc_with_its_passthrough(self, folder):
        blob = cs.write(folder, cs.BLOB | {"blob/path": np.array([b"gone.mrcs"] * N)})
        rest = cs.write(folder, cs.POSES | {"uid": cs.BLOB["uid"]}, "rest.cs")
        assert read_metadata(blob).rotations is None
        assert read_metadata(blob, passthrough=[rest]).require_poses().shape == (N, 3, 3)

    def test_identities_need_neither_ctf_nor_a_pixel_size(self, folder):
        columns = star.without(sound(), *CTF)
        path = star.write(folder, star_text(columns, OPTICS.replace("2.5 8", "7 8")))
        stack = read_identities(path)
        assert stack.image_index.tolist() == list(range(N)) and stack.half_set.tolist() == [1, 2] * (N // 2)
        assert len(stack.images()) == N


class TestOtherPrograms:
    @pytest.mark.parametrize(
        ("suffix", "message"),
        [(".par", "Frealign or cisTEM, which is not read; export"), (".cistem", "of cisTEM, which is not read"),
         (".lst", "EMAN2"), (".hdf", "EMAN2"), (".csg", "result group of cryoSPARC.*--passthrough")],
    )  # fmt: skip
    def test_files_that_are_not_read_are_named(self, tmp_path, suffix, message):
        (tmp_path / f"x{suffix}").write_bytes(b"anything")
        for read in (read_particles, read_metadata, read_identities):
            with pytest.raises(InputError, match=message):
                read(tmp_path / f"x{suffix}")

    def test_exposures_of_cryosparc(self, tmp_path):
        exposures = {"uid": cs.BLOB["uid"], "micrograph_blob/path": np.array([b"m.mrc"] * N)}
        with pytest.raises(InputError, match=r"lists exposures \(field micrograph_blob/path\), not particles; give"):
            read_particles(cs.write(tmp_path, exposures))


def test_notes_reach_the_user_as_one_line(folder, capsys):
    """Blank images are found while images are read, several times over."""
    write_images(folder / "particles.mrcs")
    from gsworkbench.io.mrc import new_image_stack

    with new_image_stack(folder / "particles.mrcs", N, BOX, PIXEL_SIZE) as images:
        images[:4] = np.random.default_rng(0).normal(size=(4, BOX, BOX))
    path = str(star.write(folder, star_text(sound(rlnBeamTiltX=[0.1] * N))))
    assert main(["copy", path, "--out", str(folder / "copy")]) == 0
    said = capsys.readouterr()
    assert said.err.count("gsworkbench: note: ") == said.err.count("2 of 6 images are blank") == 1
    assert "UserWarning" not in said.err and "warnings.warn" not in said.err
    assert said.out.count("note: ") == 1 and "rlnBeamTiltX is not modelled" in said.out


def test_judged_commands_take_the_places_of_images(folder, capsys, tmp_path):
    from gsworkbench.io.mrc import write_map

    rng = np.random.default_rng(0)
    signal, maps = rng.normal(size=(16,) * 3), [tmp_path / f"half{k}.mrc" for k in (1, 2)]
    for path in maps:
        write_map(path, signal + rng.normal(size=(16,) * 3), 2.5)
    (folder / "moved").mkdir()
    (folder / "particles.mrcs").rename(folder / "moved" / "particles.mrcs")
    path = star.write(
        folder,
        star_text(star.without(sound(), *CTF) | {"rlnImageName": [f"{k + 1}@x/particles.mrcs" for k in range(N)]}),
    )
    halves = list(map(str, maps))
    assert main(["fsc", *halves, "--particles", str(path)]) == 2
    assert "give --stack FILE or --datadir FOLDER" in capsys.readouterr().err
    for option, place in (("--datadir", folder / "moved"), ("--stack", folder / "moved" / "particles.mrcs")):
        assert main(["fsc", *halves, "--particles", str(path), option, str(place)]) == 0
    rest = cs.write(folder, cs.POSES | {"uid": cs.BLOB["uid"]}, "rest.cs")
    blob = cs.write(folder, cs.BLOB)
    assert main(["fsc", *halves, "--particles", str(blob), "--passthrough", str(rest)]) == 0
    assert main(["directional", *halves, "--particles", str(path), "--out", str(tmp_path / "d")]) == 0
