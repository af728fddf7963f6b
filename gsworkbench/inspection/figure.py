"""The picture that `inspect --out` draws: histograms, the power spectrum with the rings of the CTF, and images."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gsworkbench.assessment.plots import COLOURS
from gsworkbench.inspection.findings import Inspection, MeasuredImages
from gsworkbench.inspection.image_table import Bad, scales_of_all, worst
from gsworkbench.inspection.power_spectrum import PowerSpectrum, power_spectrum
from gsworkbench.particles.formats.ctf_columns import is_no_ctf
from gsworkbench.particles.formats.metadata import Metadata
from gsworkbench.particles.image_statistics import in_other_units, outliers, relative_power
from gsworkbench.particles.normalisation import subtract_background
from gsworkbench.particles.stack import ParticleStack

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, FigureBase, SubFigure

Float64 = NDArray[np.float64]

SHOWN = 8  # images in a row
LOW_PASS = 30.0  # A; images are shown without finer detail,
_LOW_PASS_PIXELS = 3.0  # or without detail finer than so many pixels
_WIDTH = 8.0  # inches
_BINS = 40
_LEAST_SIGNAL = 3e-3  # of the noise; less is not drawn

_ORDINARY, _ODD, _RINGS = COLOURS[2], COLOURS[1], COLOURS[5]


def inspection_figure(found: Inspection, *, seed: int = 0) -> Figure:
    """Draw what `inspect_particles` found; save the figure with `figure.savefig(path)`.

    Images are those that were measured, at random or the worst, on the background of the picture's middle grey.
    """
    from matplotlib.figure import Figure

    images = found.images
    caption = _caption(found)
    figure = Figure(figsize=(_WIDTH, 9.8 + 0.13 * len(caption)), layout="constrained")
    top, middle, random, bad = _parts(figure)
    upper, lower = (top.add_gridspec(2, 12)[k, :].subgridspec(1, n) for k, n in ((0, 4), (1, 3)))
    _draw_statistics(found, *(top.add_subplot(upper[k]) for k in range(4)))
    scale, defocus, views = (top.add_subplot(lower[k]) for k in range(3))
    _draw_scales(found, scale)
    draw_defocus(defocus, images.stack)
    draw_views(views, images.stack.rotations)
    prepared = images.prepared()
    draw_spectrum(middle.subplots(), power_spectrum(prepared) if len(prepared) else None)
    rows = np.sort(np.random.default_rng(seed).permutation(len(images.stack))[:SHOWN])
    _draw_images(random, images, [Bad(int(row), "", False) for row in rows], "Images at random")
    worst_ones = worst(found, SHOWN)
    odd = any(one.remarkable for one in worst_ones)
    title = (
        "The worst images (in colour where odd; times: relative to the median image)"
        if odd
        else "The most extreme images, none of them odd"
    )
    _draw_images(bad, images, worst_ones, title)
    figure.suptitle(_title(images), fontsize="medium", parse_math=False)
    figure.supxlabel("\n".join(caption), fontsize="x-small", color="0.25", parse_math=False, x=0.02, ha="left")
    return figure


def _parts(figure: Figure) -> list[SubFigure]:
    """The four parts of the page, from top to bottom."""
    heights = (3.9, 2.4, 1.5, 1.85)
    grid = figure.add_gridspec(len(heights), 1, height_ratios=heights, hspace=0.02)
    return [figure.add_subfigure(grid[k, 0]) for k in range(len(heights))]


def table_figure(table: Metadata) -> Figure:
    """Draw what a table says of its particles where their images are not at hand: defocus and views."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, 3.2), layout="constrained")
    defocus, views = figure.subplots(1, 2)
    draw_defocus(defocus, table)
    draw_views(views, table.rotations)
    name = "" if table.source is None else f"{table.source.name}: "
    figure.suptitle(f"{name}{len(table):,} particles; their images are missing", fontsize="medium", parse_math=False)
    return figure


def _title(images: MeasuredImages) -> str:
    stack = images.stack
    name = "" if stack.source is None else f"{textwrap.shorten(stack.source.name, 60)}: "
    sample = "" if len(stack) == images.n_particles else f", of which {len(stack):,} were measured"
    return f"{name}{images.n_particles:,} particles of {stack.box_size} px of {stack.pixel_size:.4g} Å{sample}"


def _caption(found: Inspection) -> list[str]:
    """What was found, in lines of the picture's width."""
    said = [*found.images.sentences(), *([] if found.scales is None else found.scales.sentences(len(found.scaled)))]
    if found.contrast.sign.is_dark:
        said.append(found.contrast.sign.sentence())
    said += [found.rings.problem] if found.rings is not None and found.rings.problem else []
    said += [found.views] if found.views else []
    said += [f"poses: {found.poses.verdict()}"] if found.poses is not None else []
    return [line for text in said for line in textwrap.wrap(f"– {text}", 132, subsequent_indent="   ")]


def _draw_statistics(found: Inspection, background: Axes, noise: Axes, power: Axes, largest: Axes) -> None:
    """Draw histograms of what was measured of the images; those left out, or with hot pixels, in another colour."""
    measured = found.images.found
    out, hot = outliers(measured), measured.hot > 0
    own = np.where(measured.noise > 0, measured.noise, np.inf)
    draw_histogram(background, measured.offset / measured.plan.noise, out, "background / noise", least=0.1, around=0.0)
    background.axvline(0, color="0.6", lw=0.8, ls=":", zorder=0)
    units, least = in_other_units(measured), 0.1 * measured.plan.noise
    words = "in other units"
    draw_histogram(noise, measured.noise, units, "noise, file's units", positive=True, words=words, least=least)
    draw_histogram(power, relative_power(measured), out, "power / power of median", positive=True)
    words = "with hot pixels"
    draw_histogram(largest, measured.largest / own, hot, "largest pixel / noise", positive=True, words=words)


def _draw_scales(found: Inspection, axes: Axes) -> None:
    """Draw the histogram of how strong the signal of each particle is."""
    values, _ = scales_of_all(found)
    values = values[~np.isnan(values)]
    if not len(values):
        return draw_nothing(axes, "the strength of the signal\nwas not measured")
    draw_histogram(axes, values, np.zeros(len(values), bool), "signal / signal of the typical particle")
    for place in (0.0, 1.0):
        axes.axvline(place, color="0.6", lw=0.8, ls=":", zorder=0)


def draw_histogram(
    axes: Axes,
    values: Float64,
    marked: NDArray[np.bool_],
    label: str,
    *,
    positive: bool = False,
    words: str = "left out",
    least: float = 0.0,
    around: float | None = None,
) -> None:
    """Draw how many images have which value, on a logarithmic scale of numbers, so that single ones are seen.

    marked : images that are drawn in another colour. words : what they are. least : width of the narrowest axis.
    around : a value that the axis shows in any case.
    positive : values that cannot be negative; their axis is
    logarithmic where they differ by more than a factor of 20. What lies far out is said in numbers, in place of an axis
    that shows nothing else.
    """
    from matplotlib.ticker import MaxNLocator

    shown = np.isfinite(values) & ((values > 0) if positive else True)
    values, marked = values[shown], marked[shown]
    axes.set_xlabel(label, fontsize="small")
    axes.tick_params(labelsize="x-small")
    axes.spines[["top", "right"]].set_visible(False)
    if not len(values):
        return draw_nothing(axes, "no image has a value")
    logarithmic = positive and values.max() > 20 * values.min()
    edges, low, high = _edges(values, logarithmic, least, around)
    inside = (values >= low) & (values <= high)
    axes.hist(
        [values[inside & ~marked], values[inside & marked]],
        list(edges),
        stacked=True,
        color=[_ORDINARY, _ODD],
        log=True,
    )
    if logarithmic:
        axes.set_xscale("log")
    else:
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.6g}")
    axes.set_xlim(edges[0], edges[-1])
    said = []
    if (marked & inside).any():
        said.append(f"{np.count_nonzero(marked & inside):,} {words}")
    for beyond, extreme in ((values < low, values.min()), (values > high, values.max())):
        if beyond.any():
            said.append(f"{np.count_nonzero(beyond):,} beyond, to {extreme:.2g}")
    axes.set_ylim(bottom=0.7, top=30 * axes.get_ylim()[1] if said else None)
    axes.set_ylabel("images", fontsize="small")
    if said:
        axes.text(
            0.97, 0.98, "\n".join(said), transform=axes.transAxes, ha="right", va="top", fontsize="x-small",
            color=_ODD,
        )  # fmt: skip


def _edges(values: Float64, logarithmic: bool, least: float, around: float | None) -> tuple[Float64, float, float]:
    """Edges of bins, and the values between which they lie: all of them unless few are far out."""
    low, high = float(values.min()), float(values.max())
    if logarithmic:
        return np.geomspace(low / 1.05, high * 1.05, _BINS + 1), low, high
    first, middle, last = np.percentile(values, [1, 50, 99])
    reach = 4 * max(last - first, 1e-3 * abs(middle), 1e-12)
    low, high = max(low, float(middle) - reach), min(high, float(middle) + reach)
    if around is not None:
        low, high = min(low, around), max(high, around)
    margin = max(0.02 * (high - low), (least - (high - low)) / 2, 1e-9)
    return np.linspace(low - margin, high + margin, _BINS + 1), low, high


def draw_nothing(axes: Axes, words: str) -> None:
    """Say in an empty plot why it is empty."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, words, transform=axes.transAxes, ha="center", va="center", fontsize="small", color="0.45")


def draw_defocus(axes: Axes, particles: ParticleStack | Metadata) -> None:
    """Draw the histogram of the mean defocus."""
    if particles.ctf is None or is_no_ctf(particles.ctf):
        return draw_nothing(axes, "no CTF")
    defocus = (particles.ctf.defocus_u + particles.ctf.defocus_v) / 2e4
    draw_histogram(axes, defocus, np.zeros(len(defocus), bool), "defocus, µm")


def draw_views(axes: Axes, rotations: Float64 | None) -> None:
    """Draw how many particles are seen from where: an equal-area map of the half sphere along z."""
    if rotations is None:
        return draw_nothing(axes, "no poses")
    seen = rotations[:, 2, :]
    x, y, z = (seen * np.where(seen[:, 2:] < 0, -1, 1)).T
    radius = np.sqrt(1 - np.clip(z, 0, 1)) / np.maximum(np.hypot(x, y), 1e-12)
    from matplotlib.patches import Circle

    cells = axes.hexbin(radius * x, radius * y, gridsize=18, extent=(-1, 1, -1, 1), mincnt=1, cmap="viridis", lw=0.1)
    circle = axes.add_patch(Circle((0, 0), 1, fill=False, ec="0.6", lw=0.8))
    cells.set_clip_path(circle)
    axes.set_aspect("equal")
    axes.set_axis_off()
    axes.set_title("views, half sphere along z", fontsize="small")


def draw_spectrum(axes: Axes, spectrum: PowerSpectrum | None) -> None:
    """Draw the power of images and of noise over frequency, and CTF^2, whose rings should lie where power is."""
    if spectrum is None:
        return draw_nothing(axes, "all images are left out")
    s = spectrum.frequencies
    axes.tick_params(labelsize="x-small")
    if spectrum.ctf_squared is not None:
        rings = axes.twinx()
        rings.fill_between(s, spectrum.ctf_squared, color=_RINGS, alpha=0.35, lw=0)
        rings.set_ylim(0, 1.3 * max(1.0, float(spectrum.ctf_squared.max())))
        rings.set_yticks([0, 0.5, 1])
        rings.tick_params(labelsize="x-small")
        rings.set_ylabel("CTF²", fontsize="small")
        rings.spines["top"].set_visible(False)
        axes.set_zorder(rings.get_zorder() + 1)
        axes.patch.set_visible(False)
        axes.fill_between([], [], color=_RINGS, alpha=0.35, lw=0, label="CTF² of the table (right scale)")
    power = np.maximum(spectrum.power, 1e-300)
    noise, words = spectrum.noise, "noise, from the corners"
    if noise is None:
        noise, words = np.full(len(s), power[len(s) // 2 :].min()), "noise, where images have least power"
    signal = np.where(power - noise > _LEAST_SIGNAL * noise, power - noise, np.nan)
    axes.semilogy(s[1:], power[1:], color=COLOURS[0], lw=1.5, label="images, less background")
    axes.semilogy(s[1:], noise[1:], color=COLOURS[2], lw=1.2, ls="--", label=words)
    axes.semilogy(s[1:], signal[1:], color=COLOURS[1], lw=1.5, marker=".", ms=4, label="images, less noise")
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * (high / low) ** 0.25)
    nyquist = s[-1]
    axes.set_xticks(ticks := nyquist * np.arange(0.125, 1.01, 0.125), [f"{t:.3f}\n({1 / t:.1f} Å)" for t in ticks])
    axes.set_xlim(0, nyquist)
    axes.set_xlabel("spatial frequency, 1/Å (resolution)", fontsize="small")
    axes.set_ylabel("power / noise", fontsize="small")
    axes.spines[["top", "right"]].set_visible(False)
    low, high = (value / 1e4 for value in spectrum.defocus)
    of = "" if spectrum.ctf_squared is None else f", defocus {low:.3g} to {high:.3g} µm"
    axes.set_title(f"Mean power spectrum of {spectrum.n_images:,} images{of}", fontsize="small")
    axes.legend(fontsize="x-small", frameon=False, loc="upper center", ncols=4, columnspacing=1.2)


def _draw_images(page: FigureBase, images: MeasuredImages, chosen: Sequence[Bad], title: str) -> None:
    """Draw a row of images, each titled with its row in the table, and rings round hot pixels."""
    stack = images.stack
    detail = max(LOW_PASS, _LOW_PASS_PIXELS * stack.pixel_size)
    page.suptitle(f"{title}, without detail below {detail:.3g} Å", fontsize="small")
    panels = np.ravel(page.subplots(1, SHOWN))
    for axes in panels[len(chosen) :]:
        axes.set_axis_off()
    for axes, one in zip(panels, chosen, strict=False):
        rows = np.array([one.row])
        found = images.found[rows]
        image = stack.raw_images(rows)
        subtract_background(image, found.offset, found.slope)
        flat, hot = image[0], np.abs(image[0]) > found.limit[0]
        flat[hot] = 0
        flat *= stack.data_sign[one.row]
        smooth = low_passed(flat, stack.pixel_size, detail)
        low, high = np.percentile(smooth, [1, 99])
        if not high > low:
            low, high = low - 1, high + 1
        axes.imshow(smooth, cmap="gray", vmin=low, vmax=high, origin="lower")
        for y, x in _spots(hot):
            axes.plot(x, y, "o", ms=6, mfc="none", mec=_ODD, mew=1.2)
        words = f"row {stack.source_row[one.row] + 1:,}" + (f"\n{one.why}" if one.why else "")
        colour = _ODD if one.remarkable else "black"
        axes.set_title(words, fontsize="x-small", parse_math=False, color=colour)
        axes.set_xticks([])
        axes.set_yticks([])


def _spots(hot: NDArray[np.bool_], most: int = 20) -> NDArray[np.float64]:
    """(m, 2) centres y, x of clusters of hot pixels in an image (D, D)."""
    from scipy import ndimage

    labels, n = ndimage.label(hot, np.ones((3, 3)))
    return np.array(ndimage.center_of_mass(hot, labels, range(1, min(n, most) + 1))).reshape(-1, 2)


def low_passed(image: NDArray[np.float32], pixel_size: float, detail: float) -> NDArray[np.float32]:
    """An image (D, D) without detail finer than `detail` A: a Gaussian of 1/2 there."""
    frequencies = np.fft.fftfreq(len(image), pixel_size)
    squares = frequencies[:, None] ** 2 + np.fft.rfftfreq(len(image), pixel_size) ** 2
    filtered = np.fft.rfft2(image) * np.exp(-np.log(2) * squares * detail**2)
    return np.fft.irfft2(filtered, s=image.shape).astype(np.float32)
