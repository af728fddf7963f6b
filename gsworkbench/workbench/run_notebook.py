"""Execute a notebook with parameters, as the workflow does:

    python -m gsworkbench.workbench.run_notebook notebooks/01_reconstruct.ipynb executed.ipynb \\
        --parameters parameters.yaml --set output_dir=results/mine

The executed notebook is written as it goes, so after an error it shows how far it came. The notebook's own files are
the notebook's business.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from gsworkbench.errors import InputError


def run_notebook(notebook: str | Path, executed: str | Path, parameters: Mapping[str, Any]) -> None:
    """Run `notebook` in a fresh kernel with `parameters`, in the current directory, saving it to `executed`.

    What its cells print goes to stdout and stderr, without progress bars. A parameter that the notebook does not have
    raises InputError before it starts; an error in a cell raises papermill's PapermillExecutionError.
    """
    # jsonschema, by which nbformat checks notebooks, builds a grammar of international addresses with it: seconds at
    # every start, for a kind of text that notebooks do not have.
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
    import papermill
    from traitlets.config import Config

    known = papermill.inspect_notebook(str(notebook))
    if unknown := sorted(set(map(str, parameters)) - set(known)):
        problem = f"the notebook has no parameter {', '.join(map(repr, unknown))}"
        raise InputError(problem, file=notebook, remedy=f"it has {', '.join(known)}")
    Path(executed).parent.mkdir(parents=True, exist_ok=True)
    os.environ["TQDM_DISABLE"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        # Sockets in files need no open port. Their default place is the working directory, where kernels that run at
        # once would hear each other.
        sockets = {"transport": "ipc", "ip": f"{folder}/k"}
        # Where ipywidgets is installed, tqdm draws its bars by it and heeds no TQDM_DISABLE.
        settings = Config({"KernelManager": sockets, "NotebookClient": {"store_widget_state": False}})
        papermill.execute_notebook(
            str(notebook),
            str(executed),
            parameters=dict(parameters),
            kernel_name="python3",
            progress_bar=False,
            log_output=False,
            stdout_file=sys.stdout,
            stderr_file=sys.stderr,
            start_timeout=120,
            config=settings,
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    from papermill.exceptions import PapermillExecutionError

    parser = argparse.ArgumentParser(description="Execute a notebook with parameters.")
    parser.add_argument("notebook")
    parser.add_argument("executed", help="where the executed notebook goes")
    parser.add_argument("--parameters", help="YAML file of parameters by name")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=TEXT", help="further parameters, always text")
    given = parser.parse_args(arguments)
    try:
        parameters = _read_parameters(given.parameters) if given.parameters else {}
        parameters |= dict(_assignment(item) for item in given.set)
        run_notebook(given.notebook, given.executed, parameters)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except PapermillExecutionError as error:
        print(re.sub(r"\x1b\[[\d;]*m", "", "\n".join(error.traceback)), file=sys.stderr)
        print(f"Cell {error.exec_count} failed; {given.executed} shows how far the notebook came.", file=sys.stderr)
        return 1
    return 0


def _read_parameters(path: str) -> dict[str, Any]:
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"not readable as YAML ({' '.join(str(error).split())})", file=path) from error
    if not isinstance(content, dict):
        raise InputError("not a list of parameters by name", file=path, remedy="write lines of NAME: VALUE")
    return content


def _assignment(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator:
        raise InputError(f"--set needs NAME=TEXT, not {text!r}")
    return name, value


if __name__ == "__main__":
    sys.exit(main())
