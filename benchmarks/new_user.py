"""How long a new user needs from a clone to a reconstruction in the browser, doing what README.md says and no more.

    python benchmarks/new_user.py [--folder DIR] [--keep] [--screenshots DIR]

Clones this repository into a new folder, calls `env/run gsworkbench lab` there (which makes the environment), opens the
address that it prints in headless Chromium, runs the notebook that comes up through the menus until the numbers of its
last cell are there, then opens 07_explore from the list of files, runs it, and waits until it says that sliders can be
moved. Prints the seconds of each step; of the first also those of CPU, because a download depends on the network. With
--folder, a clone that is there is used as it is.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Page

HERE = Path(__file__).resolve().parents[1]
FLAGS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
MINUTES = 60_000  # ms; twenty of them are for giving up, not the goal


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--keep", action="store_true", help="leave the new clone in place")
    parser.add_argument("--screenshots", type=Path)
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="newuser-")) / "gsworkbench"
    print(f"load {os.getloadavg()[0]:.1f}, {folder}")
    start = time.monotonic()
    if not folder.is_dir():
        subprocess.run(["git", "clone", "--quiet", str(HERE), str(folder)], check=True)
    try:
        first_steps(folder, given.screenshots)
    finally:
        if given.folder is None and not given.keep:
            shutil.rmtree(folder.parent)
    report("all", start)


def first_steps(folder: Path, screenshots: Path | None) -> None:
    from playwright.sync_api import sync_playwright

    start = time.monotonic()
    words = ["env/run", "gsworkbench", "lab", "--no-browser", "--port", "0"]
    server = subprocess.Popen(words, cwd=folder, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert server.stdout is not None
        address = next(found[1] for line in server.stdout if (found := re.search(r"gsworkbench: open (\S+)", line)))
        report("environment made, JupyterLab up", start)
        print(f"| CPU of that, its downloads not counted | {cpu_of_children(server.pid):.0f} s |")
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
            page = browser.new_page(viewport={"width": 1400, "height": 1000})
            page.set_default_timeout(20 * MINUTES)
            walk(page, address, screenshots)
            browser.close()
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()


def cpu_of_children(pid: int) -> float:
    """Seconds of CPU that a process has waited for: what env/run called before it became the server."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
    return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


def walk(page: Page, address: str, screenshots: Path | None) -> None:
    start = time.monotonic()
    page.goto(address)
    page.wait_for_selector(".jp-Notebook .jp-Cell")
    report("first notebook on the screen", start)
    start = time.monotonic()
    run_all_cells(page)
    page.get_by_text("fsc_truth_mean").last.wait_for()
    report("a reconstruction: map, curves and numbers", start)
    keep_screenshot(page, screenshots, "first_notebook")
    start = time.monotonic()
    page.locator(".jp-DirListing-item", has_text="07_explore").dblclick()
    page.locator(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-Cell", has_text="change a setting").first.wait_for()
    run_all_cells(page)
    page.locator(".gsw-status", has_text="ready").first.wait_for()
    report("its example explored: sliders can be moved", start)
    keep_screenshot(page, screenshots, "explore")


def run_all_cells(page: Page) -> None:
    page.locator(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-Cell").first.click()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()


def keep_screenshot(page: Page, folder: Path | None, name: str) -> None:
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=str(folder / f"{name}.png"))


def report(what: str, start: float) -> None:
    print(f"| {what} | {time.monotonic() - start:.0f} s |", flush=True)


if __name__ == "__main__":
    main()
