"""Notebooks ask a question, call the core and show the answer; they are stored bare and run with parameters."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import nbformat
import pytest
import yaml

from gsworkbench.errors import InputError
from gsworkbench.experiments.plan import ROOT
from gsworkbench.experiments.run_notebook import main, run_notebook

# What takes long where somebody sits and looks, made short.
SMALLER = {"07_explore": {"n_particles": 500, "box_size": 32, "pixel_size": 12.0}}
MEASURED = ("01_reconstruct", "10_claim")  # the workflow's own: what they write is looked at too
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_bare_small_and_without_definitions(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    assert len(code) <= 12
    assert not re.search(r"^\s*(def|class)\b|\blambda\b", "\n".join(cell.source for cell in code), re.M)
    assert [cell.metadata.get("tags") for cell in code].count(["parameters"]) == 1
    assert notebook.cells[0].cell_type == "markdown" and "?" in notebook.cells[0].source.splitlines()[0]


@pytest.mark.parametrize("path", [p for p in NOTEBOOKS if p.stem not in MEASURED], ids=lambda path: path.stem)
def test_runs_on_its_own_example_and_leaves_pictures(path, tmp_path, monkeypatch):
    _executed(path.stem, tmp_path, monkeypatch)
    assert (tmp_path / "executed.ipynb").stat().st_size < 2e6


def test_reconstruct_runs_on_its_own_example(tmp_path, monkeypatch):
    output = _executed("01_reconstruct", tmp_path, monkeypatch, pictures=3)
    metrics = {m["metric"]: m for m in json.loads((output / "metrics.json").read_text())}
    assert 0.6 < metrics["fsc_truth_mean"]["value"] < 1
    assert {"resolution_half_0.143", "train_cpu_seconds", "peak_memory_bytes"} <= set(metrics)


def test_claim_runs_on_its_own_example(tmp_path, monkeypatch):
    output = _executed("10_claim", tmp_path, monkeypatch, pictures=1)
    outcome = json.loads((output / "control_noise.json").read_text())
    assert outcome["verdict"] == "too small to decide at scale smoke"
    assert len(outcome["findings"]) == 2 and outcome["numbers"]["fsc_half_mean"]["value"] < 0.3
    assert (output / "control_noise.svg").is_file() and (output / "control_noise.csv").is_file()


def _executed(name, tmp_path, monkeypatch, *, pictures=None):
    """Run a notebook as a program does; return its output folder. `pictures` None: any number but none."""
    monkeypatch.chdir(ROOT / "notebooks")  # as Jupyter does
    parameters = SMALLER.get(name, {}) | {"output_dir": str(tmp_path / "output")}
    run_notebook(ROOT / "notebooks" / f"{name}.ipynb", tmp_path / "executed.ipynb", parameters)
    executed = nbformat.read(tmp_path / "executed.ipynb", as_version=4)
    assert "widgets" not in executed.metadata  # pictures in their place, so that it stays small
    shown = [o for cell in executed.cells for o in cell.get("outputs", []) if "image/png" in o.get("data", {})]
    assert shown if pictures is None else len(shown) == pictures
    return tmp_path / "output"


@pytest.fixture
def toy(tmp_path):
    """A notebook of one line that needs its parameters to be right."""
    cells = [
        nbformat.v4.new_code_cell("run = {'x': 1}\noutput_dir = 'nowhere'", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(
            "import os, sys\nprint('printed', os.environ['TQDM_DISABLE'])\nprint('warned', file=sys.stderr)\n"
            "open(output_dir + '/x', 'w').write(str(10 / run['x']))"
        ),
    ]
    path = tmp_path / "toy.ipynb"
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)
    return path


def test_parameters_arrive_with_their_types_and_prints_go_to_the_log(toy, tmp_path):
    (tmp_path / "parameters.yaml").write_text(yaml.safe_dump({"run": {"x": 4.0}}))
    result = _command(toy, tmp_path)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "x").read_text() == "2.5"
    noted = json.loads((tmp_path / "executed.ipynb").read_text())["metadata"]
    assert noted["gsworkbench"]["parameters"] == {"run": {"x": 4.0}, "output_dir": str(tmp_path)}
    assert noted["papermill"]["output_path"] == str(tmp_path / "executed.ipynb")
    assert result.stdout == "printed 1\n" and "warned" in result.stderr


def test_a_failing_cell_is_told_and_the_executed_notebook_kept(toy, tmp_path):
    (tmp_path / "parameters.yaml").write_text(yaml.safe_dump({"run": {"x": 0}}))
    result = _command(toy, tmp_path)
    assert result.returncode == 1
    assert "ZeroDivisionError" in result.stderr and "\x1b" not in result.stderr
    assert "executed.ipynb shows how far the notebook came" in result.stderr
    assert "ZeroDivisionError" in (tmp_path / "executed.ipynb").read_text()


def test_an_unknown_parameter_stops_it_before_it_starts(toy, tmp_path, capsys):
    with pytest.raises(InputError, match="no parameter 'outputdir'; it has run, output_dir"):
        run_notebook(toy, tmp_path / "executed.ipynb", {"outputdir": "x"})
    (tmp_path / "parameters.yaml").write_text("rum: {x: 1}\n")
    assert main([str(toy), str(tmp_path / "executed.ipynb"), "--parameters", str(tmp_path / "parameters.yaml")]) == 2
    assert "no parameter 'rum'" in capsys.readouterr().err
    assert not (tmp_path / "executed.ipynb").exists()


def _command(toy, tmp_path):
    command = [sys.executable, "-m", "gsworkbench.experiments.run_notebook", toy, tmp_path / "executed.ipynb"]
    command += ["--parameters", tmp_path / "parameters.yaml", "--set", f"output_dir={tmp_path}"]
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
