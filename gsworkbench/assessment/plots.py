"""Plots of FSC curves, local and directional resolution, and central sections.

Figures are made without pyplot, so they need no screen and leave no global state."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gsworkbench.assessment.fsc import FscCurve, Resolution

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, FigureBase

    from gsworkbench.assessment.directional import DirectionalFsc, Sampling
    from gsworkbench.assessment.local import LocalResolution

# Okabe and Ito's palette, told apart by colour-blind readers; black first.
COLOURS = ("#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
THRESHOLDS = (0.143, 0.5)


def fsc_figure(
    curves: Sequence[FscCurve],
    resolutions: Sequence[Resolution],
    title: str = "",
    *,
    errors: Mapping[str, NDArray[np.floating]] = MappingProxyType({}),
    remarks: Sequence[str] = (),
) -> Figure:
    """Draw FSC curves of one box and where they cross; save the figure with `figure.savefig(path)`.

    errors : curve name -> standard errors, drawn as a band of one to either side. remarks : further lines of the
    caption, which says the definition, how resolutions were read, and every mask.
    """
    from matplotlib.figure import Figure

    masks = list(dict.fromkeys(c.mask for c in curves if c.mask != "none"))
    band = ["bands: one standard error"] if any(c.name in errors for c in curves) else []
    caption = [_definition(curves[0], resolutions), *(f"mask: {words}" for words in masks), *band, *remarks]
    lines = [line for text in caption for line in textwrap.wrap(text, 105)]
    figure = Figure(figsize=(5.5, 4.1 + 0.2 * len(curves) + 0.13 * len(lines)), layout="constrained")
    axes = figure.add_subplot()
    for number, curve in enumerate(curves):
        colour = COLOURS[number % len(COLOURS)]
        style = "-" if number < len(COLOURS) else "--"
        draw_curve(axes, curve, resolutions, colour=colour, label=curve_in_words(curve.name), style=style)
        if curve.name in errors:
            low, high = curve.values - errors[curve.name], curve.values + errors[curve.name]
            axes.fill_between(curve.frequencies, low, high, color=colour, alpha=0.15, lw=0)
    draw_frame(axes, curves[0])
    draw_legend(axes)
    axes.set_title(title, fontsize="medium", parse_math=False)  # a file may be called a$b$.mrc
    figure.supxlabel("\n".join(lines), fontsize="x-small", color="0.45", parse_math=False)
    return figure


def draw_curve(
    axes: Axes, curve: FscCurve, resolutions: Sequence[Resolution], *, colour: str, label: str, style: str = "-"
) -> None:
    """Draw one curve, a mark where each of its `resolutions` was read, and say them in the label."""
    own = [r for r in resolutions if r.curve == curve.name]
    label = ": ".join([label, ", ".join(crossing_in_words(r) for r in own)] if own else [label])
    axes.plot(curve.frequencies, curve.values, style, color=colour, lw=1.5, label=label)
    for r in own:
        if r.shell is not None:
            shells = np.arange(len(curve.values))
            crossing = (np.interp(r.shell, shells, y) for y in (curve.frequencies, curve.values))
            axes.plot(*crossing, "o", color=colour, ms=5, mfc="white", mew=1.5)


def crossing_in_words(found: Resolution) -> str:
    """38.4 Å at 0.143, or no crossing at 0.143."""
    return f"{'no crossing' if found.angstrom is None else f'{found.angstrom:.1f} Å'} at {found.criterion}"


def draw_frame(axes: Axes, curve: FscCurve) -> None:
    """Draw, after the curves, what every FSC plot has: lines at 0.143, 0.5 and Nyquist, a frequency axis in A."""
    nyquist = 1 / curve.nyquist_angstrom
    for threshold in THRESHOLDS:
        axes.axhline(threshold, color="0.6", lw=0.8, ls="--", zorder=0)
        axes.annotate(
            f"{threshold:g}", (0, threshold), (2, 1.5), textcoords="offset points", color="0.45", fontsize="x-small"
        )
    axes.axhline(0, color="0.8", lw=0.8, zorder=0)
    axes.axvline(nyquist, color="0.6", lw=0.8, ls=":", zorder=0)
    axes.annotate(
        f"Nyquist {curve.nyquist_angstrom:.1f} Å", (nyquist, 0.143), (-2, 4), textcoords="offset points",
        color="0.45", fontsize="x-small", rotation=90, ha="right", va="bottom",
    )  # fmt: skip
    # Ticks at quarters of Nyquist, so that the last one is Nyquist itself.
    axes.set_xticks(ticks := nyquist * np.array([0.25, 0.5, 0.75, 1.0]), [f"{t:.3f}\n({1 / t:.1f} Å)" for t in ticks])
    axes.set_xlim(0, nyquist * 1.02)
    axes.set_ylim(min(-0.05, axes.dataLim.y0 - 0.02), 1.03)
    axes.set_xlabel("spatial frequency, 1/Å (resolution)")
    axes.set_ylabel("Fourier shell correlation")
    axes.spines[["top", "right"]].set_visible(False)


def draw_legend(axes: Axes, *, handlelength: float = 2.0) -> None:
    """Draw the legend below the axes, where no curve passes."""
    from matplotlib.transforms import ScaledTranslation

    below = axes.transAxes + ScaledTranslation(0, -0.75, axes.figure.dpi_scale_trans)  # inches, past the axis label
    place = {"bbox_to_anchor": (0.5, 0), "bbox_transform": below, "borderaxespad": 0}
    legend = axes.legend(fontsize="small", frameon=False, loc="upper center", handlelength=handlelength, **place)
    for text in legend.get_texts():
        text.set_parse_math(False)


def draw_common_legend(page: FigureBase, lines: Sequence[Artist], labels: Sequence[str], columns: int = 1) -> None:
    """Draw one legend for all axes of a page, below them."""
    legend = page.legend(lines, labels, loc="outside lower center", ncols=columns, fontsize="small", frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)


def local_resolution_figure(found: LocalResolution, volume: NDArray[np.floating]) -> Figure:
    """Draw the histogram of local resolutions, and three central sections of a map coloured by them."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.4), layout="constrained")
    histogram, *sections = figure.subplots(1, 4)
    low, high = np.percentile(found.values, [2, 98])
    high = max(high, low + found.voxel_size)
    histogram.hist(found.values, np.linspace(low, high, 40), color=COLOURS[2])
    histogram.axvline(np.median(found.values), color=COLOURS[1])
    histogram.set_xlabel(f"local resolution, Å (FSC = {found.threshold:g})")
    histogram.set_ylabel("points")
    for axis, (axes, name) in enumerate(zip(sections, "zyx", strict=True)):
        middle = len(volume) // 2
        axes.imshow(np.take(volume, middle, axis), cmap="gray", origin="lower")
        coloured = np.ma.masked_equal(np.take(found.resolution, middle, axis), 0)
        image = axes.imshow(coloured, cmap="viridis_r", origin="lower", alpha=0.6, vmin=low, vmax=high)
        axes.set_title(f"{name} = 0", fontsize="small")
        axes.set_axis_off()
    figure.colorbar(image, ax=sections, label="Å")
    figure.suptitle("\n".join(textwrap.wrap(str(found), 170)), fontsize="x-small", parse_math=False)
    return figure


def directional_figure(found: DirectionalFsc) -> Figure:
    """Draw the FSC of every direction, and the resolution over the half sphere seen along z."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.8), layout="constrained")
    curves, sphere = figure.subplots(1, 2)
    frequencies = np.arange(found.curves.shape[1]) / (found.box_size * found.voxel_size)
    curves.plot(frequencies, found.curves.T, color=COLOURS[2], lw=0.4, alpha=0.4)
    shown = np.flatnonzero(np.isfinite(found.curves).any(axis=0))
    curves.plot(frequencies[shown], np.nanmean(found.curves[:, shown], axis=0), color=COLOURS[0], lw=1.5)
    curves.axhline(found.threshold, color="0.6", lw=0.8, ls="--")
    curves.set_xlabel("spatial frequency, 1/Å")
    curves.set_ylabel(f"FSC in cones of {found.half_angle:g}°")
    # An equal-area map of the half sphere: the radius is sqrt(1 - z).
    x, y, z = found.directions.T
    radius = np.sqrt(1 - z) / np.hypot(x, y)
    dots = sphere.scatter(radius * x, radius * y, c=found.values, cmap="viridis_r", s=60)
    sphere.set_aspect("equal")
    sphere.set_axis_off()
    figure.colorbar(dots, ax=sphere, label=f"Å at FSC = {found.threshold:g}, along each direction")
    title = "\n".join(textwrap.wrap(f"{found.in_words()}; mask: {found.mask}", 120))
    figure.suptitle(title, fontsize="small", parse_math=False)
    return figure


def views_figure(rotations: NDArray[np.floating], sampling: Sampling | None = None) -> Figure:
    """Draw how many views there are, over the half sphere seen along z, in equal areas.

    sampling : how densely they sample Fourier space, drawn beside it.
    """
    from matplotlib.figure import Figure

    n_panels = 1 if sampling is None else 2
    figure = Figure(figsize=(4 * n_panels, 3.8), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, n_panels))
    seen = np.asarray(rotations)[:, 2, :]  # the map's direction that points along the beam
    x, y, z = (seen * np.where(seen[:, 2:] < 0, -1, 1)).T
    radius = np.sqrt(1 - np.clip(z, 0, 1)) / np.maximum(np.hypot(x, y), 1e-12)
    count = panels[0].hexbin(radius * x, radius * y, gridsize=30, extent=(-1, 1, -1, 1), mincnt=1, cmap="viridis")
    figure.colorbar(count, ax=panels[0], label="views")
    if sampling is not None:
        x, y, z = sampling.directions.T
        radius = np.sqrt(1 - z) / np.hypot(x, y)
        dots = panels[1].scatter(radius * x, radius * y, c=sampling.density, cmap="viridis", s=30)
        figure.colorbar(dots, ax=panels[1], label="slices through a direction / mean of even views")
    for axes in panels:
        axes.set_aspect("equal")
        axes.set_axis_off()
    figure.suptitle(f"{len(seen):,} views{'' if sampling is None else f': {sampling}'}", fontsize="small")
    return figure


def slices_figure(maps: Mapping[str, tuple[NDArray[np.floating], float]]) -> Figure:
    """Draw the central section of maps {label: (volume, voxel size in A)} side by side."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.4 * len(maps), 2.6), layout="constrained")
    draw_slices(figure, maps)
    return figure


def draw_slices(page: FigureBase, maps: Mapping[str, tuple[NDArray[np.floating], float]], n_rows: int = 1) -> None:
    """Draw the central section z = 0 of maps (volume, voxel size in A), all in the grey scale of the first."""
    n_columns = -(-len(maps) // n_rows)
    panels = np.ravel(page.subplots(n_rows, n_columns))
    first, voxel_size = next(iter(maps.values()))
    low, high = np.percentile(first[len(first) // 2], [0.5, 99.8])
    low = min(low, -0.15 * high)  # so that noise around the particle is seen on both sides of zero
    crowded = n_columns > 4
    for axes in panels[len(maps) :]:
        axes.set_axis_off()
    for axes, (label, (volume, _)) in zip(panels, maps.items(), strict=False):
        axes.imshow(volume[len(volume) // 2], cmap="gray", vmin=low, vmax=high, origin="lower")
        size = "x-small" if crowded else "medium"
        axes.set_title(
            textwrap.fill(label, 16 if crowded else 24, break_long_words=False), fontsize=size, parse_math=False
        )
        axes.set_xticks([])
        axes.set_yticks([])
    _draw_scale_bar(panels[0], len(first), voxel_size)


def _draw_scale_bar(axes: Axes, box_size: int, voxel_size: float, length: float = 100.0) -> None:
    """Draw a bar of `length` A in the lower left corner of an image of box_size pixels."""
    margin = 0.06 * box_size
    axes.plot([margin, margin + length / voxel_size], [margin, margin], color="white", lw=2, solid_capstyle="butt")
    axes.text(margin, 1.4 * margin, f"{length:g} Å", color="white", fontsize="x-small", va="bottom")


def _definition(curve: FscCurve, resolutions: Sequence[Resolution]) -> str:
    """Say whose shells these are, on which grid, and how the first resolution was read."""
    rule = f"; {resolutions[0].rule}" if resolutions else ""
    return f"{curve.definition} definition, box {curve.box_size}, {curve.voxel_size:.4g} Å/voxel{rule}"


def curve_in_words(name: str) -> str:
    """fsc_masked -> half maps, masked; fsc_unmasked_truth -> map and truth, no mask; _model likewise."""
    if name.endswith("_estimate"):
        return f"half map and truth, estimated, {'no mask' if 'unmasked' in name else 'masked'}"
    other = next((what for what in ("truth", "model") if name.endswith(f"_{what}")), None)
    pair = f"map and {other}" if other else "half maps"
    treatment = name.removeprefix("fsc_").removesuffix(f"_{other}").replace("_", " ")
    return f"{pair}, {'no mask' if treatment == 'unmasked' else treatment}"
