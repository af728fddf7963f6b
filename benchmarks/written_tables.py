"""Tables that scripts write into pages of the documentation, between two marks that name the script."""

from __future__ import annotations

from pathlib import Path

MEASURED = Path(__file__).parents[1] / "docs" / "measured"


def write_table(page: Path, script: str, table: str) -> None:
    """Put a table between the marks of `script`, such as "truth_estimate.py --programs"; the page must have them."""
    begin, end = f"<!-- made by benchmarks/{script} -->\n", f"<!-- end of {script} -->"
    head, found, rest = page.read_text(encoding="utf-8").partition(begin)
    _, closed, tail = rest.partition(end)
    if not (found and closed):
        raise SystemExit(f"{page} has no place for the table: add the lines\n{begin}{end}")
    page.write_text(f"{head}{begin}\n{table.strip()}\n\n{end}{tail}", encoding="utf-8")
