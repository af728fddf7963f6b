"""The papers' tables beside ours: python -m gsworkbench.experiments.paper_tables SCALE RESULTS OUTPUT.

Reads paper_figures/printed_tables.yaml, which has every cell as printed and the runs of ours that stand beside it, and
writes OUTPUT/papers_tables.md, in which each cell has both, or why there is none of ours: "not run, because ...".
Needs scale empiar, or its rehearsal, whose numbers are of toys.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from gsworkbench.config import from_mapping
from gsworkbench.errors import InputError
from gsworkbench.experiments.plan import ROOT, Registry, Run, read_registry
from gsworkbench.experiments.results import read_results
from gsworkbench.experiments.verdicts import NOT_RUN
from gsworkbench.io.files import write_text

if TYPE_CHECKING:
    import pandas as pd

PRINTED = ROOT / "paper_figures" / "printed_tables.yaml"
PAGE = "papers_tables.md"
# Unit of a table -> what a number in the unit of results.csv is divided by, and how it is printed.
UNITS = {
    "A": (1.0, "{:.2f}"),
    "1": (1.0, "{:.3f}"),
    "MiB": (2**20, "{:,.0f}"),
    "GB": (1e9, "{:.2f}"),
    "1/s": (1.0, "{:.2f}"),
    "ratio": (1.0, "{:.2f}"),
}


@dataclass(frozen=True)
class PrintedRow:
    """printed : a text for each column. ours, per : factors of runs; a value null stands for runs that do not have the
    factor, "some" for runs that have it. not_run : why there is nothing of ours."""

    printed: list
    ours: dict = field(default_factory=dict)
    metric: str = ""
    per: dict = field(default_factory=dict)
    note: str = ""
    not_run: str = ""


@dataclass(frozen=True)
class PrintedTable:
    """A table of a paper; columns : name -> factors of runs, or None."""

    title: str
    where: str
    definition: str
    unit: Literal["A", "1", "MiB", "GB", "1/s", "ratio"]
    columns: dict
    rows: dict


@dataclass(frozen=True)
class Cell:
    """One cell: what is printed, and ours, which is never empty."""

    table: str
    row: str
    column: str
    printed: str
    ours: str

    @property
    def ran(self) -> bool:
        return not self.ours.startswith(NOT_RUN)


def read_tables(path: Path = PRINTED) -> dict[str, tuple[PrintedTable, dict[str, PrintedRow]]]:
    """Read the printed tables, strictly: a row needs a text for each column, and runs of ours or a reason."""
    tables = {}
    for name, content in yaml.safe_load(path.read_text(encoding="utf-8")).items():
        table = from_mapping(PrintedTable, content)
        rows = {label: from_mapping(PrintedRow, row) for label, row in table.rows.items()}
        for label, row in rows.items():
            where, n = f"{name}, {label}", len(table.columns)
            if len(row.printed) != n:
                raise InputError(f"{where}: {len(row.printed)} texts for {n} columns", file=path)
            if bool(row.ours and row.metric) == bool(row.not_run):
                raise InputError(f"{where}: give runs with a metric, or a reason why there are none", file=path)
        tables[name] = (table, rows)
    return tables


def cells_of(registry: Registry, results: pd.DataFrame, reasons: Mapping[str, str]) -> list[Cell]:
    """Return every cell of every table. results : rows of results.csv. reasons : run -> why it was not made."""
    cells = []
    for name, (table, rows) in read_tables().items():
        for label, row in rows.items():
            for (column, factors), printed in zip(table.columns.items(), row.printed, strict=True):
                ours = _ours(row, factors, table.unit, registry, results, reasons)
                cells.append(Cell(name, label, column, str(printed), ours))
    return cells


def _ours(
    row: PrintedRow, column: dict[str, Any] | None, unit: str, registry: Registry, results: pd.DataFrame,
    reasons: Mapping[str, str],
) -> str:  # fmt: skip
    """Return our number, or why there is none."""
    if row.not_run or column is None:
        return NOT_RUN + (row.not_run or "no data set of ours is this one")
    found = _value(row.metric, column | row.ours, registry, results, reasons)
    if isinstance(found, str):
        return found
    if row.per:
        other = _value(row.metric, column | row.per, registry, results, reasons)
        if isinstance(other, str):
            return other
        return UNITS[unit][1].format(found / other)
    divisor, text = UNITS[unit]
    return text.format(found / divisor)


def _value(
    metric: str, factors: dict[str, Any], registry: Registry, results: pd.DataFrame, reasons: Mapping[str, str]
) -> float | str:
    """Return the mean over seeds of a metric of runs with these factors; a sentence where there is none."""
    runs = [run for e in registry.experiments.values() for run in e.runs if _fits(run, factors)]  # but for twins
    if not runs:
        return f"{NOT_RUN}scale {registry.scale} has no such run"
    names = {run.name for run in runs}
    chosen = results[results.run.isin(names) & (results.metric == metric)].drop_duplicates("run")
    if chosen.empty:
        why = next((reasons[name] for name in names if name in reasons), None)
        if why is None and metric.startswith("gpu_"):
            why = "the fit ran on a CPU, and memory of a GPU cannot be measured there"
        return NOT_RUN + (why or f"no run of it has the number {metric}")
    values = chosen.value.astype(float)
    if values.isna().any():  # "no crossing below Nyquist (7.54 A)"
        return str(chosen.definition[values.isna()].iloc[0]).split(" [")[0]
    return float(values.mean())


def _fits(run: Run, factors: Mapping[str, Any]) -> bool:
    """Whether a run has these factors; it may have more."""
    for name, wanted in factors.items():
        has = run.factors.get(name)
        if (has is None) if wanted == "some" else (has != wanted):
            return False
    return True


def markdown(registry: Registry, cells: list[Cell]) -> str:
    """Return the tables as Markdown: in each cell, what is printed | ours."""
    n_ran = sum(cell.ran for cell in cells)
    lines = [f"# The papers' tables beside ours, scale {registry.scale}", ""]
    if not registry.decides:
        lines += ["A rehearsal: every number of ours is of a few simulated images in small boxes.", ""]
    lines += [f"In each cell: printed / ours. {n_ran} of {len(cells)} cells have a number of ours.", ""]
    for name, (table, rows) in read_tables().items():
        lines += [f"## {table.title}", "", f"{table.where}. Definition: {table.definition}.", ""]
        lines += [_line(["", *table.columns]), _line(["---"] * (1 + len(table.columns)))]
        notes = []
        for label, row in rows.items():
            mine = [cell for cell in cells if (cell.table, cell.row) == (name, label)]
            lines.append(_line([label, *(f"{cell.printed} / {cell.ours}" for cell in mine)]))
            notes += [f"- {label}: {row.note}"] if row.note else []
        lines += ["", *notes, *[""] * bool(notes)]
    return "\n".join(lines)


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def reasons_of(registry: Registry, results: Path) -> dict[str, str]:
    """Return run -> why it could not be made, of the runs below results/SCALE."""
    from gsworkbench.experiments.measures import why_not_run

    return {run.name: why for run in registry.runs.values() if (why := why_not_run(run, results)) is not None}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Write the papers' tables beside ours.")
    parser.add_argument("scale", help="empiar, or rehearsal")
    parser.add_argument("results", type=Path, help="results/SCALE")
    parser.add_argument("output", type=Path, help="folder to write papers_tables.md to")
    given = parser.parse_args()
    registry = read_registry(given.scale)
    cells = cells_of(registry, read_results(given.results / "results.csv"), reasons_of(registry, given.results))
    write_text(given.output / PAGE, markdown(registry, cells))
    print(f"{given.output / PAGE}: {len(cells)} cells, {sum(cell.ran for cell in cells)} with a number of ours")


if __name__ == "__main__":
    main()
