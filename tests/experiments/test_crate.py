"""The RO-Crate of a workflow run has what its profiles demand: their MUSTs, read off the specifications, on our zip."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile

import pytest

from gsworkbench.errors import InputError
from gsworkbench.experiments.crate import PARAMETER_PROFILE, PROFILES, write_crate

pytest.importorskip("rocrate", reason="the library rocrate is not installed")
RECORD = {
    "versions": {"gsworkbench": "0.1", "git": "abc1234", "numpy": "2.4"},
    "started": "2026-01-01T10:00:00+00:00",
    "ended": "2026-01-01T10:01:00+00:00",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The smallest folders that the workflow leaves, and the crate of them."""
    folder = tmp_path_factory.mktemp("workflow")
    results, output = folder / "results", folder / "output"
    files = {
        results / "datasets/blob-s0/run.json": json.dumps(RECORD | {"inputs": {}}),
        results / "runs/a/run.json": json.dumps(RECORD | {"inputs": {"x/blob-s0/particles.star": {}}}),
        results / "runs/b/run.json": json.dumps({k: v for k, v in RECORD.items() if k != "ended"} | {"inputs": {}}),
        results / "notebooks/fig9.ipynb": "{}",
        results / "results.csv": "run\n",
        output / "report.html": "<p>",
        output / "fig9.png": "png",
        output / "fig9.json": "{}",
    }
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    write_crate("smoke", results, output)
    with zipfile.ZipFile(write_crate("smoke", results, output)) as file:
        names = set(file.namelist())
        graph = json.loads(file.read("ro-crate-metadata.json"))["@graph"]
    return output, names, {entity["@id"]: entity for entity in graph}


def ids(value):
    return {v["@id"] for v in (value if isinstance(value, list) else [value])}


def kinds(entity):
    return {entity["@type"]} if isinstance(entity["@type"], str) else set(entity["@type"])


def test_every_file_is_described_and_there_and_no_crate_is_in_itself(made):
    _, names, entities = made
    described = {id for id, entity in entities.items() if "File" in kinds(entity)}
    assert described == names - {"ro-crate-metadata.json"}
    assert not any("crate.zip" in name for name in names)
    assert ids(entities["./"]["hasPart"]) == described


def test_ro_crate_1_1(made):
    _, _, entities = made
    descriptor, root = entities["ro-crate-metadata.json"], entities["./"]
    assert descriptor["@type"] == "CreativeWork" and descriptor["about"] == {"@id": "./"}
    assert "https://w3id.org/ro/crate/1.1" in ids(descriptor["conformsTo"])
    assert root["@type"] == "Dataset" and {"name", "description", "datePublished", "license"} <= set(root)
    for entity in entities.values():
        assert {"@id", "@type"} <= set(entity)
        for value in entity.values():  # every reference leads somewhere
            if isinstance(value, dict):
                assert value["@id"] in entities or value["@id"].startswith("http")


def test_process_run_crate(made):
    _, _, entities = made
    assert ids(entities["./"]["conformsTo"]) == set(PROFILES)
    assert all(entities[url]["@type"] == "CreativeWork" and entities[url]["version"] for url in PROFILES)
    actions = [e for e in entities.values() if "CreateAction" in kinds(e)]
    assert len(actions) == 4  # the whole, a data set, two runs
    assert ids(entities["./"]["mentions"]) == {action["@id"] for action in actions}
    for action in actions:
        program = entities[action["instrument"]["@id"]]
        assert kinds(program) & {"SoftwareApplication", "SoftwareSourceCode", "ComputationalWorkflow"}
        assert program["name"] and action["name"] and ids(action["result"]) <= set(entities)
    run = next(a for a in actions if a["name"] == "run a")
    assert ids(run["object"]) == {"datasets/blob-s0/run.json"} and ids(run["result"]) == {"runs/a/run.json"}
    assert run["endTime"] == RECORD["ended"]


def test_workflow_run_crate(made):
    _, _, entities = made
    workflow = entities[entities["./"]["mainEntity"]["@id"]]
    assert kinds(workflow) == {"File", "SoftwareSourceCode", "ComputationalWorkflow"}
    language = entities[workflow["programmingLanguage"]["@id"]]
    assert language["@type"] == "ComputerLanguage" and "snakemake" in language["name"].lower()
    whole = next(e for e in entities.values() if e.get("instrument") == {"@id": workflow["@id"]})
    for kind, values in (("input", whole["object"]), ("output", whole["result"])):
        for parameter in ids(workflow[kind]):
            assert entities[parameter]["@type"] == "FormalParameter" and entities[parameter]["name"]
            assert entities[parameter]["additionalType"] in ("Text", "File")
            assert entities[parameter]["conformsTo"] == {"@id": PARAMETER_PROFILE}
            assert any(entities[v].get("exampleOfWork") == {"@id": parameter} for v in ids(values))


def test_the_validator_of_the_profiles_agrees(made):
    """rocrate-validator is not among what we install; where it is, it has the last word."""
    program = shutil.which("rocrate-validator")
    if program is None:
        pytest.skip("rocrate-validator is not installed")
    for profile in ("process-run-crate-0.5", "workflow-run-crate-0.5"):
        command = [
            program,
            "-y",
            "validate",
            "-np",
            "-p",
            profile,
            str(made[0] / "crate.zip"),
            "--skip-availability-check",
        ]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout + result.stderr


def test_without_a_page_or_the_library_it_says_so(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="there is no report"):
        write_crate("smoke", tmp_path, tmp_path)
    monkeypatch.setitem(sys.modules, "rocrate.rocrate", None)
    with pytest.raises(InputError, match="rocrate is not installed"):
        write_crate("smoke", tmp_path, tmp_path)
