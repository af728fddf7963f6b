"""The page of all outcomes, claim by claim.

    python -m gsworkbench.experiments.report SCALE RESULTS_FOLDER OUTPUT_FOLDER

Writes report.html and report.md to OUTPUT_FOLDER and results.csv, the rows of all experiments, to RESULTS_FOLDER. Reads
the outcomes that claims.py wrote there. `--docs docs/measured` writes results.md there and its pictures instead, for
the repository, of as many experiments as there are outcomes of.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import html
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from gsworkbench.experiments.plan import Registry, read_registry
from gsworkbench.experiments.tables import FORMATS
from gsworkbench.experiments.verdicts import (
    CONTRADICTED,
    DECIDED,
    HOLDS,
    REPRODUCED,
    SEE,
    STAND_IN_FAILS,
    STAND_IN_HOLDS,
)
from gsworkbench.io.files import atomic_path, write_text

HEADS = (
    "name", "claim", "where printed", "printed", "outcome", "ours, by the paper's definition", "ours, by RELION's",
    "FSC to the truth", "estimate of it", "CPU time", "peak memory", "files",
)  # fmt: skip
_PAPERS = {"cryoDRGN": "resolution_half_0.143_cryodrgn", "GEM/CryoNeRF": "resolution_half_0.143_gem"}
# What is in the repository of the pictures.
IN_DOCS = ("review_baseline", "fig3", "fig8", "fig9", "gamma_bias", "review_truth", "review_numbers")
DOCS_HEAD = """Made by `env/run snakemake all --config scale={scale}` and
`python -m gsworkbench.experiments.report {scale} results/{scale} paper_figures/output/{scale} --docs docs/measured`.
Particles are simulated, so that the truth is known; the ribosome 6ZU5 stands in for the Pf80S of EMPIAR-10028. Runs are
compared seed by seed, and a claim is decided by where the 95 % interval of the differences lies beside what counts;
[how](../use/workflow.md#how-a-claim-is-decided). Times are CPU seconds of one thread and vary with the machine, the
ratios less so."""
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; font-size: 13px } th, td { border-bottom: 1px solid #ddd; padding: .3rem .5rem;
text-align: left; vertical-align: top } th { border-bottom: 2px solid #888 } img { max-width: 100% }
.reproduced { color: #00704f } .not { color: #b04000 } .other { color: #666 } .notes { color: #555 }
section { border-top: 1px solid #ccc; margin-top: 2rem } pre { overflow-x: auto }
"""


def read_outcomes(registry: Registry, output: Path) -> list[dict[str, Any]]:
    """Return the outcomes of all experiments, in the order of paper_figures/experiments."""
    files = [output / f"{name}.json" for name in registry.experiments]
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]


def cells(outcome: dict[str, Any]) -> list[str]:
    """Return the row of one claim, but for its files, as plain text."""
    by_paper = _PAPERS.get(outcome["definition"], "resolution_half_0.143")
    numbers = outcome["numbers"]
    return [
        outcome["name"], outcome["claim"], outcome["source"], outcome["printed"] or "not stated", outcome["verdict"],
        _number(numbers.get(by_paper)), _number(numbers.get("resolution_half_0.143")),
        _number(numbers.get("fsc_truth_mean")), _number(numbers.get("fsc_estimate_mean")),
        _number(numbers.get("train_cpu_seconds")),
        _number(numbers.get("peak_memory_bytes")),
    ]  # fmt: skip


def _number(measured: dict[str, Any] | None) -> str:
    """Print a number with its spread; what its definition says where there is none."""
    if measured is None:
        return ""
    if measured["value"] is None:
        return str(measured["definition"]).split(" [")[0]
    spread = measured["spread"]
    plus = f" ± {spread:.2g}" if spread is not None and measured["unit"] == "1" else ""
    return FORMATS[measured["unit"]](measured["value"]) + plus


def summary(outcomes: Sequence[dict[str, Any]]) -> str:
    """Return how many claims came out how, in one sentence."""
    own = [o["verdict"] for o in outcomes if not o["verdict"].startswith(SEE)]
    counts = Counter(shortened(v) for v in own)
    decided = sum(v in DECIDED for v in own)
    listed = "; ".join(f"{outcome}: {n}" for outcome, n in counts.most_common())
    return f"{len(own)} claims, {decided} decided. {listed}."


def shortened(verdict: str) -> str:
    """Return an outcome without its reason."""
    return verdict.split(", because")[0].split(" at scale")[0].split(":")[0]


def links(outcome: dict[str, Any], results: Path, output: Path) -> dict[str, str]:
    """Return label -> address, relative to the page, of the executed notebook, the numbers and a run."""
    found = {
        "notebook": results / "notebooks" / f"{outcome['name']}.ipynb",
        "numbers": output / f"{outcome['name']}.csv",
    }
    if outcome["run"]:
        found["run.json"] = results / "runs" / outcome["run"] / "run.json"
    return {label: quote(Path(os.path.relpath(path, output)).as_posix()) for label, path in found.items()}


def markdown(registry: Registry, outcomes: Sequence[dict[str, Any]], results: Path, output: Path) -> str:
    """Return the page as Markdown."""
    lines = [f"# Claim by claim, at scale {registry.scale}", "", summary(outcomes), ""]
    lines += [_row(HEADS), _row(["---"] * len(HEADS))]
    for outcome in outcomes:
        files = ", ".join(f"[{label}]({path})" for label, path in links(outcome, results, output).items())
        lines.append(_row([*map(_escaped, cells(outcome)), files]))
    for outcome in outcomes:
        lines += [
            "",
            f"## {outcome['name']}",
            "",
            _escaped(outcome["question"]),
            "",
            f"Outcome: **{outcome['verdict']}**",
            "",
        ]
        lines += [f"- {_escaped(f['says'])}" for f in outcome["findings"]]
        lines += [f"- {_escaped(name)}: not run, because {_escaped(why)}" for name, why in outcome["not_run"].items()]
        lines += _beside(outcome)
        if outcome["figure"]:
            lines += ["", f"![{_escaped(outcome['claim'])}]({quote(outcome['figure'])})"]
        if outcome["notes"]:
            lines += ["", _escaped(outcome["notes"])]
    return "\n".join(lines) + "\n"


def _beside(outcome: dict[str, Any]) -> list[str]:
    """What this run could have seen, remarks and convergence, as Markdown."""
    lines = ["", _escaped(outcome["seen"])] if outcome["seen"] else []
    if outcome["remarks"]:
        lines += ["", "Beside the claim:", "", *(f"- {_escaped(f['says'])}" for f in outcome["remarks"])]
    if outcome["gates"]:
        lines += ["", "Convergence:", "", *(f"- {_escaped(gate)}" for gate in outcome["gates"])]
    return lines


def _escaped(text: str) -> str:
    return re.sub(r"([\\`*_<>|\[\]])", r"\\\1", text).replace("\n", " ")


def _row(values: Sequence[str]) -> str:
    return f"| {' | '.join(values)} |"


def page(registry: Registry, outcomes: Sequence[dict[str, Any]], results: Path, output: Path) -> str:
    """Return the page as HTML that needs nothing but the files beside it."""
    heads = "".join(f"<th>{html.escape(head)}</th>" for head in HEADS)
    rows, sections = [], []
    for outcome in outcomes:
        name, *rest = map(html.escape, cells(outcome))
        rest[3] = f'<span class="{_class(outcome)}">{rest[3]}</span>'
        files = " ".join(
            f'<a href="{html.escape(path)}">{html.escape(label)}</a>'
            for label, path in links(outcome, results, output).items()
        )
        first = f'<td><a href="#{quote(outcome["name"])}">{name}</a></td>'
        rows.append(f"<tr>{first}{''.join(f'<td>{cell}</td>' for cell in rest)}<td>{files}</td></tr>")
        sections.append(_section(outcome))
    title = f"Claim by claim, at scale {html.escape(registry.scale)}"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
        f"</head><body><h1>{title}</h1><p>{html.escape(summary(outcomes))}</p><table><thead><tr>{heads}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table>{''.join(sections)}</body></html>\n"
    )


def _class(outcome: dict[str, Any]) -> str:
    short = shortened(outcome["verdict"])
    good, bad = (REPRODUCED, HOLDS, STAND_IN_HOLDS), (CONTRADICTED, STAND_IN_FAILS)
    return "reproduced" if short in good else "not" if short in bad else "other"


def _section(outcome: dict[str, Any]) -> str:
    """Return the statement, its outcome, what was found and the figure beside it."""
    text = {k: html.escape(v) for k, v in outcome.items() if isinstance(v, str)}
    found = [f["says"] for f in outcome["findings"]]
    found += [f"{name}: not run, because {why}" for name, why in outcome["not_run"].items()]
    listed = _list(found)
    remarks = [f["says"] for f in outcome["remarks"]]
    beside = f"<p>Beside the claim:</p><ul>{_list(remarks)}</ul>" if remarks else ""
    gates = outcome["gates"]
    converged = f"<details><summary>Convergence</summary><ul>{_list(gates)}</ul></details>" if gates else ""
    image = ""
    if outcome["figure"]:
        image = f'<figure><img src="{html.escape(quote(outcome["figure"]))}" alt="{text["claim"]}"></figure>'
    return (
        f'<section id="{quote(outcome["name"])}"><h2>{text["name"]}</h2><p>{text["question"]}</p>'
        f'<p>Claim ({text["source"]}): {text["claim"]}</p><p>Outcome: <strong class="{_class(outcome)}">'
        f'{text["verdict"]}</strong></p><ul>{listed}</ul><p class="notes">{text["seen"]}</p>{beside}{converged}{image}'
        f'<p class="notes">{text["notes"]}</p></section>'
    )


def _list(lines: Sequence[str]) -> str:
    return "".join(f"<li>{html.escape(line)}</li>" for line in lines)


def write_all_rows(registry: Registry, output: Path, path: Path) -> None:
    """Write results.csv, the rows of the tables of all experiments one after the other."""
    with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        table: Any = csv.writer(file, lineterminator="\n")
        for number, name in enumerate(registry.experiments):
            with open(output / f"{name}.csv", newline="", encoding="utf-8") as part:
                rows = csv.reader(part)
                head = next(rows)
                if number == 0:
                    table.writerow(head)
                table.writerows(rows)


def write_docs(registry: Registry, output: Path, docs: Path) -> None:
    """Write results.md and the pictures of IN_DOCS to a folder, of the outcomes that are there."""
    made = {name: e for name, e in registry.experiments.items() if (output / f"{name}.json").is_file()}
    outcomes = read_outcomes(dataclasses.replace(registry, experiments=made), output)
    lines = [f"# Results at scale {registry.scale}", "", DOCS_HEAD.format(scale=registry.scale), "", summary(outcomes)]
    missing = [name for name in registry.experiments if name not in made]
    lines += ["", f"Without an outcome yet: {', '.join(missing)}."] if missing else []
    lines += ["", _row(HEADS[:-1]), _row(["---"] * (len(HEADS) - 1))]
    lines += [_row([*map(_escaped, cells(outcome))]) for outcome in outcomes]
    for outcome in outcomes:
        lines += [
            "",
            f"## {outcome['name']}: {shortened(outcome['verdict'])}",
            "",
            f"{_escaped(outcome['question'])} Claim ({_escaped(outcome['source'])}): {_escaped(outcome['claim'])}",
            "",
            f"Outcome: **{_escaped(outcome['verdict'])}**",
            "",
        ]
        lines += [f"- {_escaped(f['says'])}" for f in outcome["findings"]]
        lines += _beside(outcome)
        if outcome["name"] in IN_DOCS and outcome["figure"]:
            with atomic_path(docs / outcome["figure"]) as temporary:
                shutil.copyfile(output / outcome["figure"], temporary)
            lines += ["", f"![{_escaped(outcome['claim'])}]({quote(outcome['figure'])})"]
        lines += ["", _escaped(outcome["notes"])] if outcome["notes"] else []
    write_text(docs / "results.md", "\n".join(lines) + "\n")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Write the page of all outcomes.")
    for name in ("scale", "results", "output"):
        parser.add_argument(name)
    parser.add_argument("--docs", type=Path, help="write results.md and pictures to this folder instead")
    given = parser.parse_args()
    registry, results, output = read_registry(given.scale), Path(given.results), Path(given.output)
    if given.docs:
        write_docs(registry, output, given.docs)
        return
    outcomes = read_outcomes(registry, output)
    write_all_rows(registry, output, results / "results.csv")
    write_text(output / "report.md", markdown(registry, outcomes, results, output))
    write_text(output / "report.html", page(registry, outcomes, results, output))
    print(summary(outcomes))


if __name__ == "__main__":
    main()
