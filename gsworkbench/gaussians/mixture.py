"""Gaussians: the model of a map, n anisotropic 3D Gaussians with integrated weights."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gsworkbench.errors import InputError
from gsworkbench.geometry.rotations import quaternions_to_matrices
from gsworkbench.io.files import atomic_path
from gsworkbench.io.npz import load_archive
from gsworkbench.rendering import voxelize

FORMAT_VERSION = 1
MAP_CUTOFF = 5.0  # standard deviations: what is cut off a map is below the rounding of float32
_COLUMNS = {"means": (3,), "scales": (3,), "quaternions": (4,), "weights": ()}  # shape of one Gaussian's


@dataclass(frozen=True)
class Gaussians:
    """A map as a mixture of n Gaussians, V(x) = sum_i weights_i N(x; means_i, covariance_i).

    `covariances()` gives the covariances, `save` and `Gaussians.load` write and read gaussians.npz, `to` moves the
    mixture to another device.

    Parameters
    ----------
    means : (n, 3) tensor
        Angstrom, in x, y, z order. The origin is the box centre.
    scales : (n, 3) tensor
        Angstrom. Standard deviations along the principal axes, before the floor.
    quaternions : (n, 4) tensor
        w, x, y, z. They need not be normalised.
    weights : (n,) tensor
        The integral of each Gaussian, in units of the map times cubic angstrom. It may be negative.
    floor_angstrom : float
        Angstrom. Its square is added to the diagonal of every covariance, since a voxel cannot hold anything thinner.

    Examples
    --------
    >>> import torch
    >>> import gsworkbench as gs
    >>> one = gs.Gaussians(
    ...     means=torch.zeros(1, 3),
    ...     scales=torch.full((1, 3), 3.0),
    ...     quaternions=torch.tensor([[1.0, 0.0, 0.0, 0.0]]),
    ...     weights=torch.ones(1),
    ...     floor_angstrom=4.0,
    ... )
    >>> one.covariances()[0].diagonal()
    tensor([25., 25., 25.])
    """

    means: Tensor
    scales: Tensor
    quaternions: Tensor
    weights: Tensor
    floor_angstrom: float = 0.0

    def __len__(self) -> int:
        return len(self.means)

    def to(self, device: torch.device | str) -> Gaussians:
        """The same mixture on another device."""
        moved = {name: getattr(self, name).to(device) for name in ("means", "scales", "quaternions", "weights")}
        return replace(self, **moved)

    def covariances(self) -> Tensor:
        """(n, 3, 3) A^2, R diag(scales^2) R^T + floor^2 I. Renderers see these and nothing else."""
        return covariances(self.scales, self.quaternions, self.floor_angstrom)

    def voxelize(
        self, box_size: int, voxel_size: float, *, cutoff: float | None = MAP_CUTOFF, backend: str | None = None
    ) -> Tensor:
        """(D, D, D) = z, y, x map of the mixture, sampled at voxel centres; see `rendering.voxelize`."""
        return voxelize(
            self.means,
            self.covariances(),
            self.weights,
            box_size=box_size,
            voxel_size=voxel_size,
            cutoff=cutoff,
            backend=backend,
        )

    def save(self, path: str | Path, *, box_size: int, pixel_size: float) -> None:
        """Write `gaussians.npz`: named arrays in natural units, with the box they were fitted in."""
        arrays = {name: getattr(self, name).detach().cpu().numpy() for name in _COLUMNS}
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.savez(
                file,
                **arrays,
                floor_angstrom=self.floor_angstrom,
                box_size=box_size,
                pixel_size=pixel_size,
                format_version=FORMAT_VERSION,
            )

    @staticmethod
    def load(path: str | Path) -> Gaussians:
        """Read what `save` wrote; what is not that, or not finite, raises InputError."""
        try:
            file = load_archive(path)
            if float(file["format_version"]) != FORMAT_VERSION:
                raise InputError(f"Gaussians of format {file['format_version']}, not {FORMAT_VERSION}", file=path)
            tensors = {name: torch.from_numpy(file[name]) for name in _COLUMNS}
            n = len(tensors["weights"])
            if any(tensors[name].shape != (n, *rest) for name, rest in _COLUMNS.items()):
                raise ValueError("arrays of different lengths")
            if {tensor.dtype for tensor in tensors.values()} not in ({torch.float32}, {torch.float64}):
                raise ValueError("arrays not all float32, nor all float64")
            floor = float(file["floor_angstrom"])
        except InputError:
            raise
        except (OSError, KeyError, ValueError, TypeError) as error:
            raise InputError(
                "not a Gaussians file", file=path, remedy="give a gaussians.npz of this program"
            ) from error
        if not math.isfinite(floor):
            raise InputError(f"the floor of the Gaussians is {floor}", file=path, remedy="fit them again")
        for name, tensor in tensors.items():
            bad = (~tensor.isfinite()).nonzero()  # in order of rows
            if len(bad):
                raise InputError(
                    f"the {name} of this Gaussian are not finite",
                    file=path,
                    row=int(bad[0, 0]) + 1,
                    remedy="fit them again",
                )
        return Gaussians(**tensors, floor_angstrom=floor)


def covariances(scales: Tensor, quaternions: Tensor, floor: float = 0.0) -> Tensor:
    """(..., 3, 3) covariances R diag(scales^2) R^T + floor^2 I of scales (..., 3), quaternions (..., 4)."""
    axes = quaternions_to_matrices(quaternions) * scales[..., None, :]
    return axes @ axes.mT + floor**2 * torch.eye(3, dtype=scales.dtype, device=scales.device)


def random_gaussians(
    n: int, *, spread: float, scale: float, total_weight: float, seed: int, floor_angstrom: float = 0.0
) -> Gaussians:
    """Draw n isotropic float32 Gaussians, means from N(0, spread^2 I), equal weights. Lengths in A."""
    generator = torch.Generator().manual_seed(seed)
    return Gaussians(
        means=spread * torch.randn(n, 3, generator=generator),
        scales=torch.full((n, 3), scale),
        quaternions=torch.tensor([1.0, 0, 0, 0]).repeat(n, 1),
        weights=torch.full((n,), total_weight / n),
        floor_angstrom=floor_angstrom,
    )


def split(gaussians: Gaussians, *, seed: int) -> Gaussians:
    """Return 2n Gaussians: each replaced by two of half its weight, drawn from it, with scales divided by 1.6.

    The divisor is that of adaptive density control (Kerbl et al. 2023). The order is all first children, then all
    second ones.
    """
    generator = torch.Generator().manual_seed(seed)
    axes = quaternions_to_matrices(gaussians.quaternions) * gaussians.scales[:, None, :]
    draws = torch.randn(2, len(gaussians), 3, 1, generator=generator).to(axes)
    return replace(
        gaussians,
        means=(gaussians.means + (axes @ draws)[..., 0]).flatten(0, 1),
        scales=gaussians.scales.repeat(2, 1) / 1.6,
        quaternions=gaussians.quaternions.repeat(2, 1),
        weights=gaussians.weights.repeat(2) / 2,
    )
