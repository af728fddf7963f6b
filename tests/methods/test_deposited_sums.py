"""Maps from files of sums alone: those of the particles, and one sentence where the files do not go together."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest

from gsworkbench.assessment.fsc import shell_indices
from gsworkbench.assessment.map_names import LINEAR
from gsworkbench.cli.main import main
from gsworkbench.errors import InputError
from gsworkbench.io.mrc import new_image_stack, read_map, write_map
from gsworkbench.lab.commands import command_line
from gsworkbench.lab.fits import LiveFits
from gsworkbench.lab.opened_run import read_run
from gsworkbench.lab.tabs import View, tabs_of
from gsworkbench.methods.backprojection import Backprojection
from gsworkbench.methods.deposited_sums import KEPT, read_deposit
from gsworkbench.methods.part import ALL
from gsworkbench.methods.reconstruction_config import ReconstructionConfig
from gsworkbench.methods.stochastic import Stochastic
from gsworkbench.normal_equations.equations import NormalEquations

MAPS = ("run_class001.mrc", "run_half1_class001.mrc", "run_half2_class001.mrc", "background.mrc", *LINEAR)
FEW = ["--n-gaussians", "100"]


@pytest.fixture(scope="module")
def kept(noisy_set, tmp_path_factory):
    """A run of particles whose images are in other units, so that maps have a factor, with its sums."""
    folder = tmp_path_factory.mktemp("kept")
    images = noisy_set.stack.images()
    with new_image_stack(folder / "particles.mrcs", len(images), 32, 12.0) as stack:
        stack[:] = 50 * images + 7
    (folder / "particles.star").write_text(noisy_set.star.read_text())
    command = ["reconstruct", str(folder / "particles.star"), "--out", str(folder / "run"), "--keep-sums", *FEW]
    assert main(command) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def deposit(kept, tmp_path_factory):
    """The sums as somebody would deposit them: nothing in them says which particles they are of."""
    folder = tmp_path_factory.mktemp("deposit")
    for name in KEPT:
        assert main(["combine", str(kept / name), "--out", str(folder / name), "--without-identities"]) == 0
    return folder


def of_sums(folder, out, *more, command="reconstruct"):
    return main([command, *(str(folder / name) for name in KEPT), "--out", str(out), *more])


def test_maps_from_sums_are_those_from_particles_bit_for_bit(kept, deposit, tmp_path):
    assert of_sums(deposit, tmp_path, *FEW) == 0
    for name in MAPS:
        assert read_map(kept / name)[0].tobytes() == read_map(tmp_path / name)[0].tobytes(), name
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["n_particles"] == {"all": 600, "half 1": 300, "half 2": 300}
    assert not (tmp_path / "run_data.star").exists()


def test_a_classical_map_from_sums_is_that_of_the_particles(kept, deposit, tmp_path):
    star = str(kept.parent / "particles.star")
    assert main(["backproject", star, "--out", str(tmp_path / "a")]) == 0
    assert of_sums(deposit, tmp_path / "b", command="backproject") == 0
    first, second = (np.fft.rfftn(read_map(tmp_path / run / "run_class001.mrc")[0]) for run in "ab")
    shells = np.minimum(shell_indices(32).ravel(), 16)
    power = np.bincount(shells, (abs(first) ** 2).ravel())[:16]
    assert (np.bincount(shells, (abs(first - second) ** 2).ravel())[:16] < 1e-6**2 * power).all()


def test_single_precision_is_half_the_size_and_gives_the_same_linear_maps(kept, deposit, tmp_path):
    for name in KEPT:
        given = [str(kept / name), "--out", str(tmp_path / name), "--without-identities", "--single"]
        assert main(["combine", *given]) == 0
        assert (tmp_path / name).stat().st_size < 0.51 * (deposit / name).stat().st_size
    assert of_sums(tmp_path, tmp_path / "c", "--filter", "none", command="backproject") == 0
    linear, single = (read_map(folder / LINEAR[0])[0] for folder in (kept, tmp_path / "c"))
    assert np.abs(linear - single).max() < 1e-6 * np.abs(linear).max()


def test_nothing_in_a_deposit_is_a_particle(kept, deposit):
    for name in KEPT:
        with np.load(deposit / name) as file:
            assert set(file.files) == {"header", "sums", "held_out_sums"}
            header = json.loads(file["header"].tobytes())
        assert header["training"]["images"] == header["held_out"]["images"] == []
        assert header["training"]["n_particles"] + header["held_out"]["n_particles"] == 300
        with np.load(kept / name) as file:
            assert {"particles", "held_out_particles"} <= set(file.files)


def test_what_is_not_checked_is_said(kept, deposit, tmp_path, capsys):
    assert of_sums(deposit, tmp_path / "a", command="backproject") == 0
    assert "whether a particle or an image is in both half sets was not checked" in capsys.readouterr().out
    assert of_sums(kept, tmp_path / "b", command="backproject") == 0
    assert "was not checked" not in capsys.readouterr().out


@pytest.mark.parametrize("command", ["fsc", "localres", "directional"])
def test_the_judge_makes_linear_maps_of_sums(kept, deposit, tmp_path, capsys, command):
    halves = [str(kept / name) for name in MAPS[1:3]]
    out = [] if command == "fsc" else ["--out", str(tmp_path), "--mask", "sphere"]
    said = []
    for linear in ([str(kept / name) for name in LINEAR], [str(deposit / name) for name in KEPT]):
        capsys.readouterr()
        assert main([command, *halves, "--linear", *linear, *out]) == 0
        said.append([line for line in capsys.readouterr().out.splitlines() if not line.startswith("note")])
    assert said[0] == said[1] and any("estimate" in line for line in said[0])


def test_live_fits_work_from_sums_where_there_are_no_particles(kept, deposit, tmp_path, monkeypatch):
    assert of_sums(deposit, tmp_path / "run", *FEW) == 0
    run = read_run(tmp_path / "run")
    fits = LiveFits(run)
    assert [str(deposit / name) for name in KEPT] == list(fits.reading)
    outcome = fits.fit(run.config)
    assert outcome.volume.tobytes() == run.maps["full"].tobytes()
    assert fits.fit(ReconstructionConfig("backprojection", Backprojection())).volume.std() > 0
    words = command_line(run.config, run, tmp_path / "again", fits.reading)
    assert words.startswith(f"gsworkbench reconstruct {deposit / KEPT[0]} {deposit / KEPT[1]} --out ")
    with pytest.raises(InputError, match="stochastic needs particles, and there are only sums"):
        fits.fit(ReconstructionConfig("stochastic", Stochastic()))


def test_live_fits_take_the_sums_that_a_run_kept_where_its_images_are_gone(kept, tmp_path):
    shutil.copytree(kept, tmp_path / "sent")
    fits = LiveFits(read_run(tmp_path / "sent"))  # run_data.star names images beside the run
    assert fits.deposit is not None and fits.sums[ALL][0].n_particles == 540


def refused(capsys, code):
    said = capsys.readouterr().err.strip()
    assert code == 2 and len(said.splitlines()) == 1, said
    return said


def test_files_that_do_not_go_together_are_refused(kept, deposit, tmp_path, capsys):
    first, second = (str(deposit / name) for name in KEPT)
    out = ["--out", str(tmp_path / "out")]
    assert "of half set 2, not of half set 1" in refused(capsys, main(["reconstruct", second, first, *out]))
    assert "of half set 1, not of half set 2" in refused(capsys, main(["reconstruct", first, first, *out]))
    assert "one file of sums makes no half maps" in refused(capsys, main(["reconstruct", first, *out]))
    assert "--sign is an option for particles" in refused(
        capsys, main(["reconstruct", first, second, "--sign", "-1", *out])
    )
    said = refused(capsys, main(["reconstruct", first, second, "--method", "stochastic", *out]))
    assert "needs particles, and there are only sums" in said
    assert "the filter 'fsc' needs particles" in refused(
        capsys, main(["backproject", first, second, "--filter", "fsc", *out])
    )
    halves = [str(kept / name) for name in MAPS[1:3]]
    assert "of half set 2, not of half set 1" in refused(capsys, main(["fsc", *halves, "--linear", second, first]))
    whole = NormalEquations.load_pair(second)
    for change, sentence in (
        ({"pixel_size": 13.0}, "pixel_size is 13.0 here and 12.0 in sums_half1.npz"),
        ({"normalised": False}, "normalised is False here and True in"),
    ):
        train, test = (dataclasses.replace(sums, **change) for sums in whole)
        train.save(tmp_path / "other.npz", held_out=test)
        assert sentence in refused(capsys, main(["reconstruct", first, str(tmp_path / "other.npz"), *out]))
    whole[0].save(tmp_path / "bare.npz")
    said = refused(capsys, main(["reconstruct", first, str(tmp_path / "bare.npz"), *out]))
    assert "one of the two files holds held-out particles, and the other none" in said
    for length in (0, 1000, 100_000):
        (tmp_path / "cut.npz").write_bytes((deposit / KEPT[1]).read_bytes()[:length])
        said = refused(capsys, main(["reconstruct", first, str(tmp_path / "cut.npz"), *out]))
        assert "cut.npz: not a file of sums, or a damaged one" in said
    damaged = bytearray((deposit / KEPT[1]).read_bytes())
    damaged[len(damaged) // 3] ^= 1
    (tmp_path / "cut.npz").write_bytes(damaged)
    said = refused(capsys, main(["fsc", *halves, "--linear", first, str(tmp_path / "cut.npz")]))
    assert "cut.npz: not a file of sums, or a damaged one" in said
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").glob("*.mrc"))


def test_a_particle_in_both_half_sets_is_refused(kept, tmp_path, capsys):
    train, test = NormalEquations.load_pair(kept / KEPT[0])
    dataclasses.replace(train, half_set=2).save(tmp_path / "same.npz", held_out=dataclasses.replace(test, half_set=2))
    code = main(["reconstruct", str(kept / KEPT[0]), str(tmp_path / "same.npz"), "--out", str(tmp_path / "out")])
    assert "particles are counted in both sums" in refused(capsys, code)
    halves = [str(kept / name) for name in MAPS[1:3]]
    code = main(["fsc", *halves, "--linear", str(kept / KEPT[0]), str(tmp_path / "same.npz")])
    assert "particles are counted in both sums" in refused(capsys, code)


def test_sums_of_another_box_than_the_half_maps(kept, tmp_path, capsys):
    halves = [tmp_path / "1.mrc", tmp_path / "2.mrc"]
    for seed, half in enumerate(halves):
        write_map(half, np.random.default_rng(seed).standard_normal((16, 16, 16)), 12.0)
    code = main(["fsc", *map(str, halves), "--linear", *(str(kept / name) for name in KEPT)])
    assert "the sums have 32 px of 12 A, the half maps 16 voxels of 12 A" in refused(capsys, code)


def test_sums_without_held_out_particles_are_fitted_without_a_background(noisy_set, tmp_path, capsys):
    for half in (1, 2):
        out = ["--half-set", str(half), "--out", str(tmp_path / KEPT[half - 1])]
        assert main(["accumulate", str(noisy_set.star), *out]) == 0
    assert of_sums(tmp_path, tmp_path / "fit", *FEW) == 0
    assert "the mixture is fitted without a background" in capsys.readouterr().out
    assert read_deposit([tmp_path / name for name in KEPT]).n_particles["all"] == 600


def test_accumulate_holds_a_tenth_out_by_jobs_too(noisy_set, tmp_path, capsys):
    for half, name in enumerate(KEPT, 1):
        parts = [str(tmp_path / f"{half}{part}.npz") for part in (1, 2)]
        for part, out in enumerate(parts, 1):
            given = ["--half-set", str(half), "--part", f"{part}/2", "--hold-out", "--out", out]
            assert main(["accumulate", str(noisy_set.star), *given]) == 0
        assert main(["combine", *parts, "--out", str(tmp_path / name)]) == 0
        train, test = NormalEquations.load_pair(tmp_path / name)
        assert (train.n_particles, test.n_particles) == (270, 30)
    assert not list(tmp_path.glob(".*"))
    assert of_sums(tmp_path, tmp_path / "fit", *FEW) == 0
    assert "without a background" not in capsys.readouterr().out
    main(["accumulate", str(noisy_set.star), "--half-set", "1", "--part", "1/2", "--out", str(tmp_path / "bare.npz")])
    capsys.readouterr()
    code = main(["combine", str(tmp_path / "12.npz"), str(tmp_path / "bare.npz"), "--out", str(tmp_path / "x.npz")])
    assert "some of these files hold held-out particles apart, and others do not" in refused(capsys, code)


def test_files_of_version_3_are_taken_too(noisy_set, tmp_path, capsys):
    for half, name in enumerate(KEPT, 1):
        assert main(["accumulate", str(noisy_set.star), "--half-set", str(half), "--out", str(tmp_path / name)]) == 0
        with np.load(tmp_path / name) as file:
            arrays = dict(file)
        header = json.loads(arrays["header"].tobytes())
        header = {"version": 3} | header.pop("training") | header | {"version": 3}
        for entry in ("format", "density_unit", "n_particles"):
            header.pop(entry)
        np.savez(tmp_path / name, **(arrays | {"header": np.frombuffer(json.dumps(header).encode(), np.uint8)}))
    assert of_sums(tmp_path, tmp_path / "map", command="backproject") == 0
    said = capsys.readouterr().out
    assert "600 particles" in said and "densities are in units of the noise" in said


def test_one_file_makes_one_map(kept, tmp_path):
    assert main(["combine", *(str(kept / name) for name in KEPT), "--out", str(tmp_path / "all.npz")]) == 0
    out = tmp_path / "map"
    assert main(["reconstruct", str(tmp_path / "all.npz"), "--no-half-maps", "--out", str(out), *FEW]) == 0
    assert read_map(out / MAPS[0])[0].std() > 0 and not (out / MAPS[1]).exists()
    train, test = NormalEquations.load_pair(tmp_path / "all.npz")
    assert (train.n_particles, test.n_particles, train.half_set) == (540, 60, 0)


def test_pictures_of_a_run_that_was_made_from_sums(deposit, tmp_path):
    assert of_sums(deposit, tmp_path / "run", command="backproject") == 0
    pictures = [tab.picture() for tab in tabs_of(View(read_run(tmp_path / "run")))]
    assert sum(picture is not None for picture in pictures) >= 3


def test_sums_are_not_overwritten_by_what_is_made_of_them(kept, capsys):
    before = (kept / KEPT[0]).read_bytes()
    assert "the sums lie in the folder that is to be written" in refused(capsys, of_sums(kept, kept))
    assert (kept / KEPT[0]).read_bytes() == before
