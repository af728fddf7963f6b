"""The figures of the experiments, drawn from rows of results, saved curves and saved maps; nothing is fitted here.

To add a kind of figure, write a function (registry, experiment, rows, folder) -> matplotlib Figure and name it in
KINDS. `folder` is results/SCALE; rows are those of the experiment with its factors as columns (verdicts.with_factors).
"""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gsworkbench.assessment.fsc import FscCurve, read_fsc_csv, resolution
from gsworkbench.assessment.plots import (
    COLOURS,
    crossing_in_words,
    curve_in_words,
    draw_common_legend,
    draw_curve,
    draw_frame,
    draw_legend,
    draw_slices,
)
from gsworkbench.experiments.plan import Experiment, Registry, Run
from gsworkbench.experiments.tables import HEADINGS
from gsworkbench.experiments.verdicts import growth, spelt
from gsworkbench.io.files import atomic_path
from gsworkbench.io.mrc import read_map

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib import figure as mpl
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import FigureBase

FORMATS = ("png", "svg")
_AXES = {"1": (1, ""), "A": (1, " (Å)"), "s": (1, " (s)"), "1/s": (1, " (1/s)"), "bytes": (2**20, " (MiB)")}  # by unit
# Factors that figures run along -> what the axis says of them.
_FACTORS = {
    "absent_fraction": "fraction of particles without a part",
    "n_gaussians": "number of Gaussians",
    "n_particles": "number of particles",
    "pose_error_degrees": "error of orientations, sd (degrees)",
    "preferred_views": "fraction of preferred views",
    "shift_error_pixels": "error of shifts, sd (pixels)",
    "snr": "signal-to-noise ratio",
}
# The two panels of FSC: the curve, where it is read, and the title.
_PAIR = (
    ("fsc_unmasked_truth", 0.5, "map and truth, no mask"),
    ("fsc_unmasked", 0.143, "half maps, no mask"),
)
_LEGEND_LINE = 0.16  # inches
_MARKERS = "os^Dv<>"
_STYLES = ("-", "--", ":", "-.")


def maps_and_curves(registry: Registry, experiment: Experiment, rows: pd.DataFrame, folder: Path) -> mpl.Figure:
    """Central slices of the truth and of the first map of every choice of factors; below, the FSC of all their maps."""
    from matplotlib.figure import Figure

    chosen = list(_choices(registry, experiment, rows))
    methods = [registry.methods[runs[0].method].label for _, runs in chosen]
    if len(set(methods)) == len(methods):  # then they suffice
        chosen = [(method, runs) for method, (_, runs) in zip(methods, chosen, strict=True)]
    maps = {"truth": read_map(folder / "datasets" / chosen[0][1][0].dataset / "truth.mrc")}
    maps |= {label: read_map(folder / "runs" / runs[0].name / "run_class001.mrc") for label, runs in chosen}
    n_rows = -(-len(maps) // 7)
    above, below = 0.3 + 1.6 * n_rows, 2.9 + _LEGEND_LINE * len(chosen)
    page = Figure(figsize=(7.2, above + below), layout="constrained")
    grid = page.add_gridspec(2, 1, height_ratios=[above, below])
    top, bottom = page.add_subfigure(grid[0]), page.add_subfigure(grid[1])
    draw_slices(top, maps, n_rows)
    _pair(bottom, chosen, folder)
    return page


def curves(registry: Registry, experiment: Experiment, rows: pd.DataFrame, folder: Path) -> mpl.Figure:
    """FSC to the truth and of half maps: the mean over seeds of each choice of factors, a band for its sd."""
    from matplotlib.figure import Figure

    choices = list(_choices(registry, experiment, rows))
    page = Figure(figsize=(7.2, 3.2 + _LEGEND_LINE * len(choices)), layout="constrained")
    _pair(page, choices, folder)
    return page


def metrics_along(registry: Registry, experiment: Experiment, rows: pd.DataFrame, folder: Path) -> mpl.Figure:
    """The figure's metrics along a factor: a colour for each group, a panel for each unit, bars of one sd."""
    from matplotlib.figure import Figure

    figure = experiment.figure
    assert figure is not None and figure.x is not None
    column = f"factor {figure.x}"
    units = list(dict.fromkeys(rows[rows.metric == m].unit.iloc[0] for m in figure.metrics if (rows.metric == m).any()))
    groups = list(_groups(registry, figure.groups, rows))
    most = len(figure.metrics) * len(groups)
    page = Figure(figsize=(max(4.5, 3.6 * len(units)), 3.5 + _LEGEND_LINE * most), layout="constrained")
    panels = np.ravel(page.subplots(1, len(units)))
    points = sorted({float(x) for x in rows[column].dropna()})
    logarithmic = points[0] > 0 and points[-1] / points[0] >= 8 and np.isfinite(points[-1])
    for axes, unit in zip(panels, units, strict=True):
        metrics = [m for m in figure.metrics if (rows[rows.metric == m].unit == unit).any()]
        for index, (label, group) in enumerate(groups):
            for metric, style in zip(metrics, _STYLES, strict=False):
                _draw_along(axes, group[group.metric == metric], column, label, style, index, figure.exponents)
        if logarithmic:
            axes.set_xscale("log")
            axes.set_xticks(points, _tick_labels(points))
            axes.minorticks_off()
        if figure.exponents:
            _make_logarithmic(axes)
        axes.set_xlabel(_FACTORS.get(figure.x, figure.x.replace("_", " ")))
        axes.set_ylabel(textwrap.fill("; ".join(HEADINGS.get(m, m) for m in metrics) + _AXES[unit][1], 44))
        _tidy(axes)
    return page


def bars(registry: Registry, experiment: Experiment, rows: pd.DataFrame, folder: Path) -> mpl.Figure:
    """The figure's metrics, one panel each, a bar for each choice of factors, a mark for each seed."""
    from matplotlib.figure import Figure

    figure = experiment.figure
    assert figure is not None
    metrics = [m for m in figure.metrics if (rows.metric == m).any()]
    choices = [(_wrapped(label, 40), runs) for label, runs in _choices(registry, experiment, rows)]
    widest = max(len(line) for label, _ in choices for line in label.split("\n"))
    size = (0.5 + 0.05 * widest + 2.3 * len(metrics), 0.8 + 0.36 * len(choices))  # inches
    page = Figure(figsize=size, layout="constrained")
    panels = np.ravel(page.subplots(1, len(metrics), sharey=True))
    places = np.arange(len(choices))
    for axes, metric in zip(panels, metrics, strict=True):
        factor, unit = _AXES[rows[rows.metric == metric].unit.iloc[0]]
        for place, (_, runs) in zip(places, choices, strict=True):
            chosen = rows[(rows.metric == metric) & rows.run.isin([r.name for r in runs])].value.astype(float) / factor
            axes.barh(place, np.nan_to_num(chosen.mean()), color="0.8")
            axes.plot(chosen, [place] * len(chosen), "o", color=COLOURS[1], ms=3)
        axes.set_xlabel(textwrap.fill(HEADINGS.get(metric, metric) + unit, 40))
    panels[0].set_yticks(places, [label for label, _ in choices], fontsize="small")
    panels[0].invert_yaxis()
    panels[0].set_ylabel("settings")
    return page


def corrected(registry: Registry, experiment: Experiment, rows: pd.DataFrame, folder: Path) -> mpl.Figure:
    """Of every choice of factors one panel: unmasked, masked, corrected, substituted noise, and what the truth says."""
    from matplotlib.figure import Figure

    from gsworkbench.experiments.measures import curves_file

    drawn = ("fsc_unmasked", "fsc_masked", "fsc_randomized_masked", "fsc_corrected", "fsc_unmasked_truth")
    choices = list(_choices(registry, experiment, rows))
    n_rows, n_columns = -(-len(choices) // 3), min(3, len(choices))
    size = (3.2 * n_columns, 2.9 * n_rows + _LEGEND_LINE * -(-len(drawn) // n_columns))
    page = Figure(figsize=size, layout="constrained")
    panels = np.ravel(page.subplots(n_rows, n_columns))
    said: dict[str, Artist] = {}
    for axes, (label, runs) in zip(panels, choices, strict=False):
        found = {c.name: c for c in read_fsc_csv(curves_file(runs[0], folder))}
        for name, colour in zip(drawn, COLOURS[1:], strict=False):
            if name in found:
                said[curve_in_words(name)] = axes.plot(
                    found[name].frequencies, found[name].values, color=colour, lw=1.3
                )[0]
        draw_frame(axes, next(iter(found.values())))
        axes.set_title(_wrapped(label, 48), fontsize="x-small", parse_math=False)
    draw_common_legend(page, list(said.values()), list(said), columns=n_columns)
    for axes in panels[len(choices) :]:
        axes.set_axis_off()
    return page


KINDS: dict[str, Callable[[Registry, Experiment, pd.DataFrame, Path], mpl.Figure]] = {
    "maps_and_curves": maps_and_curves,
    "curves": curves,
    "metrics_along": metrics_along,
    "bars": bars,
    "corrected": corrected,
}


def draw(registry: Registry, experiment: Experiment, rows: pd.DataFrame, folder: Path) -> mpl.Figure:
    """Draw the figure of an experiment."""
    import matplotlib

    assert experiment.figure is not None
    with matplotlib.rc_context({"font.size": 8}):
        return KINDS[experiment.figure.kind](registry, experiment, rows, folder)


def nothing(reason: str) -> mpl.Figure:
    """Return a figure that says why there is nothing to draw."""
    from matplotlib.figure import Figure

    page = Figure(figsize=(4.5, 1.2))
    page.text(0.5, 0.5, reason, ha="center", va="center", wrap=True)
    return page


def save(figure: mpl.Figure, path: Path) -> None:
    """Write a figure without dates and versions, so that the same picture is the same file."""
    import matplotlib

    metadata = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}[path.suffix[1:]]
    with matplotlib.rc_context({"svg.hashsalt": path.stem}), atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=200, metadata=metadata)


def _choices(registry: Registry, experiment: Experiment, rows: pd.DataFrame) -> Iterator[tuple[str, list[Run]]]:
    """Yield label and runs of every choice of factors, seeds apart, that has been made."""
    made = set(rows.run)
    runs = [run for run in experiment.runs if run.name in made]
    names = [n for n in dict.fromkeys(n for r in runs for n in r.factors) if n not in ("seed", "data_seed")]
    varied = [n for n in names if len({str(run.factors.get(n)) for run in runs}) > 1 or n == "method"]
    groups: dict[str, list[Run]] = {}
    for run in runs:
        parts = [spelt(n, run.factors[n], registry) for n in varied if n in run.factors]
        groups.setdefault(", ".join(parts), []).append(run)
    yield from groups.items()


def _groups(registry: Registry, names: Sequence[str], rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield label and rows of every combination of the values of some factors."""
    columns = [f"factor {name}" for name in names if f"factor {name}" in rows]
    keys = [tuple(_plain(row[c]) for c in columns) for _, row in rows.iterrows()]
    for key in dict.fromkeys(keys):
        said = [spelt(c.removeprefix("factor "), value, registry) for c, value in zip(columns, key, strict=True)]
        yield ", ".join(said), rows[[k == key for k in keys]]


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _draw_along(
    axes: Axes, rows: pd.DataFrame, column: str, label: str, style: str, index: int, exponents: bool
) -> None:
    rows = rows[rows[column].notna() & rows.value.notna()]
    points = sorted({float(x) for x in rows[column]})
    if not points:
        return
    factor, _ = _AXES[rows.unit.iloc[0]]
    values = [rows.value[rows[column].astype(float) == x].astype(float) / factor for x in points]
    means, spreads = [v.mean() for v in values], [v.std() if len(v) > 1 else 0.0 for v in values]
    metric = HEADINGS.get(rows.metric.iloc[0], rows.metric.iloc[0])
    said = f"{label}: {metric}"
    if exponents and len(points) > 1:
        said += f", exponent {growth(points, means):.2f}"
    colour = COLOURS[1:][index % (len(COLOURS) - 1)]
    axes.errorbar(
        points, means, spreads, ls=style, marker=_MARKERS[index % len(_MARKERS)], ms=4, color=colour, capsize=2,
        label=said,
    )  # fmt: skip


def _tick_labels(points: list[float]) -> list[str]:
    """Return the labels of a logarithmic axis's ticks; where one would run into the one before it, it is empty."""
    labels, last = [], -np.inf
    places = np.log(points) / np.log(points[-1] / points[0])
    for place, x in zip(places, points, strict=True):
        is_clear = place - last > 0.1
        labels.append(f"{x:,g}" if is_clear else "")
        last = place if is_clear else last
    return labels


def _make_logarithmic(axes: Axes) -> None:
    """Make the y axis logarithmic, over at least a factor of ten, so that what hardly grows looks so."""
    from matplotlib.ticker import LogLocator

    axes.set_yscale("log")
    low, high = axes.get_ylim()
    wider = max(1.0, 10 * low / high) ** 0.5
    axes.set_ylim(low / wider, high * wider)
    axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")


def _wrapped(label: str, width: int) -> str:
    """Break a label into lines, but not inside `name = value`."""
    parts = [part.replace(" ", "\N{NO-BREAK SPACE}") if " = " in part else part for part in label.split(", ")]
    return textwrap.fill(", ".join(parts), width)


def _tidy(axes: Axes) -> None:
    axes.grid(axis="y", color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    draw_legend(axes, handlelength=5)  # long enough for dashes to show


def _pair(page: FigureBase, choices: list[tuple[str, list[Run]]], folder: Path) -> None:
    """Draw FSC to the truth and of half maps side by side, from one lowest value up, and one legend below both.

    Of each choice the mean over its runs, with its crossing, and a band of one sd.
    """
    from matplotlib.lines import Line2D

    panels = page.subplots(1, 2)
    said: dict[str, list[str]] = {}
    lines: dict[str, Line2D] = {}
    for axes, (name, threshold, title) in zip(panels, _PAIR, strict=True):
        frame = None
        looks = itertools.cycle(itertools.product(_STYLES, COLOURS[1:]))
        for (label, runs), (style, colour) in zip(choices, looks, strict=False):
            if not (found := _curves(runs, folder, name)):
                continue
            mean, spread = np.mean([c.values for c in found], 0), np.std([c.values for c in found], 0)
            frame = replace(found[0], values=mean)
            read = resolution(frame, threshold)
            draw_curve(axes, frame, [read], colour=colour, label=label, style=style)
            axes.fill_between(frame.frequencies, mean - spread, mean + spread, color=colour, alpha=0.2, lw=0)
            said.setdefault(label, []).append(crossing_in_words(read))
            lines[label] = Line2D([], [], color=colour, ls=style, lw=1.5)
        if frame is None:
            axes.set_axis_off()
            continue
        draw_frame(axes, frame)
        axes.set_title(title, fontsize="medium")
    lowest = min(axes.get_ylim()[0] for axes in panels)
    for axes in panels:
        axes.set_ylim(bottom=lowest)
    draw_common_legend(page, list(lines.values()), [f"{label}: {', '.join(words)}" for label, words in said.items()])


def _curves(runs: list[Run], folder: Path, name: str) -> list[FscCurve]:
    """Return the curve `name` of those runs that have one."""
    from gsworkbench.experiments.measures import curves_file

    return [c for run in runs for c in read_fsc_csv(curves_file(run, folder)) if c.name == name]
