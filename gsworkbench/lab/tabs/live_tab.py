"""Live fits: their controls, how far they are, their command line, and their FSC curves and numbers."""

from __future__ import annotations

import html
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gsworkbench.assessment.fsc import FscCurve
from gsworkbench.experiments.results import Measurement, subject
from gsworkbench.lab import pictures
from gsworkbench.lab.commands import command_line, yaml_rows
from gsworkbench.lab.opened_run import dataset_of
from gsworkbench.lab.service import Done, MapMade, Progress, Ready, Stopped
from gsworkbench.lab.tabs.tab import Tab, View

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from gsworkbench.lab.fits import Outcome
    from gsworkbench.lab.worker import Worker

SHOWN = ("fsc_unmasked", "fsc_unmasked_truth", "fsc_unmasked_estimate", "fsc_substituted", "fsc_true")
_FORMATS = {"1": "{:.4f}", "A": "{:.1f} Å", "s": "{:.1f} s"}


class LiveTab(Tab):
    """`worker` makes the fits; without one, nothing is fitted."""

    title, name = "Live fits", "fsc"

    def __init__(self, view: View, worker: Worker | None = None) -> None:
        super().__init__(view)
        self.worker = worker
        self.reading: tuple[str, ...] = ()

    def build(self) -> Any:
        import ipywidgets as widgets

        from gsworkbench.lab.charts import CopyText, FscChart
        from gsworkbench.lab.controls import Controls

        self.controls = Controls(self.view.run.config, self.fit)
        self.cancel = widgets.Button(description="cancel", disabled=True)
        self.cancel.on_click(self._cancel)
        self.progress = widgets.FloatProgress(max=1.0, layout={"width": "200px"})
        self.status, self.numbers = widgets.HTML(), widgets.HTML()
        self.status.add_class("gsw-status")
        self.numbers.add_class("gsw-numbers")
        self.command, self.rows, self.chart = CopyText(), CopyText(), FscChart()
        self.source = widgets.ToggleButtons(options=["run"], description="shown")
        self.source.observe(self._show_source, names="value")
        self.save = widgets.Button(description="save pictures")
        self._show_command()
        self._show_numbers()
        self._show_curves()
        self.say("reading the particles..." if self.worker else "no live fits here")
        live = [
            self.controls.box,
            widgets.HBox([self.cancel, self.progress]),
            self.status,
            widgets.HTML("<b>This, on the command line</b>"),
            self.command,
            widgets.Accordion(children=[self.rows], titles=["the same in experiments.yaml"]),
        ]
        curves = [self.source, self.chart, self.numbers, self.save]
        return widgets.HBox(
            [
                widgets.VBox(live, layout={"width": "430px", "min_width": "430px"}),
                widgets.VBox(curves, layout={"width": "600px"}),
            ],
            layout={"flex_flow": "row wrap"},
        )

    def picture(self) -> Figure | None:
        """FSC curves of the run and of the last live fit."""
        run, outcome = self.view.run, self.view.outcome
        curves = pictures.labelled(run.name, run.curves, wanted=SHOWN)
        title = ""
        if outcome is not None:
            curves |= pictures.labelled("live fit", outcome.curves, wanted=SHOWN)
            title = command_line(outcome.config, run, Path(), self.reading).split(" --out")[0]
        return pictures.curves_figure(curves, title) if curves else None

    def resend(self) -> None:
        """Send what the worker may have changed."""
        for widget in (
            self.status,
            self.progress,
            self.cancel,
            self.command,
            self.rows,
            self.numbers,
            self.source,
            self.chart,
        ):
            widget.send_state()

    def fit(self) -> None:
        """Start a fit with the settings of the controls."""
        self._show_command()
        if self.worker is None:
            return
        self.worker.submit(self.controls.config)
        self.cancel.disabled = False
        self.progress.value = 0.0
        self.say("fitting...")

    def poll(self) -> None:
        """Take in what the worker has to say."""
        for message in self.worker.messages() if self.worker else ():
            match message:
                case Ready(reading):
                    self.reading = reading
                    self._show_command()
                    self.say("ready: move a slider")
                case Progress(_, words, fraction):
                    self.progress.value = fraction or 0.0
                    self.say(f"{words}...")
                case MapMade(_, "all", volume):
                    self.view.maps["full"] = volume
                    if self.view.kind == "full":
                        self.view.changed(self)
                case Done(_, outcome, table):
                    self._take(outcome)
                    self.say(f"done in {outcome.seconds:.1f} s; its numbers are in {table}")
                case Stopped(_, reason):
                    self.cancel.disabled = True
                    self.say(reason)
                    self._show_source()  # a map of a fit that never ended may be on display

    def say(self, words: str) -> None:
        """Show words in the line of status."""
        self.status.value = html.escape(words)

    def close(self) -> None:
        """End the worker."""
        if self.worker is not None:
            self.worker.close()
            self.worker = None

    def _cancel(self, _: Any = None) -> None:
        if self.worker is not None:
            self.worker.cancel()

    def _take(self, outcome: Outcome) -> None:
        self.view.before, self.view.outcome = self.view.outcome, outcome
        self.cancel.disabled = True
        self.progress.value = 1.0
        self.source.options = ["run", "live fit"]
        self.source.value = "live fit"
        self._show_source()
        self._show_curves()
        self._show_numbers()

    def _show_source(self, _: Any = None) -> None:
        view = self.view
        live = view.outcome if self.source.value != "run" else None
        view.maps = dict(view.run.maps) | (_maps_of(live) if live else {})
        view.gaussians = live.gaussians if live else view.run.gaussians
        view.changed(self)

    def _show_curves(self) -> None:
        view = self.view
        current = pictures.labelled(view.run.name, view.run.curves, wanted=SHOWN)
        earlier: dict[str, FscCurve] = {}
        if view.outcome is not None:
            earlier = current
            current = pictures.labelled("live fit", view.outcome.curves, wanted=SHOWN)
        if view.before is not None:
            earlier |= pictures.labelled("fit before", view.before.curves, wanted=SHOWN)
        if current:
            self.chart.show(current, earlier)

    def _show_numbers(self) -> None:
        run = {f"fsc_{subject(c.name)}_mean": c.mean() for c in self.view.run.curves}
        measurements = self.view.outcome.measurements if self.view.outcome else ()
        fit = {m.metric: m for m in measurements}
        names = [n for n in dict.fromkeys([*run, *fit]) if "randomized" not in n and "seconds" not in n]
        rows = "".join(
            f"<tr><td>{n}</td><td>{_number(run.get(n))}</td><td data-metric='{n}'>{_measured(fit.get(n))}</td></tr>"
            for n in names
        )
        heads = "<tr><th></th><th>run</th><th>live fit</th></tr>"
        self.numbers.value = f"<table style='line-height:1.3;border-spacing:12px 0'>{heads}{rows}</table>"

    def _show_command(self) -> None:
        config, run = self.controls.config, self.view.run
        self.command.text = command_line(config, run, run.folder.parent / "explored", self.reading)
        self.rows.text = yaml_rows(config, dataset_of(run))


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
