"""The README's commands run, every link leads somewhere, every page is in the contents. `.ci/run` builds the site."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import gsworkbench as gs
from gsworkbench.cli.main import main, parser
from gsworkbench.lab import serve

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md")])
# Made by tools/docs_pages.py when the site is built.
MADE = {"reference/cli.md", "reference/settings.md", "explain/conventions.md"}
SMALL = ["--n-particles", "60", "--box-size", "32", "--pixel-size", "12"]


def commands(page: Path) -> list[str]:
    """The commands of a page: indented lines, without what follows a #."""
    lines = re.findall(r"(?m)^    ((?:env/run )?gsworkbench .*|env/run .*)$", page.read_text(encoding="utf-8"))
    return [line.partition("  #")[0].strip().removeprefix("env/run ") for line in lines]


def python_blocks(page: Path) -> list[str]:
    return re.findall(r"(?s)```python\n(.*?)```", page.read_text(encoding="utf-8"))


def your_own_particles(text: str) -> None:
    """Where a page comes to a particles.star of the reader's own, the simulated one becomes it."""
    if re.search(r"(?<!/)\bparticles\.star", text) and not Path("particles.star").exists():
        for name in ("particles.star", "particles.mrcs"):
            Path("ribosome", name).rename(name)


@pytest.mark.parametrize("page", [ROOT / "README.md", DOCS / "use" / "quickstart.md"], ids=lambda page: page.stem)
def test_the_first_commands_run(page, tmp_path, monkeypatch, capsys):
    """On a small set; pages and notebooks are started by a stand-in, as tests/lab starts the servers themselves."""
    opened = []
    monkeypatch.setattr(serve, "start_explore", lambda folder, **_: opened.append(folder))
    monkeypatch.setattr(serve, "start_lab", lambda path, **_: opened.append(path))
    with contextlib.chdir(tmp_path), contextlib.redirect_stderr(io.StringIO()):
        for command in commands(page):
            your_own_particles(command)
            program, *arguments = shlex.split(command)
            if program == "gsworkbench":
                assert main([*arguments, *(SMALL if arguments[0] == "simulate" else [])]) == 0, command
            elif program == "snakemake":
                plan = [
                    sys.executable,
                    "-m",
                    "snakemake",
                    *arguments,
                    "--config",
                    "scale=smoke",
                    "--dry-run",
                    "--quiet",
                ]
                subprocess.run([*plan, "--cores", "1"], check=True, capture_output=True, cwd=ROOT)
            else:
                assert command == "docs"
        for block in python_blocks(page):
            your_own_particles(block)
            exec(block, {})
    assert Path("my_map") in opened
    assert (tmp_path / "my_map" / "fsc.png").is_file()


def test_env_run_shows_the_documentation_on_this_machine_alone():
    assert "mkdocs serve" in (ROOT / "env" / "run").read_text() and "127.0.0.1" in (ROOT / "env" / "run").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_on_pages_are_understood(page):
    for command in commands(page):
        if command.startswith("gsworkbench ") and "[" not in command:
            try:
                parser().parse_args(shlex.split(command)[1:])
            except SystemExit as error:
                assert error.code == 0, command


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if not link.startswith("http"):
            target = (page.parent / link).resolve()
            assert target.exists() or target.relative_to(DOCS).as_posix() in MADE, f"{link} in {page.name}"


def test_pages_that_are_named_anywhere_exist():
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split(
        "\n"
    )
    suffixes = (".py", ".md", ".ipynb", ".yaml", ".yml", ".smk", ".toml", ".cff", ".h", ".cpp", "run", "Snakefile")
    for name in filter(None, files):
        if name.endswith(suffixes) and (ROOT / name).is_file():
            for found in re.findall(r"\bdocs/[\w/]+\.(?:md|png)\b", (ROOT / name).read_text(encoding="utf-8")):
                assert (ROOT / found).is_file(), f"{found} in {name}"


def test_every_page_is_in_the_contents():
    def entries(part: object) -> list[str]:
        if isinstance(part, str):
            return [part]
        return [e for p in (part.values() if isinstance(part, dict) else part) for e in entries(p)]

    listed = entries(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    notebooks = {f"notebooks/{path.name}" for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert len(listed) == len(set(listed))
    assert set(listed) == {p.relative_to(DOCS).as_posix() for p in DOCS.rglob("*.md")} | MADE | notebooks


def test_the_reference_has_every_public_name():
    text = (DOCS / "reference" / "api.md").read_text()
    named = re.findall(r"(?m)^::: gsworkbench\.(\w+)$", text)
    assert sorted(named) == sorted(gs.__all__)
