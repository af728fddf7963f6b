"""experiments.yaml, read strictly and resolved into runs. Imports no torch: Snakemake reads it on a login node.

A run is one reconstruction of one dataset. Its id says what it is and its parameters are the nested plain data of a
RunConfig, in which every default is spelled out.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from gsworkbench.config import PRESETS, ReconstructionConfig, RunConfig, SimulationConfig, from_mapping, to_mapping
from gsworkbench.errors import InputError

ROOT = Path(__file__).parents[2]
EXPERIMENTS_FILE = ROOT / "paper_figures" / "experiments.yaml"
# Methods with Gaussians, and the part of ReconstructionConfig that holds their settings.
GAUSSIAN_METHODS = {"normal-equations": "normal_equations", "stochastic": "stochastic"}


@dataclass(frozen=True)
class Method:
    """One thing that is compared: a row of `methods`. settings override the preset's, by name."""

    label: str
    method: str
    preset: str | None = None
    settings: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Factors:
    """What an experiment varies; one run for each combination."""

    dataset: tuple[str, ...]
    method: tuple[str, ...]
    n_gaussians: tuple[int, ...]
    seed: tuple[int, ...]


@dataclass(frozen=True)
class Figure:
    """One figure, drawn from the results of one experiment by the function of plots.py that `kind` names."""

    kind: str
    experiment: str
    metrics: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """One table: a row for each run of an experiment, a column for each metric."""

    experiment: str
    metrics: tuple[str, ...]


@dataclass(frozen=True)
class Run:
    """One run: where it stands in the experiments (names of experiments.yaml), and what it does."""

    name: str
    dataset: str
    method: str
    preset: str | None
    n_gaussians: int | None
    seed: int
    notebook: str
    config: RunConfig


@dataclass(frozen=True)
class Experiment:
    """A question, and the runs that answer it."""

    question: str
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Registry:
    """All of experiments.yaml at one scale, by name. `runs` holds those of all experiments, each once."""

    scale: str
    datasets: dict[str, SimulationConfig]
    methods: dict[str, Method]
    experiments: dict[str, Experiment]
    runs: dict[str, Run]
    figures: dict[str, Figure]
    tables: dict[str, Table]

    def parameters(self, kind: str, name: str) -> dict[str, Any]:
        """Return what parameters.yaml holds for one of the "datasets" or "runs"."""
        if kind == "datasets":
            return to_mapping(self.datasets[name])
        return {"run": to_mapping(self.runs[name].config)}


def read_registry(scale: str, path: str | Path = EXPERIMENTS_FILE) -> Registry:
    """Read `path` at one of its scales; a name in it that is not known raises InputError."""
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise InputError(f"not readable as YAML ({' '.join(str(error).split())})", file=path) from error
    try:
        return _resolve(content, scale)
    except InputError as error:
        raise InputError(error.problem, file=path, remedy=error.remedy) from error


def _resolve(content: Any, scale: str) -> Registry:
    sections = ("scales", "datasets", "methods", "experiments", "figures", "tables")
    if not isinstance(content, Mapping) or set(content) != set(sections):
        raise InputError(f"the sections must be {', '.join(sections)}")
    if scale not in content["scales"]:
        raise InputError(f"there is no scale {scale!r}", remedy=f"choose {', '.join(content['scales'])}")
    sizes = {name: _at_scale(row, scale, name) for name, row in content["datasets"].items()}
    datasets = {name: from_mapping(SimulationConfig, settings) for name, settings in sizes.items()}
    methods = {name: from_mapping(Method, row) for name, row in content["methods"].items()}
    experiments = {name: _experiment(row, scale, datasets, methods) for name, row in content["experiments"].items()}
    figures = {name: from_mapping(Figure, row) for name, row in content["figures"].items()}
    tables = {name: from_mapping(Table, row) for name, row in content["tables"].items()}
    for experiment in [view.experiment for view in figures.values()] + [view.experiment for view in tables.values()]:
        _named(experiments, experiment, "experiment")
    if twice := set(figures) & set(tables):
        raise InputError(f"{twice.pop()!r} is both a figure and a table", remedy="targets need names of their own")
    runs = {run.name: run for experiment in experiments.values() for run in experiment.runs}
    return Registry(scale, datasets, methods, experiments, runs, figures, tables)


def _experiment(
    row: Mapping[str, Any], scale: str, datasets: dict[str, SimulationConfig], methods: dict[str, Method]
) -> Experiment:
    """Build one experiment: the product of its factors."""
    unknown = set(row) ^ {"question", "notebook", "factors"}
    if unknown:
        raise InputError(f"an experiment has question, notebook and factors; {', '.join(sorted(unknown))} does not fit")
    if not (ROOT / "notebooks" / f"{row['notebook']}.ipynb").is_file():
        raise InputError(f"there is no notebook {row['notebook']!r} in notebooks/")
    factors = from_mapping(Factors, {name: _at_scale(values, scale, name) for name, values in row["factors"].items()})
    runs: dict[str, Run] = {}
    for dataset, method, n, seed in itertools.product(*(getattr(factors, f.name) for f in fields(Factors))):
        simulation, how = _named(datasets, dataset, "dataset"), _named(methods, method, "method")
        n_gaussians = n if how.method in GAUSSIAN_METHODS else None
        name = "-".join([dataset, method, *([] if n_gaussians is None else [f"n{n}"]), f"s{seed}"])
        config = RunConfig(simulation, _reconstruction(how, n, seed))
        runs[name] = Run(name, dataset, method, how.preset, n_gaussians, seed, row["notebook"], config)
    return Experiment(row["question"], tuple(runs.values()))


def _reconstruction(row: Method, n_gaussians: int, seed: int) -> ReconstructionConfig:
    """Resolve a method: the preset of a stochastic one, its own settings over that, and the factors over both."""
    values: dict[str, Any] = {"method": row.method, "seed": seed}
    if row.method in GAUSSIAN_METHODS:
        preset = {} if row.preset is None else to_mapping(_named(PRESETS, row.preset, "preset"))
        values[GAUSSIAN_METHODS[row.method]] = preset | row.settings | {"n_gaussians": n_gaussians}
    return from_mapping(ReconstructionConfig, values)


def _at_scale(value: Any, scale: str, name: str) -> Any:
    """Return a value that may be given per scale at this scale."""
    if not isinstance(value, Mapping):
        return value
    if scale not in value:
        raise InputError(f"{name} has no value at scale {scale!r}", remedy=f"it has {', '.join(map(str, value))}")
    return value[scale]


def _named(options: Mapping[str, Any], name: str, kind: str) -> Any:
    if name not in options:
        raise InputError(f"there is no {kind} {name!r}", remedy=f"there are {', '.join(options)}")
    return options[name]
