"""The figures of experiments.yaml, drawn from results.csv, saved curves and saved maps; nothing is fitted here.

To add a kind of figure, write a function (registry, figure, folder) -> matplotlib Figure and name it in KINDS. `folder`
is results/SCALE.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gsworkbench.assessment.fsc import read_fsc_csv, resolution
from gsworkbench.files import atomic_path
from gsworkbench.plotting import COLOURS, draw_curve, draw_frame, draw_legend, draw_slices
from gsworkbench.readers.mrc import read_map
from gsworkbench.workbench.registry import Figure, Registry, Run, read_registry
from gsworkbench.workbench.results import read_results

if TYPE_CHECKING:
    from matplotlib import figure as mpl
    from matplotlib.axes import Axes

FORMATS = ("png", "svg")
METRIC_NAMES = {"fsc_truth_mean": "map and truth", "fsc_half_mean": "half maps"}


def maps_and_curves(registry: Registry, figure: Figure, folder: Path) -> mpl.Figure:
    """Central slices of the truth and of the map of every run; below, their FSC to the truth and between half maps."""
    from matplotlib.figure import Figure

    runs = registry.experiments[figure.experiment].runs
    page = Figure(figsize=(7.2, 5.4), layout="constrained")
    grid = page.add_gridspec(2, 1, height_ratios=[1, 1.6])
    top, bottom = page.add_subfigure(grid[0]), page.add_subfigure(grid[1])
    maps = {"truth": read_map(folder / "datasets" / runs[0].dataset / "truth.mrc")}
    maps |= {_label(registry, run): read_map(folder / "runs" / run.name / "run_class001.mrc") for run in runs}
    draw_slices(top, maps)
    truth, halves = bottom.subplots(1, 2)
    _draw_runs(truth, registry, runs, folder, "fsc_unmasked_truth", 0.5)
    truth.set_title("map and truth, no mask", fontsize="medium")
    _draw_runs(halves, registry, runs, folder, "fsc_unmasked", 0.143)
    halves.set_title("half maps, no mask", fontsize="medium")
    lowest = min(axes.get_ylim()[0] for axes in (truth, halves))
    for axes in (truth, halves):
        axes.set_ylim(bottom=lowest)
    return page


def metrics_against_number(registry: Registry, figure: Figure, folder: Path) -> mpl.Figure:
    """The figure's metrics against the number of Gaussians: a colour for each method, a line style for each metric."""
    from matplotlib.figure import Figure

    results = read_results(folder / "results.csv")
    rows = results[results.experiment == figure.experiment]
    page = Figure(figsize=(4.5, 3.6), layout="constrained")
    axes = page.add_subplot()
    for method, colour in zip(dict.fromkeys(rows.method), COLOURS[1:], strict=False):
        for metric, style, marker in zip(figure.metrics, ("-", "--", ":"), "os^", strict=False):
            points = rows[(rows.metric == metric) & (rows.method == method)].sort_values("n_gaussians")
            label = f"{registry.methods[method].label}: {METRIC_NAMES.get(metric, metric)}"
            numbers = points.n_gaussians.astype(int)
            axes.plot(numbers, points.value, style, marker=marker, ms=4, color=colour, label=label)
    numbers = sorted(set(rows.n_gaussians.astype(int)))
    axes.set_xscale("log")
    axes.set_xticks(numbers, [f"{n:,}" for n in numbers], fontsize="small")
    axes.minorticks_off()
    axes.set_xlabel("number of Gaussians")
    axes.set_ylabel("FSC, mean over shells, no mask")
    axes.grid(axis="y", color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small")
    return page


KINDS: dict[str, Callable[[Registry, Figure, Path], mpl.Figure]] = {
    "maps_and_curves": maps_and_curves,
    "metrics_against_number": metrics_against_number,
}


def _label(registry: Registry, run: Run) -> str:
    return registry.methods[run.method].label


def _draw_runs(axes: Axes, registry: Registry, runs: Sequence[Run], folder: Path, name: str, threshold: float) -> None:
    """Draw the curve `name` of every run with its crossing of `threshold`."""
    curves = [next(c for c in read_fsc_csv(folder / "runs" / run.name / "fsc.csv") if c.name == name) for run in runs]
    for run, curve, colour in zip(runs, curves, COLOURS[1:], strict=False):
        draw_curve(axes, curve, [resolution(curve, threshold)], colour=colour, label=_label(registry, run))
    draw_frame(axes, curves[0])
    draw_legend(axes)


def draw(registry: Registry, name: str, folder: Path) -> mpl.Figure:
    """Draw the figure `name` of experiments.yaml from what lies in `folder`, results/SCALE."""
    import matplotlib

    figure = registry.figures[name]
    with matplotlib.rc_context({"font.size": 8}):
        return KINDS[figure.kind](registry, figure, folder)


def save(figure: mpl.Figure, path: Path) -> None:
    """Write a figure without dates and versions, so that the same picture is the same file."""
    import matplotlib

    metadata = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}[path.suffix[1:]]
    with matplotlib.rc_context({"svg.hashsalt": path.stem}), atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=200, metadata=metadata)


def main() -> None:
    """Draw one figure: python -m gsworkbench.workbench.plots SCALE NAME FOLDER OUTPUT_FOLDER."""
    parser = argparse.ArgumentParser(description="Draw one figure of experiments.yaml.")
    for name in ("scale", "figure", "folder", "output"):
        parser.add_argument(name)
    given = parser.parse_args()
    page = draw(read_registry(given.scale), given.figure, Path(given.folder))
    for suffix in FORMATS:
        save(page, Path(given.output) / f"{given.figure}.{suffix}")


if __name__ == "__main__":
    main()
