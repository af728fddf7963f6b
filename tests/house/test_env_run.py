"""env/run makes the environment once, from its pins, whatever befell earlier calls. A stand-in plays Python and pip."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from gsworkbench.experiments.plan import ROOT

# Makes environments that hold a copy of itself, and installs by writing a line to the log.
PYTHON = f"""#!/bin/sh
case "$1 $2" in
"-m venv") rm -rf "$4"; mkdir -p "$4/bin"; cp "$0" "$4/bin/python"; echo venv >>"$LOG";;
"-m pip") echo "pip $*" >>"$LOG"; echo "Collecting torch==0"; sleep "${{PIP_SECONDS:-0}}"; exit "${{PIP_FAILS:-0}}";;
*) exec {sys.executable} "$@";;
esac
"""


@pytest.fixture
def checkout(tmp_path):
    """A checkout with env/run and pins of its own."""
    (tmp_path / "repo" / "env").mkdir(parents=True)
    shutil.copy(ROOT / "env" / "run", tmp_path / "repo" / "env" / "run")
    (tmp_path / "repo" / "env" / "requirements.txt").write_text("torch==0\n")
    (tmp_path / "repo" / "pyproject.toml").write_text("")
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)
    return tmp_path


def _environment(checkout, **more):
    return {**os.environ, "PYTHON": str(checkout / "python"), "LOG": str(checkout / "log"), **more}


def _run(checkout, *command, **more):
    environment = _environment(checkout, **more)
    command = [str(checkout / "repo" / "env" / "run"), *command]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=checkout, check=False)


def _log(checkout):
    return [line.split()[0] for line in (checkout / "log").read_text().splitlines()]


def test_made_once_then_run_from_where_you_are_with_the_exit_code_of_the_command(checkout):
    first = _run(checkout, "sh", "-c", "pwd; echo $VIRTUAL_ENV; command -v python; exit 7")
    assert first.returncode == 7
    venv = checkout / "repo" / ".venv"
    assert first.stdout.split() == [str(checkout), str(venv), str(venv / "bin" / "python")]
    assert _log(checkout) == ["venv", "pip", "pip"]  # the pins, then the package itself
    second = _run(checkout, "true")
    assert second.returncode == 0 and second.stderr == ""
    assert len(_log(checkout)) == 3


def test_changed_pins_are_installed_over_what_is_there(checkout):
    _run(checkout, "true")
    (checkout / "repo" / "env" / "requirements.txt").write_text("torch==1\n")
    assert "the pinned versions changed" in _run(checkout, "true").stderr
    assert _log(checkout) == ["venv", "pip", "pip", "pip", "pip"]


def test_after_a_failure_it_says_why_and_the_next_call_begins_again(checkout):
    failed = _run(checkout, "true", PIP_FAILS="1")
    assert failed.returncode != 0
    assert "pip failed" in failed.stderr and "Collecting torch==0" in failed.stderr
    assert _run(checkout, "true").returncode == 0
    assert _log(checkout) == ["venv", "pip", "venv", "pip", "pip"]


def _heed_interrupts():
    """A test run started in the background inherits that interrupts are ignored; a terminal's user does not."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_interrupted_then_called_again(checkout):
    call = subprocess.Popen(
        [checkout / "repo" / "env" / "run", "true"], preexec_fn=_heed_interrupts,
        env=_environment(checkout, PIP_SECONDS="30"), start_new_session=True, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    log = checkout / "repo" / ".venv" / "install.log"
    while not log.exists() or "Collecting" not in log.read_text():
        time.sleep(0.05)
    time.sleep(0.2)  # until the sleep that stands for pip's work is under way
    os.killpg(call.pid, signal.SIGINT)
    assert call.wait(timeout=20) != 0
    assert _run(checkout, "true").returncode == 0
    assert _log(checkout) == ["venv", "pip", "venv", "pip", "pip"]


def test_two_calls_at_once_make_it_once(checkout):
    command = [checkout / "repo" / "env" / "run", "true"]
    environment = _environment(checkout, PIP_SECONDS="0.5")
    calls = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [call.communicate(timeout=30)[1] for call in calls]
    assert [call.returncode for call in calls] == [0, 0]
    assert sum("waiting for it" in text for text in said) == 1
    assert _log(checkout) == ["venv", "pip", "pip"]


def test_an_old_python_is_refused_by_name(checkout):
    (checkout / "python").write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.2\nexit 1\n')
    result = _run(checkout, "true")
    assert result.returncode != 0
    assert "Python 3.11 or newer is needed, found Python 3.9.2" in result.stderr
    assert not (checkout / "repo" / ".venv").exists()


def test_no_command(checkout):
    result = _run(checkout)
    assert result.returncode == 2 and "give a command" in result.stderr
