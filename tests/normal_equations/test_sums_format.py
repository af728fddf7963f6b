"""The file of sums as docs/reference/sums.md describes it: the page's example, files of other programs and versions."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path

import numpy as np
import pytest

from gsworkbench.errors import InputError
from gsworkbench.normal_equations.classical_map import least_squares
from gsworkbench.normal_equations.equations import NormalEquations, accumulate
from gsworkbench.normal_equations.sums_format import nodes

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "sums.md"


@pytest.fixture(scope="module")
def sums(noisy_set):
    stack = noisy_set.stack
    return tuple(accumulate(stack[np.arange(len(stack)) % 10 == rest]) for rest in (1, 0))


def header_of(path):
    with np.load(path) as file:
        return dict(file), json.loads(file["header"].tobytes())


def written(path, arrays, header):
    np.savez(path, **(arrays | {"header": np.frombuffer(json.dumps(header).encode(), np.uint8)}))


def test_the_example_of_the_page_reads_a_file_without_this_program(noisy_set, tmp_path):
    stack = noisy_set.stack
    sums = [accumulate(stack[(np.arange(len(stack)) % 10 == 0) == held_out]) for held_out in (False, True)]
    (reader,) = (code for code in re.findall(r"(?s)```python\n(.*?)```", PAGE.read_text()) if "np.load" in code)
    assert "gsworkbench" not in reader
    sums[0].save(tmp_path / "sums_half1.npz", held_out=sums[1])
    found = {}
    with contextlib.chdir(tmp_path):
        exec(reader, found)
    b = (sums[0] + sums[1]).b().numpy()
    assert np.abs(found["b"] - b).max() < 1e-12 * np.abs(b).max()
    kernel = (sums[0] + sums[1]).kernel(circular=True).numpy()
    assert np.abs(found["K"] - kernel).max() < 1e-12 * kernel.max()
    volume = least_squares(sums[0] + sums[1])
    assert np.corrcoef(found["volume"].ravel(), volume.ravel())[0, 1] > 0.95  # components of little weight differ


def test_every_entry_of_the_header_is_on_the_page(sums, tmp_path):
    sums[0].save(tmp_path / "x.npz", held_out=sums[1])
    arrays, header = header_of(tmp_path / "x.npz")
    text = PAGE.read_text()
    for name in {*arrays, *header, *header["training"]}:
        assert f"`{name}`" in text, name


def test_a_file_has_two_sets_and_loads_as_their_sum(sums, tmp_path):
    sums[0].save(tmp_path / "x.npz", held_out=sums[1])
    train, test = NormalEquations.load_pair(tmp_path / "x.npz")
    for found, true in (
        (train, sums[0]),
        (test, sums[1]),
        (NormalEquations.load(tmp_path / "x.npz"), sums[0] + sums[1]),
    ):
        assert found.grid_sums.tobytes() == true.grid_sums.tobytes()
        assert found.particles.tobytes() == true.particles.tobytes()
        assert (found.energy, found.noise_power) == (true.energy, true.noise_power)
    with pytest.raises(InputError, match="counted in both sums"):
        sums[0].save(tmp_path / "y.npz", held_out=sums[0])


def test_the_least_that_another_program_has_to_write(sums, tmp_path):
    """Entries of the page's table that are not needed may be absent, and unknown ones are passed over."""
    sums[0].save(tmp_path / "x.npz")
    arrays, header = header_of(tmp_path / "x.npz")
    needed = ("box_size", "pixel_size", "half_set", "data_sign", "engine", "weighted", "normalised", "phases")
    least = {name: header[name] for name in ("format", "version", *needed, "density_unit", "sources")}
    least["training"] = {name: header["training"][name] for name in ("n_particles", "energy_sum", "noise_sum")}
    single = {"sums": arrays["sums"].astype(np.float32)}
    written(tmp_path / "y.npz", single, least | {"written_by": "another program"})
    found = NormalEquations.load(tmp_path / "y.npz")
    assert found.n_particles == found.unnamed == 60 and found.noise_power == sums[0].noise_power
    assert np.abs(found.grid_sums - sums[0].grid_sums).max() < 1e-6 * np.abs(sums[0].grid_sums).max()
    assert (found + sums[1]).n_particles == 120  # sums that are not exact can be added


def test_files_of_version_3_are_read(sums, tmp_path):
    sums[0].save(tmp_path / "x.npz")
    arrays, header = header_of(tmp_path / "x.npz")
    own = header.pop("training")
    own.pop("n_particles")
    for name in ("format", "density_unit"):
        header.pop(name)
    written(tmp_path / "old.npz", arrays, header | own | {"version": 3})
    old = NormalEquations.load(tmp_path / "old.npz")
    assert old.grid_sums.tobytes() == sums[0].grid_sums.tobytes() and old.n_particles == 60
    assert old.density_unit is None and (old + sums[1]).density_unit == sums[1].density_unit


@pytest.mark.parametrize(
    "change",
    [
        {"box_size": 34},
        {"box_size": "many"},
        {"pixel_size": -1.0},
        {"half_set": 3},
        {"engine": None, "box_size": 30},
        {"training": {}},
        {"training": {"n_particles": 59, "energy_sum": 1.0, "noise_sum": 1.0}},
        {"training": {"n_particles": 60, "energy_sum": float("nan"), "noise_sum": 1.0}},
        {"held_out": {"n_particles": 6, "energy_sum": 1.0, "noise_sum": 1.0}},
    ],
)
def test_headers_that_say_what_cannot_be_are_refused(sums, tmp_path, change):
    sums[0].save(tmp_path / "x.npz")
    arrays, header = header_of(tmp_path / "x.npz")
    written(tmp_path / "y.npz", arrays, header | change)
    with pytest.raises(InputError, match=r"y\.npz: not a file of sums, or a damaged one"):
        NormalEquations.load(tmp_path / "y.npz")


def test_sizes_that_the_page_states():
    text = PAGE.read_text()
    for box_size in (64, 128, 256):
        size = 24 * np.count_nonzero(nodes(box_size, "gridding")) / 1e9
        assert f"| {box_size} | {size:.2g} |" in text
