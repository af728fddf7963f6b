"""The commands that open notebooks and pages, and the one that says what works here."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add(commands: Any) -> None:
    """Add lab, explore and doctor."""
    _add_lab(commands)
    _add_explore(commands)
    command = commands.add_parser("doctor", help="say which backends and devices work here, and why others do not")
    command.set_defaults(run=_doctor)


def _add_lab(commands: Any) -> None:
    command = commands.add_parser(
        "lab",
        help="open the notebooks in JupyterLab",
        description="Start JupyterLab on this machine alone (127.0.0.1, behind a token) and open it in the browser.",
    )
    command.add_argument(
        "path", type=Path, nargs="?", help="notebook or folder (default: the notebooks of the checkout)"
    )
    _add_server(command)
    command.set_defaults(run=_lab)


def _add_explore(commands: Any) -> None:
    command = commands.add_parser(
        "explore",
        help="look at a finished run, and fit its particles anew by moving sliders",
        description="Open the page of a run in JupyterLab: maps, Gaussians, sections, particles, FSC curves, and live "
        "fits with other settings, each with the command that reproduces it.",
    )
    command.add_argument("folder", type=Path, metavar="DIR", help="the --out folder of a reconstruct, or one above it")
    command.add_argument("--model", type=Path, metavar="FILE", help="atoms (.cif, .pdb) to lay over the map")
    command.add_argument(
        "--page", action="store_true", help="serve the page alone, by voila, without notebook and code"
    )
    _add_server(command)
    command.set_defaults(run=_explore)


def _add_server(command: Any) -> None:
    command.add_argument("--port", type=int, default=8888, metavar="N", help="or another one if it is taken (8888)")
    command.add_argument(
        "--browser", action=argparse.BooleanOptionalAction, default=True, help="open a browser (default: yes)"
    )


def _lab(options: argparse.Namespace) -> None:
    from gsworkbench.lab.serve import start_lab

    start_lab(options.path, port=options.port, browser=options.browser)


def _explore(options: argparse.Namespace) -> None:
    from gsworkbench.lab.serve import start_explore

    named = {k: getattr(options, k) for k in ("model", "page", "port", "browser")}
    start_explore(options.folder, **named)


def _doctor(options: argparse.Namespace) -> None:
    from gsworkbench.cli.doctor import report

    print("\n".join(report()))
