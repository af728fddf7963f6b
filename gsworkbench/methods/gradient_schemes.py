"""What GEM's "gradient computation" is worth: time, memory and rounding of each way to make the same sum.

Skip contributions below a threshold or not, list Gaussians by depth or not, gather the gradient of each Gaussian or let
every pixel scatter its share: measured on one mixture in some views, beside the renderers that are used elsewhere. What
a threshold does to the map is seen by fitting with Stochastic.skip_below.
"""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gsworkbench.gaussians.mixture import Gaussians
from gsworkbench.rendering import available_backends, project
from gsworkbench.rendering.tiles import list_length, project_tiled

THRESHOLDS = (0.0, 1e-5, 1e-4, 1e-3)
CUTOFF = 3.0  # standard deviations, of all schemes
BYTES_PER_PAIR = 4  # a list entry here; where lists are made by sorting, as on a GPU, about 12 for each key and value

Render = Callable[..., Tensor]


@dataclass(frozen=True)
class SchemeCost:
    """One scheme, on the same mixture and views as the others.

    forward_seconds, backward_seconds : processor time for one image, least of the repeats. list_bytes : lists of one
    image; 0 where there are none. image_change, gradient_change : relative (norms), from the renderer `cpu` or, where
    it does not work, `windowed`, with the same cutoff.
    """

    scheme: str
    skip_below: float
    order: str
    backward: str
    forward_seconds: float
    backward_seconds: float
    list_bytes: int
    image_change: float
    gradient_change: float


def measure_schemes(
    model: Gaussians,
    rotations: Tensor,
    *,
    box_size: int,
    pixel_size: float,
    thresholds: tuple[float, ...] = THRESHOLDS,
    repeats: int = 3,
) -> list[SchemeCost]:
    """Measure every scheme on a mixture in views (b, 3, 3). Thresholds are in image units (weight / A^2)."""
    inputs = model.means, model.covariances(), model.weights, rotations
    cotangent = torch.randn(len(rotations), box_size, box_size, generator=torch.Generator().manual_seed(0))
    grid: dict[str, Any] = {"box_size": box_size, "pixel_size": pixel_size, "cutoff": CUTOFF}
    pairs = list_length(inputs[0], inputs[1], rotations, **grid)
    costs: list[SchemeCost] = []
    expected: tuple[Tensor, Tensor] | None = None
    for scheme, threshold, order, backward, render in _schemes(thresholds, grid):
        seconds, image, gradient = _timed(render, inputs, cotangent, repeats)
        expected = expected or (image, gradient)
        changes = [float((a - b).norm() / b.norm()) for a, b in zip((image, gradient), expected, strict=True)]
        listed = BYTES_PER_PAIR * pairs // len(rotations) if scheme == "tiles" else 0
        forward_seconds, backward_seconds = (s / len(rotations) for s in seconds)
        costs.append(
            SchemeCost(
                scheme=scheme,
                skip_below=threshold,
                order=order,
                backward=backward,
                forward_seconds=forward_seconds,
                backward_seconds=backward_seconds,
                list_bytes=listed,
                image_change=changes[0],
                gradient_change=changes[1],
            )
        )
    return costs


def _schemes(thresholds: tuple[float, ...], grid: dict[str, Any]) -> Iterator[tuple[str, float, str, str, Render]]:
    for name in ("cpu", "windowed"):
        if available_backends()[name] is None:
            yield name, 0.0, "none", "gather", functools.partial(project, backend=name, **grid)
    for threshold, order, backward in itertools.product(thresholds, ("listed", "depth"), ("gather", "scatter")):
        settings: dict[str, Any] = {"skip_below": threshold, "order": order, "backward": backward} | grid
        yield "tiles", threshold, order, backward, functools.partial(project_tiled, **settings)


def _timed(
    render: Render, inputs: tuple[Tensor, ...], cotangent: Tensor, repeats: int
) -> tuple[tuple[float, float], Tensor, Tensor]:
    """Least processor times of forward and backward, the images, and the gradient by means and weights (n, 4)."""
    means, covariances, weights, rotations = inputs
    forward, backward = float("inf"), float("inf")
    for _ in range(repeats):
        leaves = [t.detach().clone().requires_grad_() for t in (means, covariances, weights)]
        started = time.process_time()
        image = render(*leaves, rotations)
        between = time.process_time()
        image.backward(cotangent)
        ended = time.process_time()
        forward, backward = min(forward, between - started), min(backward, ended - between)
    gradient = torch.cat([leaves[0].grad, leaves[2].grad[:, None]], 1)  # type: ignore[list-item,index]
    return (forward, backward), image.detach(), gradient
