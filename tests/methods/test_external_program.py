"""A program of the user's own gets the particles of one part, and its maps count unless they saw what they must not."""

import dataclasses
import json
import shlex
import sys

import numpy as np
import pytest
import yaml

from gsworkbench.assessment.fsc import fourier_shell_correlation
from gsworkbench.cli.main import main
from gsworkbench.errors import InputError, NotRun
from gsworkbench.experiments.make_runs import make_runs_apart
from gsworkbench.experiments.plan import read_registry, read_sections
from gsworkbench.io.mrc import read_map, write_map
from gsworkbench.methods.external_program import External, check_entry
from gsworkbench.methods.linear_half_maps import linear_maps_of
from gsworkbench.methods.one_pass import OnePass
from gsworkbench.methods.part import ALL, HALVES
from gsworkbench.methods.reconstruction_config import ReconstructionConfig
from gsworkbench.reconstruction.run import reconstruct

PROGRAM = """
import sys
from pathlib import Path

from gsworkbench.io.mrc import write_map
from gsworkbench.normal_equations.classical_map import least_squares
from gsworkbench.normal_equations.equations import accumulate
from gsworkbench.particles.read import read_particles

star, output = sys.argv[1:3]
assert sorted(path.name for path in Path().iterdir()) == ["particles.mrcs", "particles.star"]
assert Path(star).parent.resolve() == Path().resolve()
stack = read_particles(star)
write_map(output, least_squares(accumulate(stack)), stack.pixel_size)
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current folder, with a program."""
    (tmp_path / "my.py").write_text(PROGRAM)
    monkeypatch.chdir(tmp_path)
    return tmp_path


PYTHON = shlex.quote(sys.executable)


def test_a_program_from_the_command_line(here, noisy_set):
    command = f"{PYTHON} my.py {{particles}} {{output}} --seed {{seed}}"
    words = ["reconstruct", str(noisy_set.star), "--out", "out", "--method", "external", "--mask", "none"]
    assert main([*words, "--set", f"command={command}", "--truth", str(noisy_set.truth_file)]) == 0
    record = json.loads((here / "out" / "run.json").read_text())
    assert record["config"]["settings"] == {"command": command}
    for part in ("all", "half 1", "half 2"):
        report = record["results"][part]
        assert report["command"] == command and report["program_seconds"] > 0 < report["program_cpu_seconds"]
        assert record["cpu_seconds"][f"{part}: external"] >= report["program_cpu_seconds"]
    assert record["results"]["agreement"]["slope"] == pytest.approx(1, abs=0.3)
    # It is the map that this package would make of the same half set.
    half, linear = (read_map(here / "out" / f"{name}half1{rest}.mrc")[0] for name, rest in NAMES)
    assert fourier_shell_correlation(half, linear, voxel_size=12.0).values[1:12].min() > 0.9
    assert not list((here / "out").glob("checkpoints"))


NAMES = (("run_", "_class001"), ("linear_", ""))


def test_a_program_as_a_row_of_the_experiments(here):
    content = read_sections()
    settings = {"command": f"{PYTHON} my.py {{particles}} {{output}}"}
    content["methods"]["mine"] = {"label": "My program", "method": "external", "settings": settings}
    content["datasets"]["tiny"] = {"smoke": {"n_particles": 60, "box_size": 16, "pixel_size": 24.0}}
    entry = {"source": "us", "question": "?", "claim": "It is better.", "figure": {"kind": "curves"}}
    rule = {"metric": "fsc_truth_mean", "compare": "higher", "of": {"method": "mine"}, "than": {"method": "voxels"}}
    factors = {"dataset": ["tiny"], "method": ["mine"], "seed": [0]}
    content["experiments"] = {"mine": {**entry, "factors": factors, "verdict": [rule]}}
    (here / "experiments").mkdir()
    for name in ("datasets", *(name for name in content if name != "datasets")):
        rows = content[name] if name != "datasets" else {"tiny": content["datasets"]["tiny"]}
        (here / "experiments" / f"{name}.yaml").write_text(yaml.safe_dump({name: rows}))
    runs = [*read_registry("smoke", here / "experiments").runs.values()]
    assert [run.name for run in runs] == ["tiny-mine-s0"]
    assert make_runs_apart(runs, here / "results") == {}
    made = here / "results" / "runs" / "tiny-mine-s0"
    assert json.loads((made / "run.json").read_text())["results"]["half 2"]["program_seconds"] > 0
    assert (made / "run_half2_class001.mrc").exists()


def run(stack, command, out="out"):
    return reconstruct(stack, out, ReconstructionConfig("external", {"command": command}, mask="none"))


@pytest.mark.parametrize(
    ("command", "error", "sentence"),
    [
        ("", InputError, "has no {particles}; give for example"),
        ("cat {particles}", InputError, "has no {output}"),
        ("cat {particles} '{output}", InputError, "cannot be read"),
        ("no-such-program {particles} {output}", NotRun, "there is no program 'no-such-program' for the command"),
        ("sh -c 'echo lost >&2; exit 3' {particles} {output}", NotRun, r"ended with code 3 on all \(lost\)"),
        ("true {particles} {output}", InputError, "the map of all by .* is not there"),
        ("cp {particles} {output}", InputError, "cannot be used: not a readable MRC file|cannot be used: no map ID"),
    ],
)
def test_a_command_that_cannot_be_used(here, noisy_set, command, error, sentence):
    with pytest.raises(error, match=sentence) as caught:
        run(noisy_set.stack, command)
    assert "\n" not in str(caught.value) and (not command or command.split()[0] in str(caught.value))
    assert not (here / "out").exists()


@pytest.mark.parametrize("name", ["truth.mrc", "particles.mrcs", "particles.star", ""])
def test_a_command_that_names_data_is_refused(here, noisy_set, name):
    with pytest.raises(InputError, match="which is of the particles' folder; an entry sees nothing but"):
        run(noisy_set.stack, f"cp {{particles}} {{output}} {noisy_set.folder}/{name}")


@pytest.mark.parametrize(
    ("volume", "voxel_size", "sentence"),
    [
        (np.eye(16)[None] * np.ones((16, 1, 1)), 12.0, "has a box of 16 voxels; that of the particles is 32"),
        (np.eye(32)[None] * np.ones((32, 1, 1)), 6.0, "voxels of 6 A in its header; the pixels of the particles are"),
        (np.ones((32, 32, 32)), 12.0, "is constant"),
        (np.eye(32)[None] * np.ones((32, 1, 1)), 12.0, "its two half maps are the same map"),
    ],
)
def test_a_map_that_cannot_be_one(here, noisy_set, volume, voxel_size, sentence):
    write_map(here / "made.mrc", volume, voxel_size)
    (here / "my.sh").write_text('cp "$3" "$2"\n')
    with pytest.raises(InputError, match=sentence):
        run(noisy_set.stack, "sh my.sh {particles} {output} made.mrc")
    assert not list((here / "out").rglob("*.mrc")) and not list((here / "out").rglob("*.npz"))


def test_a_map_with_holes_is_refused(here, noisy_set, monkeypatch):
    import mrcfile

    monkeypatch.setattr(mrcfile.mrcfile.MrcFile, "update_header_stats", lambda self: None)
    with mrcfile.new(here / "made.mrc", np.full((32, 32, 32), np.nan, np.float32)) as mrc:
        mrc.voxel_size = 12.0
    (here / "my.sh").write_text('cp "$3" "$2"\n')
    with pytest.raises(InputError, match="cannot be used: 32768 voxels are NaN or infinite"):
        run(noisy_set.stack, "sh my.sh {particles} {output} made.mrc")


@pytest.fixture(scope="module")
def linear(noisy_set, tmp_path_factory):
    return linear_maps_of(noisy_set.stack.with_half_sets(0), tmp_path_factory.mktemp("sums"))


def noise(truth, seed, strength):
    made = np.random.default_rng(seed).standard_normal(truth.shape)
    return (strength * truth.std() * made).astype(np.float32)


def check(maps, linear):
    check_entry(dict(zip((ALL, *HALVES), maps, strict=True)), linear, 12.0)


def test_honest_maps_pass(noisy_set, linear, tmp_path):
    check([linear[0] + linear[1], *linear], linear)
    made = reconstruct(noisy_set.stack, tmp_path, OnePass(n_gaussians=256), mask="none")
    check([made.volume, *made.half_maps], linear)


def test_half_maps_of_particles_of_both_halves_are_refused(noisy_set, linear):
    both = linear[0] + linear[1]
    with pytest.raises(InputError, match="its half map 2 is its map of all particles"):
        check([both, linear[0], 2 * both], linear)
    with pytest.raises(InputError, match=r"its half maps share noise \(a correlation of 0\.\d+ outside"):
        check([both, linear[0], both + noise(both, 1, 0.1)], linear)
    with pytest.raises(
        InputError,
        match=r"its half maps share noise .*: it saw both half sets, or the truth; make each",
    ):
        check([both, *(both + noise(both, k, 0.1) for k in (1, 2))], linear)
    with pytest.raises(InputError, match="holds noise of half set"):
        check([both, *linear[::-1]], linear)


@pytest.mark.parametrize(
    ("strength", "why"),
    [(0.01, "its half maps share noise .*, or the truth;"), (0.3, "nearer the truth than the data allow .* the truth")],
)
def test_half_maps_that_saw_the_truth_are_refused(noisy_set, linear, strength, why):
    truth = noisy_set.truth
    maps = [truth + noise(truth, k, strength) for k in range(3)]
    with pytest.raises(InputError, match=why):
        check(maps, linear)


def test_a_program_that_knows_the_truth_leaves_nothing(here, noisy_set):
    truth = noisy_set.truth
    for k in range(3):
        write_map(here / f"made{k}.mrc", truth + noise(truth, k, 0.3), 12.0)
    (here / "my.sh").write_text(f'cp {here}/made"$3".mrc "$2"\n')
    with pytest.raises(InputError, match="the truth, or both half sets; make each map"):
        run(noisy_set.stack, "sh my.sh {particles} {output} {seed}")
    assert not list((here / "out").rglob("*.npz")) and not list((here / "out").rglob("*.mrc"))


def test_the_settings_are_a_command():
    assert dataclasses.asdict(External()) == {"command": ""}
