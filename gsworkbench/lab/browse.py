"""`browse(folder)`: all runs in a table to filter, any of them side by side."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gsworkbench.assessment.fsc import FscCurve
from gsworkbench.errors import InputError
from gsworkbench.lab import pictures
from gsworkbench.lab.explore import NEEDED, need, somebody_sits_here
from gsworkbench.lab.number_tables import as_html, matching, table_of_runs
from gsworkbench.lab.opened_run import RunFolder, read_run

if TYPE_CHECKING:
    import pandas as pd

COMPARED = ("fsc_unmasked", "fsc_unmasked_truth", "fsc_unmasked_estimate")
MOST = 6  # scenes at once; browsers give a page some sixteen


def browse(folder: str | Path, *, interactive: bool | None = None) -> Any:
    """Show all runs below a folder in a notebook: a table to filter, and runs side by side.

    Parameters
    ----------
    folder : str or Path
        The folder with the runs.
    interactive : bool, optional
        Widgets (True), or the table and a comparison of the first two runs as static pictures (False). By default
        widgets in JupyterLab and voila, pictures elsewhere.

    Returns
    -------
    widget or None
        The widget to display. None after static pictures, which are displayed at once.

    Raises
    ------
    InputError
        If there is no finished run, or a package that the widgets need is not installed.

    Examples
    --------
    >>> import gsworkbench as gs
    >>> gs.browse(".", interactive=False)
    <IPython.core.display.HTML object>
    """
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
        show_comparison([read_run(place) for place in list(places.values())[:2]])
    return None


def runs_with_maps(table: pd.DataFrame) -> dict[str, Path]:
    """The runs of a table whose folders are there, by name."""
    return {row.run: Path(row.folder) for row in table.itertuples() if row.folder}


def show_comparison(runs: Sequence[RunFolder]) -> None:
    """Static pictures of runs side by side: sections and FSC curves."""
    from IPython.display import display

    display(pictures.sections_figure({run.name: run.maps["full"] for run in runs}))
    if curves := curves_of(runs):
        display(pictures.curves_figure(curves))


def curves_of(runs: Sequence[RunFolder]) -> dict[str, FscCurve]:
    """The COMPARED curves of runs, by label."""
    found = [pictures.labelled(run.name, run.curves, wanted=COMPARED) for run in runs]
    return {label: curve for curves in found for label, curve in curves.items()}


class Browser:
    """The table with its filter, and runs beside each other at one level and from one side; `box` shows it."""

    def __init__(self, table: pd.DataFrame) -> None:
        import ipywidgets as widgets

        self.table = table
        self.words = widgets.Text(description="filter", placeholder="words that all must occur", continuous_update=True)
        self.count = widgets.HTML()
        self.shown = widgets.HTML(layout={"max_height": "420px", "overflow": "auto"})
        self.chosen = widgets.SelectMultiple(rows=6, layout={"width": "520px"})
        self.show = widgets.Button(description="side by side")
        self.hint = widgets.HTML()
        self.views = widgets.VBox()
        self.words.observe(self._filter, names="value")
        self.show.on_click(self._compare)
        self._filter()
        self.chosen.value = tuple(runs_with_maps(table).values())[:2]
        choice = widgets.HBox([self.chosen, widgets.VBox([self.show, self.hint])])
        filters = widgets.HBox([self.words, self.count])
        words = widgets.HTML("Choose runs to see side by side (Ctrl or Shift for several):")
        self.box = widgets.VBox([filters, self.shown, words, choice, self.views])

    def _filter(self, _: Any = None) -> None:
        rows = matching(self.table, self.words.value)
        self.count.value = f"{len(rows)} of {len(self.table)} rows"
        self.shown.value = as_html(rows)
        kept = self.chosen.value
        self.chosen.options = runs_with_maps(rows)
        self.chosen.value = tuple(place for place in kept if place in runs_with_maps(rows).values())

    def _compare(self, _: Any = None) -> None:
        import ipywidgets as widgets

        from gsworkbench.lab.charts import FscChart
        from gsworkbench.lab.volumes import DensityView

        if not self.chosen.value:
            self.hint.value = "no run is chosen"
            return
        most = len(self.chosen.value) > MOST
        self.hint.value = f"the first {MOST}: a browser draws no more scenes at once" if most else ""
        runs = [read_run(place) for place in self.chosen.value[:MOST]]
        level = widgets.FloatSlider(value=4.0, min=0.5, max=12.0, step=0.1, description="level, σ")
        views = [DensityView(run.maps["full"], run.voxel_size, level, height=360) for run in runs]
        for view in views[1:]:
            widgets.jslink((views[0].plot, "camera"), (view.plot, "camera"))
        across = {"width": f"{100 / min(len(runs), 3):.4g}%"}
        titled = [widgets.VBox([_title(r), v.plot], layout=across) for r, v in zip(runs, views, strict=True)]
        self.views.children = [level, widgets.HBox(titled, layout={"flex_flow": "row wrap"})]
        if curves := curves_of(runs):
            chart = FscChart()
            chart.show(curves)
            self.views.children += (chart,)


def _title(run: RunFolder) -> Any:
    import ipywidgets as widgets

    return widgets.HTML(f"<b>{html.escape(run.name)}</b>")
