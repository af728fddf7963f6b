"""A few particles beside what the map predicts of them, and where all particles are seen from."""

from __future__ import annotations

import html
from functools import cached_property
from typing import TYPE_CHECKING, Any

from gsworkbench.assessment.plots import views_figure
from gsworkbench.errors import InputError
from gsworkbench.lab import pictures
from gsworkbench.lab.opened_run import Sample, particles_of, sample_particles
from gsworkbench.lab.tabs.tab import Tab

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from gsworkbench.particles.stack import ParticleStack

_AT_ONCE = 4


class ParticlesTab(Tab):
    """Particles are drawn at random, others each time."""

    title, name = "Particles", "particles"

    def build(self) -> Any:
        import ipywidgets as widgets

        self.draw = widgets.Button(description="draw particles")
        self.particles = widgets.Image(layout={"width": "420px"})
        self.views = widgets.Image(layout={"width": "480px"})
        self.words = widgets.HTML("Particle, what the map predicts in its pose (its own grey scale), residual.")
        self._drawn = 0
        self.draw.on_click(self._draw)
        return widgets.VBox([self.draw, self.words, widgets.HBox([self.particles, self.views])])

    def opened(self) -> None:
        """Draw the first particles."""
        if not self._drawn:
            self._draw()

    def picture(self) -> Figure | None:
        """The first particles; None where they cannot be read."""
        try:
            return pictures.particles_figure(self._sample(0))
        except InputError:
            return None

    @cached_property
    def _stack(self) -> ParticleStack:
        return particles_of(self.view.run)[0]

    def _sample(self, seed: int) -> Sample:
        return sample_particles(self._stack, self.view.maps["full"], _AT_ONCE, seed=seed)

    def _draw(self, _: Any = None) -> None:
        try:
            sample = self._sample(self._drawn)
        except InputError as error:
            self.words.value = html.escape(str(error))
            return
        self._drawn += 1
        self.particles.value = pictures.grey_png(pictures.side_by_side(sample))
        self.views.value = pictures.png(views_figure(self._stack.require_poses()))
        rows = ", ".join(f"{row + 1:,}" for row in sample.rows)
        self.words.value = f"Particles {rows}: as measured, as the map predicts (its own grey scale), residual."
