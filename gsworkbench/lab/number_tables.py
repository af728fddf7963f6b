"""All runs at a glance, a row for each: from the tables of the workflow and of exploring, and from run.json.

The verdict beside a run is that of its experiment's claim, where the workflow has come to one.
"""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gsworkbench.experiments.results import read_results
from gsworkbench.lab.fits import TABLE
from gsworkbench.lab.opened_run import find_runs

if TYPE_CHECKING:
    import pandas as pd

# Metric of results.csv -> heading and how it is printed.
SHOWN = {
    "fsc_truth_mean": ("FSC to the truth, mean", "{:.3f}"),
    "fsc_half_mean": ("FSC of half maps, mean", "{:.3f}"),
    "fsc_estimate_mean": ("estimated FSC to the truth, mean", "{:.3f}"),
    "resolution_truth_0.5": ("to the truth at 0.5, Å", "{:.1f}"),
    "resolution_half_0.143": ("half maps at 0.143, Å", "{:.1f}"),
    "train_cpu_seconds": ("CPU s", "{:.1f}"),
    "peak_memory_bytes": ("MiB", "{:.0f}"),
}
FACTORS = ("run", "experiment", "verdict", "dataset", "method", "n_gaussians", "seed")


def table_of_runs(folder: str | Path) -> pd.DataFrame:
    """One row for each run at, below or explored beside `folder`: FACTORS, a column for each metric, `folder`, `rules`,
    `findings`.

    `folder` is where its maps lie, or empty; `rules` {metric: definition}; `findings` the claim and what decided it.
    A run of the workflow that belongs to two experiments has a row for each.
    """
    import pandas as pd

    folder = Path(folder).resolve()
    tables = [path for name in ("results.csv", TABLE) for path in sorted(folder.rglob(name))]
    rows = [row for path in tables for row in _rows_of_table(path)]
    places = {path.name: path for path in find_runs(folder)}
    for row in rows:
        row["folder"] = str(places.get(row["run"], ""))
    known = {row["run"] for row in rows}
    rows += [_row_of_record(path) for name, path in places.items() if name not in known]
    return pd.DataFrame(rows, columns=[*FACTORS, *SHOWN, "folder", "rules", "findings"])


def matching(table: pd.DataFrame, words: str) -> pd.DataFrame:
    """The rows in which every one of some words occurs, in any of FACTORS, whatever its case."""
    text = table[list(FACTORS)].astype(str).agg(" ".join, axis=1).str.lower()
    kept = [all(word in line for word in words.lower().split()) for line in text]
    return table[kept]


def as_html(table: pd.DataFrame) -> str:
    """The table as HTML; how a number was measured shows where the pointer rests on it."""
    heads = "".join(
        f"<th>{name}</th>" for name in (*FACTORS[:-2], "Gaussians", "seed", *(h for h, _ in SHOWN.values()))
    )
    lines = []
    for row in table.to_dict("records"):
        cells = [_named(row, name) for name in FACTORS]
        cells += [_cell(row, metric) for metric in SHOWN]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return f"<table class='gsw-runs'><tr>{heads}</tr>{''.join(lines)}</table>"


def _named(row: dict[str, Any], name: str) -> str:
    text = "" if _absent(row[name]) else html.escape(str(row[name]))
    title = f" title='{html.escape(str(row['findings']))}'" if name == "verdict" and text else ""
    return f"<td{title}>{text}</td>"


def _cell(row: dict[str, Any], metric: str) -> str:
    value, rule = row[metric], row["rules"].get(metric, "")
    if _absent(value):
        text = "no crossing" if rule else ""
    else:
        text = SHOWN[metric][1].format(value / 2**20 if metric.endswith("bytes") else value)
    return f"<td title='{html.escape(rule)}'>{text}</td>"


def _absent(value: Any) -> bool:
    import pandas as pd

    return value is None or bool(pd.isna(value))


def _rows_of_table(path: Path) -> list[dict[str, Any]]:
    claims = claims_beside(path)
    rows = []
    for (experiment, _), group in read_results(path).groupby(["experiment", "run"], sort=False):
        claim = claims.get(experiment, {"verdict": "", "claim": "", "findings": []})
        said = [claim["claim"], *(finding["says"] for finding in claim["findings"])]
        rows.append(_row(group) | {"verdict": claim["verdict"], "findings": "\n".join(said)})
    return rows


def claims_beside(table: Path) -> dict[str, dict[str, Any]]:
    """What the workflow found, by experiment: paper_figures/output/SCALE/*.json for results/SCALE/results.csv."""
    folder = table.parent.parent.parent / "paper_figures" / "output" / table.parent.name
    read = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    return {found["name"]: found for found in read if isinstance(found, dict) and "verdict" in found}


def _row(group: pd.DataFrame) -> dict[str, Any]:
    first = group.iloc[0]
    metrics = group[group.metric.isin(SHOWN)].set_index("metric")
    row = {name: first[name] for name in FACTORS if name != "verdict"} | metrics.value.to_dict()
    return row | {"folder": "", "rules": metrics.definition.astype(str).to_dict()}


def _row_of_record(folder: Path) -> dict[str, Any]:
    """What run.json says of a run that no table has."""
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    results, config = record["results"], record["config"]
    read = {"fsc_truth_mean": ("fsc_unmasked_truth", "mean"), "fsc_half_mean": ("fsc_unmasked", "mean")}
    read |= {"fsc_estimate_mean": ("fsc_unmasked_estimate", "mean")}
    read |= {"resolution_truth_0.5": ("fsc_unmasked_truth", "angstrom")}
    read |= {"resolution_half_0.143": ("fsc_unmasked", "angstrom")}
    row = {metric: results.get(curve, {}).get(field) for metric, (curve, field) in read.items()}
    rules = {
        m: f"{results[c]['rule']}, mask: {results[c]['mask']}"
        for m, (c, _) in read.items()
        if "rule" in results.get(c, {})
    }
    seconds = record["cpu_seconds"]
    row["train_cpu_seconds"] = seconds.get(f"all: {config['method']}", 0.0) + seconds.get("accumulate", 0.0)
    row["peak_memory_bytes"] = record["peak_memory_bytes"]
    factors = {name: "" for name in ("experiment", "verdict", "dataset", "findings")}
    factors |= {"run": folder.name, "method": config["method"], "seed": config["seed"]}
    number = results.get("all", {}).get("n_gaussians")
    return factors | row | {"n_gaussians": number, "folder": str(folder), "rules": rules}
