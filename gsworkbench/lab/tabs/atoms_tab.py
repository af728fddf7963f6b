"""The map of the run, and the atoms of a model or of the simulated molecule laid over it."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

from gsworkbench.lab import pictures
from gsworkbench.lab.tabs.tab import Tab, View
from gsworkbench.molecules import read_atoms

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class AtomsTab(Tab):
    """The scene is made when the tab is first seen; its level is that of the tab Map."""

    title, name = "Atomic model", "atoms"

    def build(self) -> Any:
        import ipywidgets as widgets

        assert self.view.model is not None
        self.scene: Any = None
        words = f"Map of the run, and atoms of {html.escape(self.view.model.name)}. The level is that of the tab Map."
        return widgets.VBox([widgets.HTML(words)])

    def opened(self) -> None:
        """Make the scene."""
        from gsworkbench.lab.volumes import map_with_model, written_for_nglview

        if self.scene is None and self.view.model is not None:
            run = self.view.run
            file = written_for_nglview(run.maps["full"], run.voxel_size)
            self.scene = map_with_model(file, self.view.model, self._level())
            self.scene.add_class("gsw-model")
            self.box.children = (*self.box.children, self.scene)

    def show(self, view: View) -> None:
        """Move the surface to the level of the tab Map."""
        from gsworkbench.lab.volumes import set_model_level

        if self.scene is not None:
            set_model_level(self.scene, self._level())

    def picture(self) -> Figure:
        """The map summed along z, y and x, and the atoms on it."""
        assert self.view.model is not None
        run = self.view.run
        coordinates, _, _ = read_atoms(self.view.model)
        return pictures.projections_figure("full", run.maps["full"], coordinates / run.voxel_size)

    def _level(self) -> float:
        return self.view.level * float(self.view.run.maps["full"].std())
