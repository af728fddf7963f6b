"""Start JupyterLab or voila on this machine alone, behind a token, and open it.

Nothing is asked of the network: no news, no look for newer versions, no list of extensions, no fonts from elsewhere.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import webbrowser
from pathlib import Path
from urllib.parse import quote

from gsworkbench.errors import InputError
from gsworkbench.io.files import write_json
from gsworkbench.lab.explore import NEEDED, need
from gsworkbench.lab.fits import FOLDER
from gsworkbench.lab.opened_run import find_runs

HERE = Path(__file__).parent
NOTEBOOKS = HERE.parents[1] / "notebooks"
FIRST = "01_reconstruct.ipynb"
LOOPBACK = "127.0.0.1"
UNUSED = ("@jupyter-notebook/lab-extension", "jupyterlab-jupytext")  # JupyterLab extensions that fail in voila
_PATIENCE = 300.0  # seconds for a server to answer, on a machine busy with other things


def start_lab(path: Path | None, *, port: int = 8888, browser: bool = True) -> None:
    """Run JupyterLab with a notebook or a folder open; by default the notebooks of the checkout."""
    need("jupyterlab", *NEEDED)
    if path is None:
        path = NOTEBOOKS / FIRST if NOTEBOOKS.is_dir() else Path.cwd()
    if not path.exists():
        raise InputError("there is no such notebook or folder", file=path)
    path = path.resolve()
    root = path if path.is_dir() else path.parent
    if root == NOTEBOOKS:
        root = root.parent
    port, token = free_port(port), secrets.token_hex(24)
    command = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={root}", *_server_options(port, token)]
    command += ["--LabApp.extension_manager=readonly", "--LabApp.news_url=None"]
    # A layout of its own: the usual one would reopen notebooks of other folders, which are not there.
    command.append(f"--LabApp.workspaces_dir={tempfile.mkdtemp(prefix='gsworkbench-')}")
    address = f"http://{LOOPBACK}:{port}/lab/tree/{quote(path.relative_to(root).as_posix())}?token={token}"
    _serve(command, f"http://{LOOPBACK}:{port}/api?token={token}", address, browser)


def start_explore(
    folder: Path, *, model: Path | None = None, page: bool = False, port: int = 8888, browser: bool = True
) -> None:
    """Open the page of a run, in JupyterLab or with `page` by voila, without notebook and code."""
    runs = find_runs(folder)
    if not runs:
        raise InputError(
            "there is no finished reconstruction", file=folder, remedy="give the --out folder of a reconstruct"
        )
    if model is not None and not model.is_file():
        raise InputError("there is no such file", file=model)
    notebook = write_notebook(runs[0], model)
    if not page:
        start_lab(notebook, port=port, browser=browser)
        return
    need("voila", *NEEDED)
    port, token = free_port(port), secrets.token_hex(24)
    command = [sys.executable, "-m", "gsworkbench.lab.local_voila", str(notebook), "--no-browser", f"--port={port}"]
    command += [f"--token={token}", f"--Voila.ip={LOOPBACK}", "--template=gsworkbench", "--show_tracebacks=True"]
    command.append(f"--VoilaConfiguration.extension_denylist={list(UNUSED)}")
    address = f"http://{LOOPBACK}:{port}/?token={token}"
    _serve(command, f"http://{LOOPBACK}:{port}/voila/static/?token={token}", address, browser)


def write_notebook(run: Path, model: Path | None = None) -> Path:
    """Write the notebook that explores a run into its folder `lab`; return its path."""
    arguments = repr(str(run)) + ("" if model is None else f", model={str(model.resolve())!r}")
    code = f"from gsworkbench.lab.explore import explore\n\nexplore({arguments})"
    cell: dict[str, object] = {
        "cell_type": "code",
        "execution_count": None,
        "id": "explore",
        "metadata": {},
        "outputs": [],
        "source": code,
    }
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    path = run / FOLDER / "explore.ipynb"
    content = {"cells": [cell], "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    if not path.is_file() or json.loads(path.read_text(encoding="utf-8")).get("cells", [{}])[0].get("source") != code:
        write_json(path, content)
    return path


def free_port(wanted: int) -> int:
    """`wanted` if nothing listens there, else any free port."""
    for port in (wanted, 0):
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((LOOPBACK, port))
            except OSError:
                continue
            return listener.getsockname()[1]
    raise InputError("no port is free on this machine")


def _server_options(port: int, token: str) -> list[str]:
    return [
        "--no-browser",
        f"--ServerApp.ip={LOOPBACK}",
        f"--ServerApp.port={port}",
        "--ServerApp.port_retries=0",
        "--ServerApp.log_level=WARN",  # so that the address to open is what stands on the screen
        f"--IdentityProvider.token={token}",
        *(["--allow-root"] if os.name == "posix" and os.geteuid() == 0 else []),
    ]


def _serve(command: list[str], answers: str, address: str, browser: bool) -> None:
    """Run a server until it ends or Ctrl-C; once it answers, print where it is, and open it."""
    environment = os.environ | {
        "JUPYTER_CONFIG_PATH": os.pathsep.join([str(HERE / "jupyter"), os.environ.get("JUPYTER_CONFIG_PATH", "")]),
        "JUPYTER_PATH": os.pathsep.join([str(HERE / "jupyter"), os.environ.get("JUPYTER_PATH", "")]),
    }
    server = subprocess.Popen(command, env=environment)
    try:
        _wait_until_it_answers(server, answers)
        print(f"\ngsworkbench: open {address}\n(Ctrl-C ends it)\n", flush=True)
        if browser:
            webbrowser.open(address)
        server.wait()
    finally:
        server.terminate()
        server.wait()


def _wait_until_it_answers(server: subprocess.Popen, address: str) -> None:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        if server.poll() is not None:
            raise InputError(f"the server ended with exit code {server.returncode}; what it printed says why")
        try:
            direct.open(address, timeout=5).close()
            return
        except urllib.error.HTTPError:
            return  # an answer all the same
        except OSError:
            time.sleep(0.2)
    raise InputError(
        f"the server does not answer after {_PATIENCE:.0f} s", remedy="try again when the machine is less busy"
    )
