"""A real Chromium, driven by Playwright: Debian's package, WebGL by SwiftShader, no network.

GSWORKBENCH_SCREENSHOTS names a folder for screenshots.
"""

from __future__ import annotations

import importlib.util
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlparse

import numpy as np
import pytest

from gsworkbench.cli.main import main
from gsworkbench.experiments.plan import ROOT

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
# A sandbox needs another user than root; the rest keeps Chromium from calling home, and draws WebGL in software.
FLAGS = [
    *("--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-sync"),
    *("--disable-component-update", "--no-proxy-server"),
    *("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"),
]
NEEDED = ("playwright", "jupyterlab", "ipywidgets", "k3d", "nglview", "voila")


def pytest_collection_modifyitems(items):
    """Mark all tests here, and skip them with a reason where there is nothing to drive."""
    missing = [] if CHROMIUM else ["no Chromium on PATH (on Debian: apt install chromium)"]
    if absent := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        missing.append(f"{', '.join(absent)} not installed: pip install 'gsworkbench[lab,browser-tests]'")
    here = [item for item in items if Path(__file__).parent in item.path.parents]
    for item in here:
        item.add_marker(pytest.mark.browser)
        if missing:
            item.add_marker(pytest.mark.skip(reason="; ".join(missing)))


class Server:
    """A command of gsworkbench that serves pages; `address` is what it printed."""

    def __init__(self, *command: str, cwd: Path) -> None:
        environment = {k: v for k, v in os.environ.items() if k != "JPY_SESSION_NAME"} | {"PYTHONPATH": str(ROOT)}
        words = [sys.executable, "-m", "gsworkbench", *command, "--no-browser", "--port", "0"]
        self.log = cwd / "server.log"
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                words, cwd=cwd, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
            )
        end = time.monotonic() + 120
        while not (found := re.search(r"gsworkbench: open (\S+)", self.log.read_text())):
            assert self.process.poll() is None and time.monotonic() < end, self.log.read_text()
            time.sleep(0.2)
        self.address = found[1]

    def stop(self) -> None:
        os.killpg(self.process.pid, signal.SIGTERM)
        self.process.wait(timeout=30)


class Watched:
    """A page, and all that went wrong on it: errors on the console, requests that left this machine."""

    def __init__(self, page) -> None:
        self.page, self.errors, self.outside = page, [], []
        page.on("console", lambda m: m.type == "error" and self.errors.append(f"{m.text} ({m.location['url']})"))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: self._requested(request.url))

    def _requested(self, url: str) -> None:
        address = urlparse(url)
        if address.scheme in ("http", "https", "ws", "wss") and address.hostname not in ("127.0.0.1", "localhost"):
            self.outside.append(url)

    def assert_clean(self) -> None:
        assert not self.outside, self.outside
        assert not self.errors, self.errors

    def screenshot(self, name: str) -> None:
        if folder := os.environ.get("GSWORKBENCH_SCREENSHOTS"):
            Path(folder).mkdir(parents=True, exist_ok=True)
            self.page.screenshot(path=str(Path(folder) / f"{name}.png"))


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory):
    """A small run to explore, made by the commands of the README."""
    folder = tmp_path_factory.mktemp("explored")
    sizes = ["--n-particles", "800", "--box-size", "32", "--pixel-size", "12"]
    assert main(["simulate", "--out", str(folder / "ribosome"), *sizes]) == 0
    star, truth = folder / "ribosome" / "particles.star", folder / "ribosome" / "truth.mrc"
    arguments = ["reconstruct", str(star), "--out", str(folder / "my_map"), "--truth", str(truth)]
    assert main([*arguments, "--n-gaussians", "300"]) == 0
    return folder / "my_map"


@pytest.fixture(scope="session")
def chromium(tmp_path_factory):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            str(tmp_path_factory.mktemp("profile")),
            executable_path=CHROMIUM,
            headless=True,
            args=FLAGS,
            viewport={"width": 1280, "height": 1500},
        )
        yield context
        context.close()


@pytest.fixture
def watched(chromium):
    page = chromium.new_page()
    page.set_default_timeout(180_000)  # a busy machine
    yield Watched(page)
    page.close()


def picture(page, selector: str):
    """The pixels of what `selector` finds, as the screen shows them, (H, W, 3)."""
    from matplotlib.image import imread

    element = page.locator(selector).first
    element.scroll_into_view_if_needed()
    return imread(io.BytesIO(element.screenshot()), format="png")[..., :3]


def settled(page, selector: str, seconds: float = 60.0):
    """The pixels of an element once they are not of one colour and have stopped changing."""
    end, before = time.monotonic() + seconds, None
    while time.monotonic() < end:
        now = picture(page, selector)
        if (
            before is not None
            and now.shape == before.shape
            and np.abs(now - before).mean() < 1e-4
            and now.std() > 0.005
        ):
            return now
        before = now
        page.wait_for_timeout(400)
    raise AssertionError(f"{selector} does not settle on a picture")
