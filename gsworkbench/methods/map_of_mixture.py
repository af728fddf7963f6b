"""The map of a fitted mixture, as every method of Gaussians samples it."""

from __future__ import annotations

from torch import Tensor

from gsworkbench.gaussians.mixture import Gaussians
from gsworkbench.rendering import voxelize

CUTOFF = 5.0  # standard deviations: a map is sampled once, so the float32 floor is affordable


def map_of(gaussians: Gaussians, *, box_size: int, voxel_size: float, backend: str | None = None) -> Tensor:
    """Return the (D, D, D) float32 map of a mixture in A, D = box_size, on voxels of voxel_size A."""
    return voxelize(
        gaussians.means,
        gaussians.covariances(),
        gaussians.weights,
        box_size=box_size,
        voxel_size=voxel_size,
        cutoff=CUTOFF,
        backend=backend,
    )
