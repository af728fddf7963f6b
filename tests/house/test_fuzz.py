"""The kept corpus replayed on every machine; new inputs made for some seconds where atheris is installed.

GSWORKBENCH_FUZZ_SECONDS gives the seconds for each target instead of 5; docs/measured/robustness.md has longer runs.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys

import pytest
from fuzz import run, targets

SECONDS = os.environ.get("GSWORKBENCH_FUZZ_SECONDS", "5")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("target", targets.TARGETS)
def test_the_kept_corpus(bench, target):
    inputs = run.kept(target)
    assert len(inputs) > 5
    for data in inputs:
        targets.judge(target, bench, data)


@pytest.mark.parametrize(
    ("kind", "bad"),
    [
        ("crash", lambda bench, data: 1 / 0),
        ("memory", lambda bench, data: bytearray(2**24)),
        ("executed", lambda bench, data: os.mkdir(bench.folder / "made")),
        ("executed", lambda bench, data: os.open(os.devnull, os.O_WRONLY)),
        ("hang", lambda bench, data: [None for _ in iter(int, 1)]),
    ],
    ids=["crash", "memory", "executed", "written", "hang"],
)
def test_the_judge_sees_what_it_must(bench, monkeypatch, kind, bad):
    monkeypatch.setitem(targets.TARGETS, "bad", bad)
    monkeypatch.setattr(targets, "SECONDS", 0.2)
    with pytest.raises(targets.Finding) as finding:
        targets.judge("bad", bench, b"")
    assert finding.value.kind == kind


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not installed: the extra fuzz")
def test_new_inputs(tmp_path):
    command = [sys.executable, run.__file__, *targets.TARGETS, "--seconds", SECONDS, "--out", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    for target in targets.TARGETS:
        record = json.loads((tmp_path / f"{target}.json").read_text())
        assert record["inputs"] > 0, result.stderr[-2000:]
        assert not record["places"], record["places"]
