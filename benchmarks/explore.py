"""How long a person waits: for a map after a slider of the settings is let go, for a surface after the level moves.

    python benchmarks/explore.py [--repeats 7] [--only fit|level] [--first]

The first is the wall time from the page's request to its worker until the map of all particles is there (64^3, 2,000
Gaussians, sums at hand), until its curves and numbers are, and the CPU time of the fit. The second is measured in
headless Chromium (WebGL in software) on a page of JupyterLab, at 128^3: from the key that moves the level slider until
the new surface is sent to be drawn, and until its picture is finished (a pixel can be read back); and the CPU time of
the browser's processes for it, above that of a rest of the same length. Once for the run's map, once for the truth,
which has six times its triangles. Smallest and median of several: of a busy machine, trust the smallest, and CPU time.
With --first (root alone may), the browser goes before all else on the machine, as if nothing else ran.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from gsworkbench.lab.commands import preview_config
from gsworkbench.lab.service import Done, MapMade, Ready
from gsworkbench.lab.worker import Worker
from gsworkbench.methods.one_pass import OnePass
from gsworkbench.methods.reconstruction_config import ReconstructionConfig
from gsworkbench.reconstruction.run import reconstruct
from gsworkbench.simulation.simulate import simulate
from gsworkbench.simulation.simulation_config import Simulation
from gsworkbench.system.provenance import machine

if TYPE_CHECKING:
    from playwright.sync_api import CDPSession, Page

# Notes when keys are pressed, when geometry is sent to the GPU, and when the picture drawn after it is finished.
WATCH = """
window.seen = [];
const note = (what) => window.seen.push([what, performance.now()]);
addEventListener("keydown", () => note("key"), true);
for (const kind of [WebGLRenderingContext, WebGL2RenderingContext])
  for (const [name, what] of [["bufferData", "sent"], ["drawElements", "drawn"]]) {
    const original = kind.prototype[name];
    kind.prototype[name] = function (...given) {
      if (what === "drawn" && window.seen.at(-1)?.[0] === "sent")
        queueMicrotask(() => { // once all is drawn, wait for it
          this.readPixels(0, 0, 1, 1, this.RGBA, this.UNSIGNED_BYTE, new Uint8Array(4));
          note("finished");
        });
      note(what);
      return original.apply(this, given);
    };
  }
"""
HERE = Path(__file__).resolve().parents[1]
REST = 2500  # ms between keys, long enough for all that a key starts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--only", choices=("fit", "level"))
    parser.add_argument("--first", action="store_true", help="let the browser go before everything else")
    given = parser.parse_args()
    print(f"{machine()}; load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as folder:
        if given.only != "level":
            measure_fit(example(Path(folder), 64, 5000), given.repeats)
        if given.only != "fit":
            measure_level(example(Path(folder), 128, 300), given.repeats, given.first)


def example(folder: Path, box_size: int, n_particles: int) -> Path:
    """A run of simulated particles; how good its map is does not matter here."""
    sizes = {"n_particles": n_particles, "box_size": box_size, "pixel_size": 384 / box_size}
    stack = simulate(Simulation(**sizes), folder / f"ribosome_{box_size}")
    steps = OnePass(n_gaussians=500, n_boosted_steps=2, n_steps=3, background=False)
    config = ReconstructionConfig(settings=steps)
    reconstruct(stack, folder / f"run_{box_size}", config, truth=folder / f"ribosome_{box_size}" / "truth.mrc")
    return folder / f"run_{box_size}"


def measure_fit(run: Path, repeats: int) -> None:
    worker = Worker(run)
    waiting(worker, Ready)
    first, last, cpu = [], [], []
    for seed in range(repeats + 1):
        start = time.perf_counter()
        worker.submit(replace(preview_config(2000), seed=seed))
        waiting(worker, MapMade)
        first.append(time.perf_counter() - start)
        done = waiting(worker, Done)
        last.append(time.perf_counter() - start)
        cpu.append(done.outcome.number("train_cpu_seconds"))
    worker.close()
    report("map of a live fit, s", first[1:])  # the first one compiles and imports
    report("its curves and numbers, s", last[1:])
    report("CPU time of that map's fit, s", cpu[1:])


def waiting(worker: Worker, kind: type) -> object:
    while True:
        for message in worker.messages():
            if isinstance(message, kind):
                return message
        time.sleep(0.002)


def measure_level(run: Path, repeats: int, first: bool) -> None:
    from playwright.sync_api import sync_playwright

    server = subprocess.Popen(
        [sys.executable, "-m", "gsworkbench", "explore", str(run), "--no-browser"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=os.environ | {"PYTHONPATH": str(HERE)},
    )  # fmt: skip
    try:
        address = next(found[1] for line in server.stdout if (found := re.search(r"gsworkbench: open (\S+)", line)))
        with sync_playwright() as playwright:
            flags = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
            page = browser.new_page(viewport={"width": 1280, "height": 1500})
            page.set_default_timeout(180_000)
            page.add_init_script(WATCH)
            page.goto(address)
            page.locator(".jp-Notebook .jp-Cell").first.click()
            page.get_by_role("menuitem", name="Run", exact=True).click()
            page.get_by_text("Run All Cells", exact=True).click()
            page.locator(".gsw-density canvas").first.scroll_into_view_if_needed()
            page.locator(".gsw-status", has_text="ready").first.wait_for()
            processes = browser.new_browser_cdp_session()
            if first:
                go_first(processes)
            for kind in ("full", "truth"):
                measure_redraws(page, processes, kind, repeats)
            browser.close()
    finally:
        server.terminate()
        server.wait()


def measure_redraws(page: Page, processes: CDPSession, kind: str, repeats: int) -> None:
    page.get_by_role("button", name=kind, exact=True).first.click()
    page.wait_for_timeout(2 * REST)
    slider = page.locator(".widget-inline-hbox, .jupyter-widget-inline-hbox", has_text="level, σ").first
    slider.locator(".noUi-handle").first.focus()
    waits = [redraw(page, processes) for _ in range(repeats + 1)][1:]
    for what, values in zip(("surface sent", "picture finished", "CPU"), zip(*waits, strict=True), strict=True):
        report(f"level slider at 128^3, {kind}: {what}, ms", list(values))


def redraw(page: Page, processes: CDPSession) -> tuple[float, float, float]:
    """Milliseconds from a key until new geometry is sent, until its picture is finished, and of CPU for it."""
    used = [cpu_milliseconds(processes)]
    page.wait_for_timeout(REST)
    used.append(cpu_milliseconds(processes))
    page.evaluate("window.seen = []")
    page.keyboard.press("ArrowRight")
    page.wait_for_timeout(REST)
    while "finished" not in dict(page.evaluate("window.seen")):
        page.wait_for_timeout(REST)
    used.append(cpu_milliseconds(processes))
    seen = page.evaluate("window.seen")
    first = {what: at for what, at in reversed(seen)}
    return first["sent"] - first["key"], first["finished"] - first["key"], used[2] - 2 * used[1] + used[0]


def go_first(processes: CDPSession) -> None:
    """Give every thread of the browser real-time priority: what other processes do then costs it no time."""
    for process in processes.send("SystemInfo.getProcessInfo")["processInfo"]:
        for thread in Path(f"/proc/{process['id']}/task").iterdir():
            os.sched_setscheduler(int(thread.name), os.SCHED_RR, os.sched_param(1))


def cpu_milliseconds(processes: CDPSession) -> float:
    """Of those of the browser's processes that make and draw pages."""
    found = processes.send("SystemInfo.getProcessInfo")["processInfo"]
    return 1000 * sum(process["cpuTime"] for process in found if process["type"] in ("GPU", "renderer"))


def report(what: str, values: list[float]) -> None:
    print(f"| {what} | {min(values):.3g} | {statistics.median(values):.3g} |", flush=True)


if __name__ == "__main__":
    main()
