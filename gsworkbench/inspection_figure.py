"""The picture that `inspect --out` draws: histograms, the power spectrum with the rings of the CTF, and images."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gsworkbench.image_statistics import outliers, relative_power
from gsworkbench.image_table import Bad, scales_of_all, worst
from gsworkbench.inspection import Inspection, MeasuredImages
from gsworkbench.normalisation import subtract_background
from gsworkbench.particles import ParticleStack
from gsworkbench.plotting import COLOURS
from gsworkbench.power_spectrum import PowerSpectrum, power_spectrum
from gsworkbench.readers.ctf_columns import is_no_ctf
from gsworkbench.readers.metadata import Metadata

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, FigureBase

Float64 = NDArray[np.float64]

SHOWN = 8  # images in a row
LOW_PASS = 25.0  # A; images are shown without finer detail,
_LOW_PASS_PIXELS = 3.0  # or without detail finer than so many pixels
_CAPTION = 3  # findings in the caption
_WIDTH = 8.0  # inches

_ORDINARY, _LEFT_OUT, _HOT = COLOURS[2], COLOURS[1], COLOURS[5]


def inspection_figure(found: Inspection, *, seed: int = 0) -> Figure:
    """Draw what `inspect_particles` found; save the figure with `figure.savefig(path)`.

    Images are those that were measured, at random or the worst, on the background of the picture's middle grey.
    """
    from matplotlib.figure import Figure

    images = found.images
    caption = _caption(found)
    figure = Figure(figsize=(_WIDTH, 9.6 + 0.13 * len(caption)), layout="constrained")
    top, middle, random, bad = figure.subfigures(4, 1, height_ratios=(3.9, 2.3, 1.55, 1.7), hspace=0.02)
    (background, noise, power), (scale, defocus, views) = top.subplots(2, 3)
    _draw_statistics(found, background, noise, power, scale)
    draw_defocus(defocus, images.stack)
    draw_views(views, images.stack.rotations)
    prepared = images.prepared()
    draw_spectrum(middle.subplots(), power_spectrum(prepared) if len(prepared) else None)
    rows = np.sort(np.random.default_rng(seed).permutation(len(images.stack))[:SHOWN])
    _draw_images(random, images, [Bad(int(row), "", False) for row in rows], "Images at random")
    worst_ones = worst(found, SHOWN)
    odd = any(one.remarkable for one in worst_ones)
    title = "The worst images" if odd else "The most extreme images, none of them odd"
    _draw_images(bad, images, worst_ones, title)
    figure.suptitle(_title(images), fontsize="medium", parse_math=False)
    figure.supxlabel("\n".join(caption), fontsize="x-small", color="0.25", parse_math=False, x=0.02, ha="left")
    return figure


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
    said += [found.views] if found.views else []
    said += [f"poses: {found.poses.verdict()}"] if found.poses is not None else []
    return [line for text in said for line in textwrap.wrap(f"– {text}", 132, subsequent_indent="   ")]


def _draw_statistics(found: Inspection, background: Axes, noise: Axes, power: Axes, scale: Axes) -> None:
    """Draw histograms of what was measured of the images; those left out in another colour."""
    measured = found.images.found
    out = outliers(measured)
    unit = measured.plan.noise
    draw_histogram(background, measured.offset / unit, out, "background / noise of the median image")
    background.axvline(0, color="0.6", lw=0.8, ls=":", zorder=0)
    draw_histogram(noise, measured.noise, out, "standard deviation of the noise, file's units", positive=True)
    ratio = relative_power(measured)
    draw_histogram(power, ratio, out, "power / power of the median image", positive=True)
    hot = int(np.count_nonzero(measured.hot))
    if hot:
        words = f"{hot:,} with hot pixels"
        power.text(0.97, 0.95, words, transform=power.transAxes, ha="right", va="top", fontsize="x-small", color="0.25")
    values, _ = scales_of_all(found)
    values = values[~np.isnan(values)]
    if not len(values):
        return draw_nothing(scale, "the strength of the signal\nwas not measured")
    draw_histogram(scale, values, values < -np.inf, "signal / signal of the typical particle")
    for place in (0.0, 1.0):
        scale.axvline(place, color="0.6", lw=0.8, ls=":", zorder=0)


def draw_histogram(
    axes: Axes, values: Float64, marked: NDArray[np.bool_], label: str, *, positive: bool = False, bins: int = 40
) -> None:
    """Draw how many images have which value, on a logarithmic scale of numbers, so that single ones are seen.

    marked : images that are drawn in another colour. positive : values that cannot be negative; their axis is
    logarithmic where they differ by more than a factor of 20. What lies far out is said in numbers, in place of an axis
    that shows nothing else.
    """
    shown = np.isfinite(values) & ((values > 0) if positive else True)
    values, marked = values[shown], marked[shown]
    axes.set_xlabel(label, fontsize="small")
    axes.tick_params(labelsize="x-small")
    axes.spines[["top", "right"]].set_visible(False)
    if not len(values):
        return draw_nothing(axes, "no image has a value")
    logarithmic = positive and values.max() > 20 * values.min()
    edges, low, high = _edges(values, bins, logarithmic)
    inside = (values >= low) & (values <= high)
    axes.hist(
        [values[inside & ~marked], values[inside & marked]],
        edges,
        stacked=True,
        color=[_ORDINARY, _LEFT_OUT],
        log=True,
    )
    if logarithmic:
        axes.set_xscale("log")
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(bottom=0.7)
    axes.set_ylabel("images", fontsize="small")
    words = []
    if (marked & inside).any():
        words.append(f"{np.count_nonzero(marked & inside):,} left out")
    for beyond, extreme in ((values < low, values.min()), (values > high, values.max())):
        if beyond.any():
            words.append(f"{np.count_nonzero(beyond):,} beyond, to {extreme:.2g}")
    if words:
        axes.text(
            0.97, 0.98, "\n".join(words), transform=axes.transAxes, ha="right", va="top", fontsize="x-small",
            color=_LEFT_OUT,
        )  # fmt: skip


def _edges(values: Float64, bins: int, logarithmic: bool) -> tuple[Float64, float, float]:
    """Edges of bins, and the values between which they lie: all of them unless few are far out."""
    low, high = float(values.min()), float(values.max())
    if logarithmic:
        return np.geomspace(low / 1.05, high * 1.05, bins + 1), low, high
    first, middle, last = np.percentile(values, [1, 50, 99])
    reach = 4 * max(last - first, 1e-3 * abs(middle), 1e-12)
    low, high = max(low, float(middle) - reach), min(high, float(middle) + reach)
    margin = max(0.02 * (high - low), 0.02 * abs(middle), 1e-9)
    return np.linspace(low - margin, high + margin, bins + 1), low, high


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
    axes.hexbin(radius * x, radius * y, gridsize=18, extent=(-1, 1, -1, 1), mincnt=1, cmap="viridis", lw=0.1)
    circle = np.linspace(0, 2 * np.pi, 200)
    axes.plot(np.cos(circle), np.sin(circle), color="0.6", lw=0.8)
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
        rings.fill_between(s, spectrum.ctf_squared, color=_HOT, alpha=0.35, lw=0)
        rings.set_ylim(0, max(1.0, float(spectrum.ctf_squared.max())))
        rings.set_yticks([0, 0.5, 1])
        rings.tick_params(labelsize="x-small")
        rings.set_ylabel("CTF²", fontsize="small")
        rings.spines["top"].set_visible(False)
        axes.set_zorder(rings.get_zorder() + 1)
        axes.patch.set_visible(False)
        axes.fill_between([], [], color=_HOT, alpha=0.35, lw=0, label="CTF² of the table (right scale)")
    power = np.maximum(spectrum.power, 1e-300)
    axes.semilogy(s[1:], power[1:], color=COLOURS[0], lw=1.5, label="images, less background")
    if spectrum.noise is not None:
        axes.semilogy(s[1:], spectrum.noise[1:], color=COLOURS[2], lw=1.2, ls="--", label="noise, from the corners")
    nyquist = s[-1]
    axes.set_xticks(ticks := nyquist * np.arange(0.125, 1.01, 0.125), [f"{t:.3f}\n({1 / t:.1f} Å)" for t in ticks])
    axes.set_xlim(0, nyquist)
    axes.set_xlabel("spatial frequency, 1/Å (resolution)", fontsize="small")
    axes.set_ylabel("power / noise", fontsize="small")
    axes.spines[["top", "right"]].set_visible(False)
    low, high = (value / 1e4 for value in spectrum.defocus)
    of = "" if spectrum.ctf_squared is None else f", defocus {low:.3g} to {high:.3g} µm"
    axes.set_title(f"Mean power spectrum of {spectrum.n_images:,} images{of}", fontsize="small")
    axes.legend(fontsize="x-small", frameon=False, loc="upper right")


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
        y, x = np.nonzero(hot)
        axes.plot(x[:50], y[:50], "o", ms=5, mfc="none", mec=_LEFT_OUT, mew=1)
        words = f"row {stack.source_row[one.row] + 1:,}" + (f"\n{one.why}" if one.why else "")
        axes.set_title(words, fontsize="x-small", parse_math=False)
        axes.set_xticks([])
        axes.set_yticks([])


def low_passed(image: NDArray[np.float32], pixel_size: float, detail: float) -> NDArray[np.float32]:
    """An image (D, D) without detail finer than `detail` A: a Gaussian of 1/2 there."""
    frequencies = np.fft.fftfreq(len(image), pixel_size)
    squares = frequencies[:, None] ** 2 + np.fft.rfftfreq(len(image), pixel_size) ** 2
    filtered = np.fft.rfft2(image) * np.exp(-np.log(2) * squares * detail**2)
    return np.fft.irfft2(filtered, s=image.shape).astype(np.float32)
