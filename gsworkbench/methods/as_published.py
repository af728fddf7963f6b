"""Projections of a mixture as a trainer sees them, with what the papers' releases and ablations do to them.

With the defaults of Stochastic this is `rendering.project` and nothing else. Lengths are in box edges.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gsworkbench.gaussians.optimiser import Mixture
from gsworkbench.imaging.fourier import half_plane_frequencies
from gsworkbench.particles.stack import ParticleStack
from gsworkbench.rendering import project
from gsworkbench.rendering.tiles import project_tiled

if TYPE_CHECKING:
    from gsworkbench.methods.stochastic import Stochastic


def projections(
    mixture: Mixture, rotations: Tensor, config: Stochastic, box_size: int, backend: str | None = None
) -> Tensor:
    """(b, D, D) projections of a mixture in orientations (b, 3, 3)."""
    means, covariances, weights = mixture
    render: Callable[..., Tensor] = functools.partial(project, backend=backend)
    if config.skip_below:
        render = functools.partial(project_tiled, skip_below=config.skip_below)
    render = functools.partial(render, box_size=box_size, pixel_size=1 / box_size, cutoff=config.cutoff)
    if config.view_normalisation:
        return render(means, covariances, weights, rotations)
    heights = _same_height(covariances, rotations) * weights
    views = zip(heights, rotations, strict=True)
    return torch.cat([render(means, covariances, seen, view[None]) for seen, view in views])


def _same_height(covariances: Tensor, rotations: Tensor) -> Tensor:
    """(b, n) factors of weights that make a Gaussian as high in every view as a ball of its volume would be."""
    rows = rotations[:, None, :2, :]
    seen = rows @ covariances[None] @ rows.mT  # (b, n, 2, 2)
    area = (seen[..., 0, 0] * seen[..., 1, 1] - seen[..., 0, 1] * seen[..., 1, 0]).sqrt()
    return area / torch.linalg.det(covariances) ** (1 / 3)


def blurred_in_y(images: Tensor, variance: float) -> Tensor:
    """Images (b, D, D) convolved along y by a Gaussian of `variance` px^2; a detached copy.

    CryoSplat's release adds 0.3 px^2 to the y variance of every Gaussian in its forward pass, but not in its backward
    pass: the gradient with respect to the blurred images is handed on as if it were that of the sharp ones.
    """
    if not variance:
        return images.detach()
    box_size = images.shape[-1]
    ky, _ = half_plane_frequencies(box_size, device=images.device)
    factor = torch.exp(-2 * math.pi**2 * variance * (ky / box_size) ** 2).to(images.dtype)
    return torch.fft.irfft2(torch.fft.rfft2(images.detach()) * factor, s=images.shape[-2:])


def off_the_grid(stack: ParticleStack, pixels: float) -> ParticleStack:
    """The stack as a model sees it whose pixel centres are `pixels` off the Fourier transform's in x and y.

    3DGS puts the centre of the image between pixels, half a pixel off; moving the data is the same, and exact.
    """
    return dataclasses.replace(stack, shifts_angstrom=stack.shifts_angstrom + pixels * stack.pixel_size)
