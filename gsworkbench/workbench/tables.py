"""The tables of experiments.yaml, from results.csv: a CSV file with the numbers, a Markdown page to read.

What a column is measured with (mask, threshold, rule, machine) is printed below the page, because a number without
its definition cannot be compared with anyone else's.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from gsworkbench.files import atomic_path, write_text
from gsworkbench.workbench.registry import Registry, Table, read_registry
from gsworkbench.workbench.results import read_results

if TYPE_CHECKING:
    import pandas as pd

# Unit of a result -> how a cell of it is printed.
FORMATS: dict[str, Callable[[float], str]] = {
    "1": lambda value: f"{value:.3f}",
    "A": lambda value: f"{value:.1f} Å",
    "s": lambda value: f"{value:.1f} s",
    "bytes": lambda value: f"{value / 2**20:.0f} MiB",
}
HEADINGS = {
    "fsc_truth_mean": "mean FSC to the truth",
    "fsc_half_mean": "mean FSC of half maps",
    "resolution_truth_0.5": "resolution to the truth (0.5)",
    "resolution_half_0.143": "resolution of half maps (0.143)",
    "train_cpu_seconds": "CPU time of the fit",
    "peak_memory_bytes": "peak memory",
}


def select(results: pd.DataFrame, table: Table) -> pd.DataFrame:
    """Return the rows of results.csv that the table prints, in its order."""
    rows = results[(results.experiment == table.experiment) & results.metric.isin(table.metrics)]
    missing = set(table.metrics) - set(rows.metric)
    if missing:
        raise KeyError(f"no run of {table.experiment} measured {', '.join(sorted(missing))}")
    return rows


def numbers(rows: pd.DataFrame, table: Table) -> pd.DataFrame:
    """Return one row per run with its factors and a column of numbers per metric; empty where there is no number."""
    factors = ["run", "dataset", "method", "preset", "n_gaussians", "seed"]
    wide = rows.set_index([*factors, "metric"]).value.unstack("metric")
    order = rows.run.drop_duplicates()
    return wide.reset_index().set_index("run").loc[order].reset_index()[[*factors, *table.metrics]]


def markdown(rows: pd.DataFrame, table: Table, registry: Registry) -> str:
    """Return the page: the question, the table, and how each column was measured."""
    heads = ["method", "dataset", "Gaussians", *(HEADINGS.get(m, m) for m in table.metrics)]
    lines = [registry.experiments[table.experiment].question, "", _line(heads), _line(["---"] * len(heads))]
    for _, run in rows.groupby("run", sort=False):
        cells = {row.metric: _cell(row.value, row.unit, row.definition) for row in run.itertuples()}
        first = run.iloc[0]
        gaussians = "" if first.isna().n_gaussians else f"{first.n_gaussians:,}"
        method = registry.methods[first.method].label
        lines.append(_line([method, first.dataset, gaussians, *(cells.get(m, "") for m in table.metrics)]))
    lines += ["", f"Scale: {registry.scale}. How it was measured:", ""]
    for metric in table.metrics:
        definitions = rows[rows.metric == metric].definition.map(_how).drop_duplicates()
        lines.append(f"- {HEADINGS.get(metric, metric)}: {' / '.join(definitions)}")
    return "\n".join(lines) + "\n"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(value: float, unit: str, definition: str) -> str:
    """Print a number, or what its definition says in its place ("no crossing below Nyquist (12.00 A) [...]")."""
    return FORMATS[unit](value) if value == value else definition.split(" [")[0]


def _how(definition: str) -> str:
    """Return the bracket of "12.8 A [curve, threshold, rule, mask]", or a definition without one whole."""
    return definition.split(" [", 1)[-1].removesuffix("]")


def main() -> None:
    """Write one table: python -m gsworkbench.workbench.tables SCALE NAME FOLDER OUTPUT_FOLDER."""
    parser = argparse.ArgumentParser(description="Write one table of experiments.yaml.")
    for name in ("scale", "table", "folder", "output"):
        parser.add_argument(name)
    given = parser.parse_args()
    registry = read_registry(given.scale)
    table = registry.tables[given.table]
    rows = select(read_results(Path(given.folder) / "results.csv"), table)
    output = Path(given.output)
    with atomic_path(output / f"{given.table}.csv") as temporary:
        numbers(rows, table).to_csv(temporary, index=False)
    write_text(output / f"{given.table}.md", markdown(rows, table, registry))


if __name__ == "__main__":
    main()
