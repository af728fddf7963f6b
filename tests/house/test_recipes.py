"""Container and conda recipes name files that are there and install the pinned versions: seen without an engine."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
ENV = ROOT / "env"


def test_the_dockerfile_has_known_instructions_and_copies_what_env_run_needs():
    text = (ENV / "Dockerfile").read_text()
    joined = re.sub(r"\\\n", " ", "\n".join(line for line in text.splitlines() if not line.startswith("#")))
    instructions = [line.split()[0] for line in joined.splitlines() if line.strip()]
    assert instructions == ["FROM", "RUN", "WORKDIR", "COPY", "RUN", "WORKDIR", "ENTRYPOINT", "CMD"]
    ignored = (ENV / "Dockerfile.dockerignore").read_text().split()
    assert not {"env", "gsworkbench", "pyproject.toml", "README.md", "LICENSE"} & set(ignored)
    assert {".git", ".venv", "results"} <= set(ignored)
    assert not re.search(r"[@:]latest", text)


def test_both_images_start_from_the_same_base_and_end_in_env_run():
    docker, apptainer = (ENV / name for name in ("Dockerfile", "apptainer.def"))
    bases = [re.search(r"(?m)^(?:FROM|From:) (\S+)", file.read_text())[1] for file in (docker, apptainer)]
    assert bases[0] == bases[1]
    oldest = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert oldest.removeprefix(">=") in bases[0]
    sections = re.findall(r"(?m)^%(\w+)", apptainer.read_text())
    assert sections == ["files", "post", "environment", "runscript"]
    assert all("/opt/gsworkbench/env/run" in file.read_text() for file in (docker, apptainer))


def test_conda_installs_the_pinned_versions():
    content = yaml.safe_load((ENV / "environment.yml").read_text())
    assert content["name"] == "gsworkbench" and "python=3.11" in content["dependencies"]
    pip = next(part["pip"] for part in content["dependencies"] if isinstance(part, dict))
    assert [(ENV / line.removeprefix("-r ")).is_file() for line in pip] == [True]


@pytest.mark.skipif(shutil.which("sh") is None, reason="no shell")
def test_the_shell_in_the_recipes_parses():
    post = re.search(r"(?s)%post\n(.*?)%", (ENV / "apptainer.def").read_text())[1]
    docker = re.sub(r"(?m)^#.*\n", "", (ENV / "Dockerfile").read_text())
    runs = [match.replace("\\\n", " ") for match in re.findall(r"(?m)^RUN ((?:.*\\\n)*.*)$", docker)]
    for script in (post, *runs):
        assert subprocess.run(["sh", "-n"], input=script, text=True, check=False).returncode == 0, script
