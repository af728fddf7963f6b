"""Soft masks, (D, D, D) in [0, 1], with their description in words. Lengths in A."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gsworkbench.assessment.transforms import inverse, transform

Map = NDArray[np.floating]
Mask = tuple[NDArray[np.float32], str]


@dataclass(frozen=True)
class MaskRecipe:
    """How a program makes a mask from a map; `make_mask` follows it.

    kind : "automatic" (`automatic_mask`), "sphere" (85 to 100 % of half the box) or "grown" from the voxels at or above
        half of a percentile of the map.
    percentile, dilation (A), edge (A) : of a grown mask.
    steps : the dilation goes by distance, or along voxel faces by whole voxels ("taxicab").
    profile : the edge falls as a raised cosine, or as a quarter of one, which ends in a kink.
    """

    kind: Literal["automatic", "sphere", "grown"]
    percentile: float = 100.0
    dilation: float = 0.0
    edge: float = 0.0
    steps: Literal["distance", "taxicab"] = "distance"
    profile: Literal["raised cosine", "quarter cosine"] = "raised cosine"


def make_mask(recipe: MaskRecipe, volume: Map, voxel_size: float) -> Mask:
    """Return the mask that `recipe` makes of a (D, D, D) map, and its description."""
    if recipe.kind == "automatic":
        return automatic_mask(volume, voxel_size)
    if recipe.kind == "sphere":
        half_box = len(volume) / 2 * voxel_size
        return spherical_mask(len(volume), voxel_size, radius=0.85 * half_box, edge=0.15 * half_box)
    return grown_mask(volume, voxel_size, recipe)


def grown_mask(volume: Map, voxel_size: float, recipe: MaskRecipe) -> Mask:
    """Return a mask of the voxels at or above half of a percentile of the map, grown and given a soft edge."""
    from scipy import ndimage

    level = float(np.percentile(volume, recipe.percentile)) / 2
    inside = volume >= level
    if recipe.steps == "taxicab":
        grown = ndimage.distance_transform_cdt(~inside, "taxicab") <= recipe.dilation // voxel_size
        distance = ndimage.distance_transform_edt(~grown) * voxel_size
    else:
        distance = ndimage.distance_transform_edt(~inside) * voxel_size - recipe.dilation
    words = (
        f"level {level:.3g} (half of percentile {recipe.percentile:g}), dilated {recipe.dilation:g} A, "
        f"soft edge {recipe.edge:g} A, {100 * np.mean(distance <= 0):.1f} % of the box"
    )
    if recipe.profile == "raised cosine":
        return _cosine_edge(distance, recipe.edge), words
    return np.cos(np.pi / 2 * np.clip(distance / recipe.edge, 0, 1)).round(6).astype(np.float32), words


def spherical_mask(box_size: int, voxel_size: float, *, radius: float | None = None, edge: float | None = None) -> Mask:
    """Return a sphere with a cosine edge and its description.

    radius : where the edge begins to fall, A; by default the edge ends at the box's inscribed sphere.
    edge : width of the fall from 1 to 0, A; by default 5 voxels.
    """
    edge = 5 * voxel_size if edge is None else edge
    radius = (box_size / 2 - 1) * voxel_size - edge if radius is None else radius
    axis = (np.arange(box_size) - box_size // 2) * voxel_size
    distance = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
    return _cosine_edge(distance - radius, edge), f"sphere of {radius:.0f} A, soft edge {edge:.0f} A"


def automatic_mask(
    volume: Map,
    voxel_size: float,
    *,
    lowpass: float = 15.0,
    threshold: float = 4.0,
    dilation: float = 6.0,
    edge: float = 12.0,
) -> Mask:
    """Return a soft mask around the density of a map, and its description.

    The map is low-passed at `lowpass` A (at least 3 voxels), cut where it exceeds `threshold` times the standard
    deviation outside the inscribed sphere or 5 % of its 99.9th percentile, whichever is higher; its largest connected
    piece is grown by `dilation` A and given a cosine edge of `edge` A. With nothing above the threshold, or no edge to
    speak of, the mask is the sphere.
    """
    from scipy import ndimage

    box_size = len(volume)
    lowpass = max(lowpass, 3 * voxel_size)
    smooth = _lowpass(volume, voxel_size, lowpass)
    axis = np.arange(box_size) - box_size // 2
    outside = axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2 > (box_size / 2) ** 2
    level = max(threshold * smooth[outside].std(), 0.05 * np.percentile(smooth, 99.9))
    pieces, n = ndimage.label((smooth > level) & ~outside)
    if n == 0:
        return spherical_mask(box_size, voxel_size)
    largest = pieces == 1 + np.argmax(ndimage.sum_labels(np.ones_like(smooth), pieces, np.arange(1, n + 1)))
    distance = ndimage.distance_transform_edt(~largest) * voxel_size
    words = (
        f"automatic: low-pass {lowpass:.0f} A, level {level:.3g}, dilated {dilation:.0f} A, soft edge {edge:.0f} A, "
        f"{100 * largest.mean():.1f} % of the box"
    )
    return _cosine_edge(distance - dilation, edge), words


def _cosine_edge(distance: NDArray[np.floating], edge: float) -> NDArray[np.float32]:
    """1 where distance <= 0, 0 where it exceeds `edge`, half a cosine between."""
    t = np.clip(distance / edge, 0, 1) if edge > 0 else (distance > 0).astype(float)
    return (0.5 * (1 + np.cos(np.pi * t))).astype(np.float32)


def _lowpass(volume: Map, voxel_size: float, angstrom: float) -> NDArray[np.float64]:
    """Cosine-edged low-pass: half amplitude at 1 / angstrom."""
    k = [np.fft.fftfreq(n, voxel_size) for n in volume.shape]
    k[2] = np.fft.rfftfreq(volume.shape[2], voxel_size)
    s = np.sqrt(k[0][:, None, None] ** 2 + k[1][:, None] ** 2 + k[2] ** 2) * angstrom
    return inverse(transform(volume) * (0.5 * (1 + np.cos(np.pi * np.clip(s - 0.5, 0, 1)))))
