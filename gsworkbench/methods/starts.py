"""Where fits begin: Gaussians in box edges whose weights sum to 1/2.

Random ones know nothing of the particles; those from data are drawn from a low-passed map of them.
"""

from __future__ import annotations

import math

import torch
from scipy.spatial import cKDTree
from torch import Tensor

from gsworkbench.gaussians.mixture import Gaussians, random_gaussians
from gsworkbench.normal_equations.diagonal import DiagonalEquations, from_transform

TOTAL_WEIGHT = 0.5  # integral of the mixture inside a fit; CryoSplat starts with A = 1/(2N)
ANY_SCALE = 0.0075  # of Gaussians whose scales are replaced by the distance to the nearest other one
_START_VOXELS = 0.0076  # of all voxels: 2,000 of a box of 64


def at_random(n: int, *, spread: float, scale: float, seed: int) -> Gaussians:
    """Return n isotropic Gaussians of equal weights, centres from N(0, spread^2)."""
    return random_gaussians(n, spread=spread, scale=scale, total_weight=TOTAL_WEIGHT, seed=seed)


def from_data(
    equations: DiagonalEquations, n: int, *, scale: float, seed: int, signed: bool = False
) -> Gaussians | None:
    """Return n isotropic Gaussians, centres drawn in proportion to the density of a low-passed least-squares map.

    Only density counts that exceeds 6 robust standard deviations of the map's surroundings, inside .48 of the box, or
    that is among the largest _START_VOXELS of the voxels there: where the molecule hardly rises above the noise, the
    former are a handful, and all Gaussians would start there. With signed weights, what lies as far below zero counts
    as well, and gives Gaussians of negative weight. Returns None where nothing stands out.
    """
    generator, box_size = torch.Generator().manual_seed(seed), equations.box_size
    inside = equations.shell < box_size // 2
    lowpass = max(8.0, 2.5 * equations.pixel_size)  # A
    frequency = equations.shell / (box_size * equations.pixel_size)
    smooth = torch.exp(-((frequency * lowpass) ** 2) * math.log(2.0))
    density = from_transform(
        equations.data / (equations.kernel + 0.1 * equations.kernel[inside].median()) * smooth * inside
    )
    density = density - density.median()
    axis = torch.arange(box_size) - box_size // 2
    radius = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).sqrt()
    noise = 1.4826 * density[radius > 0.48 * box_size].abs().median()
    inside_sphere = radius < 0.48 * box_size
    size = density.abs() if signed else density
    rank = max(1, round(_START_VOXELS * box_size**3))
    least = torch.topk(size[inside_sphere], rank).values[-1].clamp_min(0)
    density = torch.where((size > torch.minimum(6 * noise, least)) & inside_sphere, density, 0.0).flatten().double()
    sign = density.sign().float()
    density = density.abs()
    if not density.any():  # nothing stands out: pure noise, most likely
        return None
    cumulative = density.cumsum(0)
    ticks = (torch.arange(n).double() + torch.rand(1, generator=generator).double()) / n * cumulative[-1]
    voxel = torch.searchsorted(cumulative, ticks).clamp_max(box_size**3 - 1)
    place = torch.stack([voxel % box_size, voxel // box_size % box_size, voxel // box_size**2], -1)
    jitter = torch.rand(n, 3, generator=generator) - 0.5
    return Gaussians(
        means=(place - box_size // 2 + jitter) / box_size,
        scales=torch.full((n, 3), scale),
        quaternions=torch.tensor([1.0, 0, 0, 0]).repeat(n, 1),
        weights=sign[voxel] * (TOTAL_WEIGHT / n),
    )


def nearest_distances(means: Tensor) -> Tensor:
    """(n,) distance of each mean (n, 3) to the nearest other one, at least 1e-4 of the box."""
    if len(means) < 2:
        return torch.full((len(means),), ANY_SCALE)
    distances, _ = cKDTree(means.numpy()).query(means.numpy(), k=2)
    return torch.from_numpy(distances[:, 1]).to(means.dtype).clamp_min(1e-4)
