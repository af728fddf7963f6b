"""The page that explores one run: live fits and FSC curves, and below them a tab for each way of looking at it."""

from __future__ import annotations

import asyncio
import html
from pathlib import Path
from typing import Any, TypeVar

import ipywidgets as widgets

from gsworkbench.io.files import atomic_path
from gsworkbench.lab.atoms import atoms_beside
from gsworkbench.lab.fits import FOLDER
from gsworkbench.lab.opened_run import RunFolder
from gsworkbench.lab.tabs import LiveTab, MapTab, Tab, View, tabs_of
from gsworkbench.lab.worker import Worker

_SECONDS = 0.05  # between looks at what the worker says

T = TypeVar("T", bound=Tab)


class Page:
    """The page of one run; `box` is the widget to display. Without a worker (`live` false), nothing is fitted."""

    def __init__(
        self, run: RunFolder, *, model: Path | None = None, live: bool = True, threads: int | None = None
    ) -> None:
        self.run = run
        self.view = View(run, atoms_beside(run, model))
        self.tabs = tabs_of(self.view)
        self.live = self.tab(LiveTab)
        self.live.worker = Worker(run.folder, threads=threads) if live else None
        title = widgets.HTML(f"<h3>{html.escape(run.name)}</h3>{html.escape(str(run.folder))}")
        self.below = [tab for tab in self.tabs if tab is not self.live]
        chooser = widgets.Tab(children=[t.box for t in self.below], titles=[t.title for t in self.below])
        chooser.observe(lambda change: self.below[change["new"]].opened(), names="selected_index")
        self.box = widgets.VBox([title, self.live.box, chooser])
        self.view.changed = self._changed
        self.live.chart.observe(self._clicked, names="lowpass")
        self.live.chart.on_msg(self._resend)
        self.live.save.on_click(lambda _: self.live.say(f"pictures in {self.save_pictures()}"))

    def tab(self, kind: type[T]) -> T:
        """The tab of a class."""
        return next(tab for tab in self.tabs if isinstance(tab, kind))

    async def follow(self) -> None:
        """Poll the worker until the page is closed."""
        while self.live.worker is not None:
            self.live.poll()
            await asyncio.sleep(_SECONDS)

    def close(self) -> None:
        """End the worker."""
        self.live.close()

    def save_pictures(self) -> Path:
        """Write the picture of every tab, PNG and SVG; return their folder."""
        folder = self.run.folder / FOLDER / "pictures"
        for tab in self.tabs:
            if (figure := tab.picture()) is not None:
                for suffix in ("png", "svg"):
                    with atomic_path(folder / f"{tab.name}.{suffix}") as temporary:
                        figure.savefig(temporary)
        return folder

    def _changed(self, by: Tab) -> None:
        for tab in self.tabs:
            if tab is not by:
                tab.show(self.view)

    def _clicked(self, change: dict[str, Any]) -> None:
        lowpass = self.tab(MapTab).lowpass
        lowpass.value = min(change["new"], lowpass.max)

    def _resend(self, *_: Any) -> None:
        """Send what may have changed since a browser asked for the state of all widgets.

        It asks when it loads the page, and listens only once the widgets are drawn.
        """
        for tab in self.tabs:
            tab.resend()
