"""JSON Schemas of run.json and of the files in paper_figures/experiments, generated from the records that read them.

    python -m gsworkbench.experiments.schemas docs/reference

writes run.schema.json and experiments.schema.json to the folder. Editors and other programs can check files by them;
gsworkbench itself reads the files more strictly than a schema can say.
"""

from __future__ import annotations

import dataclasses
import sys
import types
import typing
from pathlib import Path
from typing import Any, Literal

from gsworkbench.config import type_hints
from gsworkbench.experiments.plan import ExperimentRow, Method, Rule
from gsworkbench.io.files import write_json
from gsworkbench.methods.reconstruction_config import ReconstructionConfig
from gsworkbench.methods.registry import METHODS
from gsworkbench.particles.entry_card import EntryParticles
from gsworkbench.simulation.simulation_config import Simulation

DIALECT = "https://json-schema.org/draft/2020-12/schema"
PLAIN = {int: "integer", float: "number", str: "string", bool: "boolean", type(None): "null"}


def schema_of(kind: Any) -> dict[str, Any]:
    """Return the schema of a type: a plain one, Literal, a union, tuple, list, dict, or a dataclass of such fields."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind in PLAIN:
        return {"type": PLAIN[kind]}
    if dataclasses.is_dataclass(kind):
        return _record(typing.cast(type, kind))
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [schema_of(option) for option in arguments]}
    if origin in (tuple, list):
        return {"type": "array", "items": schema_of(arguments[0]) if arguments else {}}
    if origin is dict or kind is dict:
        return {"type": "object", "additionalProperties": schema_of(arguments[1]) if arguments else True}
    return {"type": "array"} if kind is list else {}


def _record(kind: type) -> dict[str, Any]:
    hints = type_hints(kind)
    fields = [f for f in dataclasses.fields(kind) if f.init]
    missing = dataclasses.MISSING
    required = [f.name for f in fields if f.default is missing and f.default_factory is missing]
    found: dict[str, Any] = {
        "type": "object",
        "properties": {f.name: schema_of(hints[f.name]) for f in fields},
        "additionalProperties": False,
    }
    return found | ({"required": required} if required else {})


def reconstruction_schema() -> dict[str, Any]:
    """Return the schema of a configuration: the settings must be those of the method."""
    schema = schema_of(ReconstructionConfig)
    schema["properties"]["method"] = {"enum": list(METHODS)}
    schema["allOf"] = [
        {
            "if": {"properties": {"method": {"const": name}}},
            "then": {"properties": {"settings": schema_of(method.settings)}},
        }
        for name, method in METHODS.items()
    ]
    return schema


def run_schema() -> dict[str, Any]:
    """Return the schema of run.json."""
    from gsworkbench.system.provenance import RunRecord

    schema = {"$schema": DIALECT, "title": "run.json of gsworkbench reconstruct"} | schema_of(RunRecord)
    schema["properties"]["config"] = reconstruction_schema()
    schema["required"] = list(schema["properties"])
    return schema


def experiments_schema() -> dict[str, Any]:
    """Return the schema of a file in paper_figures/experiments."""
    experiment = schema_of(ExperimentRow)
    block = {"type": "object"}
    experiment["properties"] |= {
        "factors": {"anyOf": [block, {"type": "array", "items": block}]},
        "not_run": {"type": ["string", "object"]},
        "verdict": {"type": "array", "items": schema_of(Rule)},
        "remarks": {"type": "array", "items": schema_of(Rule)},
    }
    experiment["required"] = [name for name in experiment["required"] if name != "factors"]
    method = schema_of(Method)
    method["properties"] |= {
        name: {"anyOf": [method["properties"][name], {"type": "object", "additionalProperties": {"type": "string"}}]}
        for name in ("label", "preset")
    }
    by_scale = {"type": "object", "additionalProperties": schema_of(Simulation | EntryParticles)}
    return {
        "$schema": DIALECT,
        "title": "experiments of gsworkbench",
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "scales": {"type": "array", "items": {"type": "string"}},
            "decided_at": {"type": "array", "items": {"type": "string"}},
            "datasets": {"type": "object", "additionalProperties": by_scale},
            "methods": {"type": "object", "additionalProperties": method},
            "lists": {"type": "object"},
            "experiments": {"type": "object", "additionalProperties": experiment},
        },
    }


def schemas() -> dict[str, dict[str, Any]]:
    """Return file name -> schema."""
    return {"run.schema.json": run_schema(), "experiments.schema.json": experiments_schema()}


def main(arguments: list[str] | None = None) -> int:
    folder = Path((sys.argv[1:] if arguments is None else arguments)[0])
    for name, schema in schemas().items():
        write_json(folder / name, schema)
    return 0


if __name__ == "__main__":
    sys.exit(main())
