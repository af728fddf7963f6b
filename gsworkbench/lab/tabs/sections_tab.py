"""Sections of the map that is shown, across z, y and x."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gsworkbench.lab import pictures
from gsworkbench.lab.tabs.tab import SLIDER, Tab, View

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class SectionsTab(Tab):
    """One section of each kind, side by side, at an index that a slider chooses."""

    title, name = "Sections", "sections"

    def build(self) -> Any:
        import ipywidgets as widgets

        half = len(self.view.shown) // 2
        self.section = widgets.IntSlider(value=half, max=2 * half - 1, description="section", **SLIDER)
        self.image = widgets.Image(layout={"width": "840px"})
        self.section.observe(self._draw, names="value")
        self._draw()
        return widgets.VBox([self.section, self.image, widgets.HTML("Across z, y and x.")])

    def show(self, view: View) -> None:
        """Draw the sections anew if the map is another one."""
        if view.shown is not self._drawn:
            self._draw()

    def picture(self) -> Figure:
        """Central sections of the map that is shown, and of the first half map and the truth where there are any."""
        more = {name: self.view.maps[name] for name in ("half 1", "truth") if name in self.view.maps}
        return pictures.sections_figure({self.view.kind: self.view.shown} | more)

    def resend(self) -> None:
        """Send the image."""
        self.image.send_state()

    def _draw(self, _: Any = None) -> None:
        self._drawn = self.view.shown
        self.image.value = pictures.grey_png(pictures.sections(self._drawn, self.section.value))
