"""Static pictures of what the page shows: for executed notebooks, for export, and inside widgets as PNG."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gsworkbench.assessment.fsc import FscCurve
from gsworkbench.assessment.plots import COLOURS, draw_curve, draw_frame, draw_legend
from gsworkbench.gaussians.mixture import Gaussians
from gsworkbench.io.mrc import Map
from gsworkbench.lab.opened_run import Sample

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SUBSTITUTION = {"fsc_substituted": "half maps, random phases", "fsc_true": "half maps, FSC true (Chen et al. 2013)"}


def grey_png(panel: NDArray[np.floating], *, low: float | None = None, high: float | None = None) -> bytes:
    """A (H, W) array as a grey PNG, row 0 at the bottom, from its 0.5th to its 99.8th percentile."""
    from matplotlib.image import imsave

    low = float(np.percentile(panel, 0.5)) if low is None else low
    high = float(np.percentile(panel, 99.8)) if high is None else high
    file = io.BytesIO()
    imsave(file, panel, cmap="gray", vmin=low, vmax=max(high, low + 1e-30), origin="lower", format="png")
    return file.getvalue()


def sections(volume: Map, index: int | None = None) -> NDArray[np.floating]:
    """The sections of a map (D, D, D) across z, y and x at one index (default the centre), side by side, (D, 3 D)."""
    i = len(volume) // 2 if index is None else index
    return np.concatenate([volume[i], volume[:, i], volume[:, :, i]], axis=1)


def side_by_side(sample: Sample) -> NDArray[np.float32]:
    """Rows of particle, model and residual, (n D, 3 D), the first particle on top; the model in a scale of its own."""
    scale = sample.data.std() / max(float(sample.model.std()), 1e-30)
    rows = [np.hstack(panels) for panels in zip(sample.data, sample.model * scale, sample.residual, strict=True)]
    return np.vstack(rows[::-1])  # row 0 is at the bottom


def sections_figure(volumes: Mapping[str, Map]) -> Figure:
    """Central sections of maps across z, y and x, a row for each."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 2.1 * len(volumes)), layout="constrained")
    for axes, (name, volume) in zip(np.atleast_1d(figure.subplots(len(volumes), 1)), volumes.items(), strict=True):
        axes.imshow(sections(volume), cmap="gray", origin="lower", vmax=np.percentile(volume, 99.95))
        axes.set_title(f"{name}: sections across z, y and x", fontsize="small", parse_math=False)
        axes.set_axis_off()
    return figure


def projections_figure(name: str, volume: Map, atoms: NDArray[np.floating] | None = None) -> Figure:
    """A map summed along z, y and x, side by side; atoms (n, 3), x y z in voxels from the first, are dots on it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 2.3), layout="constrained")
    panels = [(0, (0, 1), "z"), (1, (0, 2), "y"), (2, (1, 2), "x")]  # array axis that is summed, axes across and up
    for axes, (axis, (across, up), word) in zip(figure.subplots(1, 3), panels, strict=True):
        axes.imshow(volume.sum(axis), cmap="gray", origin="lower")
        if atoms is not None:
            axes.plot(atoms[:, across], atoms[:, up], ",", color=COLOURS[1], alpha=0.4)
        axes.set_title(f"{name}, along {word}", fontsize="small", parse_math=False)
        axes.set_axis_off()
    return figure


def curves_figure(curves: Mapping[str, FscCurve], title: str = "") -> Figure:
    """FSC curves of runs or of settings, by their label."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, 4.4), layout="constrained")
    axes = figure.add_subplot()
    for (label, curve), colour in zip(curves.items(), [*COLOURS, *COLOURS], strict=False):
        draw_curve(axes, curve, [], colour=colour, label=label)
    draw_frame(axes, next(iter(curves.values())))
    draw_legend(axes)
    axes.set_title(title, fontsize="medium", parse_math=False)
    return figure


def gaussians_figure(gaussians: Gaussians, edge: float) -> Figure:
    """Gaussians seen along z and along y: a dot for each, its area by weight and its colour by scale, box edge in A."""
    from matplotlib.figure import Figure

    means, weights = gaussians.means.numpy(), gaussians.weights.numpy()
    scales = mean_scales(gaussians)
    area = 12 * np.clip(weights, 0, None) / max(np.percentile(weights, 95), 1e-30)
    figure = Figure(figsize=(7, 3.4), layout="constrained")
    for axes, (across, up, names) in zip(figure.subplots(1, 2), [(0, 1, "xy"), (0, 2, "xz")], strict=True):
        dots = axes.scatter(means[:, across], means[:, up], s=area, c=scales, cmap="viridis", alpha=0.5, lw=0)
        axes.set(xlim=(-edge / 2, edge / 2), ylim=(-edge / 2, edge / 2), aspect="equal")
        axes.set_xlabel(f"{names[0]}, Å")
        axes.set_ylabel(f"{names[1]}, Å")
    figure.colorbar(dots, ax=figure.axes, label="standard deviation, Å")
    return figure


def particles_figure(sample: Sample) -> Figure:
    """Particles beside what the map predicts and what is left of them."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 1.7 * len(sample.rows)), layout="constrained")
    axes = figure.add_subplot()
    panel = side_by_side(sample)
    low, high = (float(v) for v in np.percentile(panel, [0.5, 99.5]))
    axes.imshow(panel, cmap="gray", origin="lower", vmin=low, vmax=high)
    axes.set_title("particle, model (its own grey scale), residual", fontsize="small")
    axes.set_axis_off()
    return figure


def mean_scales(gaussians: Gaussians) -> NDArray[np.floating]:
    """(n,) standard deviation of each Gaussian, A: the geometric mean over its axes, with the floor."""
    covariances = gaussians.covariances().numpy()
    return np.linalg.det(covariances) ** (1 / 6)


def png(figure: Figure) -> bytes:
    """A figure as PNG."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return file.getvalue()


def labelled(name: str, curves: Sequence[FscCurve], *, wanted: Sequence[str] = ()) -> dict[str, FscCurve]:
    """Curves of one run by "name: what"; those of `wanted` (fsc_unmasked, ...), or all."""
    return {f"{name}: {words(c.name)}": c for c in curves if not wanted or c.name in wanted}


def words(curve: str) -> str:
    """fsc_unmasked_truth -> to the truth, unmasked; fsc_masked -> half maps, masked; and so on."""
    if curve in _SUBSTITUTION:
        return _SUBSTITUTION[curve]
    treatment, what = curve.removeprefix("fsc_"), "half maps"
    for suffix, said in (("_truth", "to the truth"), ("_estimate", "to the truth, estimated")):
        if curve.endswith(suffix):
            treatment, what = treatment.removesuffix(suffix), said
    return f"{what}, {treatment.replace('_', ' ')}"


def lines_figure(
    places: Sequence[float],
    values: Mapping[str, Sequence[Sequence[float]]],
    across: str,
    up: str,
    *,
    logarithmic: bool = False,
) -> Figure:
    """Repeated values against places: for each label values[place][repeat] as points, a line through their medians."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for (label, rows), colour in zip(values.items(), COLOURS[1:], strict=False):
        axes.plot(places, [float(np.median(row)) for row in rows], color=colour, label=label)
        for place, row in zip(places, rows, strict=True):
            axes.plot([place] * len(row), row, "o", color=colour, ms=4, mfc="none")
    axes.set_xscale("log")
    axes.set_yscale("log" if logarithmic else "linear")
    axes.set_xticks(places, [f"{place:,}" for place in places])
    axes.minorticks_off()
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small")
    return figure
