"""Files of sums that are damaged, or do not go together, are refused: real bytes on disk, one sentence."""

import dataclasses

import numpy as np
import pytest

from gsworkbench.cli.main import main
from gsworkbench.errors import InputError
from gsworkbench.normal_equations.equations import NormalEquations, accumulate
from gsworkbench.particles.image_statistics import measure_images, normalised
from gsworkbench.particles.read import read_particles
from gsworkbench.simulation.simulate import simulate
from gsworkbench.simulation.simulation_config import Simulation


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Sums of the same few particles, and of particles that differ in one thing each."""
    folder = tmp_path_factory.mktemp("sums")
    base = {"n_particles": 60, "box_size": 16, "pixel_size": 24.0, "snr": 1.0, "seed": 0}
    sets = {"base": {}, "box": {"box_size": 18}, "pixel": {"pixel_size": 25.0}, "other": {"seed": 1}}
    for name, change in sets.items():
        simulate(Simulation(**(base | change)), folder / name)
    for name, source, *more in (
        ("base", "base"),
        ("half1", "base", "--half-set", "1"),
        ("half2", "base", "--half-set", "2"),
        ("first", "base", "--part", "1/2"),
        ("second", "base", "--part", "2/2"),
        ("middle", "base", "--part", "2/3"),
        ("box", "box"),
        ("pixel", "pixel"),
        ("other", "other"),
        ("engine", "other", "--engine", "finufft"),
        ("weighted", "other", "--noise-spectrum", "measured"),
        ("phases", "other", "--noise-substitute-beyond", "100"),
    ):
        star = str(folder / source / "particles.star")
        assert main(["accumulate", star, "--out", str(folder / f"{name}.npz"), *more]) == 0
    other = read_particles(folder / "other" / "particles.star")  # the command refuses images of dark protein
    flipped = dataclasses.replace(normalised(other, measure_images(other)), data_sign=-other.data_sign)
    accumulate(flipped).save(folder / "sign.npz")
    return folder


def combine(folder, out, *names):
    return main(["combine", *(str(folder / f"{name}.npz") for name in names), "--out", str(out)])


@pytest.mark.parametrize(
    "other, sentence",
    [
        ("box", "box_size is 16 here and 18 there"),
        ("pixel", "pixel_size is 24.0 here and 25.0 there"),
        ("sign", "data_sign is 1 here and -1 there"),
        ("engine", "engine is gridding here and finufft there"),
        ("weighted", "weighted is False here and True there"),
        ("phases", "phases is as they are here and phases random beyond 100 A, seed 0 there"),
        ("base", "60 particles are counted in both sums"),
        ("half1", "30 particles are counted in both sums"),
        ("middle", "20 particles are counted in both sums"),
    ],
)
def test_sums_that_do_not_go_together(folder, tmp_path, capsys, other, sentence):
    capsys.readouterr()
    assert combine(folder, tmp_path / "x.npz", "base", other) == 2
    said = capsys.readouterr().err.strip()
    assert sentence in said and f"{other}.npz" in said and len(said.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_overlapping_chunks_are_refused_and_disjoint_ones_are_not(folder, tmp_path, capsys):
    assert combine(folder, tmp_path / "x.npz", "first", "middle") == 2
    assert "10 particles are counted in both sums" in capsys.readouterr().err
    assert combine(folder, tmp_path / "x.npz", "first", "second", "other") == 0
    assert NormalEquations.load(tmp_path / "x.npz").n_particles == 120
    assert (
        combine(folder, tmp_path / "y.npz", "second", "first")
        == combine(folder, tmp_path / "z.npz", "half2", "half1")
        == 0
    )
    assert (tmp_path / "y.npz").read_bytes() == (tmp_path / "z.npz").read_bytes() == (folder / "base.npz").read_bytes()


def test_the_wrong_half_set_is_refused(folder):
    with pytest.raises(InputError, match=r"half1\.npz: the sums are of half set 1, not of half set 2"):
        NormalEquations.load(folder / "half1.npz", half_set=2)
    with pytest.raises(InputError, match="of no single half set, not of half set 1"):
        NormalEquations.load(folder / "base.npz", half_set=1)


def test_another_version_is_refused(folder, tmp_path):
    with np.load(folder / "base.npz") as file:
        arrays = dict(file)
    text = arrays["header"].tobytes().replace(b'"version": 4', b'"version": 2')
    np.savez(tmp_path / "old.npz", **(arrays | {"header": np.frombuffer(text, np.uint8)}))
    with pytest.raises(InputError, match="the sums are of version 2, this program reads versions 3 and 4"):
        NormalEquations.load(tmp_path / "old.npz")


def test_a_flipped_byte_or_a_cut_is_refused_or_changes_nothing(folder, tmp_path):
    """A few bytes of a zip file say nothing (times, say); every other one that changes is noticed."""
    whole = (folder / "base.npz").read_bytes()
    true = NormalEquations.load(folder / "base.npz")
    rng, file, refused = np.random.default_rng(0), tmp_path / "x.npz", 0
    ends = [*range(400), *range(len(whole) - 400, len(whole))]  # where the zip's own words are
    for place in [*rng.choice(ends, 150, replace=False), *rng.integers(len(whole), size=60)]:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.integers(8)
        file.write_bytes(damaged)
        try:
            found = NormalEquations.load(file)
        except InputError as error:
            assert "x.npz" in str(error)
            refused += 1
        else:
            assert found.grid_sums.tobytes() == true.grid_sums.tobytes() and found.energy == true.energy
            assert found.particles.tobytes() == true.particles.tobytes() and found.sources == true.sources
    assert refused > 100
    for length in (0, 10, 1000, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        with pytest.raises(InputError, match="not a file of sums, or a damaged one"):
            NormalEquations.load(file)


def test_a_checkpoint_of_other_settings_is_refused(folder, tmp_path, capsys):
    star, out = str(folder / "other" / "particles.star"), tmp_path / "x.npz"
    for name in ("base", "half1", "box", "sign", "weighted", "phases"):
        (tmp_path / ".x.npz.unfinished").write_bytes((folder / f"{name}.npz").read_bytes())
        assert main(["accumulate", star, "--out", str(out), "--resume"]) == 2
        assert "this checkpoint was written with other particles or settings" in capsys.readouterr().err
    assert not out.exists()
