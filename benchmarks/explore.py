"""How long a person waits: for a map after a slider of the settings is let go, for a surface after the level moves.

    python benchmarks/explore.py [--repeats 7] [--only fit|level]

The first is the wall time from the page's request to its worker until the map of all particles is there (64^3, 2,000
Gaussians, sums at hand), until its curves and numbers are, and the CPU time of the fit. The second is measured in
headless Chromium (WebGL in software) on a page of JupyterLab: from the key that moves the level slider to the first
drawing of the new surface, at 128^3. Smallest and median of several: of a busy machine, trust the smallest.
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

from gsworkbench.config import NormalEquationsConfig, ReconstructionConfig, SimulationConfig
from gsworkbench.lab.commands import preview_config
from gsworkbench.lab.service import Done, MapMade, Ready
from gsworkbench.lab.worker import Worker
from gsworkbench.provenance import machine
from gsworkbench.reconstruct import reconstruct
from gsworkbench.simulate import simulate

# Notes when keys are pressed, when geometry is sent to the GPU, and when something is drawn.
WATCH = """
window.seen = [];
addEventListener("keydown", () => window.seen.push(["key", performance.now()]), true);
for (const kind of [WebGLRenderingContext, WebGL2RenderingContext])
  for (const [name, what] of [["bufferData", "sent"], ["drawElements", "drawn"], ["drawArrays", "drawn"]]) {
    const original = kind.prototype[name];
    kind.prototype[name] = function (...given) {
      window.seen.push([what, performance.now()]);
      return original.apply(this, given);
    };
  }
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--only", choices=("fit", "level"))
    given = parser.parse_args()
    print(f"{machine()}; load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as folder:
        if given.only != "level":
            measure_fit(example(Path(folder), 64, 5000), given.repeats)
        if given.only != "fit":
            measure_level(example(Path(folder), 128, 300), given.repeats)


def example(folder: Path, box_size: int, n_particles: int) -> Path:
    """A run of simulated particles; how good its map is does not matter here."""
    sizes = {"n_particles": n_particles, "box_size": box_size, "pixel_size": 384 / box_size}
    stack = simulate(SimulationConfig(**sizes), folder / f"ribosome_{box_size}")
    steps = NormalEquationsConfig(n_gaussians=500, n_boosted_steps=2, n_steps=3, background=False)
    config = ReconstructionConfig(normal_equations=steps)
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


def measure_level(run: Path, repeats: int) -> None:
    from playwright.sync_api import sync_playwright

    server = subprocess.Popen(
        [sys.executable, "-m", "gsworkbench", "explore", str(run), "--no-browser"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
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
            page.wait_for_timeout(10_000)
            slider = page.locator(".widget-inline-hbox, .jupyter-widget-inline-hbox", has_text="level, σ").first
            slider.locator(".noUi-handle").first.focus()
            report("level slider at 128^3, ms", [redraw(page) for _ in range(repeats + 1)][1:])
            browser.close()
    finally:
        server.terminate()
        server.wait()


def redraw(page: object) -> float:
    """Milliseconds from a key to the first drawing after new geometry was sent."""
    page.evaluate("window.seen = []")
    page.keyboard.press("ArrowRight")
    page.wait_for_timeout(3000)
    seen = page.evaluate("window.seen")
    pressed = next(at for what, at in seen if what == "key")
    sent = next(at for what, at in seen if what == "sent" and at > pressed)
    return next(at for what, at in seen if what == "drawn" and at >= sent) - pressed


def report(what: str, values: list[float]) -> None:
    print(f"| {what} | {min(values):.3g} | {statistics.median(values):.3g} |", flush=True)


if __name__ == "__main__":
    main()
