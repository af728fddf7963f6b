"""The Gaussians of a mixture as points or ellipsoids, coloured by weight, scale or local resolution."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gsworkbench.lab import pictures
from gsworkbench.lab.tabs.tab import Tab, View

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from gsworkbench.lab.volumes import GaussiansView


class GaussiansTab(Tab):
    """The scene is made when the tab is first seen."""

    title, name = "Gaussians", "gaussians"

    def build(self) -> Any:
        import ipywidgets as widgets

        from gsworkbench.lab.volumes import COLOUR_BY

        self.ellipsoids = widgets.Checkbox(description="ellipsoids of one standard deviation", indent=False)
        self.colour_by = widgets.ToggleButtons(options=COLOUR_BY, description="colour by")
        self.legend = widgets.HTML()
        self.scene: GaussiansView | None = None
        self._drawn: Any = None
        for control in (self.ellipsoids, self.colour_by):
            control.observe(self._draw, names="value")
        return widgets.VBox([self.colour_by, self.ellipsoids, self.legend])

    def opened(self) -> None:
        """Make the scene."""
        from gsworkbench.lab.volumes import GaussiansView

        if self.scene is None and self.view.gaussians is not None:
            self.scene = GaussiansView(self.view.edge)
            self.scene.plot.add_class("gsw-gaussians")
            self._draw()
            self.box.children = (*self.box.children, self.scene.plot)

    def show(self, view: View) -> None:
        """Draw the Gaussians anew if they are others."""
        if view.gaussians is not self._drawn:
            self._draw()

    def picture(self) -> Figure | None:
        """The Gaussians seen along z and along y."""
        gaussians = self.view.gaussians
        return None if gaussians is None else pictures.gaussians_figure(gaussians, self.view.edge)

    def _draw(self, _: Any = None) -> None:
        gaussians = self.view.gaussians
        if self.scene is None or gaussians is None:
            return
        by = self.colour_by.value
        resolution = self.view.local_resolution() if by == "local resolution" else None
        if by == "local resolution" and resolution is None:
            self.legend.value = self.view.how_to_localres()
            return
        self._drawn = gaussians
        known = None if resolution is None else (resolution, self.view.run.voxel_size)
        self.legend.value = self.scene.show(gaussians, by, ellipsoids=self.ellipsoids.value, resolution=known)
