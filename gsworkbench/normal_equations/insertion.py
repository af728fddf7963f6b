"""Insertion of particle images into Fourier space: the sums of CTF F and of CTF^2 that normal equations consist of.

Each Fourier component of a centred image inside 0 < |k| < D / 2 lies at A^T (kx, ky, 0); a Friedel pair counts once, at
x >= 0. `Grid` spreads it over the eight nodes around it on a grid PADDING times as fine as the box's: compiled C++
(insertion.cpp), or the same in torch, readable, for tests and where there is no compiler. Every contribution is
rounded to a quantum, so that sums are exact: the same bits in any order, by any number of threads. `Direct` sums
without a grid, by finufft: the oracle, exact to its tolerance, slower by far, its last bits not repeatable.
"""

from __future__ import annotations

import ctypes
import weakref

import numpy as np
import scipy.fft
import torch
from numpy.typing import NDArray
from torch import Tensor

from gsworkbench.imaging.ctf import phase_factors
from gsworkbench.imaging.fourier import centred_rfft2, crop_half_plane, disc, half_plane_frequencies
from gsworkbench.imaging.transfer import transfer
from gsworkbench.kernels import KERNELS
from gsworkbench.particles.stack import ParticleStack
from gsworkbench.system.compiler import BuildError, library

PADDING = 2
BATCH_BYTES = 2**20  # of images: they, their transforms and samples stay in the processor's cache
STORE_BYTES = 2**29  # of samples kept back to be sorted, at most
DIRECT_TOLERANCE = 1e-9

Float64 = NDArray[np.float64]
Weights = NDArray[np.float32] | None


class Grid:
    """Sums on the nodes z, y = -edge/2 .. edge/2, x = 0 .. edge/2 + 1 of the transform of a box of edge = PADDING D.

    box_size : D of the map. Images may have more pixels; of their transforms, what fits this box is used.
    data_quantum, ctf_quantum : powers of two; contributions of CTF F and CTF^2 are rounded to their multiples.
    compiled : whether the C++ is at hand. cells : (z, y, x, 4) float64 multiples of the quanta: real, imaginary, CTF^2.
    """

    def __init__(self, box_size: int, data_quantum: float, ctf_quantum: float, *, threads: int = 1) -> None:
        self.box_size, self.threads = box_size, threads
        self.data_quantum, self.ctf_quantum = data_quantum, ctf_quantum
        edge = PADDING * box_size
        # Torch, unlike NumPy, aligns memory to the processor's vectors and cache lines.
        self.cells = torch.zeros(edge + 1, edge + 1, edge // 2 + 2, 4, dtype=torch.float64).numpy()
        self.library = _library()
        if self.library is not None:
            self._open(self.library)

    @property
    def compiled(self) -> bool:
        return self.library is not None

    def _open(self, compiled: ctypes.CDLL) -> None:
        at_once = max(1, BATCH_BYTES // (4 * self.box_size**2))
        least = compiled.inserter_bytes(self.box_size, ctypes.c_int64(at_once), self.threads)
        self.store = np.empty(max(least, min(self.cells.nbytes // 2, STORE_BYTES)) // 8)
        inserter = compiled.inserter_new(
            self.box_size, _pointer(self.cells), _pointer(self.store), ctypes.c_int64(self.store.nbytes), self.threads
        )
        self.inserter = ctypes.c_void_p(inserter)
        weakref.finalize(self, compiled.inserter_delete, self.inserter)

    def add(self, images: NDArray[np.float32], part: ParticleStack, weights: Weights = None) -> Float64:
        """Insert the images (n, D', D') of particles; return the sum of |F|^2 over the disc of each, less k = 0, (n,).

        weights : (n, D / 2 + 1) factor of every shell, of data, CTF^2 and |F|^2 alike.
        """
        insert = self._insert_compiled if self.compiled else self._insert_reference
        energies = np.empty(len(part))
        step = max(1, BATCH_BYTES // images[:1].nbytes)
        for start in range(0, len(part), step):
            rows = slice(start, start + step)
            energies[rows] = insert(images[rows], part[rows], None if weights is None else weights[rows])
        return energies

    def sums(self, nodes: NDArray[np.bool_]) -> Float64:
        """(3, m) real part, imaginary part and CTF^2 at `nodes` of (edge, edge, edge / 2 + 1), an rfftn's half grid."""
        if self.library is not None:
            self.library.inserter_flush(self.inserter)
        result = np.empty((3, np.count_nonzero(nodes)))
        plane = np.empty(nodes.shape[1:])
        for row, quantum in enumerate((self.data_quantum, self.data_quantum, self.ctf_quantum)):
            start = 0
            for z, chosen in enumerate(nodes):
                end = start + int(np.count_nonzero(chosen))
                self._unfold(row, quantum, z, plane)
                result[row, start:end] = plane[chosen]
                start = end
        return result

    def _unfold(self, part: int, quantum: float, z: int, plane: Float64) -> None:
        """Fill a plane (edge, edge / 2 + 1) of the half grid; the first and the last of our nodes are one of its."""
        if self.library is not None:
            factor = ctypes.c_double(quantum)
            self.library.unfold(_pointer(self.cells), self.box_size, part, factor, z, _pointer(plane))
            return
        edge = len(plane)
        rows = (np.arange(edge + 1) - edge // 2) % edge
        plane[:] = 0
        for cells in self.cells[rows == z]:
            np.add.at(plane, rows, quantum * cells[:, : edge // 2 + 1, part])

    def _insert_compiled(self, images: NDArray[np.float32], part: ParticleStack, weights: Weights) -> Float64:
        assert self.library is not None
        n, box = len(part), self.box_size
        # Pocketfft transforms an image alike wherever it stands in a batch; other libraries differ in the last bit.
        transform = scipy.fft.rfft2(images, workers=self.threads)
        edge = part.box_size * part.pixel_size
        arrays = [
            np.ascontiguousarray(part.require_poses()),
            phase_factors(part.ctf, edge),
            np.ascontiguousarray(part.ctf.scale),
            part.ctf.b_factor / (4 * edge**2),
            np.ascontiguousarray(part.shifts_angstrom / edge),
        ]
        weights = None if weights is None else np.ascontiguousarray(weights)
        crop = (box / part.box_size) ** 2
        energies = np.empty(n)
        self.library.insert_images(
            self.inserter, _pointer(transform), ctypes.c_int64(n), part.box_size, *map(_pointer, arrays),
            None if weights is None else _pointer(weights),
            ctypes.c_float(crop / self.data_quantum), ctypes.c_float(1 / self.ctf_quantum), _pointer(energies),
        )  # fmt: skip
        return energies * crop**2

    def _insert_reference(self, images: NDArray[np.float32], part: ParticleStack, weights: Weights) -> Float64:
        data, power, energies = samples(images, part, self.box_size, weights)
        nodes = PADDING * positions(part, self.box_size)
        flip = nodes[0] < 0
        nodes = torch.where(flip, -nodes, nodes)
        values = torch.stack([data.real, torch.where(flip, -data.imag, data.imag), power])
        values /= torch.tensor([self.data_quantum, self.data_quantum, self.ctf_quantum])[:, None]
        side, _, width, _ = self.cells.shape
        low = nodes.floor()
        upper = nodes - low
        x, y, z = low.long()
        base = ((z + side // 2) * side + y + side // 2) * width + x
        cells = torch.from_numpy(self.cells).view(-1, 4)
        for dz, weight_z in enumerate((1 - upper[2], upper[2])):
            for dy, weight_y in enumerate((1 - upper[1], upper[1])):
                for dx, weight_x in enumerate((1 - upper[0], upper[0])):
                    index = base + ((dz * side + dy) * width + dx)
                    for column, value in enumerate(values):
                        cells[:, column].scatter_add_(0, index, (value * (weight_z * weight_y * weight_x)).round())
        return energies.numpy()


class Direct:
    """The same sums without a grid, by non-uniform FFTs onto voxels: of CTF F at D^3, of CTF^2 at lags -D .. D - 1."""

    def __init__(self, box_size: int) -> None:
        self.box_size = box_size
        self.data = np.zeros((box_size,) * 3)
        self.kernel = np.zeros((PADDING * box_size,) * 3)

    def add(self, images: NDArray[np.float32], part: ParticleStack, weights: Weights = None) -> Float64:
        """As `Grid.add`."""
        import finufft

        data, power, energies = samples(images, part, self.box_size, weights)
        x, y, z = (2 * np.pi / self.box_size * positions(part, self.box_size)).numpy()
        for total, values in ((self.data, data.numpy()), (self.kernel, power.to(data.dtype).numpy())):
            # A component and its mate add up to twice the real part.
            total += 2 * finufft.nufft3d1(z, y, x, values, total.shape, eps=DIRECT_TOLERANCE, isign=1).real
        return energies.numpy()

    def sums(self, nodes: NDArray[np.bool_]) -> Float64:
        """The sums that a `Grid` would have to hold for `NormalEquations` to come to these b and K."""
        edge = PADDING * self.box_size
        inner = slice(edge // 2 - self.box_size // 2, edge // 2 + self.box_size // 2)
        padded = np.zeros_like(self.kernel)
        padded[inner, inner, inner] = self.data
        data, kernel = (_untapered(volume) for volume in (padded, self.kernel))
        result = np.stack([data.real, data.imag, kernel.real])
        result[..., [0, -1]] /= 2  # where a component and its mate both stand on the half grid
        return np.stack([part[nodes] for part in result])


def samples(
    images: NDArray[np.float32], part: ParticleStack, box_size: int, weights: Weights = None
) -> tuple[Tensor, Tensor, Tensor]:
    """CTF F (n m) complex128 and CTF^2 (n m), each Friedel pair once, and the sum of |F|^2 over the disc, (n,).

    Nothing is counted at k = 0.
    """
    inside, shells = disc(box_size), _shells(box_size)
    ky, kx = half_plane_frequencies(box_size)
    once = torch.where(kx == 0, 0.5, 1.0)  # the column kx = 0 holds both of a pair
    once[0, 0] = 0  # the background of the image decides k = 0, not the molecule
    once = once[inside]
    factor = once if weights is None else once * torch.from_numpy(weights).double()[:, shells[inside]]
    transform = crop_half_plane(centred_rfft2(torch.from_numpy(images).double()), box_size)[:, inside]
    ctf, phases = transfer(part, kx[inside], ky[inside], dtype=torch.float64)
    transform *= phases
    energies = 2 * (transform.abs().square() * factor).sum(1)
    return (transform * ctf * factor).flatten(), (ctf.square() * factor).flatten(), energies


def positions(part: ParticleStack, box_size: int) -> Tensor:
    """(3, n m) x, y, z in cycles per box of the components that `samples` returns: A^T (kx, ky, 0)."""
    inside = disc(box_size)
    ky, kx = half_plane_frequencies(box_size)
    plane = torch.stack([kx[inside], ky[inside]])
    return (torch.from_numpy(part.require_poses())[:, :2].mT @ plane).transpose(0, 1).flatten(1)


def _untapered(volume: Float64) -> NDArray[np.complex128]:
    """The half grid of which `NormalEquations` makes this volume: what is not at the origin has been spread."""
    spread = taper(len(volume))
    origin = (volume * spread).mean() / spread.mean()
    grid = np.fft.rfftn(np.fft.ifftshift((volume - origin) * spread)) / len(volume) ** 3
    grid[0, 0, 0] = origin
    return grid


def taper(edge: int) -> Float64:
    """(edge, edge, edge) by which trilinear spreading multiplies a map whose origin is edge // 2."""
    sinc = np.sinc((np.arange(edge) - edge // 2) / edge) ** 2
    return sinc[:, None, None] * sinc[:, None] * sinc


def _shells(box_size: int) -> Tensor:
    ky, kx = half_plane_frequencies(box_size)
    return torch.hypot(ky, kx).round().long()


def _library() -> ctypes.CDLL | None:
    try:
        compiled = library(KERNELS / "insertion.cpp")
    except BuildError:
        return None
    compiled.inserter_new.restype = ctypes.c_void_p
    compiled.inserter_bytes.restype = ctypes.c_int64
    return compiled


def _pointer(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)
