"""The files of paper_figures/experiments, read strictly and resolved into runs.

This module imports no torch, because Snakemake reads it on a login node.

A run is one reconstruction of one dataset. Its id says what it is and its parameters are the nested plain data of a
RunConfig, in which every default is spelled out. Factors are names of settings, so a new one needs no code.
"""

from __future__ import annotations

import dataclasses
import itertools
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from gsworkbench.config import from_mapping, to_mapping
from gsworkbench.errors import InputError
from gsworkbench.methods.reconstruction_config import ReconstructionConfig, general_settings
from gsworkbench.methods.registry import METHODS, find_method
from gsworkbench.particles.entry_card import EntryParticles
from gsworkbench.simulation.simulation_config import Simulation

ROOT = Path(__file__).parents[2]
# In C where PyYAML has it: every job reads paper_figures/experiments, and in Python that takes half a second.
SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
EXPERIMENTS = ROOT / "paper_figures" / "experiments"
# Scales whose particles are EMPIAR's, or stand in for them, have experiments of their own: there is no truth.
EMPIAR_EXPERIMENTS = ROOT / "paper_figures" / "empiar"
EMPIAR_SCALES = ("empiar", "rehearsal")
_SHORT = {"n_gaussians": "n", "n_particles": "p"}  # in names of runs
_NOT_FACTORS = ("seed",)
PAPERS = ("CryoSplat", "GEM", "CryoGS")


@dataclass(frozen=True)
class Method:
    """One thing that is compared: a row of `methods`. settings override the preset's, by name.

    recipe : "printed" where it is a paper's recipe as the paper prints it, as far as a fit of this size can be.
    """

    label: str
    method: str
    preset: str | None = None
    settings: dict = field(default_factory=dict)
    recipe: Literal["printed", "ours"] = "ours"


@dataclass(frozen=True)
class RunConfig:
    """One run of the workflow: simulate, or take the particles of an EMPIAR entry; reconstruct; assess."""

    dataset: Simulation | EntryParticles
    reconstruction: ReconstructionConfig


@dataclass(frozen=True)
class Rule:
    """A statement that numbers decide (experiments/verdicts.py says how).

    compare : higher, lower, equal (`of` against `than`, seed by seed); rising, falling, exponent_below (`along` a
    factor); above, below (`of` against `value`); crosses (a resolution); together (twice the sd over seeds below
    `value`). of, than : values of factors that choose runs, "min" and "max" the smallest and largest there are.
    margin : the difference that counts, in place of 0.01, half a shell of resolution, or 5 % of a time or a memory.
    why : the reason for it. masks : of an FSC: none; paper, a sphere for `than` alone; soft, one of the truth for both.
    """

    metric: str
    compare: Literal[
        "higher", "lower", "equal", "rising", "falling", "exponent_below", "above", "below", "crosses", "together"
    ]
    of: dict = field(default_factory=dict)
    than: dict = field(default_factory=dict)
    along: str | None = None
    value: float | None = None
    margin: float | None = None
    why: str = ""
    masks: Literal["none", "paper", "soft"] = "none"

    def __post_init__(self) -> None:
        """Raise InputError for a rule that lacks what its comparison needs."""
        if self.compare in ("above", "below", "exponent_below", "together") and self.value is None:
            raise InputError(f"a rule that compares {self.compare!r} needs a value")
        if self.compare in ("rising", "falling", "exponent_below") and self.along is None:
            raise InputError(f"a rule that compares {self.compare!r} needs the factor it goes along")
        if self.margin is not None and not self.why:
            raise InputError("a rule with a margin of its own needs the reason (why)")

    @property
    def limit(self) -> float:
        """What `of` is compared with where a value is needed."""
        assert self.value is not None
        return self.value


@dataclass(frozen=True)
class Figure:
    """How an experiment is drawn: by the function of experiments/figures.py that `kind` names.

    x : the factor along the axis; groups : factors that get a colour each; metrics : what is drawn.
    """

    kind: str
    metrics: tuple[str, ...] = ()
    x: str | None = None
    groups: tuple[str, ...] = ("method",)
    exponents: bool = False


@dataclass(frozen=True)
class Run:
    """One run: what it is by the names of paper_figures/experiments, and what it does.

    dataset : folder of its particles, a data set with its factors and seed. factors : all of them by name, those of
    the data set and of the method among them.
    """

    name: str
    dataset: str
    method: str
    preset: str | None
    n_gaussians: int | None
    seed: int
    config: RunConfig
    factors: dict[str, Any]


@dataclass(frozen=True)
class Experiment:
    """What was claimed, where, and the runs that test it.

    source : who printed it and where. claim : what was said. printed : the value and its definition, "" for none.
    definition : of assessment.definitions, the one its authors used. notes : what is different here. not_run : why
    there is no outcome at this scale. table : metrics. measures : assessments beside the FSC. rules : the verdict.
    remarks : rules of ours, which are printed and decide nothing. twins : name of a run -> the same with half the
    steps, of the first seed of each fit; none where nothing is decided, or nothing about maps. see : whose verdict this
    is, "" for one of its own.
    """

    name: str
    source: str
    question: str
    claim: str
    printed: str
    definition: str
    notes: str
    not_run: str | None
    runs: tuple[Run, ...]
    figure: Figure | None
    table: tuple[str, ...]
    measures: tuple[str, ...]
    rules: tuple[Rule, ...]
    remarks: tuple[Rule, ...] = ()
    twins: dict[str, Run] = field(default_factory=dict)
    see: str = ""

    @property
    def of_paper(self) -> bool:
        """Whether a paper makes the claim, not a reviewer or this program."""
        return self.source.startswith(PAPERS)

    @property
    def all_runs(self) -> tuple[Run, ...]:
        """Runs and their twins."""
        return (*self.runs, *self.twins.values())


@dataclass(frozen=True)
class Registry:
    """All of paper_figures/experiments at one scale, by name. `runs` holds those of all experiments, each once.

    decides : whether verdicts are given at this scale. owned : experiment -> the runs it makes, those that no
    experiment before it has.
    """

    scale: str
    decides: bool
    datasets: dict[str, Simulation | EntryParticles]
    methods: dict[str, Method]
    experiments: dict[str, Experiment]
    runs: dict[str, Run]
    owned: dict[str, tuple[Run, ...]]

    def owners(self, experiment: str) -> list[str]:
        """Return the experiments that make the runs of this one."""
        names = {run.name for run in self.experiments[experiment].all_runs}
        return [owner for owner, runs in self.owned.items() if names & {run.name for run in runs}]

    def made_of(self, dataset: str) -> Simulation | EntryParticles:
        """Return what a data set is made of, by the folder of its particles."""
        return next(run.config.dataset for run in self.runs.values() if run.dataset == dataset)

    def entries(self, experiment: str) -> list[int]:
        """Return the EMPIAR entries of the runs that an experiment owns."""
        datasets = (run.config.dataset for run in self.owned[experiment])
        return sorted({dataset.entry for dataset in datasets if isinstance(dataset, EntryParticles)})

    def parameters(self, kind: str, name: str) -> dict[str, Any]:
        """Return the plain data of one of the "datasets" (by folder) or "runs"."""
        if kind == "datasets":
            return to_mapping(self.made_of(name))
        return {"run": to_mapping(self.runs[name].config)}


def experiments_folder(scale: str) -> Path:
    """Return the folder of the experiments of a scale."""
    return EMPIAR_EXPERIMENTS if scale in EMPIAR_SCALES else EXPERIMENTS


def read_registry(scale: str, path: str | Path | None = None) -> Registry:
    """Read the YAML files of a folder, or one file, at one of their scales; InputError for a name that is not known.

    path : by default the folder of the scale.
    """
    path = experiments_folder(scale) if path is None else path
    sections = read_sections(path)
    try:
        return _resolve(sections, scale)
    except InputError as error:
        raise InputError(error.problem, file=path, remedy=error.remedy) from error


def read_sections(path: str | Path = EXPERIMENTS) -> dict[str, Any]:
    """Return the sections of all files of a folder, in the order of the files' names, or those of one file.

    A name that two files give in one section raises InputError.
    """
    content: dict[str, Any] = {}
    for file in sorted(Path(path).glob("*.yaml")) if Path(path).is_dir() else [Path(path)]:
        try:
            sections = yaml.load(file.read_text(encoding="utf-8"), Loader=SafeLoader)
        except (OSError, yaml.YAMLError) as error:
            raise InputError(f"not readable as YAML ({' '.join(str(error).split())})", file=file) from error
        if not isinstance(sections, Mapping):
            raise InputError("the file has no named sections", file=file)
        for name, rows in sections.items():
            if name not in content:
                content[name] = rows
            elif not isinstance(rows, Mapping) or (twice := set(rows) & set(content[name])):
                raise InputError(f"{', '.join(sorted(twice))} of section {name!r} is in another file too", file=file)
            else:
                content[name] = content[name] | rows
    return content


def _resolve(content: dict[str, Any], scale: str) -> Registry:
    sections = ("scales", "decided_at", "datasets", "methods", "experiments")
    if set(content) - {"lists"} != set(sections):
        raise InputError(f"the sections must be {', '.join(sections)}, and may be lists")
    if scale not in content["scales"]:
        raise InputError(f"there is no scale {scale!r}", remedy=f"choose {', '.join(content['scales'])}")
    sizes = {name: _at_scale(row, scale, name) for name, row in content["datasets"].items()}
    datasets = {name: from_mapping(_kind_of(settings), settings) for name, settings in sizes.items()}
    methods = {name: _method(row, scale) for name, row in content["methods"].items()}
    experiments = {
        name: _experiment(
            name, row, scale, datasets, methods, content.get("lists", {}), decides=scale in content["decided_at"]
        )
        for name, row in content["experiments"].items()
    }
    runs: dict[str, Run] = {}
    owned = {}
    for name, experiment in experiments.items():
        owned[name] = tuple(run for run in experiment.all_runs if run.name not in runs)
        runs |= {run.name: run for run in owned[name]}
    return Registry(scale, scale in content["decided_at"], datasets, methods, experiments, runs, owned)


@dataclass(frozen=True)
class ExperimentRow:
    """An experiment as paper_figures/experiments has it; factors, figure and not_run may differ by scale.

    ungated : whether it asks for time, memory or convergence itself, so that no fit has to have converged. see : the
    experiment that has the verdict, where this one has another picture of the same claim.
    """

    source: str
    question: str
    claim: str
    factors: list
    printed: str = ""
    definition: str = "RELION"
    notes: str = ""
    not_run: str = ""
    figure: dict = field(default_factory=dict)
    table: tuple[str, ...] = (
        "fsc_truth_mean", "fsc_half_mean", "fsc_estimate_mean", "overstatement_mean", "train_cpu_seconds",
    )  # fmt: skip
    measures: tuple[str, ...] = ()
    verdict: list = field(default_factory=list)
    remarks: list = field(default_factory=list)
    ungated: bool = False
    see: str = ""


def _method(row: Any, scale: str) -> Method:
    """Return a row of `methods`, whose label and preset may differ by scale."""
    if not isinstance(row, Mapping):
        raise InputError(f"a method needs named values, got {row!r}")
    chosen = {key: _at_scale(row[key], scale, key, default=None) for key in ("label", "preset") if key in row}
    return from_mapping(Method, {**row, **chosen})


def _kind_of(settings: Any) -> type[Simulation | EntryParticles]:
    """A data set that names an entry is of its particles; any other is simulated."""
    return EntryParticles if isinstance(settings, Mapping) and "entry" in settings else Simulation


def _experiment(
    name: str,
    content: Any,
    scale: str,
    datasets: dict[str, Simulation | EntryParticles],
    methods: dict[str, Method],
    lists: Mapping[str, Any],
    *,
    decides: bool,
) -> Experiment:
    if not isinstance(content, Mapping):
        raise InputError(f"experiment {name!r} needs named values")
    plain = {key: content[key] for key in content if key not in ("factors", "not_run")}
    blocks = content.get("factors", [])
    reason = _at_scale(content.get("not_run", ""), scale, f"{name}: not_run", default="")
    try:
        row = from_mapping(ExperimentRow, {**plain, "factors": [], "not_run": reason})
        runs: dict[str, Run] = {}
        for block in [blocks] if isinstance(blocks, Mapping) else blocks:
            runs |= {run.name: run for run in _runs(_with_lists(block, lists), scale, datasets, methods)}
        figure = from_mapping(Figure, row.figure) if row.figure else None
        rules, remarks = (tuple(_rule(given, scale) for given in listed) for listed in (row.verdict, row.remarks))
    except InputError as error:
        raise InputError(f"experiment {name!r}: {error.problem}", remedy=error.remedy) from error
    if not runs and not reason:
        raise InputError(f"experiment {name!r} has neither runs nor a reason why at scale {scale!r}")
    return Experiment(
        name, row.source, row.question, row.claim, row.printed, row.definition, row.notes, reason or None,
        tuple(runs.values()), figure, row.table, row.measures, rules, remarks,
        _twins(runs.values()) if decides and rules and not row.ungated else {}, row.see,
    )  # fmt: skip


def _rule(content: Mapping[str, Any], scale: str) -> Rule:
    """Return a rule; the values of factors that it chooses runs by may differ by scale."""
    plain = dict(content)
    for side in ("of", "than"):
        if side in plain:
            plain[side] = {name: _at_scale(value, scale, name) for name, value in plain[side].items()}
    return from_mapping(Rule, plain)


def _twins(runs: Iterable[Run]) -> dict[str, Run]:
    """Return the twin of each fit's first seed, with half the steps."""
    twins: dict[str, Run] = {}
    seen: set[str] = set()
    for run in runs:
        fit = same_fit(run)
        shorter = find_method(run.config.reconstruction.method).halved(run.config.reconstruction.settings)
        if fit in seen or shorter is None:
            continue
        seen.add(fit)
        reconstruction = dataclasses.replace(run.config.reconstruction, settings=shorter)
        config = dataclasses.replace(run.config, reconstruction=reconstruction)
        twins[run.name] = dataclasses.replace(run, name=f"{run.name}-half", config=config)
    return twins


def same_fit(run: Run) -> str:
    """Return what runs have in common that differ in their seeds alone."""
    plain = to_mapping(run.config)
    for part in ("dataset", "reconstruction"):
        plain[part].pop("seed", None)
    return repr(plain)


def _with_lists(block: Mapping[str, Any], lists: Mapping[str, Any]) -> dict[str, Any]:
    """Put the shared lists of values in the place of their names."""
    return {k: _named(lists, v, "list of values") if isinstance(v, str) else v for k, v in block.items()}


def _runs(
    block: Mapping[str, Any],
    scale: str,
    datasets: dict[str, Simulation | EntryParticles],
    methods: dict[str, Method],
) -> list[Run]:
    """Return a run for every combination of the values of a block of factors."""
    values = {name: _at_scale(given, scale, name, default=[]) for name, given in block.items()}
    for name, listed in values.items():
        if not isinstance(listed, list):
            raise InputError(f"factor {name!r} needs a list of values")
    combinations = (dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values()))
    return [_run(factors, datasets, methods) for factors in combinations]


def _run(factors: dict[str, Any], datasets: dict[str, Simulation | EntryParticles], methods: dict[str, Method]) -> Run:
    """Resolve one combination; a setting that its method does not have is left out."""
    base, method = _named(datasets, factors["dataset"], "dataset"), _named(methods, factors["method"], "method")
    seed = factors.get("seed", 0)
    usual = ReconstructionConfig(method.method, _settings(method), seed=seed)
    rest = {k: v for k, v in factors.items() if k not in ("dataset", "method", "seed", "data_seed")}
    simulated = {f.name for f in dataclasses.fields(base)} - set(_NOT_FACTORS)
    general = set(general_settings()) - set(_NOT_FACTORS)
    of_methods = {name for row in METHODS.values() for name in row.setting_names}
    if unknown := sorted(set(rest) - simulated - general - of_methods):
        raise InputError(f"there is no factor {', '.join(map(repr, unknown))}", remedy="factors are names of settings")
    of_data = {k: v for k, v in rest.items() if k in simulated}
    of_run = {k: v for k, v in rest.items() if k in general}
    of_method = {k: v for k, v in rest.items() if k in usual.row.setting_names and k not in of_data}
    seeded = isinstance(base, Simulation)  # particles of an entry are what they are
    of_seed = {"seed": factors.get("data_seed", seed)} if seeded else {}
    simulation = from_mapping(type(base), to_mapping(base) | of_data | of_seed)
    plain = to_mapping(usual)
    reconstruction = from_mapping(ReconstructionConfig, plain | of_run | {"settings": plain["settings"] | of_method})
    data_name = [factors["dataset"], *_spelt(of_data, to_mapping(base))]
    data_seed = [f"d{of_seed['seed']}"] if of_seed and of_seed["seed"] != seed else []
    dataset = "-".join([*data_name, *(f"s{value}" for value in of_seed.values())])
    spelt = _spelt(of_method | of_run, plain | plain["settings"])
    name = "-".join([*data_name, *data_seed, factors["method"], *spelt, f"s{seed}"])
    n_gaussians = getattr(reconstruction.settings, "n_gaussians", None)
    kept = {k: v for k, v in factors.items() if k not in rest or k in of_data | of_run | of_method}
    return Run(
        name, dataset, factors["method"], method.preset, n_gaussians, seed,
        RunConfig(simulation, reconstruction), kept | {"seed": seed},
    )  # fmt: skip


def _settings(method: Method) -> Any:
    """Return the settings of a row of `methods`: those of its preset, and its own over these."""
    row = find_method(method.method)
    if method.settings and not row.setting_names:
        raise InputError(f"method {method.method!r} has no settings")
    preset = {} if method.preset is None else to_mapping(_named(row.presets, method.preset, "preset"))
    return from_mapping(row.settings, preset | method.settings)


def _spelt(factors: Mapping[str, Any], usual: Mapping[str, Any]) -> list[str]:
    """Spell factors for a name: n2048, snr0.3, gamma0.2; what is as usual goes without saying, but for the number."""
    said = {n: v for n, v in factors.items() if n == "n_gaussians" or _text(v) != _text(usual[n])}
    ordered = sorted(said, key=lambda name: (name != "n_gaussians", name))  # whatever the order of the file
    return [f"{_SHORT.get(name, name)}{_text(said[name])}" for name in ordered]


def _text(value: Any) -> str:
    return "+".join(map(_text, value)) if isinstance(value, (list, tuple)) else f"{value}".replace("/", "_")


def _at_scale(value: Any, scale: str, name: str, default: Any = types.MappingProxyType({})) -> Any:
    """Return a value that may be given per scale at this scale; a scale that is missing has `default`, if given."""
    if not isinstance(value, Mapping):
        return value
    if scale not in value:
        if not isinstance(default, types.MappingProxyType):
            return default
        raise InputError(f"{name} has no value at scale {scale!r}", remedy=f"it has {', '.join(map(str, value))}")
    return value[scale]


def _named(options: Mapping[str, Any], name: str, kind: str) -> Any:
    if name not in options:
        raise InputError(f"there is no {kind} {name!r}", remedy=f"there are {', '.join(options)}")
    return options[name]
