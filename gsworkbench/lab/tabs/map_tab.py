"""The surface of one of the maps, at a level, filtered for display, coloured perhaps by local resolution."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gsworkbench.lab import display, pictures
from gsworkbench.lab.tabs.tab import SLIDER, Tab, View

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class MapTab(Tab):
    """Its controls decide which map the other tabs show too."""

    title, name = "Map", "map"

    def build(self) -> Any:
        import ipywidgets as widgets

        from gsworkbench.lab.volumes import DensityView

        view = self.view
        self.kind = widgets.ToggleButtons(options=display.kinds_of(view.run), style={"button_width": "90px"})
        self.level = widgets.FloatSlider(
            value=view.level, min=0.5, max=12.0, step=0.1, description="level, σ", **SLIDER
        )
        self.lowpass = widgets.FloatSlider(
            value=0.0, max=60.0, step=0.5, description="low-pass, Å", continuous_update=False, **SLIDER
        )
        self.b_factor = widgets.FloatSlider(
            value=0.0, min=-500, max=500, step=20, description="B factor, Å²", continuous_update=False, **SLIDER
        )
        self.level_words = widgets.HTML()
        self.colour = widgets.Dropdown(options=["one colour", "local resolution"], description="colour", **SLIDER)
        self.legend = widgets.HTML()
        self.density = DensityView(view.shown, view.run.voxel_size, self.level)
        self.density.plot.add_class("gsw-density")
        for control in (self.kind, self.lowpass, self.b_factor, self.colour):
            control.observe(self._chosen, names="value")
        self.level.observe(self._moved, names="value")
        self._say_level()
        display_only = widgets.HTML(
            "<small>Low-pass and B factor are <b>for display only</b>; no number uses them.</small>"
        )
        controls = [self.kind, self.level, self.level_words, self.lowpass, self.b_factor, display_only]
        return widgets.VBox([widgets.VBox(controls), self.colour, self.legend, self.density.plot])

    def show(self, view: View) -> None:
        """Show the map that the controls choose, in place of the one before."""
        view.kind = self.kind.value
        filters = {"lowpass": self.lowpass.value, "b_factor": self.b_factor.value}
        view.shown = display.filtered(display.shown_map(view.maps, view.kind), view.run.voxel_size, **filters)
        coloured = self.colour.value == "local resolution"
        legend = self.density.show(view.shown, view.local_resolution() if coloured else None)
        self.legend.value = view.how_to_localres() if coloured and not legend else legend
        self._say_level()

    def picture(self) -> Figure:
        """The map summed along z, y and x."""
        return pictures.projections_figure(self.view.kind, self.view.shown)

    def resend(self) -> None:
        """Send the words, and the map if a live fit may have changed it."""
        for widget in (self.level_words, self.legend):
            widget.send_state()
        if self.view.outcome is not None:
            self.density.surface.send_state(["field", "paint", "palette"])

    def _chosen(self, _: Any = None) -> None:
        self.show(self.view)
        self.view.changed(self)

    def _moved(self, _: Any = None) -> None:
        self.view.level = self.level.value
        self._say_level()
        self.view.changed(self)

    def _say_level(self) -> None:
        shown = self.view.shown
        level = self.level.value * float(shown.std())
        self.level_words.value = display.in_words(shown, self.view.run.voxel_size, level)
