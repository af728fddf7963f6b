"""The page that explores one run: maps, Gaussians, sections, particles, FSC curves, and live fits of its particles."""

from __future__ import annotations

import asyncio
import html
import shlex
from functools import cached_property
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import numpy as np

from gsworkbench.assessment.fsc import FscCurve
from gsworkbench.errors import InputError
from gsworkbench.experiments.results import Measurement, subject
from gsworkbench.io.files import atomic_path
from gsworkbench.io.mrc import read_map
from gsworkbench.lab import display, pictures
from gsworkbench.lab.atoms import atoms_beside
from gsworkbench.lab.charts import CopyText, FscChart
from gsworkbench.lab.commands import command_line, yaml_rows
from gsworkbench.lab.controls import Controls
from gsworkbench.lab.fits import FOLDER, Outcome, dataset_of
from gsworkbench.lab.opened_run import Run, particles_of, sample_particles
from gsworkbench.lab.service import Done, MapMade, Progress, Ready, Stopped
from gsworkbench.lab.volumes import (
    COLOUR_BY,
    DensityView,
    GaussiansView,
    map_with_model,
    set_model_level,
    written_for_nglview,
)
from gsworkbench.lab.worker import Worker

SHOWN = ("fsc_unmasked", "fsc_unmasked_truth", "fsc_substituted", "fsc_true")
_FORMATS = {"1": "{:.4f}", "A": "{:.1f} Å", "s": "{:.1f} s"}
_SECONDS = 0.05  # between looks at what the worker says
_SLIDER = {"style": {"description_width": "110px"}, "layout": {"width": "420px"}}


class Page:
    """The page of one run; `box` is the widget to display.

    source : "run" or "live fit", whose maps and curves are shown. Without a worker (`live` false), nothing is fitted.
    """

    def __init__(self, run: Run, *, model: Path | None = None, live: bool = True, threads: int | None = None) -> None:
        self.run = run
        self.outcome: Outcome | None = None
        self.before: Outcome | None = None
        self.maps: dict[str, Any] = dict(run.maps)
        self.gaussians = run.gaussians
        self.reading: tuple[str, ...] = ()
        self.worker = Worker(run.folder, threads=threads) if live else None
        self.model = atoms_beside(run, model)
        self.chart = FscChart()
        self._build_model()
        self._build_gaussians()
        self._build_map()
        self._build_sections()
        self._build_particles()
        self._build_live()
        self.chart.observe(self._clicked, names="lowpass")
        self.chart.on_msg(self._say_again)
        self._show_curves()
        self.box = self._layout()

    # -- what is shown

    def _build_map(self) -> None:
        volume = self.maps["full"]
        options = display.kinds_of(self.run)
        self.kind = widgets.ToggleButtons(options=options, style={"button_width": "90px"})
        self.level = widgets.FloatSlider(
            value=4.0,
            min=0.5,
            max=12.0,
            step=0.1,
            description="level, σ",
            **_SLIDER,
        )
        self.lowpass = widgets.FloatSlider(
            value=0.0, max=60.0, step=0.5, description="low-pass, Å", continuous_update=False, **_SLIDER
        )
        self.b_factor = widgets.FloatSlider(
            value=0.0, min=-500, max=500, step=20, description="B factor, Å²", continuous_update=False, **_SLIDER
        )
        self.level_words = widgets.HTML()
        self.colour = widgets.Dropdown(options=["one colour", "local resolution"], description="colour", **_SLIDER)
        self.legend = widgets.HTML()
        self.shown = volume
        self.density = DensityView(volume, self.run.voxel_size, self.level)
        self.density.plot.add_class("gsw-density")
        for control in (self.kind, self.lowpass, self.b_factor, self.colour):
            control.observe(self._show_maps, names="value")
        self.level.observe(self._show_level, names="value")
        self._show_level()

    def _build_gaussians(self) -> None:
        self.ellipsoids = widgets.Checkbox(description="ellipsoids of one standard deviation", indent=False)
        self.colour_by = widgets.ToggleButtons(options=COLOUR_BY, description="colour by")
        self.mixture: GaussiansView | None = None
        self.mixture_legend = widgets.HTML()
        self.mixture_box = widgets.VBox([self.colour_by, self.ellipsoids, self.mixture_legend])
        for control in (self.ellipsoids, self.colour_by):
            control.observe(self._show_gaussians, names="value")

    def _build_sections(self) -> None:
        half = len(self.maps["full"]) // 2
        self.section = widgets.IntSlider(value=half, max=2 * half - 1, description="section", **_SLIDER)
        self.sections = widgets.Image(layout={"width": "840px"})
        self.section.observe(self._show_sections, names="value")
        self._show_sections()

    def _build_particles(self) -> None:
        self.draw = widgets.Button(description="draw particles")
        self.particles = widgets.Image(layout={"width": "420px"})
        self.views = widgets.Image(layout={"width": "480px"})
        self.particles_words = widgets.HTML(
            "Particle, what the map predicts in its pose (its own grey scale), residual."
        )
        self._drawn = 0
        self.draw.on_click(self._show_particles)

    def _build_model(self) -> None:
        self.molecule: Any = None
        words = "" if self.model is None else f"Map of the run, and atoms of {html.escape(self.model.name)}."
        self.molecule_box = widgets.VBox([widgets.HTML(f"{words} The level is that of the tab Map.")])

    def _opened(self, change: dict) -> None:
        """Make the views of a tab when it is first seen: a canvas that is made out of sight has no size."""
        title = self.tab.titles[change["new"]]
        if title == "Gaussians" and self.mixture is None and self.gaussians is not None:
            self.mixture = GaussiansView(len(self.maps["full"]) * self.run.voxel_size)
            self.mixture.plot.add_class("gsw-gaussians")
            self._show_gaussians()
            self.mixture_box.children = (*self.mixture_box.children, self.mixture.plot)
        if title == "Atomic model" and self.molecule is None and self.model is not None:
            file = written_for_nglview(self.run.maps["full"], self.run.voxel_size)
            self.molecule = map_with_model(file, self.model, self.level.value * float(self.run.maps["full"].std()))
            self.molecule.add_class("gsw-model")
            self.molecule_box.children = (*self.molecule_box.children, self.molecule)
        if title == "Particles" and not self._drawn:
            self._show_particles()

    def _build_live(self) -> None:
        self.controls = Controls(self.run.config, self.fit)
        self.cancel = widgets.Button(description="cancel", disabled=True)
        self.cancel.on_click(self._cancel)
        self.progress = widgets.FloatProgress(max=1.0, layout={"width": "200px"})
        self.status = widgets.HTML()
        self.status.add_class("gsw-status")
        self.numbers = widgets.HTML()
        self.numbers.add_class("gsw-numbers")
        self.command, self.rows = CopyText(), CopyText()
        self.source = widgets.ToggleButtons(options=["run"], description="shown")
        self.source.observe(self._show_source, names="value")
        self.save = widgets.Button(description="save pictures")
        self.save.on_click(lambda _: self._say(f"pictures in {self.save_pictures()}"))
        self._show_command()
        self._show_numbers()
        self._say("reading the particles..." if self.worker else "no live fits here")

    def _layout(self) -> widgets.Widget:
        display_only = widgets.HTML(
            "<small>Low-pass and B factor are <b>for display only</b>; no number uses them.</small>"
        )
        map_controls = widgets.VBox(
            [self.kind, self.level, self.level_words, self.lowpass, self.b_factor, display_only]
        )
        live = widgets.VBox(
            [
                self.controls.box,
                widgets.HBox([self.cancel, self.progress]),
                self.status,
                widgets.HTML("<b>This, on the command line</b>"),
                self.command,
                widgets.Accordion(children=[self.rows], titles=["the same in paper_figures/experiments"]),
            ],
            layout={"width": "430px", "min_width": "430px"},
        )
        curves = widgets.VBox([self.source, self.chart, self.numbers, self.save], layout={"width": "600px"})
        both = widgets.HBox([live, curves], layout={"flex_flow": "row wrap"})
        tabs = {
            "Map": widgets.VBox([map_controls, self.colour, self.legend, self.density.plot]),
            "Sections": widgets.VBox([self.section, self.sections, widgets.HTML("Across z, y and x.")]),
            "Particles": widgets.VBox([self.draw, self.particles_words, widgets.HBox([self.particles, self.views])]),
        }
        if self.gaussians is not None:
            tabs["Gaussians"] = self.mixture_box
        if self.model is not None:
            tabs["Atomic model"] = self.molecule_box
        self.tab = widgets.Tab(children=list(tabs.values()), titles=list(tabs))
        self.tab.observe(self._opened, names="selected_index")
        title = widgets.HTML(f"<h3>{html.escape(self.run.name)}</h3>{html.escape(str(self.run.folder))}")
        return widgets.VBox([title, both, self.tab])

    @cached_property
    def _particles(self) -> Any:
        return particles_of(self.run)[0]

    def _show_maps(self, _: Any = None) -> None:
        volume = display.shown_map(self.maps, self.kind.value)
        filters = {"lowpass": self.lowpass.value, "b_factor": self.b_factor.value}
        self.shown = display.filtered(volume, self.run.voxel_size, **filters)
        resolution = self._resolution() if self.colour.value == "local resolution" else None
        legend = self.density.show(self.shown, resolution)
        self.legend.value = self._how_to_localres() if self.colour.value != "one colour" and not legend else legend
        self._show_level()
        self._show_sections()

    def _resolution(self) -> Any:
        """The map of local resolution, if one lies in the run's folder."""
        path = self.run.folder / "locres.mrc"
        volume = read_map(path)[0] if path.is_file() else None
        return volume if volume is not None and volume.shape == self.maps["full"].shape else None

    def _how_to_localres(self) -> str:
        words = shlex.join(["gsworkbench", "localres", str(self.run.folder), "--out", str(self.run.folder)])
        return (
            f"<small>There is no map of local resolution yet; this makes it: <code>{html.escape(words)}</code></small>"
        )

    def _show_level(self, _: Any = None) -> None:
        level = self.level.value * float(self.shown.std())
        self.level_words.value = display.in_words(self.shown, self.run.voxel_size, level)
        if self.molecule is not None:
            set_model_level(self.molecule, self.level.value * float(self.run.maps["full"].std()))

    def _show_gaussians(self, _: Any = None) -> None:
        if self.mixture is None or self.gaussians is None:
            return
        colour_by = self.colour_by.value
        resolution = self._resolution() if colour_by == "local resolution" else None
        if colour_by == "local resolution" and resolution is None:
            self.mixture_legend.value = self._how_to_localres()
            return
        self.mixture_legend.value = self.mixture.show(
            self.gaussians,
            colour_by,
            ellipsoids=self.ellipsoids.value,
            resolution=None if resolution is None else (resolution, self.run.voxel_size),
        )

    def _show_sections(self, _: Any = None) -> None:
        if hasattr(self, "sections"):
            self.sections.value = pictures.grey_png(pictures.sections(self.shown, self.section.value))

    def _show_particles(self, _: Any = None) -> None:
        try:
            sample = sample_particles(self._particles, self.maps["full"], 4, seed=self._drawn)
        except InputError as error:
            self.particles_words.value = html.escape(str(error))
            return
        self._drawn += 1
        self.particles.value = pictures.grey_png(pictures.side_by_side(sample))
        self.views.value = pictures.png(pictures.views_figure(self._particles.require_poses()))
        rows = ", ".join(f"{row + 1:,}" for row in sample.rows)
        self.particles_words.value = (
            f"Particles {rows}: as measured, as the map predicts (its own grey scale), residual."
        )

    def _show_curves(self) -> None:
        current = pictures.labelled(self.run.name, self.run.curves, wanted=SHOWN)
        earlier: dict[str, FscCurve] = {}
        if self.outcome is not None:
            earlier = current
            current = pictures.labelled("live fit", self.outcome.curves, wanted=SHOWN)
        if self.before is not None:
            earlier |= pictures.labelled("fit before", self.before.curves, wanted=SHOWN)
        if current:
            self.chart.show(current, earlier)

    def _show_numbers(self) -> None:
        run = {f"fsc_{subject(c.name)}_mean": c.mean() for c in self.run.curves}
        measurements = self.outcome.measurements if self.outcome else ()
        fit = {m.metric: m for m in measurements}
        names = [n for n in dict.fromkeys([*run, *fit]) if "randomized" not in n and "seconds" not in n]
        rows = "".join(
            f"<tr><td>{n}</td><td>{_number(run.get(n))}</td><td data-metric='{n}'>{_measured(fit.get(n))}</td></tr>"
            for n in names
        )
        heads = "<tr><th></th><th>run</th><th>live fit</th></tr>"
        self.numbers.value = f"<table style='line-height:1.3;border-spacing:12px 0'>{heads}{rows}</table>"

    def _show_command(self) -> None:
        config = self.controls.config
        self.command.text = command_line(config, self.run, self.run.folder.parent / "explored", self.reading)
        self.rows.text = yaml_rows(config, dataset_of(self.run))

    def _show_source(self, _: Any = None) -> None:
        live = self.outcome if self.source.value != "run" else None
        self.maps = dict(self.run.maps) | (_maps_of(live) if live else {})
        self.gaussians = live.gaussians if live else self.run.gaussians
        self._show_maps()
        self._show_gaussians()

    def _clicked(self, change: dict) -> None:
        self.lowpass.value = min(change["new"], self.lowpass.max)

    # -- live fits

    def fit(self) -> None:
        """Start a fit with the settings of the controls."""
        self._show_command()
        if self.worker is None:
            return
        self.worker.submit(self.controls.config)
        self.cancel.disabled = False
        self.progress.value = 0.0
        self._say("fitting...")

    def _cancel(self, _: Any = None) -> None:
        if self.worker is not None:
            self.worker.cancel()

    def poll(self) -> None:
        """Take in what the worker has to say."""
        for message in self.worker.messages() if self.worker else ():
            match message:
                case Ready(reading):
                    self.reading = reading
                    self._show_command()
                    self._say("ready: move a slider")
                case Progress(_, words, fraction):
                    self.progress.value = fraction or 0.0
                    self._say(f"{words}...")
                case MapMade(_, "all", volume):
                    self.maps["full"] = volume
                    if self.kind.value == "full":
                        self._show_maps()
                case Done(_, outcome, table):
                    self._take(outcome)
                    self._say(f"done in {outcome.seconds:.1f} s; its numbers are in {table}")
                case Stopped(_, reason):
                    self.cancel.disabled = True
                    self._say(reason)
                    self._show_source()  # a map of a fit that never ended may be on display

    async def follow(self) -> None:
        """Poll until the page is closed."""
        while self.worker is not None:
            self.poll()
            await asyncio.sleep(_SECONDS)

    def close(self) -> None:
        """End the worker."""
        if self.worker is not None:
            self.worker.close()
            self.worker = None

    def save_pictures(self) -> Path:
        """Write what is shown as static pictures, PNG and SVG; return their folder."""
        folder = self.run.folder / FOLDER / "pictures"
        curves = pictures.labelled("run", self.run.curves, wanted=SHOWN)
        if self.outcome is not None:
            curves |= pictures.labelled("live fit", self.outcome.curves, wanted=SHOWN)
        figures = {"sections": pictures.sections_figure({self.kind.value: self.shown})}
        if curves:
            figures["fsc"] = pictures.curves_figure(curves, self.command.text.split(" --out")[0])
        if self.gaussians is not None:
            figures["gaussians"] = pictures.gaussians_figure(self.gaussians, len(self.shown) * self.run.voxel_size)
        for name, figure in figures.items():
            for suffix in ("png", "svg"):
                with atomic_path(folder / f"{name}.{suffix}") as temporary:
                    figure.savefig(temporary)
        return folder

    def _take(self, outcome: Outcome) -> None:
        self.before, self.outcome = self.outcome, outcome
        self.cancel.disabled = True
        self.progress.value = 1.0
        self.source.options = ["run", "live fit"]
        self.source.value = "live fit"
        self._show_source()
        self._show_curves()
        self._show_numbers()

    def _say_again(self, *_: Any) -> None:
        """Send what the worker may have changed: a browser that loads a page misses changes made meanwhile.

        It asks for the state of all widgets, and listens to them only once they are drawn.
        """
        said = (self.status, self.progress, self.cancel, self.command, self.rows, self.numbers, self.source)
        for widget in (*said, self.chart, self.sections, self.level_words, self.legend):
            widget.send_state()
        if self.outcome is not None:  # then maps may have changed too
            self.density.surface.send_state(["field", "paint", "palette"])

    def _say(self, words: str) -> None:
        self.status.value = html.escape(words)


def _maps_of(outcome: Outcome) -> dict[str, Any]:
    return {"full": outcome.volume, "half 1": outcome.half_maps[0], "half 2": outcome.half_maps[1]}


def _number(value: float | None) -> str:
    return "" if value is None or np.isnan(value) else f"{value:.4f}"


def _measured(found: Measurement | None) -> str:
    """A number with its unit, and its definition where the pointer rests on it."""
    if found is None:
        return ""
    words = "no crossing" if found.value is None else _FORMATS.get(found.unit, "{:.4g}").format(found.value)
    return f"<span title='{html.escape(found.definition)}'>{words}</span>"
