"""Pages of the documentation that are made when it is built: the command line, settings, conventions, notebooks.

A hook of mkdocs (mkdocs.yml). The command line is that of the argument parser, the tables of settings are the fields of
the records with the comments beside them, so that neither can fall behind the code.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import inspect
import os
import re
import tokenize
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files

import gsworkbench as gs
from gsworkbench.cli.main import parser

ROOT = Path(__file__).parents[1]
RECORDS = ("OnePass", "Stochastic", "Voxels", "Backprojection", "NeuralField", "Simulation")


@event_priority(100)  # before mkdocs-jupyter looks for notebooks
def on_files(files: Files, config: Any) -> Files:
    made = {"reference/cli.md": command_line(), "reference/settings.md": settings()}
    made["explain/conventions.md"] = (ROOT / "CONVENTIONS.md").read_text(encoding="utf-8")
    for path, content in made.items():
        files.append(File.generated(config, path, content=content))
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        path = notebook.relative_to(ROOT).as_posix()
        files.append(File(path, str(ROOT), config.site_dir, config.use_directory_urls))
    return files


def on_page_content(html: str, page: Any, **_: Any) -> str:
    """Links of notebooks lead to pages: ../docs/use/judge.md is ../../use/judge/ on the site."""
    if page.file.src_uri.startswith("notebooks/"):
        return re.sub(r'href="\.\./docs/(\w+/\w+)\.md', r'href="../../\1/', html)
    return html


def command_line() -> str:
    """Every command with its help, as `gsworkbench COMMAND --help` prints it."""
    os.environ["COLUMNS"] = "100"
    root = parser()
    text = ["# Command line", "", "`gsworkbench COMMAND --help` prints the same.", "", *_help(root)]
    for name, command in _commands(root):
        text += [f"## {name}", "", *_help(command)]
    return "\n".join(text)


def _commands(root: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for action in root._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.items()


def _help(command: argparse.ArgumentParser) -> list[str]:
    return ["```text", command.format_help().rstrip(), "```", ""]


def settings() -> str:
    """A table for each record: name, type, default, and the comment beside the field."""
    text = ["# Settings", "", "The fields of the records that `reconstruct` and `simulate` take. On the command line,"]
    text += ["`--set NAME=VALUE` sets a field of the method.", ""]
    for name in RECORDS:
        record = getattr(gs, name)
        text += [f"## {name}", "", inspect.getdoc(record).partition("\n")[0], ""]
        text += ["| field | type | default | meaning |", "|---|---|---|---|"]
        comments = field_comments(record)
        for field in dataclasses.fields(record):
            cells = (f"`{field.name}`", f"`{field.type}`", f"`{field.default!r}`", comments.get(field.name, ""))
            text.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        text.append("")
    text += [
        "## Presets",
        "",
        "`PRESETS` are published recipes as `Stochastic` settings: what differs from the defaults.",
    ]
    text += ["", "| preset | settings |", "|---|---|"]
    for name, preset in gs.PRESETS.items():
        changed = [f for f in dataclasses.fields(preset) if getattr(preset, f.name) != f.default]
        text.append(f"| `{name}` | {', '.join(f'`{f.name}={getattr(preset, f.name)!r}`' for f in changed)} |")
    return "\n".join(text) + "\n"


def field_comments(record: type) -> dict[str, str]:
    """The comment on the line of each field, or on the lines before it."""
    source = inspect.getsource(record)
    comments = {t.start[0]: t.string[1:].strip() for t in tokenize.generate_tokens(StringIO(source).readline)
                if t.type == tokenize.COMMENT}  # fmt: skip
    alone = {number for number, line in enumerate(source.splitlines(), 1) if line.lstrip().startswith("#")}
    found = {}
    for node in ast.parse(source).body[0].body:
        if isinstance(node, ast.AnnAssign):
            above: list[str] = []
            number = node.lineno - 1
            while number in alone:
                above.insert(0, comments[number])
                number -= 1
            beside = [comments[n] for n in range(node.lineno, node.end_lineno + 1) if n in comments]
            found[node.target.id] = " ".join(above + beside)
    return found
