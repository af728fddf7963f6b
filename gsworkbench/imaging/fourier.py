"""Centred Fourier transforms of images and maps whose origin is index D // 2, in torch. Numpy's sign and scaling.

Everything a data term sees is inside the strict disc |k| < D / 2: neither the Nyquist row nor the corners, where a
rotated image would wrap. Half planes kx >= 0 are as torch.fft.rfft2 lays them out, row 0 is ky = 0.
"""

from __future__ import annotations

import torch
from torch import Tensor


def half_plane_frequencies(box_size: int, *, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """(ky, kx), both (D, D // 2 + 1) float64, in cycles per box, of an rfft2."""
    ky = torch.fft.fftfreq(box_size, 1 / box_size, dtype=torch.float64, device=device)
    kx = torch.arange(box_size // 2 + 1, dtype=torch.float64, device=device)
    return tuple(torch.meshgrid(ky, kx, indexing="ij"))  # type: ignore[return-value]


def disc(box_size: int, *, device: torch.device | str = "cpu") -> Tensor:
    """(D, D // 2 + 1) bool, |k| < D / 2."""
    ky, kx = half_plane_frequencies(box_size, device=device)
    return ky**2 + kx**2 < (box_size / 2) ** 2


def friedel_weights(box_size: int, *, device: torch.device | str = "cpu") -> Tensor:
    """(D // 2 + 1,) how often a column of a half plane counts in the whole plane: 1 for kx = 0 and Nyquist, else 2."""
    weights = torch.full((box_size // 2 + 1,), 2.0, device=device)
    weights[0] = weights[-1] = 1.0
    return weights


def map_shells(box_size: int) -> Tensor:
    """(D, D, D // 2 + 1) int64 |k| of each component of a map's half grid, rounded to the nearest integer."""
    k = torch.fft.fftfreq(box_size, 1 / box_size)
    kx = torch.arange(box_size // 2 + 1)
    return torch.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + kx**2).round().long()


def centred_rfft2(images: Tensor) -> Tensor:
    """(..., D, D // 2 + 1) transform of images (..., D, D) about their origin D // 2."""
    return torch.fft.rfft2(torch.fft.ifftshift(images, dim=(-2, -1)))


def crop_half_plane(transform: Tensor, box_size: int) -> Tensor:
    """Keep what a box of `box_size` <= D pixels holds of half planes (..., D, D // 2 + 1), at unchanged pixel values.

    The image shrinks to box_size pixels of D / box_size times the size; its origin stays the origin. The rows and
    column of the new Nyquist frequency are those of the old transform: leave them out, as `disc` does.
    """
    old = transform.shape[-2]
    half = box_size // 2
    rows = torch.cat([transform[..., :half, : half + 1], transform[..., old - half :, : half + 1]], dim=-2)
    return rows * (box_size / old) ** 2


def centred_irfftn(transform: Tensor) -> Tensor:
    """Inverse of a centred rfftn of a (D, D, D) map, origin at D // 2."""
    box_size = transform.shape[0]
    return torch.fft.fftshift(torch.fft.irfftn(transform, s=(box_size,) * 3))
