"""Whatever goes wrong in a command, its user gets one sentence, a log to send, and an exit code of its own."""

import re
from pathlib import Path

import numpy as np
import pytest

from gsworkbench.cli import judge_commands, particle_commands, reconstruct_command
from gsworkbench.cli import main as cli
from gsworkbench.cli.crash_log import UNEXPECTED


def failing(error):
    def command(options):
        raise error

    return command


ERRORS = [
    ValueError("Gaussian 0 is not finite: its means hold NaN or infinity"),
    ValueError("a first line\nand a second"),
    ZeroDivisionError("float division by zero"),
    np.linalg.LinAlgError("Singular matrix"),
    FloatingPointError("underflow"),
    IndexError("list index out of range"),
    KeyError("rlnAngleRot"),
    RuntimeError("expected all tensors on one device"),
    AssertionError(),
    TypeError("an integer is required"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
def test_every_error_is_one_sentence_with_a_log(tmp_path, monkeypatch, capsys, error):
    monkeypatch.setattr(judge_commands, "_fsc", failing(error))
    assert cli.main(["postprocess", "a.mrc", "b.mrc", "--out", str(tmp_path / "out")]) == UNEXPECTED == 70
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("gsworkbench: something unexpected happened in postprocess (")
    assert type(error).__name__ in said and "Traceback" not in said and "gsworkbench inspect" in said
    log = Path(re.search(r"report this with the log (\S+)\.$", said)[1])
    assert log.parent == tmp_path
    assert "Traceback" in log.read_text() and "postprocess" in log.name and "gsworkbench " in log.read_text()


def test_numbers_that_ran_over_name_their_likely_causes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(reconstruct_command, "_reconstruct", failing(ERRORS[0]))
    assert cli.main(["reconstruct", "a.star", "--out", str(tmp_path / "out")]) == UNEXPECTED
    assert "absurd values" in (said := capsys.readouterr().err) and "no noise at all" in said


def test_without_a_folder_the_log_lies_with_temporary_files(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(particle_commands, "_inspect", failing(KeyError("x")))
    assert cli.main(["inspect", "a.star"]) == UNEXPECTED
    assert len(list(tmp_path.glob("gsworkbench-inspect-*.log"))) == 1
    assert str(tmp_path) in capsys.readouterr().err


def test_no_log_can_be_written_and_the_traceback_is_shown(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "absent"))
    monkeypatch.setenv("GSWORKBENCH_TRACEBACK", "1")
    monkeypatch.setattr(particle_commands, "_inspect", failing(KeyError("x")))
    assert cli.main(["inspect", "a.star"]) == UNEXPECTED
    said = capsys.readouterr().err
    assert "Traceback" in said and "no log could be written" in said


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("[enforce fail] can't allocate memory")])
def test_too_little_memory_stays_what_it_was(monkeypatch, capsys, error):
    monkeypatch.setattr(particle_commands, "_inspect", failing(error))
    assert cli.main(["inspect", "a.star"]) == 2
    assert "not enough memory" in capsys.readouterr().err
