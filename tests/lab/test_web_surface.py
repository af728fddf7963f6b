"""What pages show and what servers let in: labels escaped, nothing read that runs, nobody from elsewhere."""

from __future__ import annotations

import ast
import contextlib
import http.client
import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlparse

import numpy as np
import pandas as pd
import pytest
import yaml

from gsworkbench.experiments.plan import ROOT
from gsworkbench.experiments.run_notebook import main as run_notebook
from gsworkbench.io.mrc import write_map
from gsworkbench.lab.number_tables import FACTORS, SHOWN, as_html
from gsworkbench.reconstruction.run import MAP

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>"
SOURCES = [*sorted((ROOT / "gsworkbench").rglob("*.py")), *sorted((ROOT / "benchmarks").glob("*.py")),
           *sorted((ROOT / "tools").glob("*.py"))]  # fmt: skip
# What runs what it reads, or unpacks where the archive says. Only the reader of pickles has an unpickler, a tame one.
NEVER = {
    "yaml.load", "yaml.full_load", "yaml.unsafe_load", "yaml.load_all", "pickle.load", "pickle.loads", "eval", "exec",
    "marshal.loads", "shelve.open", "joblib.load", "dill.load", "os.system", "os.popen", "pandas.read_pickle",
    "pd.read_pickle", "shutil.unpack_archive", "tarfile.open",
}  # fmt: skip


def calls(path: Path) -> list[tuple[str, ast.Call]]:
    """The dotted names that a module calls."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_way_of_reading_that_runs_what_it_reads(path):
    for name, call in calls(path):
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        if name == "yaml.load":
            assert keywords.get("Loader") == "SafeLoader", f"line {call.lineno}: yaml.load with another loader"
        else:
            assert name not in NEVER, f"line {call.lineno}: {name}"
        assert not name.endswith((".extractall", ".extract")), f"line {call.lineno}: {name} unpacks an archive"
        assert keywords.get("shell") != "True" and keywords.get("allow_pickle") != "True", f"line {call.lineno}"
        if name in ("torch.load", "load") and "weights_only" not in keywords:
            assert name != "torch.load", f"line {call.lineno}: torch.load without weights_only"
        if name in ("np.load", "numpy.load"):
            assert keywords.get("allow_pickle") == "False", f"line {call.lineno}: np.load without allow_pickle=False"


def test_parameters_are_plain_data(tmp_path, capsys):
    """A tag of YAML that would call a function is refused by name of the file, and nothing is called."""
    for text in (f"!!python/object/apply:os.mkdir ['{tmp_path}/executed']", "- a list", "x: [1", ""):
        (tmp_path / "parameters.yaml").write_text(text)
        command = ["notebook.ipynb", str(tmp_path / "out.ipynb"), "--parameters", str(tmp_path / "parameters.yaml")]
        assert run_notebook(command) == 2
        said = capsys.readouterr().err
        assert "parameters.yaml: not " in said and said.count("\n") == 1
    assert run_notebook(["notebook.ipynb", str(tmp_path / "out.ipynb"), "--set", "nothing"]) == 2
    assert not (tmp_path / "executed").exists() and not (tmp_path / "out.ipynb").exists()


def test_the_unpickler_is_the_only_one():
    users = {p.relative_to(ROOT).as_posix() for p in SOURCES if re.search(r"pickle\.(Unpickler|load)", p.read_text())}
    assert users == {"gsworkbench/io/pickles.py"}


def test_a_page_shows_a_script_as_text():
    row = dict.fromkeys((*FACTORS, *SHOWN), EVIL) | dict.fromkeys(SHOWN, 1.0) | {"folder": "", "findings": EVIL}
    row["rules"] = {metric: f"'{EVIL}" for metric in SHOWN}
    text = as_html(pd.DataFrame([row]))
    assert "<script" not in text and "<img" not in text and "&lt;script&gt;" in text
    assert not re.search(r"title='[^']*'[^>]", text)


def test_what_the_lab_says_is_text():
    """Every text that a widget shows as HTML is a constant, or passes through html.escape."""
    allowed = re.compile(r"html\.escape|as_html|_measured|_table|as_text")
    for path in sorted((ROOT / "gsworkbench" / "lab").rglob("*.py")):
        for name, call in calls(path):
            if name in ("widgets.HTML", "HTML") and call.args and not isinstance(call.args[0], ast.Constant):
                source = ast.unparse(call.args[0])
                names = re.findall(r"\{([^}]*)\}", source) or [source]
                unescaped = [n for n in names if not allowed.search(n) and n != "words"]
                assert not unescaped, f"{path.name} line {call.lineno}: {unescaped}"
    assert "self.status.value = html.escape(words)" in (ROOT / "gsworkbench/lab/tabs/live_tab.py").read_text()


class Served:
    """A server of ours as a user starts it, for requests that a browser elsewhere could make."""

    def __init__(self, *command: str, cwd: Path) -> None:
        environment = {k: v for k, v in os.environ.items() if k != "JPY_SESSION_NAME"} | {"PYTHONPATH": str(ROOT)}
        words = [sys.executable, "-m", "gsworkbench", *command, "--no-browser", "--port", "0"]
        self.log = cwd / f"{command[0]}.log"
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                words, cwd=cwd, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
            )
        end = time.monotonic() + 300
        while not (found := re.search(r"gsworkbench: open (\S+)", self.log.read_text())):
            if self.process.poll() is not None or time.monotonic() > end:
                self.stop()
                raise AssertionError(self.log.read_text())
            time.sleep(0.1)
        self.address = urlparse(found[1])
        self.token = re.search(r"token=(\w+)", found[1])[1]

    def status(self, path: str, method: str = "GET", **headers: str) -> int:
        """The code of the answer to one request, not followed elsewhere."""
        connection = http.client.HTTPConnection("127.0.0.1", self.address.port, timeout=60)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            connection.request(method, path, headers=named)
            return connection.getresponse().status
        finally:
            connection.close()

    def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        self.process.wait(timeout=60)


@pytest.fixture(scope="module", params=["lab", "page"])
def served(request, tmp_path_factory):
    needed = ("jupyterlab", "voila", "ipywidgets", "k3d", "nglview")
    if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
        pytest.skip(f"{', '.join(missing)} not installed: pip install 'gsworkbench[lab]'")
    folder = tmp_path_factory.mktemp(request.param)
    run = folder / "run"
    write_map(run / MAP, np.ones((8, 8, 8)), 1.0)
    (run / "run.json").write_text(json.dumps({}))
    command = ["lab", str(run)] if request.param == "lab" else ["explore", str(run), "--page"]
    server = Served(*command, cwd=folder)
    yield request.param, server
    server.stop()


def test_it_listens_on_this_machine_alone(served):
    _, server = served
    assert server.address.hostname == "127.0.0.1" and len(server.token) >= 32
    others = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)} - {"127.0.0.1"}
    for address in [other for other in others if not other.startswith("127.")]:
        with pytest.raises(OSError), socket.create_connection((address, server.address.port), timeout=5):
            pass


@pytest.mark.parametrize("credentials", [{}, {"Authorization": "token " + "0" * 48}], ids=["none", "wrong token"])
def test_without_the_token_there_is_nothing(served, credentials):
    kind, server = served
    path = "/api/contents" if kind == "lab" else "/"
    assert server.status(path, **credentials) in (302, 401, 403)
    assert server.status("/api/kernels/00000000-0000-0000-0000-000000000000/channels", **credentials) in (403, 404)


def test_a_name_that_was_made_to_lead_here_is_refused(served):
    """DNS rebinding: the browser connects to 127.0.0.1 and says another Host."""
    kind, server = served
    token = f"token {server.token}"
    path = "/api/status" if kind == "lab" else "/voila/api/themes/x"
    port = server.address.port
    assert server.status(path, Host=f"rebound.example:{port}", Authorization=token) == 403
    if kind == "page":
        assert server.status("/", Host=f"rebound.example:{port}", Authorization=token) == 403
    assert server.status(path, Host=f"localhost:{port}", Authorization=token) != 403


def test_a_form_of_another_page_starts_no_kernel(served):
    """With the user's cookie but without the XSRF token, as a form elsewhere would post it."""
    kind, server = served
    if kind == "page":
        assert server.status("/api/kernels", "POST", Origin="http://evil.example") in (403, 404, 405)
        return
    cookie = _login_cookie(server)
    assert server.status("/api/status", Cookie=cookie) == 200  # the cookie is good
    assert server.status("/api/kernels", "POST", Cookie=cookie, Origin="http://evil.example") in (403, 404)
    assert server.status("/api/kernels", "POST", Cookie=cookie) == 403


def test_no_file_outside_the_folder_is_served(served):
    _, server = served
    token = {"Authorization": f"token {server.token}"}
    paths = (
        "/files/../../etc/passwd", "/files/%2fetc%2fpasswd", "/api/contents/%2e%2e/%2e%2e/etc/passwd",
        "/voila/files/../../etc/passwd", "/voila/files/run.json", "/voila/static/..%2f..%2f..%2fetc/passwd",
    )  # fmt: skip
    for path in paths:
        assert server.status(path, **token) != 200, path


def _login_cookie(server: Served) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", server.address.port, timeout=60)
    connection.request("GET", f"/lab?token={server.token}")
    answer = connection.getresponse()
    cookies = [value.split(";")[0] for name, value in answer.getheaders() if name.lower() == "set-cookie"]
    connection.close()
    return "; ".join(cookie for cookie in cookies if not cookie.startswith("_xsrf"))


def test_yaml_of_the_repository_is_plain():
    """Whatever reads them safely reads them whole."""
    for path in sorted((ROOT / "paper_figures").glob("*.yaml")):
        assert isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict)
