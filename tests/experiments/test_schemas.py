"""The JSON Schemas in docs/reference are generated from the records, and real files pass them."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from gsworkbench.config import to_mapping
from gsworkbench.experiments.plan import EMPIAR_EXPERIMENTS, EXPERIMENTS, ROOT, read_registry
from gsworkbench.experiments.schemas import main, reconstruction_schema, schemas
from gsworkbench.methods.reconstruction_config import ReconstructionConfig

FOLDER = ROOT / "docs" / "reference"
FILES = [*sorted(EXPERIMENTS.glob("*.yaml")), *sorted(EMPIAR_EXPERIMENTS.glob("*.yaml"))]


def test_the_files_in_the_documentation_are_the_generated_ones(tmp_path):
    """Where this fails: python -m gsworkbench.experiments.schemas docs/reference."""
    main([str(tmp_path)])
    for name in schemas():
        assert (FOLDER / name).read_text() == (tmp_path / name).read_text()


@pytest.mark.parametrize("schema", schemas().values(), ids=schemas())
def test_they_are_schemas(schema):
    jsonschema.Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("file", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_our_experiments_pass(file):
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    jsonschema.validate(content, schemas()["experiments.schema.json"], jsonschema.Draft202012Validator)


def test_a_setting_that_does_not_exist_does_not_pass():
    schema = reconstruction_schema()
    good = json.loads(json.dumps(to_mapping(ReconstructionConfig())))
    jsonschema.validate(good, schema)
    others = {"box": 3}, {"settings": {**good["settings"], "gamma": 1}}, {"method": "magic"}
    for bad in ({**good, **other} for other in others):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(bad, schema)


def test_every_configuration_of_the_workflow_passes():
    schema = reconstruction_schema()
    validator = jsonschema.Draft202012Validator(schema)
    for run in read_registry("smoke").runs.values():
        validator.validate(json.loads(json.dumps(to_mapping(run.config.reconstruction))))


def test_the_run_of_a_reconstruction_passes(clean_set, tmp_path):
    from gsworkbench.methods.backprojection import Backprojection
    from gsworkbench.reconstruction.run import reconstruct

    reconstruct(clean_set.stack[:100], tmp_path / "out", Backprojection())
    record = json.loads(Path(tmp_path / "out" / "run.json").read_text())
    jsonschema.validate(record, schemas()["run.schema.json"], jsonschema.Draft202012Validator)
