"""One experiment from its runs to its outcome: numbers, table, figure, verdict. Notebooks and page are made of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gsworkbench.experiments import figures, tables
from gsworkbench.experiments.convergence import Gate
from gsworkbench.experiments.measures import assess_run, why_not_run
from gsworkbench.experiments.plan import Experiment, Registry, Run, read_registry, same_fit
from gsworkbench.experiments.results import Result, frame, rows_of, write_results
from gsworkbench.experiments.sizes import size_of
from gsworkbench.experiments.store import key_in
from gsworkbench.experiments.verdicts import NOT_RUN, Finding, choose, verdict, with_factors
from gsworkbench.io.files import remove_strays_of, write_json, write_text
from gsworkbench.io.locks import held
from gsworkbench.particles.entry_card import EntryParticles
from gsworkbench.simulation.simulation_config import Simulation

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


_NAMED = ("method", "seed", "data_seed")  # factors that a label of a fit names otherwise, or not


@dataclass(frozen=True)
class Claim:
    """An experiment examined. rows : of results.csv with factors as columns. not_run : run -> why it was not made.

    findings : of the rules that decide. remarks : of ours. gates : how far each fit has converged.
    """

    registry: Registry
    experiment: Experiment
    folder: Path
    results: tuple[Result, ...]
    rows: pd.DataFrame
    not_run: dict[str, str]
    verdict: str
    findings: tuple[Finding, ...]
    remarks: tuple[Finding, ...] = ()
    gates: tuple[Gate, ...] = ()

    def figure(self) -> Figure | None:
        """Draw the experiment's figure, None if it has none; where no run could be made, the reason in its place."""
        if self.experiment.figure is None or self.experiment.not_run:
            return None
        if self.rows.empty:
            return figures.nothing(self.verdict)
        return figures.draw(self.registry, self.experiment, self.rows, self.folder)

    def table(self) -> str:
        """Return the table as Markdown."""
        return tables.markdown(self.rows, self.experiment, self.registry) if len(self.rows) else ""

    def report(self) -> str:
        """Return question, claim, verdict and what each rule found, as Markdown."""
        e = self.experiment
        lines = [f"**{e.question}**", "", f"Claim ({e.source}): {e.claim}", ""]
        lines += [f"Printed: {e.printed}", ""] if e.printed else []
        lines += [f"Here: {e.notes}", ""] if e.notes else []
        lines += [f"Outcome: **{self.verdict}**", "", *(f"- {f.says}" for f in self.findings)]
        lines += [f"- {name}: {NOT_RUN}{reason}" for name, reason in self.not_run.items()]
        lines += ["", "Beside the claim:", ""] * bool(self.remarks) + [f"- {f.says}" for f in self.remarks]
        lines += ["", "Convergence:", ""] * bool(self.gates) + [f"- {gate}" for gate in self.gates]
        return "\n".join(lines) + "\n"


def examine(experiment: str, scale: str, folder: str | Path, *, path: str | Path | None = None) -> Claim:
    """Examine an experiment below `folder`, results/SCALE; runs that are not there are made first."""
    registry, folder = read_registry(scale, path), Path(folder)
    chosen = registry.experiments[experiment]
    missing = [run for run in chosen.all_runs if key_in(folder / "runs" / run.name) is None]
    if missing:
        from gsworkbench.experiments.make_runs import make_runs_apart

        make_runs_apart(missing, folder)
    results: list[Result] = []
    for run in chosen.runs:
        results += rows_of(experiment, run, assess_run(run, ("fsc", *chosen.measures), folder))
    reasons = {run.name: reason for run in chosen.runs if (reason := why_not_run(run, folder))}
    rows = with_factors(frame(results)) if results else frame(results)
    gates = tuple(_gate(run, twin, chosen, results, folder, registry) for run, twin in _pairs(chosen))
    outcome, findings, remarks = verdict(chosen, rows, registry, gates)
    if outcome.startswith(NOT_RUN) and reasons and not chosen.not_run:
        outcome = NOT_RUN + next(iter(reasons.values()))
    found = tuple(findings), tuple(remarks)
    return Claim(registry, chosen, folder, tuple(results), rows, reasons, outcome, *found, gates)


def _pairs(experiment: Experiment) -> list[tuple[Run, Run]]:
    """Runs that have a twin with half the steps, and the twin."""
    return [(run, experiment.twins[run.name]) for run in experiment.runs if run.name in experiment.twins]


def _gate(
    run: Run, twin: Run, experiment: Experiment, results: Sequence[Result], folder: Path, registry: Registry
) -> Gate:
    """Compare a run with its twin; no changes where one of them could not be made."""
    alike = tuple(other.name for other in experiment.runs if same_fit(other) == same_fit(run))
    whole = {r.metric: r.value for r in results if r.run == run.name}
    half = {m.metric: m.value for m in assess_run(twin, ("fsc",), folder)}
    changes = {
        metric: second - first
        for metric, second in whole.items()
        if second is not None and (first := half.get(metric)) is not None
    }
    settings = run.config.reconstruction.settings
    differ = {k for other in experiment.runs for k, v in other.factors.items() if run.factors.get(k) != v}
    varied = [f"{k.replace('_', ' ')} {v}" for k, v in run.factors.items() if k in differ and k not in _NAMED]
    label = ", ".join([registry.methods[run.method].label, *varied])
    return Gate(label, alike, _steps(settings, run), changes)


def _steps(settings: Any, run: Run) -> str:
    """Say how many steps a fit has."""
    if (n_steps := getattr(settings, "n_steps", None)) is not None:
        return f"{n_steps:,} steps"
    if (n_epochs := getattr(settings, "n_epochs", None)) is None:
        return "its steps"
    n_particles = size_of(run.config.dataset)[0]
    n = n_epochs * getattr(settings, "passes_per_epoch", 1) * n_particles
    return f"{n // getattr(settings, 'batch_size', 1):,} steps"


def write_claim(claim: Claim, output: str | Path) -> None:
    """Write NAME.png, .svg, .csv, .md and, last, NAME.json to the folder `output`."""
    output, name = Path(output), claim.experiment.name
    figure = claim.figure()
    output.mkdir(parents=True, exist_ok=True)
    # A kernel may go on writing for a moment after its program was killed: wait for it.
    with held(output / f".{name}.lock", output / name, wait=True):
        for suffix in (*figures.FORMATS, "csv", "md", "json"):
            remove_strays_of(output / f"{name}.{suffix}")
        if figure is not None:
            for suffix in figures.FORMATS:
                figures.save(figure, output / f"{name}.{suffix}")
        write_results(output / f"{name}.csv", claim.results)
        write_text(output / f"{name}.md", f"# {name}\n\n{claim.report()}\n{claim.table()}")
        write_json(output / f"{name}.json", outcome_of(claim, figure is not None))


def outcome_of(claim: Claim, has_figure: bool) -> dict[str, Any]:
    """Return what the page prints of a claim, as plain data."""
    e = claim.experiment
    return {
        "name": e.name,
        **{k: getattr(e, k) for k in ("source", "question", "claim", "printed", "definition", "notes")},
        "verdict": claim.verdict,
        "findings": [asdict(f) for f in claim.findings],
        "remarks": [asdict(f) for f in claim.remarks],
        "gates": [str(gate) for gate in claim.gates],
        "seen": seen(claim),
        "not_run": claim.not_run,
        "runs": [run.name for run in e.runs],
        "figure": f"{e.name}.png" if has_figure else None,
        **_subject(claim),
    }


def seen(claim: Claim) -> str:
    """Say in one sentence what this run of the claim could have seen: data, steps, seeds, convergence."""
    runs = claim.experiment.runs
    if not runs:
        return ""
    seeds = len({r.seed for r in runs})
    text = f"{_particles([r.config.dataset for r in runs])}; {seeds} seed{'s' if seeds > 1 else ''}."
    measured = [gate for gate in claim.gates if gate.changes]
    if not measured:
        return text
    worst = max(measured, key=lambda gate: gate.worst)
    return f"{text} Fits of {', '.join(dict.fromkeys(g.steps for g in measured))}; least converged: {worst}."


def _particles(datasets: Sequence[Simulation | EntryParticles]) -> str:
    """Say what the particles are and how many."""
    entries = sorted({d.entry for d in datasets if isinstance(d, EntryParticles)})
    sizes = sorted({size_of(d) for d in datasets})
    data = ", ".join(f"{n:,} x {box}^2" for n, box in sizes[:3]) + (" ..." if len(sizes) > 3 else "")
    if entries:
        return f"Particles of EMPIAR {', '.join(map(str, entries))}: {data}, no truth"
    snrs = sorted({d.snr for d in datasets if isinstance(d, Simulation)})
    snr = f"{snrs[0]:g}" if len(snrs) == 1 else f"{snrs[0]:g} to {snrs[-1]:g}"
    return f"Simulated particles: {data}, SNR {snr}"


def _subject(claim: Claim) -> dict[str, Any]:
    """The run the claim is about, the first rule's `of` at its largest, with its numbers: mean over seeds."""
    rows, rules = claim.rows, claim.experiment.rules
    if rows.empty:
        return {"subject": None, "numbers": {}, "run": None}
    chosen = choose(rows, rules[0].of) if rules else rows
    chosen = rows if chosen.empty else chosen
    if rules and (along := rules[0].along) and f"factor {along}" in chosen:
        chosen = choose(chosen, {along: "max"})
    first = chosen.run.iloc[0]
    like = rows[rows.run == first].iloc[0]
    same = rows[[_but_seed(f) == _but_seed(like.factors) for f in rows.factors]]
    numbers = {}
    for metric, group in same.groupby("metric", sort=False):
        values = group.value.astype(float)
        none = bool(values.isna().any())
        numbers[str(metric)] = {"value": None if none else float(values.mean()), "unit": group.unit.iloc[0],
                                "spread": None if none or len(values) < 2 else float(values.std()),
                                "definition": group.definition.iloc[0]}  # fmt: skip
    return {"subject": claim.registry.methods[like.method].label, "numbers": numbers, "run": first}


def _but_seed(factors: str) -> dict[str, Any]:
    return {k: v for k, v in json.loads(factors).items() if k not in ("seed", "data_seed")}
