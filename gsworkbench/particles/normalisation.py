"""What is done to images before anything is made of them: no background, no hot pixels, noise of standard deviation 1.

A Normalisation is a table with a row for each particle. `image_statistics.normalised` makes it from the images, and
`ParticleStack.images` applies it, so that every method sees the same images.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Normalisation:
    """How the images of n particles are normalised: (pixel - background) / divisor, and 0 where that is too large.

    offset : (n,) background at the centre of the image, in the units of the file.
    slope : (n, 2) change of the background per pixel along x and y.
    limit : (n,) pixels that differ from the background by more than this are set to it; infinity where none are.
    divisor : (n,) what the images are divided by.
    round : whether pixels outside the inscribed circle are set to the background, because something amplified them.
    noise : standard deviation of the noise of the images that result.
    level : a power of two near the root mean square of these images.
    unit : a power of two near the noise of the images in the files: maps that are made of the normalised images, with
        the scale of the CTF that goes with them, are in these units.
    """

    offset: Float64
    slope: Float64
    limit: Float64
    divisor: Float64
    round: bool = False
    noise: float = 1.0
    level: float = 1.0
    unit: float = 1.0

    def __getitem__(self, indices: NDArray[np.integer] | NDArray[np.bool_] | slice) -> Normalisation:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        chosen: dict[str, Any] = {name: v[indices] for name, v in values.items() if isinstance(v, np.ndarray)}
        return replace(self, **chosen)

    def apply(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Normalise images (n, D, D) in place, one for each row of this table, and return them."""
        subtract_background(images, self.offset, self.slope)
        remove_hot_pixels(images, self.limit)
        if self.round:
            axis = np.arange(images.shape[-1]) - images.shape[-1] // 2
            images *= np.hypot(axis[:, None], axis) < images.shape[-1] / 2
        images /= self.divisor[:, None, None].astype(np.float32)
        return images


def subtract_background(images: NDArray[np.float32], offset: Float64, slope: Float64) -> None:
    """Take a background that rises linearly from the centre off each image (n, D, D), in place."""
    # The mean goes first: where it is a thousand times the noise, this difference is still exact.
    images -= offset[:, None, None].astype(np.float32)
    if slope.any():
        axis = (np.arange(images.shape[-1]) - images.shape[-1] // 2).astype(np.float32)
        x, y = slope.astype(np.float32).T
        images -= x[:, None, None] * axis + y[:, None, None] * axis[:, None]


def remove_hot_pixels(images: NDArray[np.float32], limit: Float64) -> None:
    """Set pixels beyond +-limit (n,) of images whose background is 0 to 0, in place."""
    for row in np.flatnonzero(np.isfinite(limit)):
        image = images[row]
        image[np.abs(image) > limit[row]] = 0
