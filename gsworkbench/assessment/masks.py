"""Soft masks with their description in words. Lengths in A."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gsworkbench.assessment.transforms import inverse, transform
from gsworkbench.io.mrc import Map

FEWEST_VOXELS = 30  # of a piece above the level: fewer are not a particle but noise, or one extreme voxel low-passed
_FEWEST_EFFECTIVE = 8
MOST_OF_BOX = 45.0  # %, of a piece above the level; the inscribed sphere holds 52 %
NO_PARTICLE = "automatic: nothing that could be a particle"


@dataclass(frozen=True, eq=False)
class Mask:
    """A mask and what it is. Every curve that is made with a mask carries its description.

    Parameters
    ----------
    values : (D, D, D) array
        From 0 outside to 1 inside, in z, y, x order on the grid of the maps; a soft edge avoids artefacts.
    description : str
        What the mask is, in words.

    Examples
    --------
    >>> import gsworkbench as gs
    >>> truth, voxel_size = gs.read_map("ribosome/truth.mrc")
    >>> mask = gs.Mask((truth > 2 * truth.std()).astype("float32"), "dense voxels")
    >>> mask.description
    'dense voxels'
    """

    values: Map
    description: str = "user's mask"


def described(mask: Mask | None) -> str:
    """Return the description of a mask, "none" where there is none."""
    return "none" if mask is None else mask.description


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


def make_mask(recipe: MaskRecipe, volume: Map, voxel_size: float, *, keep_offset: bool = False) -> Mask:
    """Return the mask that `recipe` makes of a (D, D, D) map.

    keep_offset : a grown mask takes the map's zero for the solvent, as the programs themselves do; else its median
    outside the inscribed sphere.
    """
    if recipe.kind == "automatic":
        return automatic_mask(volume, voxel_size)
    if recipe.kind == "sphere":
        half_box = len(volume) / 2 * voxel_size
        return spherical_mask(len(volume), voxel_size, radius=0.85 * half_box, edge=0.15 * half_box)
    return grown_mask(volume if keep_offset else above_solvent(volume), voxel_size, recipe)


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
        return Mask(_cosine_edge(distance, recipe.edge), words)
    return Mask(np.cos(np.pi / 2 * np.clip(distance / recipe.edge, 0, 1)).round(6).astype(np.float32), words)


def spherical_mask(box_size: int, voxel_size: float, *, radius: float | None = None, edge: float | None = None) -> Mask:
    """Return a sphere with a cosine edge.

    radius : where the edge begins to fall, A; by default the edge ends at the box's inscribed sphere.
    edge : width of the fall from 1 to 0, A; by default 5 voxels.
    """
    edge = 5 * voxel_size if edge is None else edge
    radius = (box_size / 2 - 1) * voxel_size - edge if radius is None else radius
    axis = (np.arange(box_size) - box_size // 2) * voxel_size
    distance = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
    return Mask(_cosine_edge(distance - radius, edge), f"sphere of {radius:.0f} A, soft edge {edge:.0f} A")


def automatic_mask(
    volume: Map,
    voxel_size: float,
    *,
    lowpass: float = 15.0,
    threshold: float = 4.0,
    dilation: float | None = None,
    edge: float | None = None,
) -> Mask:
    """Return a soft mask around the density of a map.

    The map, less its median outside the inscribed sphere, is low-passed at `lowpass` A (at least 3 voxels), cut where
    it exceeds `threshold` times the standard deviation out there or 5 % of its 99.9th percentile, whichever is higher;
    its largest connected piece is grown by `dilation` A and given a cosine edge of `edge` A. By default these are 6 A
    and 12 A, but at least 2 and 5 voxels, for a mask with a harder edge correlates by itself. The mask is the sphere
    where no piece has FEWEST_VOXELS or more, where less than _FEWEST_EFFECTIVE of them make up its power, and where the
    map goes farther below its solvent than above.
    """
    from scipy import ndimage

    box_size = len(volume)
    lowpass = max(lowpass, 3 * voxel_size)
    dilation = max(6.0, 2 * voxel_size) if dilation is None else dilation
    edge = max(12.0, 5 * voxel_size) if edge is None else edge
    lifted = above_solvent(volume)
    smooth = _lowpass(lifted, voxel_size, lowpass)
    outside = _outside(box_size)
    level = max(threshold * smooth[outside].std(), 0.05 * np.percentile(smooth, 99.9))
    pieces, n = ndimage.label((smooth > level) & ~outside)
    sizes = ndimage.sum_labels(np.ones_like(smooth), pieces, np.arange(1, n + 1))
    largest = pieces == 1 + np.argmax(sizes) if n else np.zeros(smooth.shape, bool)
    dark = -np.percentile(smooth, 0.1) > 1.5 * np.percentile(smooth, 99.9)
    if dark or largest.sum() < FEWEST_VOXELS or _effective(lifted[largest]) < _FEWEST_EFFECTIVE:
        sphere = spherical_mask(box_size, voxel_size)
        return Mask(sphere.values, f"{NO_PARTICLE}, so {sphere.description}")
    distance = ndimage.distance_transform_edt(~largest) * voxel_size
    words = (
        f"automatic: low-pass {lowpass:.0f} A, level {level:.3g}, dilated {dilation:.3g} A, soft edge {edge:.3g} A, "
        f"{100 * largest.mean():.1f} % of the box"
    )
    return Mask(_cosine_edge(distance - dilation, edge), words)


def doubtful_mask(mask: Mask | None) -> str | None:
    """What an automatic mask says of a map that no mask can be made from; None for other masks, and for no mask."""
    words = described(mask)
    if words.startswith(NO_PARTICLE):
        return (
            "the automatic mask found nothing that could be a particle: the map is noise, has inverted contrast "
            "(protein must be white), or holds a few extreme voxels; the mask is the box's sphere, and masked curves "
            "mean little"
        )
    share = re.match(r"automatic: .* ([\d.]+) % of the box$", words)
    if share is None or float(share[1]) <= MOST_OF_BOX:
        return None
    return (
        f"the automatic mask holds {share[1]} % of the box: no particle fills that much, so solvent, a constant "
        "background of the images or noise was taken for it; give a mask of your own"
    )


def inside_mask(volume: Map, mask: Mask | None, *, keep_offset: bool = False) -> Map:
    """Return a map times a mask, less its mean in the soft edge of the mask: a constant added to it changes nothing.

    The mean is weighted by m (1 - m); of a mask without an edge it is that of the voxels within two of it. A constant
    left in the map would be the mask itself, which two maps always agree about. keep_offset : leave it in.
    """
    from scipy import ndimage

    if mask is None:
        return volume
    soft = mask.values.astype(np.float64)
    if keep_offset:
        return volume * soft
    edge = soft * (1 - soft)
    if edge.sum() < 1e-3 * soft.sum():
        near = ndimage.binary_dilation(soft > 0.5, iterations=2) & (soft <= 0.5)
        edge = (near if near.any() else np.ones_like(near)).astype(np.float64)
    # The first voxel is taken off before the sum, so that a large constant costs no digits.
    first = float(volume.flat[0])
    lifted = volume.astype(np.float64) - first
    return (lifted - float((lifted * edge).sum() / edge.sum())) * soft


def _effective(values: NDArray[np.float64]) -> float:
    """Return how many of some voxels make up their power: 1 where one outweighs all others."""
    squares = values**2
    return float(squares.sum() ** 2 / max((squares**2).sum(), np.finfo(float).tiny))


def above_solvent(volume: Map) -> NDArray[np.float64]:
    """Return a map less its median outside the inscribed sphere: a constant added to it changes nothing."""
    return volume.astype(np.float64) - float(np.median(volume[_outside(len(volume))].astype(np.float64)))


def _outside(box_size: int) -> NDArray[np.bool_]:
    axis = np.arange(box_size) - box_size // 2
    return axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2 > (box_size / 2) ** 2


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
