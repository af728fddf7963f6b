"""`browse(folder)`: all runs in a table to filter, any two of them side by side."""

from __future__ import annotations

import html
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gsworkbench.errors import InputError
from gsworkbench.lab import pictures
from gsworkbench.lab.explore import NEEDED, need, somebody_sits_here
from gsworkbench.lab.runs import Run, read_run
from gsworkbench.lab.tables import as_html, matching, table_of_runs

if TYPE_CHECKING:
    import pandas as pd

COMPARED = ("fsc_unmasked", "fsc_unmasked_truth")


def browse(folder: str | Path, *, interactive: bool | None = None) -> Any:
    """Show all runs below a folder: a table of widgets, or, where nobody can move them, the table and a comparison."""
    table = table_of_runs(folder)
    if table.empty:
        raise InputError("there is no finished run", file=folder, remedy="make one: gsworkbench reconstruct")
    if somebody_sits_here() if interactive is None else interactive:
        need(*NEEDED)
        return Browser(table).box
    from IPython.display import HTML, display

    display(HTML(as_html(table)))
    places = runs_with_maps(table)
    if len(places) > 1:
        show_comparison(*(read_run(place) for place in list(places.values())[:2]))
    return None


def runs_with_maps(table: pd.DataFrame) -> dict[str, Path]:
    """The runs of a table whose folders are there, by name."""
    return {row.run: Path(row.folder) for row in table.itertuples() if row.folder}


def show_comparison(first: Run, second: Run) -> None:
    """Static pictures of two runs side by side: sections and FSC curves."""
    from IPython.display import display

    display(pictures.sections_figure({run.name: run.maps["full"] for run in (first, second)}))
    curves = [pictures.labelled(run.name, run.curves, wanted=COMPARED) for run in (first, second)]
    display(pictures.curves_figure(curves[0] | curves[1]))


class Browser:
    """The table with its filter, and two runs beside each other at one level and from one side; `box` shows it."""

    def __init__(self, table: pd.DataFrame) -> None:
        import ipywidgets as widgets

        self.table = table
        self.words = widgets.Text(description="filter", placeholder="words that all must occur", continuous_update=True)
        self.shown = widgets.HTML(as_html(table))
        places = runs_with_maps(table)
        names = list(places) or [""]
        self.first = widgets.Dropdown(options=places, description="compare", index=0 if places else None)
        self.second = widgets.Dropdown(options=places, description="with", index=len(names) - 1 if places else None)
        self.show = widgets.Button(description="side by side", disabled=not places)
        self.pair = widgets.VBox()
        self.words.observe(self._filter, names="value")
        self.show.on_click(self._compare)
        choice = widgets.HBox([self.first, self.second, self.show])
        self.box = widgets.VBox([self.words, self.shown, choice, self.pair])

    def _filter(self, _: Any = None) -> None:
        self.shown.value = as_html(matching(self.table, self.words.value))

    def _compare(self, _: Any = None) -> None:
        import ipywidgets as widgets

        from gsworkbench.lab.charts import FscChart
        from gsworkbench.lab.volumes import DensityView

        runs = [read_run(self.first.value), read_run(self.second.value)]
        level = widgets.FloatSlider(value=4.0, min=0.5, max=12.0, step=0.1, description="level, σ")
        views = [DensityView(run.maps["full"], run.voxel_size, level, height=360) for run in runs]
        widgets.jslink((views[0].plot, "camera"), (views[1].plot, "camera"))
        chart = FscChart()
        curves = [pictures.labelled(run.name, run.curves, wanted=COMPARED) for run in runs]
        if all(curves):
            chart.show(curves[0] | curves[1])
        half = {"width": "50%"}
        titles = [widgets.HTML(html.escape(run.name)) for run in runs]
        titled = [widgets.VBox([title, v.plot], layout=half) for title, v in zip(titles, views, strict=True)]
        self.pair.children = [level, widgets.HBox(titled), chart]
