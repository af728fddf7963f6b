"""The noise of the linear map of all particles, measured between parts of them (docs/explain/error_map.md).

The particles are dealt into 32 parts. With b_g and K_g the sums of part g, b and K those of all, and V = b / K the
least-squares map, the residual b_g - K_g V holds the noise of part g and nothing of the molecule. Its share in the map,

    E_g = (b_g - K_g V) / K,

is independent from part to part, and V less the map without noise is the sum of all E_g. The variance of any mean over
voxels is therefore 32 / 31 times the sum over parts of the square of that mean of E_g. This is the delete-a-group
jackknife to first order. It stays finite where a single part holds nearly all there is of a component.

V is not quite right without noise either. K is cut at lags of half the box (`NormalEquations.kernel`), which changes
shells 1 to 3 by one or two percent, and components that hardly any particle has (K below a tenth of its shell's mean)
are left out. What both do is known, as K is: it is computed of the classical map inside its support, for which the
whole K is used once, and subtracted. The components that were left out are then those of the classical map.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gsworkbench.errors import InputError
from gsworkbench.imaging.fourier import centred_irfftn, map_shells
from gsworkbench.io.mrc import Volume, new_image_stack
from gsworkbench.methods.molecule_support import molecule
from gsworkbench.normal_equations.classical_map import classical_map, data_transform
from gsworkbench.normal_equations.equations import NormalEquations, accumulate
from gsworkbench.particles.stack import ParticleStack
from gsworkbench.system.progress import track

PARTS = 32
_LEAST_IN_PART = 2  # specimens: a part needs some, and an independent other
_LEAST_KERNEL = 0.1  # of a shell's mean: K itself is known to a percent of that
WHILE_RUNNING = 192  # bytes per voxel on disk: b and K of each part
KEPT_BYTES = 4 * PARTS + 8  # bytes per voxel on disk, that stay: the parts of the error and two maps
MEMORY = (
    900  # bytes per voxel, measured: the whole K, padded, and its transforms; pages of the files on disk are among them
)


@dataclass(frozen=True)
class MapErrors:
    """The linear map of all particles and its noise, image units / A.

    volume : (D, D, D) least-squares map, corrected for the cut kernel, inside |k| < D / 2. error : (D, D, D) standard
    error of each of its voxels. parts : a stack of 32 D images (D, D): the maps E_g, one after another. left_out : the
    fraction of components that hardly any particle has.
    """

    volume: Volume
    error: Volume
    parts: Path
    left_out: float


def map_errors(
    stack: ParticleStack,
    parts: Path,
    *,
    noise_spectrum: NDArray[np.floating] | None = None,
    seed: int = 0,
) -> MapErrors:
    """Read the particles of a stack once, and measure the noise of their linear map; E_g are written to `parts`.

    Sums are in memory one part at a time, and those of all. Raises InputError for fewer than 64 specimens.
    """
    dealt = deal_parts(stack, seed)
    n = stack.box_size
    half = (n, n, n // 2 + 1)
    parts.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=parts.parent) as data_file, tempfile.TemporaryFile(dir=parts.parent) as kernel_file:
        data = np.memmap(data_file, np.complex64, "w+", shape=(PARTS, *half))
        kernels = np.memmap(kernel_file, np.float32, "w+", shape=(PARTS, *half))
        total: NormalEquations | None = None
        for part in track(range(PARTS), "parts of the error", unit="part"):
            rows = dealt == part
            own = noise_spectrum[rows] if noise_spectrum is not None and noise_spectrum.ndim == 2 else noise_spectrum
            sums = accumulate(stack[rows], noise_spectrum=own, label=f"part {part + 1} of {PARTS}")
            data[part] = data_transform(sums).numpy()
            kernels[part] = sums.kernel(circular=True).numpy()
            total = sums if total is None else total.plus(sums, parts)
        assert total is not None
        inverse = _inverse(total.kernel(circular=True))
        map_transform = data_transform(total) * inverse
        square = np.zeros((n, n, n))
        with new_image_stack(parts, PARTS * n, n, stack.pixel_size) as written:
            unit = 1.0 if stack.normalisation is None else stack.normalisation.unit
            for part in range(PARTS):
                residual = torch.from_numpy(data[part]) - torch.from_numpy(kernels[part]) * map_transform
                share = unit * centred_irfftn(residual * inverse).numpy()
                written[part * n : (part + 1) * n] = share
                square += np.square(share)
        del data, kernels
    volume = unit * (centred_irfftn(map_transform) - cut_kernel_bias(total, inverse)).numpy()
    error = np.sqrt(PARTS / (PARTS - 1) * square)
    left_out = float((inverse[map_shells(n) < n // 2] == 0).double().mean())
    return MapErrors(volume.astype(np.float32), error.astype(np.float32), parts, left_out)


def _inverse(kernel: Tensor) -> Tensor:
    """1 / K on the half grid; 0 for components that hardly any particle has, and from |k| = D / 2 on."""
    n = len(kernel)
    shell = map_shells(n)
    mean = torch.bincount(shell.flatten(), kernel.flatten()) / torch.bincount(shell.flatten())
    measured = (shell < n // 2) & (kernel > _LEAST_KERNEL * mean[shell]) & (kernel > 0)
    return torch.where(measured, 1 / kernel, 0.0)


def deal_parts(stack: ParticleStack, seed: int) -> NDArray[np.int64]:
    """(n,) the part, 0 to 31, of each particle; those of one specimen are in one part."""
    specimen = stack.specimens()
    names, of_row = np.unique(specimen, return_inverse=True)
    if len(names) < _LEAST_IN_PART * PARTS:
        raise InputError(
            f"{len(names)} independent particles are too few for an error map of {PARTS} parts",
            file=stack.source,
            remedy="leave out --error-map",
        )
    part = np.random.default_rng(seed).permutation(len(names)) % PARTS
    return part[of_row.ravel()]


def cut_kernel_bias(sums: NormalEquations, inverse: Tensor) -> Tensor:
    """(D, D, D) what cutting K, and leaving components out, does to a map b * inverse, computed of the classical map.

    The classical map is taken inside its support, above its mean outside: it then holds a k = 0
    too, which spreads into the lowest shells.
    """
    n = sums.box_size
    volume = classical_map(sums).astype(np.float64)
    support = molecule(volume.astype(np.float32))
    outside = support < 0.01
    inside = torch.from_numpy(support * (volume - (volume[outside].mean() if outside.any() else 0.0)))
    padded = torch.zeros((2 * n,) * 3, dtype=torch.float64)
    padded[:n, :n, :n] = inside
    product = torch.fft.rfftn(padded)
    product *= sums.kernel(circular=False)
    padded = torch.fft.irfftn(product, s=(2 * n,) * 3)
    of_cut = torch.fft.rfftn(torch.fft.ifftshift(padded[:n, :n, :n])) * inverse
    true = torch.fft.rfftn(torch.fft.ifftshift(inside))
    true[map_shells(n) >= n // 2] = 0
    return centred_irfftn(of_cut - true)
