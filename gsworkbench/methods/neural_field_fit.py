"""A neural field of the map's transform, as cryoDRGN fits one to particles of known pose (Zhong et al. 2021).

A residual multilayer perceptron maps a frequency k, encoded by sines and cosines of geometrically spaced wavelengths,
to the transform of the map there. Own code after the published description: no line of cryoDRGN's, nor its latent
variables, masks, mixed precision or learned poses. Frequencies are in cycles per pixel, transforms are divided by
their standard deviation; maps come back in image units / A.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gsworkbench.gaussians.parameters import cosine
from gsworkbench.imaging.fourier import centred_irfftn, centred_rfft2, disc, half_plane_frequencies
from gsworkbench.imaging.transfer import transfer
from gsworkbench.particles.stack import ParticleStack
from gsworkbench.system.device import to_device
from gsworkbench.system.progress import track

if TYPE_CHECKING:
    from gsworkbench.methods.neural_field import NeuralField

_CHUNK = 2**16  # frequencies evaluated at a time when the map is made


@dataclass(frozen=True)
class NeuralFit:
    """volume : (D, D, D) float32, image units / A. losses : mean squared error of each epoch, of data of variance 1."""

    volume: NDArray[np.float32]
    losses: tuple[float, ...]
    n_parameters: int


class Field(nn.Module):
    """(n, 3) frequencies -> (n, outputs): one Hartley value, or real and imaginary part."""

    def __init__(self, box_size: int, config: NeuralField) -> None:
        super().__init__()
        self.factors: Tensor
        self.register_buffer("factors", encoding_factors(box_size))
        width, outputs = config.width, 1 if config.domain == "hartley" else 2
        self.first = nn.Linear(6 * len(self.factors), width)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(config.n_layers))
        self.last = nn.Linear(width, outputs)

    def forward(self, k: Tensor) -> Tensor:
        phases = (k[:, :, None] * self.factors).flatten(1)
        x = torch.relu(self.first(torch.cat([phases.sin(), phases.cos()], 1)))
        for layer in self.hidden:
            x = torch.relu(x + layer(x))
        return self.last(x)


def encoding_factors(box_size: int) -> Tensor:
    """(D // 2,) factors pi D (2 / D)^(i / (D / 2 - 1)) of a frequency in cycles per pixel: from fine to coarse."""
    steps = torch.arange(box_size // 2) / max(box_size // 2 - 1, 1)
    return math.pi * box_size * (2 / box_size) ** steps


def fit_neural_field(
    stack: ParticleStack,
    config: NeuralField,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    label: str = "neural field",
) -> NeuralFit:
    """Fit a field to all particles of a stack, on a device, and sample its map, which is on the CPU."""
    device = torch.device(device)
    torch.manual_seed(seed)
    field = Field(stack.box_size, config).to(device)  # drawn on the CPU: the start is the same wherever the fit runs
    optimizer = torch.optim.Adam(field.parameters(), lr=config.learning_rate)
    unit = _unit(stack)
    rng = np.random.default_rng(seed)
    steps = config.n_epochs * math.ceil(len(stack) / config.batch_size)
    losses, done = [], 0
    for epoch in range(config.n_epochs):
        total = torch.zeros((), dtype=torch.float64, device=device)  # looking at it would wait for the device
        order = rng.permutation(len(stack))
        batches = np.array_split(order, math.ceil(len(order) / config.batch_size))
        for batch in track(batches, f"{label}: epoch {epoch + 1}/{config.n_epochs}", unit="batch"):
            if config.schedule == "cosine":
                optimizer.param_groups[0]["lr"] = config.learning_rate * cosine(done / steps)
            k, ctf, data = components(stack[batch], config, rng, device)
            loss = (ctf * transform(field, k, config) - data / unit).abs().square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total, done = total + loss.detach().double() * len(batch), done + 1
        losses.append(float(total) / len(stack))
    n_parameters = sum(p.numel() for p in field.parameters())
    volume = sample(field, stack.box_size, config) * (unit / stack.pixel_size)
    return NeuralFit(volume.numpy(), tuple(losses), n_parameters)


def components(
    part: ParticleStack, config: NeuralField, rng: np.random.Generator, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor, Tensor]:
    """Frequencies A^T (kx, ky, 0) (m, 3), CTF (m,) and data (m,) of particles: complex transforms or Hartley values.

    All inside 0 < |k| < D / 2 (Hartley: of both k and -k), or config.n_components of them, drawn anew for each image.
    """
    box_size, device = part.box_size, torch.device(device)
    inside = disc(box_size, device=device).clone()
    inside[0, 0] = False  # the background of the images decides it
    ky, kx = (k[inside] for k in half_plane_frequencies(box_size, device=device))
    images = to_device(torch.from_numpy(part.images()), device)
    ctf, phases = transfer(part, kx, ky)
    data = centred_rfft2(images)[:, inside] * phases
    plane = torch.stack([kx, ky, torch.zeros_like(kx)], -1) / box_size
    views = to_device(torch.from_numpy(part.require_poses()).float(), device)
    k = (plane.float() @ views).contiguous()  # rows: (A^T k)^T = k^T A
    if config.domain == "hartley":
        data = torch.cat([data.real - data.imag, data.real + data.imag], 1)
        k, ctf = torch.cat([k, -k], 1), torch.cat([ctf, ctf], 1)
    if config.n_components is not None and config.n_components < k.shape[1]:
        chosen = to_device(torch.from_numpy(rng.integers(k.shape[1], size=(len(part), config.n_components))), device)
        k = k.gather(1, chosen[..., None].expand(-1, -1, 3))
        ctf, data = ctf.gather(1, chosen), data.gather(1, chosen)
    return k.flatten(0, 1), ctf.flatten(), data.flatten()


def transform(field: Field, k: Tensor, config: NeuralField) -> Tensor:
    """(m,) what data are compared with: Hartley values, or complex ones, Hermitian by construction off x = 0."""
    if config.domain == "hartley":
        return field(k)[:, 0]
    side = torch.where(k[:, :1] < 0, -1.0, 1.0)
    real, imaginary = field(k * side).unbind(1)
    return torch.complex(real, imaginary * side[:, 0])


@torch.no_grad()
def sample(field: Field, box_size: int, config: NeuralField) -> Tensor:
    """(D, D, D) map of a field, zero from |k| = D / 2 on."""
    k = torch.fft.fftfreq(box_size, 1 / box_size)
    grid = torch.stack(torch.meshgrid(k, k, torch.arange(box_size // 2 + 1.0), indexing="ij")[::-1], -1)  # x, y, z
    inside = grid.square().sum(-1) < (box_size / 2) ** 2
    device = next(field.parameters()).device
    parts = (grid[inside] / box_size).split(_CHUNK)
    values = torch.cat([_complex(field, to_device(part, device), config).cpu() for part in parts])
    half = torch.zeros(inside.shape, dtype=torch.complex64)
    half[inside] = values
    return centred_irfftn(half)


def _complex(field: Field, k: Tensor, config: NeuralField) -> Tensor:
    if config.domain == "fourier":
        return transform(field, k, config)
    here, there = transform(field, k, config), transform(field, -k, config)
    return torch.complex((here + there) / 2, (there - here) / 2)


def images_per_second(stack: ParticleStack, config: NeuralField) -> float:
    """Training images per second of processor time of one epoch over a stack (a few hundred images tell it)."""
    started = time.process_time()
    fit_neural_field(stack, replace(config, n_epochs=1), label="speed")
    return len(stack) / (time.process_time() - started)


def _unit(stack: ParticleStack) -> float:
    """Standard deviation of the components of some images."""
    images = torch.from_numpy(stack.images(np.arange(min(len(stack), 200))))
    inside = disc(stack.box_size)
    return float(centred_rfft2(images)[:, inside].abs().square().mean().sqrt())
