"""A method is one row and one file: what comes of a row, for every method there is and for one that a test adds."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
from quick_methods import command_words, own_methods

from gsworkbench.cli.main import main, parser
from gsworkbench.errors import InputError
from gsworkbench.experiments import digest
from gsworkbench.experiments.plan import ROOT, Run, RunConfig, read_registry
from gsworkbench.experiments.run_keys import code_of, method_digest, run_key
from gsworkbench.io.mrc import read_map
from gsworkbench.lab.controls import offered_methods
from gsworkbench.methods.reconstruction_config import ReconstructionConfig
from gsworkbench.methods.registry import METHODS, Method, find_method
from gsworkbench.reconstruction.memory_needed import reconstruct_bytes
from gsworkbench.reconstruction.run_folder import half_map_names
from gsworkbench.simulation.simulation_config import Simulation


@pytest.mark.parametrize("method", own_methods())
def test_every_method_runs_from_the_command_line_and_its_half_maps_differ(noisy_set, tmp_path, method):
    first, *more = command_words(method)
    assert main([first, str(noisy_set.star), "--out", str(tmp_path), "--mask", "none", *more]) == 0
    config = json.loads((tmp_path / "run.json").read_text())["config"]
    assert config["method"] == method
    assert ReconstructionConfig(method, config["settings"]).settings is not None
    names = half_map_names(ReconstructionConfig(method, config["settings"]))
    halves = [read_map(tmp_path / name)[0] for name in names]
    assert halves[0].any() and not np.array_equal(*halves)


@pytest.mark.parametrize("row", METHODS.values(), ids=lambda row: row.name)
def test_the_settings_of_a_method_are_a_frozen_record_of_plain_values(row):
    assert dataclasses.is_dataclass(row.settings) and row.settings.__dataclass_params__.frozen
    assert ReconstructionConfig(row.name).settings == row.default
    assert callable(row.solve)
    for old in row.old_names:
        assert ReconstructionConfig(old) == ReconstructionConfig(row.name)


def test_settings_of_another_method_are_refused():
    with pytest.raises(InputError, match="the method voxels has settings Voxels, not OnePass"):
        ReconstructionConfig("voxels", METHODS["one-pass"].default)
    with pytest.raises(InputError, match="there is no method 'magic'; choose one of one-pass, stochastic"):
        ReconstructionConfig("magic")


def test_the_registry_and_the_files_of_methods_import_nothing_heavy():
    heavy = ("torch", "scipy", "pandas", "matplotlib", "numpy")
    program = f"""
import sys
sys.modules.update(dict.fromkeys({heavy!r}))
from gsworkbench.methods.registry import METHODS
print([row.setting_names for row in METHODS.values()])
"""
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, cwd=ROOT)


@pytest.mark.parametrize("command", ["--help", "fsc --help", "reconstruct --help"])
def test_help_imports_nothing_heavy(command):
    heavy = ("torch", "scipy", "pandas", "matplotlib")
    program = f"""
import sys
sys.modules.update(dict.fromkeys({heavy!r}))
from gsworkbench.cli.main import main
main({command.split()!r})
"""
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert said.returncode == 0 and "usage: gsworkbench" in said.stdout


def run_of(method: str) -> Run:
    data = Simulation(n_particles=40, box_size=16, pixel_size=24.0, snr=1.0)
    return Run(method, "blob-s0", method, None, None, 0, RunConfig(data, ReconstructionConfig(method)), {})


CHANGES = {  # a constant in a file of a method, and whose runs it changes
    "one_pass_fit": ("_EVERY = 10", "_EVERY = 11", {"one-pass"}),
    "one_pass": ("boost: float = 2.0", "boost: float = 2.5", {"one-pass"}),
    "combination": ("_SURE = 5.0", "_SURE = 5.5", {"one-pass"}),
    "stochastic_fit": ("_OTHERS = 500", "_OTHERS = 600", {"stochastic"}),
    "as_published": ("** (1 / 3)", "** (1 / 4)", {"stochastic"}),
    "voxels_fit": ("_RADIUS = 0.45", "_RADIUS = 0.44", {"voxels"}),
    "backprojection_filters": ("curve <= 0", "curve < 0", {"backprojection"}),
    "neural_field_fit": ("_CHUNK = 2**16", "_CHUNK = 2**15", {"neural-field"}),
    "splatting_3dgs_fit": ("_BRIGHTEST = 4.0", "_BRIGHTEST = 5.0", {"splatting-3dgs"}),
    "cryodrgn_program": ("n_epochs: int = 4", "n_epochs: int = 5", {"cryodrgn"}),
    "external_program": ("_NEARER = 0.02", "_NEARER = 0.03", {"external"}),
    "other_programs": ("words[:200]", "words[:300]", {"relion", "cryodrgn"}),
    "task": ("FEW = 500", "FEW = 400", set(METHODS)),
}


@pytest.fixture(scope="module")
def copied_package(tmp_path_factory):
    import shutil

    folder = tmp_path_factory.mktemp("copy") / "gsworkbench"
    shutil.copytree(digest.PACKAGE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def keys_of(methods=METHODS):
    digest.source_digest.cache_clear()
    return {name: run_key(run_of(name)) for name in methods}


@pytest.mark.parametrize("file", CHANGES)
def test_an_edit_in_the_file_of_a_method_changes_the_keys_of_its_runs_alone(copied_package, monkeypatch, file):
    monkeypatch.setattr(digest, "PACKAGE", copied_package)
    path, (old, new, changed) = copied_package / "methods" / f"{file}.py", CHANGES[file]
    text = path.read_text()
    assert old in text
    before, code = keys_of(), code_of([run_of("one-pass"), run_of("voxels")])
    path.write_text(text.replace(old, new))
    try:
        after = keys_of()
        assert {name for name in METHODS if after[name] != before[name]} == changed
        assert (code_of([run_of("one-pass"), run_of("voxels")]) != code) is bool(changed & {"one-pass", "voxels"})
    finally:
        path.write_text(text)
        digest.source_digest.cache_clear()


TOY = '''
"""A toy: noise as strong as a setting says."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Toy:
    strength: float = 1.0


DEFAULT = Toy()


def solve(task):
    from gsworkbench.methods.task import Solution

    for part, stack in task.parts.items():
        with task.stage(part):
            shape = (stack.box_size,) * 3
            noise = np.random.default_rng(task.seed(part)).standard_normal(shape).astype(np.float32)
        yield part, Solution(task.config.settings.strength * noise, report={"strength": task.config.settings.strength})
'''


@pytest.fixture
def toy(tmp_path, monkeypatch):
    (tmp_path / "toy_method.py").write_text(TOY)
    monkeypatch.syspath_prepend(str(tmp_path))
    row = Method("toy", "toy_method", "noise, for tests", label="toy maps", bytes_per_voxel=100, iterates=True)
    monkeypatch.setitem(METHODS, "toy", row)
    digest.source_digest.cache_clear()
    yield tmp_path / "toy_method.py"
    digest.source_digest.cache_clear()
    sys.modules.pop("toy_method", None)


def test_a_method_that_is_added_by_a_row_and_a_file_is_everywhere(toy, noisy_set, tmp_path, capsys):
    with pytest.raises(SystemExit):
        parser().parse_args(["reconstruct", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "toy: noise, for tests" in said and "of toy: strength" in said
    out = tmp_path / "out"
    command = ["reconstruct", str(noisy_set.star), "--out", str(out), "--method", "toy", "--set", "strength=2"]
    assert main([*command, "--mask", "none"]) == 0
    record = json.loads((out / "run.json").read_text())
    assert record["config"]["settings"] == {"strength": 2.0} and record["results"]["all"] == {"strength": 2.0}
    assert offered_methods()["toy maps"] == "toy"
    assert "toy" in own_methods()  # what determinism, the command line and half sets are tested for
    assert reconstruct_bytes(noisy_set.stack, ReconstructionConfig("toy")) == int(0.6e9) + 100 * 32**3
    assert find_method("toy").iterates  # the Snakefile begins with such runs


def test_the_workflow_plans_runs_of_an_added_method_and_keys_them_by_its_file(toy, tmp_path):
    import yaml

    from gsworkbench.experiments.plan import read_sections

    content = read_sections()
    content["methods"]["toy_maps"] = {"label": "Toy", "method": "toy", "settings": {"strength": 3.0}}
    content["experiments"] = {"fig3": content["experiments"]["fig3"]}
    content["experiments"]["fig3"]["factors"] = {"dataset": ["bench"], "method": ["toy_maps"], "strength": [3.0, 4.0]}
    folder = tmp_path / "experiments"
    folder.mkdir()
    for name, rows in content.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({name: rows}))
    runs = read_registry("smoke", folder).runs
    assert set(runs) == {"bench-toy_maps-s0", "bench-toy_maps-strength4.0-s0"}
    run = runs["bench-toy_maps-strength4.0-s0"]
    before, others = run_key(run), method_digest("voxels")
    toy.write_text(TOY.replace("standard_normal", "standard_exponential"))
    digest.source_digest.cache_clear()
    assert run_key(run) != before and method_digest("voxels") == others
