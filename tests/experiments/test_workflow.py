"""The workflow plans the right jobs, and its digests change when, and only when, what they stand for does."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from gsworkbench.experiments import digest
from gsworkbench.experiments.plan import ROOT, read_registry
from gsworkbench.experiments.run_keys import JUDGE
from gsworkbench.methods.registry import METHODS


def test_the_dry_run_has_two_jobs_for_each_experiment_and_one_page(tmp_path):
    registry = read_registry("smoke")
    plan = _snakemake("all", tmp_path)
    jobs = dict(re.findall(r"^(\w+) +(\d+)$", plan.stdout, re.M))
    assert all(jobs[name] == "1" for name in (*registry.experiments, "page")), plan.stderr
    needed = {owner for name in registry.experiments for owner in registry.owners(name)}
    assert {name.removeprefix("runs_") for name in jobs if name.startswith("runs_")} == needed


def test_an_experiment_is_made_by_its_name_from_the_runs_it_needs(tmp_path):
    plan = _snakemake("fig9", tmp_path)
    assert "fig9.png" in plan.stdout and "gem_speed" not in plan.stdout and "report.html" not in plan.stdout
    owners = read_registry("smoke").owners("fig9")
    assert set(re.findall(r"^runs_(\w+) ", plan.stdout, re.M)) == set(owners)


def test_a_scale_that_is_not_there_is_named(tmp_path):
    plan = _snakemake("all", tmp_path, scale="huge")
    assert plan.returncode != 0
    assert "there is no scale 'huge'; choose smoke, laptop, paper" in plan.stdout + plan.stderr


def _snakemake(target, tmp_path, scale="smoke"):
    """Plan, as if nothing had been made yet: in an empty directory that has what the Snakefile names by its place."""
    for name in ("notebooks", "env"):
        (tmp_path / name).symlink_to(ROOT / name)
    command = [sys.executable, "-m", "snakemake", target, "-n", "-s", ROOT / "Snakefile", "-d", tmp_path]
    command += ["--cores", "1", "--config", f"scale={scale}"]
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)


def test_the_judge_is_no_part_of_a_fit_but_all_of_an_assessment():
    shared = digest.reached("gsworkbench.reconstruction.run", without=JUDGE)
    assert not any("assessment" in module or "experiments" in module for module in shared)
    assert not shared & {row.module for row in METHODS.values()}
    for name, row in METHODS.items():
        fits = digest.reached(row.module)
        assert f"{row.module}_fit" in fits or row.other_program or name == "backprojection"
        assert any("assessment" in module for module in fits) is (
            name in ("backprojection", "external")  # a filter by local FSC; a check of what a program saw
        )
    judged = digest.reached("gsworkbench.experiments.measures", without=("gsworkbench.methods.gradient_schemes",))
    assert {"gsworkbench.assessment.fsc", "gsworkbench.assessment.honesty", "gsworkbench.assessment.assess"} <= judged
    assert not any(module.endswith("_fit") or "normal_equations" in module for module in judged)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package called gsworkbench of three modules: a uses b, and c for types alone; b imports d's data."""
    folder = tmp_path / "gsworkbench"
    (folder / "d").mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "a.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from gsworkbench.c import z\n"
        'def f():\n    "Says."\n    from gsworkbench import b\n    return b.y\n'
    )
    (folder / "b.py").write_text("import numpy\nimport gsworkbench.d\ny = 1\n")
    (folder / "c.py").write_text("z = 1\n")
    (folder / "d" / "__init__.py").write_text("")
    (folder / "d" / "atoms.txt").write_text("C")
    monkeypatch.setattr(digest, "PACKAGE", folder)
    return folder


CHANGES = {
    "code of a module that is imported": ("b.py", "import numpy\nimport gsworkbench.d\ny = 2\n", True),
    "data beside a package": ("d/atoms.txt", "N", True),
    "a new data file": ("d/more.txt", "N", True),
    "comments and spaces": ("b.py", "import numpy  # arrays\nimport gsworkbench.d\n\n\ny = (1)\n", False),
    "docstring": ("d/__init__.py", '"""Atoms."""\n', False),
    "a module imported for types alone": ("c.py", "z = 2\n", False),
}


def digest_anew(*modules, without=()):
    digest.source_digest.cache_clear()
    return digest.source_digest(*modules, without=without)


@pytest.mark.parametrize("what", CHANGES)
def test_source_digest_sees_code_and_data_only(package, what):
    file, text, matters = CHANGES[what]
    before = digest_anew("gsworkbench.a")
    (package / file).write_text(text)
    assert (digest_anew("gsworkbench.a") != before) is matters


def test_what_is_left_out_of_a_digest_is_not_seen_through(package):
    before = digest_anew("gsworkbench.a", without=("gsworkbench.b",))
    (package / "b.py").write_text("y = 2\n")
    (package / "d" / "atoms.txt").write_text("N")
    assert digest_anew("gsworkbench.a", without=("gsworkbench.b",)) == before


@pytest.mark.parametrize("file, matters", [("b.cpp", True), ("c.cpp", False), ("any.h", True)])
def test_c_plus_plus_that_a_module_names_counts(package, file, matters):
    (package / "kernels").mkdir()
    (package / "kernels" / "b.cpp").write_text("int y;")
    (package / "b.py").write_text('y = library(KERNELS / "b.cpp")\n')
    before = digest_anew("gsworkbench.a")
    (package / "kernels" / file).write_text("int z;")
    assert (digest_anew("gsworkbench.a") != before) is matters


def test_data_that_a_module_names_counts(package):
    (package / "b.py").write_text('y = Path(__file__).with_name("cards.yaml")\n')
    before = digest_anew("gsworkbench.a")
    (package / "cards.yaml").write_text("1")
    assert digest_anew("gsworkbench.a") != before


def test_source_digest_of_the_simulator_covers_the_molecules():
    reached = digest.reached("gsworkbench.simulation.simulate")
    assert {"gsworkbench.simulation.simulate", "gsworkbench.molecules", "gsworkbench.config"} <= reached
    assert not any("methods" in module for module in reached)


def test_notebook_digest_sees_cells_and_imports_but_not_outputs(package, tmp_path):
    cell = {
        "cell_type": "code",
        "source": ["%matplotlib inline\n", "import gsworkbench.b"],
        "metadata": {},
        "outputs": [],
    }
    notebook = {"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    path = tmp_path / "x.ipynb"

    def saved():
        path.write_text(json.dumps(notebook))
        digest.source_digest.cache_clear()
        return digest.notebook_digest(path)

    before = saved()
    cell |= {"outputs": [{"output_type": "stream", "name": "stdout", "text": "1"}], "execution_count": 3}
    cell["source"] = "".join(cell["source"])  # one text or a list of lines: the same cell
    notebook["metadata"] = {"kernelspec": {"name": "python3"}}
    assert saved() == before
    (package / "b.py").write_text("y = 3\n")
    assert saved() != before
    after = saved()
    cell["metadata"] = {"tags": ["parameters"]}
    assert saved() != after
