"""How strong the signal of each particle is, beside a map of other particles; and how many hold none.

Every particle is compared with a quick map that it is not part of: its half set is dealt into two quarters, and the map
of one quarter judges the particles of the other, so that half sets stay independent. With the prediction p_i of an
image and the image y_i of noise 1, the scale is <y_i, p_i> / <p_i, p_i>, and its standard error 1 / |p_i|. The scales
of a stack are taken to be those of particles, normally distributed, and of images without any signal, whose scale is 0.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gsworkbench.imaging.fourier import disc, half_plane_frequencies
from gsworkbench.normal_equations.classical_map import classical_map
from gsworkbench.normal_equations.equations import accumulate
from gsworkbench.normal_equations.insertion import PADDING, positions, samples, taper
from gsworkbench.particles.half_sets import deal
from gsworkbench.particles.stack import ParticleStack
from gsworkbench.system.progress import progress

Float64 = NDArray[np.float64]

LARGEST_BOX = 32  # px of the quick maps: low resolution holds nearly all of the signal's power
SCALED = 1000  # particles that say whether scales differ at all
_FEWEST = 100  # particles, for quick maps that say anything
_CHUNK_BYTES = 2**23
_LEAST_SHELL = 3  # cycles per box: ice, carbon and gradients have most of their power below
_SPREAD = 0.15  # of the scales of particles, from which on they are used
_JUNK = 0.03  # of the images, from which on those without signal count
_SURE = 8.0  # by which the logarithm of the likelihood must rise
_STEPS = 300  # of expectation maximisation, at most


@dataclass(frozen=True)
class Scales:
    """Scales of n particles relative to the typical particle.

    measured : (n,) as compared with a map. error : (n,) their standard errors.
    expected : (n,) what they are most likely, given how all of them are distributed.
    spread : standard deviation of the scales of the particles that hold signal. empty : fraction of images that hold
        none. evidence : how far the logarithm of the likelihood lies above that of particles all alike.
    """

    measured: Float64
    error: Float64
    expected: Float64
    spread: float
    empty: float
    evidence: float

    @property
    def differ(self) -> bool:
        """Whether the scales are worth using."""
        return self.evidence > _SURE and (self.spread > _SPREAD or self.empty > _JUNK)

    def as_dict(self) -> dict[str, float]:
        """What run.json says of them."""
        return {"scale_spread": round(self.spread, 4), "fraction_without_signal": round(self.empty, 4)}

    def sentences(self, n: int) -> list[str]:
        """What a user should know of them, in words; empty where the scales of n particles do not differ."""
        if not self.differ:
            return []
        said = []
        if self.empty > _JUNK:
            said.append(
                f"about {self.empty * n:,.0f} of {n:,} images ({100 * self.empty:.0f} %) agree with a map of other "
                "particles no better than noise does: they hold no particle, or their poses are wrong, and are given "
                "next to no weight"
            )
        if self.spread > _SPREAD:
            said.append(
                f"the strength of the signal differs from particle to particle by {100 * self.spread:.0f} % (standard "
                "deviation): each is given its own scale"
            )
        return said


def measure_scales(stack: ParticleStack, *, most: int | None = None, seed: int = 0) -> Scales | None:
    """Scales of the particles of a normalised stack, or of up to `most` of them, drawn at random.

    None where there are too few particles, or where quick maps of them predict nothing.
    """
    if stack.normalisation is None or stack.rotations is None or len(stack) < _FEWEST:
        return None
    rng = np.random.default_rng(seed)
    rows = np.arange(len(stack)) if most is None else np.sort(rng.permutation(len(stack))[:most])
    part = stack[rows]
    box_size = min(part.box_size, LARGEST_BOX)
    product, power = np.zeros(len(part)), np.zeros(len(part))
    for half in np.unique(part.half_set):
        members = np.flatnonzero(part.half_set == half)
        dealt = deal(part[members].specimens(), seed)
        if dealt is None or min(np.bincount(dealt, minlength=3)[1:]) < _FEWEST // 4:
            return None
        quarters = members[dealt == 1], members[dealt == 2]
        for own, others in (quarters, quarters[::-1]):
            quick = classical_map(accumulate(part[others], box_size=box_size, label="quick map"))
            product[own], power[own] = _compared(part[own], quick)
    if not (power > 0).all():
        return None
    return _distributed(product / power, 1 / np.sqrt(power))


def with_scales(stack: ParticleStack, scales: Scales) -> ParticleStack:
    """The stack whose CTFs carry the expected scales of its particles."""
    ctf = dataclasses.replace(stack.ctf, scale=stack.ctf.scale * scales.expected)
    return dataclasses.replace(stack, ctf=ctf)


def _compared(part: ParticleStack, volume: NDArray[np.float32]) -> tuple[Float64, Float64]:
    """(n,) <y, p> and <p, p> in units of the noise's variance, p the images that a map (D, D, D) predicts."""
    box_size = len(volume)
    product, power = np.zeros(len(part)), np.zeros(len(part))
    grid = padded_transform(volume)
    ky, kx = (k[disc(box_size)] for k in half_plane_frequencies(box_size))
    counted = torch.hypot(ky, kx) >= _LEAST_SHELL
    pixel_size = part.pixel_size * part.box_size / box_size
    noise = 1.0 if part.normalisation is None else part.normalisation.noise
    # One component of the transform of D^2 pixels, of noise of variance noise^2 in the images' own pixels.
    variance = box_size**4 / part.box_size**2 * noise**2
    with progress("scales", len(part), unit="img", leave=False) as meter:
        for rows, images in part.chunks(_CHUNK_BYTES):
            some = part[rows]
            data, squares, _ = samples(images, some, box_size)
            predicted = interpolate(grid, PADDING * positions(some, box_size)) * pixel_size
            shape = (len(rows), -1)
            predicted = (predicted.view(shape) * counted).flatten()
            # `samples` holds each Friedel pair once, or half of it twice: the sums over all components are twice these.
            product[rows] = 2 * (predicted.conj() * data).real.view(shape).sum(1).numpy() / variance
            power[rows] = 2 * (predicted.abs().square() * squares).view(shape).sum(1).numpy() / variance
            meter.advance(len(rows))
    return product, power


def padded_transform(volume: NDArray[np.float32]) -> Tensor:
    """(2 D, 2 D, D + 2) transform of a map (D, D, D) about its centre D // 2, to be interpolated between nodes.

    It is that of the map padded to twice the box, z and y from -D to D - 1. What trilinear interpolation takes away at
    the edges of the map is put back first.
    """
    box_size = len(volume)
    edge = PADDING * box_size
    inner = slice(edge // 2 - box_size // 2, edge // 2 + box_size // 2)
    padded = np.zeros((edge,) * 3)
    padded[inner, inner, inner] = volume
    padded[inner, inner, inner] /= taper(edge)[inner, inner, inner]
    half = np.fft.rfftn(np.fft.ifftshift(padded))
    grid = np.fft.fftshift(half, axes=(0, 1))
    return torch.from_numpy(np.concatenate([grid, grid[:, :, -1:]], axis=2))


def interpolate(grid: Tensor, nodes: Tensor) -> Tensor:
    """(m,) values of a `padded_transform` at nodes (3, m) = x, y, z, by trilinear interpolation."""
    edge = grid.shape[0]
    flip = nodes[0] < 0
    nodes = torch.where(flip, -nodes, nodes)
    low = nodes.floor()
    upper = nodes - low
    x, y, z = low.long()
    flat = grid.reshape(-1)
    width = grid.shape[2]
    total = torch.zeros(nodes.shape[1], dtype=grid.dtype)
    for dz, weight_z in enumerate((1 - upper[2], upper[2])):
        row_z = ((z + dz + edge // 2) % edge) * edge
        for dy, weight_y in enumerate((1 - upper[1], upper[1])):
            row = (row_z + (y + dy + edge // 2) % edge) * width
            for dx, weight_x in enumerate((1 - upper[0], upper[0])):
                total += flat[row + x + dx] * (weight_z * weight_y * weight_x)
    return torch.where(flip, total.conj(), total)


def _distributed(measured: Float64, error: Float64) -> Scales | None:
    """The most likely distribution of scales, by expectation maximisation, and what it makes of each."""
    weight = 1 / error**2
    mean = float(np.sum(weight * measured) / weight.sum())
    if mean <= 3 / np.sqrt(weight.sum()):
        return None  # the quick maps predict nothing
    variance, empty = 0.05 * mean**2, 0.05
    alike = _log_normal(measured, mean, error**2).sum()
    good = np.ones(len(measured))
    for _ in range(_STEPS):
        before = variance, empty, mean
        total = variance + error**2
        yes = np.log1p(-empty) + _log_normal(measured, mean, total)
        no = np.log(empty) + _log_normal(measured, 0.0, error**2)
        both = np.logaddexp(yes, no)
        good = np.exp(yes - both)
        middle = mean + variance / total * (measured - mean)  # of a scale, if the image holds a particle
        rest = variance * error**2 / total
        empty = float(np.clip(1 - good.mean(), 1e-6, 0.95))
        mean = float((good * middle).sum() / good.sum())
        variance = max(float((good * ((middle - mean) ** 2 + rest)).sum() / good.sum()), 1e-6 * mean**2)
        if np.allclose(before, (variance, empty, mean), rtol=1e-4):
            break
    expected = np.clip(good * middle / mean, 0.0, None)
    evidence = float(both.sum() - alike)
    return Scales(measured / mean, error / mean, expected, float(np.sqrt(variance)) / mean, empty, evidence)


def _log_normal(values: Float64, mean: float, variance: Float64) -> Float64:
    return -0.5 * ((values - mean) ** 2 / variance + np.log(2 * np.pi * variance))
