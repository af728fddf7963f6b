"""Execute a notebook with parameters, as the workflow does:

    python -m gsworkbench.experiments.run_notebook notebooks/01_reconstruct.ipynb executed.ipynb \\
        --parameters parameters.yaml --set output_dir=results/mine

The executed notebook takes the place of an earlier one when it is done or a cell failed, and then shows how far it
came; a run that is killed leaves the earlier one. Its metadata hold every parameter, those left as they are too. The
notebook's own files are the notebook's business.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from gsworkbench import __version__
from gsworkbench.errors import InputError
from gsworkbench.io.files import atomic_path
from gsworkbench.io.locks import lock_file


def run_notebook(notebook: str | Path, executed: str | Path, parameters: Mapping[str, Any]) -> None:
    """Run `notebook` in a fresh kernel with `parameters`, in the current directory, saving it to `executed`.

    What its cells print goes to stdout and stderr, without progress bars. A parameter that the notebook does not have
    raises InputError before it starts; an error in a cell raises papermill's PapermillExecutionError; an executed
    notebook that another process is writing raises BlockingIOError.
    """
    # jsonschema, by which nbformat checks notebooks, builds a grammar of international addresses with it: seconds at
    # every start, for a kind of text that notebooks do not have.
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
    import papermill
    from papermill.exceptions import PapermillExecutionError

    known = papermill.inspect_notebook(str(notebook))
    if unknown := sorted(set(map(str, parameters)) - set(known)):
        problem = f"the notebook has no parameter {', '.join(map(repr, unknown))}"
        raise InputError(problem, file=notebook, remedy=f"it has {', '.join(known)}")
    full = _defaults(Path(notebook)) | dict(parameters)
    executed, failure = Path(executed), None
    with lock_file(executed):
        with atomic_path(executed) as temporary:
            try:
                _execute(Path(notebook), temporary, parameters)
            except PapermillExecutionError as error:
                failure = error
            _note(temporary, executed, full)
        if failure is not None:
            raise failure


def _defaults(notebook: Path) -> dict[str, Any]:
    """The values that a notebook's parameters cell assigns; the source of those that are no plain values."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    source = "\n".join("".join(c["source"]) for c in cells if "parameters" in c["metadata"].get("tags", []))
    found: dict[str, Any] = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                found[node.targets[0].id] = ast.literal_eval(node.value)
            except ValueError:
                found[node.targets[0].id] = ast.unparse(node.value)
    return found


def _note(written: Path, executed: Path, parameters: Mapping[str, Any]) -> None:
    """Put the name it is to have and all its parameters into an executed notebook."""
    content = json.loads(written.read_text(encoding="utf-8"))
    content["metadata"]["papermill"]["output_path"] = str(executed)
    content["metadata"]["gsworkbench"] = {"parameters": parameters, "version": __version__}
    written.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _execute(notebook: Path, executed: Path, parameters: Mapping[str, Any]) -> None:
    import papermill
    from traitlets.config import Config

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
    except (InputError, OSError) as error:
        print(f"{error.filename}: {error.strerror}." if isinstance(error, OSError) else error, file=sys.stderr)
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
