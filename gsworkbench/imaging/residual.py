"""Image formation and the data term: project -> CTF -> shift, compared with the particles.

With poses, CTF and shifts known, the squared error of an image y and a projection P is

    |C P - y|^2 = <P, C^2 P> - 2 <P, C y> + |y|^2,

with the CTF C and its powers as filters and y shifted to the centre. So y enters through b = C y and |y|^2 alone,
which are made once, and the gradient image is 2 (C^2 P - b): one transform forth and one back.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gsworkbench.errors import InputError
from gsworkbench.imaging.ctf import ctf_grid
from gsworkbench.imaging.fourier import disc, friedel_weights, half_plane_frequencies
from gsworkbench.imaging.transfer import transfer
from gsworkbench.particles.stack import ParticleStack
from gsworkbench.system.device import to_device
from gsworkbench.system.progress import progress

_SURE = 5.0  # standard errors by which the images' lowest frequencies must correlate, or anticorrelate, with a blob


@dataclass(frozen=True)
class DataTerm:
    """The squared error against a stack, in image units, weighted in Fourier space by `spectrum`.

    spectrum : (D, D // 2 + 1) weight of each Fourier component, zero outside the disc |k| < D / 2.
    filtered : (n, D, D) b = irfft2(spectrum CTF rfft2(y)), or None if they are made from the files when asked for.
    energy : (n,) |y|^2 per pixel under the same weight; None likewise.

    Batches are on the device of `spectrum`; b and |y|^2 of all particles stay in the memory of the host.
    """

    stack: ParticleStack
    spectrum: Tensor
    filtered: Tensor | None
    energy: Tensor | None

    def batch(self, indices: NDArray[np.integer]) -> tuple[Tensor, Tensor, Tensor]:
        """Return spectrum CTF^2 (m, D, D // 2 + 1), b (m, D, D) and |y|^2 (m,) of particles."""
        part = self.stack[indices]
        device = self.spectrum.device
        kernel = ctf_grid(part.ctf, part.box_size, part.pixel_size, device=device).square_() * self.spectrum
        if self.filtered is None or self.energy is None:
            return kernel, *filter_images(part, part.images(), self.spectrum)
        rows = torch.from_numpy(indices)
        return kernel, to_device(self.filtered[rows], device), to_device(self.energy[rows], device)


def data_term(
    stack: ParticleStack,
    *,
    boost: float = 0.0,
    band: str = "disc",
    max_cache_bytes: int = 2**32,
    device: torch.device | str = "cpu",
) -> DataTerm:
    """Prepare the data term; images stay in memory as b if they fit into `max_cache_bytes`, else on disk.

    boost weights component k by exp(boost k^2 / k_Nyquist^2): high frequencies, small in any map, are then learned
    at the pace of low ones. band : "disc", the components |k| < D / 2, or "square", all that an image has. k = 0 counts
    in neither: the background of the images decides it.
    """
    kept = disc(stack.box_size) if band == "disc" else torch.ones_like(disc(stack.box_size))
    kept = kept.clone()
    kept[0, 0] = 0
    spectrum = kept * torch.exp(boost * radius_squared(stack.box_size) / (stack.box_size / 2) ** 2)
    spectrum = spectrum.float().to(device)
    if len(stack) * stack.box_size**2 * 4 > max_cache_bytes:
        return DataTerm(stack, spectrum, None, None)
    filtered = torch.empty(len(stack), stack.box_size, stack.box_size)
    energy = torch.empty(len(stack))
    with progress("read images", len(stack), unit="img", leave=False) as meter:
        for indices, images in stack.chunks(2**24):
            rows = torch.from_numpy(indices)
            made = filter_images(stack[indices], images, spectrum)
            filtered[rows], energy[rows] = (tensor.cpu() for tensor in made)
            meter.advance(len(indices))
    return DataTerm(stack, spectrum, filtered, energy)


def radius_squared(box_size: int) -> Tensor:
    """(D, D // 2 + 1) |k|^2 in cycles per box."""
    ky, kx = half_plane_frequencies(box_size)
    return ky**2 + kx**2


def filter_images(stack: ParticleStack, images: NDArray[np.float32], spectrum: Tensor) -> tuple[Tensor, Tensor]:
    """b = irfft2(spectrum CTF rfft2(centred y)), (n, D, D), and |y|^2 per pixel (n,) under the weight `spectrum`.

    Both are on its device.
    """
    device = spectrum.device
    transform = torch.fft.rfft2(to_device(torch.from_numpy(images), device))
    weight = spectrum * friedel_weights(stack.box_size, device=device)
    power = (transform.abs().square() * weight).sum((-2, -1)) / stack.box_size**4
    ky, kx = half_plane_frequencies(stack.box_size, device=device)
    ctf, phases = transfer(stack, kx, ky)
    transform *= phases
    transform *= spectrum * ctf
    return torch.fft.irfft2(transform, s=images.shape[-2:]), power


def squared_error(projections: Tensor, kernel: Tensor, filtered: Tensor, energy: Tensor) -> tuple[Tensor, Tensor]:
    """Mean squared error per pixel over a batch, and its gradient with respect to the projections (m, D, D)."""
    detached = projections.detach()
    convolved = torch.fft.irfft2(kernel * torch.fft.rfft2(detached), s=detached.shape[-2:])
    pixels = detached.numel()
    loss = (detached * (convolved - 2 * filtered)).sum() / pixels + energy.mean()
    return loss, (convolved - filtered) * (2 / pixels)


def form_images(projections: Tensor, stack: ParticleStack) -> Tensor:
    """(n, D, D) noise-free images of projections (n, D, D): times the CTF, moved to where they were observed."""
    ky, kx = half_plane_frequencies(stack.box_size)
    ctf, phases = transfer(stack, kx, ky)
    transform = torch.fft.rfft2(projections) * ctf * disc(stack.box_size) * phases.conj()
    return torch.fft.irfft2(transform, s=projections.shape[-2:])


@dataclass(frozen=True)
class ProteinSign:
    """Whether protein is white or dark in the images of a stack, by the integral of its map and the standard error.

    signs : the different factors that the data are multiplied by, as asked for or as the file says.
    """

    weight: float
    error: float
    signs: tuple[int, ...]

    @property
    def is_dark(self) -> bool:
        """Whether protein is dark beyond doubt."""
        return self.weight <= -_SURE * self.error and self.weight < 0

    @property
    def is_white(self) -> bool:
        """Whether protein is white beyond doubt."""
        return self.weight >= _SURE * self.error and self.weight > 0

    @property
    def suggested_sign(self) -> int | None:
        """The factor to multiply the images by, as they are given here; None where they do not tell."""
        return -1 if self.is_dark else 1 if self.is_white else None

    @property
    def problem(self) -> str:
        """What is wrong where protein is dark."""
        given = ", multiplied by the sign -1 as asked for or as the file says" if self.signs == (-1,) else ""
        return "protein is dark in these images" + given

    @property
    def remedy(self) -> str:
        """What to do where protein is dark."""
        remedies: dict[tuple[int, ...], str] = {
            (1,): "give --sign -1",
            (-1,): "give --sign 1: as the file has them, protein is white",
        }
        return remedies.get(self.signs, "invert the images of one of the two signs")

    def sentence(self) -> str:
        """What a user should know of it, in words."""
        if self.is_dark:
            return f"{self.problem}: reconstruct refuses them; {self.remedy}"
        if self.is_white:
            return "protein is white, as it should be"
        return "the signal is too weak to tell whether protein is white or dark"


def protein_sign(stack: ParticleStack, *, n_images: int = 500) -> ProteinSign:
    """Whether protein is white or dark in some of the images, drawn at random."""
    weight, error = total_weight(stack, n_images=n_images)
    return ProteinSign(weight, error, tuple(int(sign) for sign in np.unique(stack.data_sign)))


def require_white_protein(stack: ParticleStack, *, n_images: int = 500) -> None:
    """Raise InputError, with the sign to give, for images whose protein is dark beyond doubt; seen on some of them."""
    sign = protein_sign(stack, n_images=n_images)
    if sign.is_dark:
        raise InputError(sign.problem, file=stack.source, remedy=sign.remedy)


def total_weight(stack: ParticleStack, *, n_images: int = 2000, seed: int = 0) -> tuple[float, float]:
    """Estimate the integral of the map (image units times A^2), and its standard error, from the images' lowest shells.

    Averaged over particles, C y / C^2 is the map's transform averaged over its orientations. The best of a family of
    spherical Gaussians is fitted to it below 8 cycles per box, k = 0 left out; its integral is the answer. A negative
    one says that protein is dark.
    """
    chosen = np.sort(np.random.default_rng(seed).permutation(len(stack))[:n_images])
    part = stack[chosen]
    box_size = stack.box_size
    k2 = radius_squared(box_size)
    low = ((k2 > 0) & (k2 < min(8, box_size / 2) ** 2)).float()
    data, kernel, energy, count = torch.zeros(()), torch.zeros(()), 0.0, 0
    sign = (-1.0) ** sum(half_plane_frequencies(box_size))  # the origin is the pixel box_size // 2
    for indices, images in part.chunks(2**24):
        filtered, power = filter_images(part[indices], images, low)
        data = data + (torch.fft.rfft2(filtered).real * sign).sum(0)
        kernel = kernel + ctf_grid(part[indices].ctf, box_size, stack.pixel_size).square().sum(0) * low
        energy, count = energy + float(power.sum()), count + len(indices)
    weights = friedel_weights(box_size)
    best = (0.0, 0.0, np.inf)
    for sigma in np.linspace(0.02, 0.25, 47):  # box edges
        shape = torch.exp(-2 * np.pi**2 * sigma**2 * k2)
        square = float((kernel * shape**2 * weights).sum())
        product = float((data * shape * weights).sum())
        misfit = -(product**2) / square
        if misfit < best[2]:
            best = (product / square, square, misfit)
    pixel_area = stack.pixel_size**2
    noise = energy * box_size**4 / float((low * weights).sum()) / count  # power of one Fourier component of the images
    return best[0] * pixel_area, float(np.sqrt(noise / best[1])) * pixel_area
