"""Numbers as colours, the same for surfaces, points and ellipsoids: entries 1 to 255 of a palette, 0 where missing."""

from __future__ import annotations

import html
from functools import cache

import numpy as np
from numpy.typing import NDArray

GREY = (0xB0, 0xB0, 0xB0)  # where there is no number


@cache
def palette(*, reverse: bool = False) -> NDArray[np.uint8]:
    """(256, 3) bytes r, g, b: grey for what is missing, then viridis, dark for low numbers or, reversed, for high."""
    from matplotlib import colormaps

    colours = np.rint(255 * colormaps["viridis"](np.linspace(0, 1, 255))[:, :3]).astype(np.uint8)
    return np.concatenate([np.array([GREY], np.uint8), colours[::-1] if reverse else colours])


def limits(values: NDArray[np.floating]) -> tuple[float, float]:
    """The 2nd and 98th percentile of what is there (not NaN), which the ends of a palette stand for."""
    there = values[np.isfinite(values)]
    if not len(there):
        return 0.0, 1.0
    low, high = (float(v) for v in np.percentile(there, [2, 98]))
    return low, max(high, low + 1e-12)


def entries(values: NDArray[np.floating], low: float, high: float) -> NDArray[np.uint8]:
    """The palette's entry for each number; 0 for NaN."""
    paint = 1 + np.rint(254 * np.clip((values - low) / (high - low), 0, 1))
    return np.where(np.isfinite(values), paint, 0).astype(np.uint8)


def as_integers(colours: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """(n, 3) bytes as n numbers 0xrrggbb."""
    return colours.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)


def legend(words: str, low: float, high: float, *, reverse: bool = False) -> str:
    """HTML of a bar of colours with the numbers that its ends stand for."""
    steps = palette(reverse=reverse)[1::32]
    bar = ", ".join("#{:02x}{:02x}{:02x}".format(*step) for step in steps)
    style = f"display:inline-block;width:160px;height:10px;margin:0 8px;background:linear-gradient(90deg, {bar})"
    return f"<small>{html.escape(words)}: {low:.3g}<span style='{style}'></span>{high:.3g}</small>"
