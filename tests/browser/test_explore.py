"""What a person does, in a real browser: open, run, move sliders, wait for fits, cancel one, read the numbers."""

from __future__ import annotations

import json
import re
import shlex
import time

import numpy as np
import pytest

from gsworkbench.cli.main import main
from gsworkbench.experiments.plan import ROOT
from gsworkbench.experiments.results import read_results
from gsworkbench.lab.opened_run import read_run

from .conftest import Server, settled

DENSITY, MODEL = ".gsw-density canvas", ".gsw-model canvas"
STATUS = ".gsw-status"

# A page without a worker, that says something just after its state was sent.
SAID_BETWEEN = """\
import ipywidgets
from gsworkbench.lab.explore import explore

box = explore({folder!r})
box.page.close()
answer = ipywidgets.Widget._handle_control_comm_msg

def answer_and_go_on(message):
    answer(message)
    box.page.live.say("said in between")

ipywidgets.Widget._handle_control_comm_msg = answer_and_go_on
box
"""


def slider(page, description: str):
    return page.locator(".widget-inline-hbox, .jupyter-widget-inline-hbox", has_text=description).first


def press(page, description: str, key: str, times: int = 1) -> None:
    """Move the slider of this description by keys, as a hand would."""
    handle = slider(page, description).locator(".noUi-handle").first
    handle.scroll_into_view_if_needed()
    handle.focus()
    for _ in range(times):
        page.keyboard.press(key)


def wait_for_status(page, words: str, seconds: float = 300.0) -> str:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        said = page.locator(STATUS).first.inner_text()
        if re.search(words, said):
            return said
        page.wait_for_timeout(50)
    raise AssertionError(f"not {words!r} but {said!r}")


def wait_for_the_last_fit(page, seconds: float = 60.0) -> None:
    """Until the kernel has got the slider's last value: it may come after a click made later, and start a fit anew."""
    number = slider(page, "Gaussians N").locator(".widget-readout").first.inner_text().replace(",", "")
    end = time.monotonic() + seconds
    while f"--n-gaussians {number} " not in page.locator(".gsw-text").first.inner_text():
        assert time.monotonic() < end, f"no fit of {number} Gaussians"
        page.wait_for_timeout(50)


def curves(page) -> list[str]:
    return [line.get_attribute("points") for line in page.locator(".gsw-curve").all()]


def shown_number(page, metric: str) -> float:
    return float(page.locator(f"[data-metric='{metric}']").inner_text().split()[0])


def explore_it(watched, run_folder, tmp_path, name: str) -> None:
    """The page of a run, wherever it is served: every control, one by one."""
    page = watched.page
    wait_for_status(page, "ready")
    before = settled(page, DENSITY)
    assert (before[..., 2] - before[..., 0] > 0.1).mean() > 0.01  # the surface is there, and blue
    press(page, "level, σ", "ArrowRight", 25)
    after = settled(page, DENSITY)
    assert np.abs(after - before).max() > 0.2 and np.abs(after - before).mean() > 0.003
    watched.screenshot(f"{name}_map")

    page.get_by_text("Atomic model", exact=True).click()
    first = settled(page, MODEL)
    press_level_and_return(page)
    second = settled(page, MODEL)
    watched.screenshot(f"{name}_model")
    assert np.abs(second - first).mean() > 0.001

    old = curves(page)
    press(page, "Gaussians N", "ArrowLeft", 2)
    wait_for_status(page, "^done")
    assert curves(page) != old and len(curves(page)) == 6
    command = page.locator(".gsw-text").first.inner_text()
    number = shown_number(page, "fsc_truth_mean")
    watched.screenshot(f"{name}_live_fit")
    words = shlex.split(command)
    words[words.index("--out") + 1] = str(tmp_path / "again")
    assert words[0] == "gsworkbench" and main(words[1:]) == 0
    again = {c.name: c.mean() for c in read_run(tmp_path / "again").curves}
    assert number == pytest.approx(again["fsc_unmasked_truth"], abs=1.1e-4)
    table = read_results(run_folder / "lab" / "explored.csv")
    assert number == pytest.approx(table[table.metric == "fsc_truth_mean"].value.iloc[-1], abs=1e-4)

    page.locator("select").filter(has_text="stochastic").first.select_option("Gaussians, stochastic")
    press(page, "Gaussians N", "ArrowRight", 9)
    wait_for_the_last_fit(page)
    wait_for_status(page, r"\.\.\.$")
    page.get_by_role("button", name="cancel").click()
    wait_for_status(page, "cancelled", seconds=60.0)
    watched.screenshot(f"{name}_cancelled")
    watched.assert_clean()


def press_level_and_return(page) -> None:
    page.get_by_text("Map", exact=True).first.click()
    press(page, "level, σ", "ArrowLeft", 20)
    page.get_by_text("Atomic model", exact=True).click()


def test_in_jupyterlab(watched, run_folder, tmp_path):
    """The notebook of the repository, opened by `gsworkbench lab` and run through the menus."""
    text = (ROOT / "notebooks" / "07_explore.ipynb").read_text()
    notebook = tmp_path / "07_explore.ipynb"
    notebook.write_text(text.replace(r"run_dir = \"\"", rf"run_dir = \"{run_folder}\""))
    server = Server("lab", str(notebook), cwd=tmp_path)
    try:
        page = watched.page
        page.goto(server.address)
        page.wait_for_selector(".jp-Notebook .jp-Cell")
        page.locator(".jp-Notebook .jp-Cell").first.click()
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_text("Run All Cells", exact=True).click()
        explore_it(watched, run_folder, tmp_path, "jupyterlab")
    finally:
        server.stop()


def test_as_a_page_by_voila(watched, run_folder, tmp_path):
    server = Server("explore", str(run_folder), "--page", cwd=tmp_path)
    try:
        watched.page.goto(server.address, wait_until="commit")  # it loads as long as the notebook runs
        explore_it(watched, run_folder, tmp_path, "voila")
    finally:
        server.stop()


def test_what_is_said_while_a_page_loads_arrives(watched, run_folder, tmp_path):
    """A browser that has got the state of all widgets listens to them only later; the worker goes on meanwhile."""
    server = Server("explore", str(run_folder), "--page", cwd=tmp_path)
    notebook = run_folder / "lab" / "explore.ipynb"
    before = notebook.read_text()
    try:
        content = json.loads(before)
        content["cells"][0]["source"] = SAID_BETWEEN.format(folder=str(run_folder))
        notebook.write_text(json.dumps(content))
        watched.page.goto(server.address, wait_until="commit")
        wait_for_status(watched.page, "said in between", seconds=120.0)
    finally:
        notebook.write_text(before)
        server.stop()
