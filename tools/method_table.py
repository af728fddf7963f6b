"""Write the table of docs/explain/methods.md that the registry of methods holds: python tools/method_table.py."""

from __future__ import annotations

from pathlib import Path

from gsworkbench.methods.registry import METHODS, Method

PAGE = Path(__file__).parents[1] / "docs" / "explain" / "methods.md"
BEGIN, END = "<!-- made by tools/method_table.py -->\n", "<!-- end -->\n"
HEAD = "| method | what it is | processes of torchrun share it | noise spectra | in live fits | settings |\n"


def table() -> str:
    """Return the table of methods, a row for each."""
    return HEAD + "|---|---|---|---|---|---|\n" + "".join(map(_row, METHODS.values()))


def _row(row: Method) -> str:
    name = f"`{row.name}`" if row.command == "reconstruct" else f"`{row.name}` (`gsworkbench {row.command}`)"
    marks = ["yes" if mark else "" for mark in (row.shared_by_processes, row.weighted_by_noise, row.label)]
    settings = ", ".join(f"`{setting}`" for setting in row.setting_names)
    return f"| {' | '.join([name, row.says, *marks, settings])} |\n"


def with_table(text: str) -> str:
    """Return a page with the table of today between its two marks."""
    before, _, rest = text.partition(BEGIN)
    return before + BEGIN + table() + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
