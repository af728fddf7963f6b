"""The squared error of a map against all particles, from one pass over them: <V, K * V> - 2 <b, V> + energy.

With poses and CTF known, particles y_i (centred, inside 0 < |k| < D/2) enter the squared error of a map V,

    sum_i |C_i P_i V - y_i|^2 = <V, K * V> - 2 <b, V> + energy,   b = sum_i P_i^T C_i y_i,   K of sum_i P_i^T C_i^2 P_i,

through b, the convolution kernel K and a constant alone. Norms of images are sums over pixels, inner products of maps
sums over voxels; P_i V is the line integral (pixel_size times a sum along the ray, as simulate.project), so V is in
image units / A. All three are sums over particles: those of half sets, parts and files add up to those of the whole,
bit for bit. Not valid where poses or CTF are being refined, or where particles differ in structure.

Gridding against exact sums (1,500 particles of 64^2 at SNR 0.1; relative norms): <b, V> and <V, K * V> of a molecule
inside 0.4 D 2e-4; b voxel by voxel 2e-3 inside 0.25 D and 7e-3 inside 0.4 D, where noise from beyond the box folds in;
K 7e-3 at lags within 0.5 D, 5e-2 within 0.8 D. Its longest lags are the worst: prefer the circular kernel, which cuts
them off, to the padded one, unless sums were made by finufft.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gsworkbench.errors import InputError
from gsworkbench.io.files import sha256
from gsworkbench.io.mrc import read_images, stack_shape
from gsworkbench.normal_equations.insertion import PADDING, Direct, Float64, Grid
from gsworkbench.normal_equations.sums_format import SumsOfSet, nodes, read_header, read_sums, write_sums
from gsworkbench.particles.image_sample import sample
from gsworkbench.particles.stack import ParticleStack
from gsworkbench.system import distributed
from gsworkbench.system.progress import progress

ENGINES = ("gridding", "finufft")
CHUNK_BYTES = 2**22  # of images read at a time: memory that stays in the cache and is used again
CHECKPOINT_SECONDS = 60.0
COLUMNS = 16  # of a grid, transformed at a time
LARGEST_BOX = 800  # cells of the grid are numbered by 32 bits
_EXACT = 2.0**53  # quanta that float64 counts without a gap
# What two sets in one file have in common.
_SHARED = (
    *("box_size", "pixel_size", "half_set", "data_sign", "engine", "weighted", "normalised", "phases"),
    *("density_unit", "sources"),
)
_LEAST_NOISE = 1e-4
_LEVEL_IMAGES = 100  # of the first file, whose median says how large pixels are


@dataclass(frozen=True)
class NormalEquations:
    """Sums over n particles that hold everything about them that a fit of a map needs.

    The squared error of a map V against all particles is <V, K * V> - 2 <b, V> + energy; `b()`, `kernel()` and `energy`
    give the three terms. Sums of disjoint particles can be added with `+`. `save` and `load` keep them in a file.

    Attributes
    ----------
    grid_sums : (3, m) float64: real and imaginary part of the sum of CTF times centred transform, and the sum of CTF^2,
        at m nodes (`sums_format.nodes`) of the half grid (2 D, 2 D, D + 1) of the padded box, origin at node 0. A
        Friedel pair stands at x >= 0 only, once.
    box_size, pixel_size : D and A of the map.
    energy_sum, noise_sum : sums over particles of the power inside the disc, and of the noise power of one component.
    data_quantum, ctf_quantum : powers of two that the sums are multiples of; 0 for sums that are not exact.
    particles : (n,) uint64, sorted: the identity of each particle (image content, index, pose), if it has one.
    half_set : 1 or 2 if all particles are of that half set, else 0.
    data_sign : the factor applied to all images, +1 or -1; 0 if there are both.
    engine : "gridding", or "finufft", whose sums are exact to its tolerance but not repeatable to the bit.
    weighted : whether noise spectra divided the data; the noise of a component is then that of a unit spectrum.
    normalised : whether the images were normalised (ParticleStack.normalisation), to noise of standard deviation 1.
    phases : what was done to the images' phases, in words (ParticleStack.random_phases).
    sources : SHA-256 of the metadata files and noise spectra that went in.
    images : a sample of the images that went in (particles/image_sample.py).
    density_unit : the factor that brings maps made of these sums to the units of the image files / A
        (ParticleStack.normalisation); None where it is not known.
    unnamed : how many particles have no identity, because the file that they came from left it out.

    Examples
    --------
    >>> import gsworkbench as gs
    >>> particles = gs.read_particles("ribosome/particles.star")
    >>> both = gs.accumulate(particles[:20]) + gs.accumulate(particles[20:])
    >>> both.n_particles, tuple(both.b().shape)
    (40, (32, 32, 32))
    """

    grid_sums: Float64
    box_size: int
    pixel_size: float
    energy_sum: float
    noise_sum: float
    data_quantum: float
    ctf_quantum: float
    particles: NDArray[np.uint64]
    half_set: int
    data_sign: int
    engine: str
    weighted: bool
    normalised: bool
    phases: str
    sources: tuple[str, ...]
    images: tuple[int, ...] = ()
    density_unit: float | None = None
    unnamed: int = 0

    @property
    def n_particles(self) -> int:
        return len(self.particles) + self.unnamed

    @property
    def energy(self) -> float:
        """sum_i |y_i|^2 over pixels, of what lies inside |k| < D/2."""
        return self.energy_sum / self.box_size**2

    @property
    def noise_power(self) -> float:
        """Mean power of the noise of one component of a transform of D^2 pixels: D^2 times the variance of a pixel.

        At least _LEAST_NOISE of the mean power of a component: noise-free images would leave nothing to divide by.
        """
        components = math.pi * self.box_size**2 / 4
        return max(self.noise_sum, _LEAST_NOISE * self.energy_sum / components) / max(self.n_particles, 1)

    def b(self) -> Tensor:
        """(D, D, D) float64, origin D // 2: <b, V> = sum_i <y_i, C_i P_i V>."""
        return self.pixel_size * self._voxels(self.grid_sums[:2], torch.arange(self.box_size) - self.box_size // 2)

    def kernel(self, *, circular: bool) -> Tensor:
        """Transfer function of K, real float64, as rfftn lays it out: <V, K * V> = sum_i |C_i P_i V|^2.

        circular : (D, D, D // 2 + 1), K cut at lags of D/2: V may fill half the box, or else wraps round a little.
        Otherwise (2 D, 2 D, D + 1), K at all lags, for V padded to twice the box.
        """
        lags = torch.arange(self.box_size if circular else PADDING * self.box_size)
        lags[len(lags) // 2 :] -= len(lags)
        kernel = self.pixel_size**2 * self._voxels(self.grid_sums[2:], lags)
        if not circular:  # no two voxels are D apart
            kernel[self.box_size] = kernel[:, self.box_size] = kernel[:, :, self.box_size] = 0
        return torch.fft.rfftn(kernel).real

    def __add__(self, other: NormalEquations) -> NormalEquations:
        """The sums over both. A particle in both, or another box, pixel size, sign or engine, raises InputError."""
        return self._with(other)

    def _with(self, other: NormalEquations, out: Float64 | None = None) -> NormalEquations:
        """The sums over both, the array of them in `out` where one is given."""
        self.require_addable(other)
        total = dataclasses.replace(
            self,
            grid_sums=np.add(self.grid_sums, other.grid_sums, out=out),
            energy_sum=self.energy_sum + other.energy_sum,
            noise_sum=self.noise_sum + other.noise_sum,
            data_quantum=min(self.data_quantum, other.data_quantum),
            ctf_quantum=min(self.ctf_quantum, other.ctf_quantum),
            particles=np.sort(np.concatenate([self.particles, other.particles])),
            half_set=self.half_set if self.half_set == other.half_set else 0,
            sources=tuple(sorted({*self.sources, *other.sources})),
            images=sample((*self.images, *other.images)),
            density_unit=self._unit_with(other),
            unnamed=self.unnamed + other.unnamed,
        )
        return total._checked()

    def _unit_with(self, other: NormalEquations) -> float | None:
        """The unit of both together: a power of two; where data sets differ in it, that of the greater."""
        known = [(part.n_particles, part.density_unit) for part in (self, other) if part.density_unit is not None]
        return max(known)[1] if known else None

    def require_addable(self, other: NormalEquations) -> None:
        """Raise InputError for sums of another box, pixel size, sign or engine, and for a particle that is in both."""
        for name in ("box_size", "pixel_size", "data_sign", "engine", "weighted", "normalised", "phases"):
            if getattr(self, name) != getattr(other, name):
                raise InputError(
                    f"these sums cannot be added: {name} is {getattr(self, name)} here and {getattr(other, name)} there"
                )
        both = np.intersect1d(self.particles, other.particles)
        if len(both):
            raise InputError(
                f"{len(both):,} particles are counted in both sums", remedy="add parts without common particles"
            )

    def save(
        self,
        path: str | Path,
        *,
        held_out: NormalEquations | None = None,
        identities: bool = True,
        single: bool = False,
    ) -> None:
        """Write a .npz file, atomically; `load` and `load_pair` read it, and docs/reference/sums.md describes it.

        held_out : sums over other particles of the same half set, which a fit is tested on, in the same file.
        identities : False leaves out the identities of particles and the sample of their images; nobody can then tell
        from the file whether a particle is also in another. single : float32, half the size, exact no longer.
        """
        if held_out is not None:
            self.require_addable(held_out)
        shared = {name: getattr(self, name) for name in _SHARED}
        if held_out is not None:
            shared["sources"] = tuple(sorted({*self.sources, *held_out.sources}))
        sets = [part._as_set() for part in (self, held_out) if part is not None]
        write_sums(path, shared, sets, identities=identities, single=single)

    @staticmethod
    def load(path: str | Path, *, half_set: int | None = None) -> NormalEquations:
        """Read the sums over all particles of a file of `save`, held-out ones included.

        A file that is damaged, of a version not known or not of `half_set` raises InputError.
        """
        train, test = NormalEquations.load_pair(path, half_set=half_set)
        return train if test is None else train._with(test, out=train.grid_sums)

    @staticmethod
    def load_pair(path: str | Path, *, half_set: int | None = None) -> tuple[NormalEquations, NormalEquations | None]:
        """Read the sums of a file without the held-out particles, and of these, None where it has none."""
        shared, sets = read_sums(path)
        try:
            train, *rest = (NormalEquations._of_set(shared, of_set) for of_set in sets)
            for other in rest:
                train.require_addable(other)
        except Exception as error:  # entries of the header that are missing, or no numbers
            raise InputError(
                "not a file of sums, or a damaged one", file=path, remedy="accumulate them again"
            ) from error
        if half_set is not None and train.half_set != half_set:
            found = f"half set {train.half_set}" if train.half_set else "no single half set"
            raise InputError(f"the sums are of {found}, not of half set {half_set}", file=path)
        return train, rest[0] if rest else None

    @staticmethod
    def load_all(paths: Sequence[str | Path]) -> NormalEquations:
        """Read and add up the files of parts, in the memory of two of them.

        What `load` refuses, and parts that do not add up, raise InputError.
        """
        total = NormalEquations.load(paths[0])
        for path in paths[1:]:
            total = total.plus(NormalEquations.load(path), path)
        return total

    def plus(self, other: NormalEquations, path: str | Path) -> NormalEquations:
        """Add `other`, of the file `path`, in the memory of these sums; what cannot be added raises InputError."""
        try:
            return self._with(other, out=self.grid_sums)
        except InputError as error:
            raise InputError(error.problem, file=path, remedy=error.remedy) from error

    def _as_set(self) -> SumsOfSet:
        names = ("n_particles", "energy_sum", "noise_sum", "data_quantum", "ctf_quantum", "images")
        return SumsOfSet(self.grid_sums, self.particles, {name: getattr(self, name) for name in names})

    @staticmethod
    def _of_set(shared: dict[str, Any], of_set: SumsOfSet) -> NormalEquations:
        numbers = of_set.numbers
        entries = {name: shared[name] for name in _SHARED}
        unit = entries["density_unit"]
        entries |= {
            "box_size": int(entries["box_size"]),
            "pixel_size": float(entries["pixel_size"]),
            "density_unit": None if unit is None else float(unit),
            "sources": tuple(map(str, entries["sources"])),
        }
        if not entries["pixel_size"] > 0 or entries["half_set"] not in (0, 1, 2):
            raise ValueError("a pixel size above 0, and half set 0, 1 or 2")
        return NormalEquations(
            grid_sums=of_set.grid_sums,
            energy_sum=numbers["energy_sum"],
            noise_sum=numbers["noise_sum"],
            data_quantum=float(numbers.get("data_quantum", 0.0)),
            ctf_quantum=float(numbers.get("ctf_quantum", 0.0)),
            particles=of_set.particles,
            unnamed=int(numbers["n_particles"]) - len(of_set.particles),
            images=sample(map(int, numbers.get("images", ()))),
            **entries,
        )

    def _voxels(self, parts: Float64, places: Tensor) -> Tensor:
        """Voxels at `places` along each axis, of sums on the padded half grid: real and imaginary part, or a real one.

        The planes x = 0 and Nyquist are made Hermitian, as of a pair one alone was inserted. The node at the origin
        holds the components k = 0 and no others: they fall on it. All else was spread over nodes, which is undone.
        Columns are transformed a few at a time, so that there is little in memory beside the sums.
        """
        edge = PADDING * self.box_size
        mate = (-torch.arange(edge)) % edge
        kept = nodes(self.box_size, self.engine)
        grids = np.zeros((len(parts), *kept.shape))
        for grid_part, part in zip(grids, parts, strict=True):
            grid_part[kept] = part
        volume = torch.empty(len(places), len(places), self.box_size + 1, dtype=torch.complex128)
        for start in range(0, self.box_size + 1, COLUMNS):
            columns = range(self.box_size + 1)[start : start + COLUMNS]
            block = torch.from_numpy(grids[..., columns.start : columns.stop]).movedim(3, 1)
            grid = torch.complex(block[0], block[1] if len(block) == 2 else torch.zeros_like(block[0]))
            for x in {0, self.box_size}.intersection(columns):
                grid[x - start] += grid[x - start, mate][:, mate].conj()
            if start == 0:
                origin = float(grid[0, 0, 0].real)
                grid[0, 0, 0] = 0
            rows = torch.fft.ifft(grid, dim=1)[:, places]
            volume[:, :, columns.start : columns.stop] = torch.fft.ifft(rows, dim=2)[:, :, places].movedim(0, 2)
        result = torch.fft.irfft(volume, n=edge, dim=2)[:, :, places]
        spread = torch.sinc(places.double() / edge) ** 2
        result *= edge**3 / (spread[:, None, None] * spread[:, None] * spread)
        return (result + origin) / self.box_size**2  # a sum over pixels is one over components / D^2

    def _checked(self) -> NormalEquations:
        if not (self.data_quantum and self.ctf_quantum):
            return self
        real, imaginary, power = (max(part.max(), -part.min()) for part in self.grid_sums)
        largest = max(real / self.data_quantum, imaginary / self.data_quantum, power / self.ctf_quantum)
        if not largest < _EXACT:
            raise InputError(
                f"{self.n_particles:,} particles of these values are too many to add up exactly",
                remedy="normalise the images to noise of standard deviation 1",
            )
        return self


def sample_of(path: str | Path) -> tuple[int, tuple[int, ...]]:
    """Return the half set and the sample of images of a file that `load` read before, without reading its sums."""
    header = read_header(path)
    sets = (header.get(name, {}) for name in ("training", "held_out"))
    return int(header["half_set"]), sample(int(number) for of_set in sets for number in of_set.get("images", ()))


def accumulate(
    stack: ParticleStack,
    *,
    box_size: int | None = None,
    engine: str = "gridding",
    noise_spectrum: NDArray[np.floating] | None = None,
    threads: int | None = None,
    chunk_bytes: int = CHUNK_BYTES,
    checkpoint: Path | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    resume: bool = False,
    label: str = "accumulate",
) -> NormalEquations:
    """Add up the normal equations of all particles of a stack, reading each image once.

    The memory needed is that of the padded grids and of one chunk of images. With gridding, the same particles give the
    same bits whatever the chunks, their order, the number of threads and interruptions.

    Parameters
    ----------
    stack : ParticleStack
        Particles with poses.
    box_size : int, optional
        Even number of voxels along each side of the map. By default that of the images.
    engine : {"gridding", "finufft"}
        "finufft" is exact to 1e-9 and many times slower.
    noise_spectrum : (D / 2 + 1,) or (n, D / 2 + 1) array, optional
        Noise power per pixel in each shell, for all particles or for each. Data and squared CTF are divided by it, so
        that the error is that of the likelihood. By default the noise is white.
    threads : int, optional
        By default those of torch.
    chunk_bytes : int
        Bytes of images read at a time.
    checkpoint : Path, optional
        A file to which the sums so far are written every `checkpoint_seconds`. It stays at the end.
    checkpoint_seconds : float
        Seconds between checkpoints.
    resume : bool
        Continue from `checkpoint` if it exists.
    label : str
        Name in the progress bar.

    Returns
    -------
    NormalEquations
        Under torchrun each process reads a share of the particles, and all return the sums over all particles, the
        same bits for any number of processes. The checkpoint is that of the first process's share.

    Raises
    ------
    InputError
        If the particles have no poses, an image cannot be read, the engine is unknown, or the checkpoint is that of
        other particles.

    Examples
    --------
    >>> import gsworkbench as gs
    >>> equations = gs.accumulate(gs.read_particles("ribosome/particles.star"))
    >>> equations.n_particles, tuple(equations.kernel(circular=True).shape)
    (40, (32, 32, 17))
    """
    if engine not in ENGINES:
        raise InputError(f"there is no engine {engine!r}", remedy=f"use one of {', '.join(ENGINES)}")
    weights = None if noise_spectrum is None else _weights(noise_spectrum, len(stack), box_size or stack.box_size)
    empty = _empty(stack, box_size or stack.box_size, engine, noise_spectrum)
    identities = _identities(stack)
    done = empty
    if resume and checkpoint is not None and checkpoint.exists():
        done = NormalEquations.load(checkpoint)
        _check_resumable(done, empty, identities, checkpoint)
        distributed.wait()  # the first process must not write it anew before all have read it
    missing = np.flatnonzero(~np.isin(identities, done.particles))
    if len(done.particles) and not len(missing):
        return done
    todo = distributed.share(missing)
    pass_ = _Pass(empty, stack[todo], identities[todo], None if weights is None else weights[todo], threads)

    def total() -> NormalEquations:
        return done + pass_.result() if len(done.particles) else pass_.result()

    saved = time.monotonic()
    with progress(label, len(todo), unit="img") as meter:
        for indices, images in pass_.stack.chunks(chunk_bytes):
            pass_.add(indices, images)
            meter.advance(len(indices))
            if checkpoint is not None and distributed.is_first() and time.monotonic() - saved > checkpoint_seconds:
                total().save(checkpoint)
                saved = time.monotonic()
    whole = _added_up(pass_.result(), identities[missing])
    return done + whole if len(done.particles) else whole


def _added_up(own: NormalEquations, particles: NDArray[np.uint64]) -> NormalEquations:
    """The sums over the shares of all processes, of `particles` together; exact, as all sums here."""
    numbers = torch.tensor([own.energy_sum, own.noise_sum], dtype=torch.float64)
    distributed.add_up([torch.from_numpy(own.grid_sums), numbers])
    energy, noise = numbers.tolist()
    return dataclasses.replace(own, energy_sum=energy, noise_sum=noise, particles=np.sort(particles))._checked()


class _Pass:
    """One pass over a stack: the grid, and what is summed up beside it. Rows count in `stack`."""

    def __init__(
        self,
        empty: NormalEquations,
        stack: ParticleStack,
        identities: NDArray[np.uint64],
        weights: NDArray[np.float32] | None,
        threads: int | None,
    ) -> None:
        self.empty, self.stack, self.identities, self.weights = empty, stack, identities, weights
        self.summed: list[NDArray[np.int64]] = []
        self.energy_sum = self.noise_sum = 0.0
        quanta = empty.data_quantum, empty.ctf_quantum
        self.engine = (
            Direct(empty.box_size)
            if empty.engine == "finufft"
            else Grid(empty.box_size, *quanta, threads=threads or torch.get_num_threads())
        )

    def add(self, indices: NDArray[np.int64], images: NDArray[np.float32]) -> None:
        weights = None if self.weights is None else self.weights[indices]
        energies = self.engine.add(images, self.stack[indices], weights)
        box_size = self.empty.box_size
        noises = self._noise(images) * (box_size**4 / self.stack.box_size**2)
        if self.weights is not None:
            noises[:] = box_size**2
        quantum = 2.0**4 * self.empty.data_quantum**2 / self.empty.ctf_quantum
        self.energy_sum += _rounded(energies, quantum)
        self.noise_sum += _rounded(noises, 2.0**-16 * quantum)
        self.summed.append(indices)

    def _noise(self, images: NDArray[np.float32]) -> Float64:
        """(n,) variance of a pixel's noise: known of normalised images, else measured at the border."""
        if self.stack.normalisation is None:
            return _border_variance(images)
        return np.full(len(images), self.stack.normalisation.noise**2)

    def result(self) -> NormalEquations:
        indices = np.concatenate([np.empty(0, np.int64), *self.summed])
        return dataclasses.replace(
            self.empty,
            grid_sums=self.engine.sums(nodes(self.empty.box_size, self.empty.engine)),
            energy_sum=self.energy_sum,
            noise_sum=self.noise_sum,
            particles=np.sort(self.identities[indices]),
        )._checked()


def _empty(
    stack: ParticleStack, box_size: int, engine: str, noise_spectrum: NDArray[np.floating] | None = None
) -> NormalEquations:
    """What the sums over these particles will be of, and their quanta, before any particle is in.

    The quanta follow from the root mean square of the images: of normalised ones as their normalisation has it, else
    the median of some images spread over the first file, so that every part of a data set has the same. 2^-20 of the
    noise of a transform's component, and 2^-24 of the largest CTF^2, leave room for 2^20 particles or more.
    """
    if box_size % 2 or not 0 < box_size <= min(stack.box_size, LARGEST_BOX):
        largest = min(stack.box_size, LARGEST_BOX)
        raise InputError(
            f"a box of {box_size} px cannot be accumulated", remedy=f"choose an even one of at most {largest}"
        )
    level = _level(stack)
    weighted = noise_spectrum is not None
    sources = [] if stack.source is None else [sha256(stack.source)]
    if noise_spectrum is not None:
        sources.append(hashlib.sha256(np.ascontiguousarray(noise_spectrum, np.float64).tobytes()).hexdigest())
    signs = np.unique(stack.data_sign)
    halves = np.unique(stack.half_set)
    return NormalEquations(
        grid_sums=np.zeros((3, 0)),
        box_size=box_size,
        pixel_size=stack.pixel_size * stack.box_size / box_size,
        energy_sum=0.0,
        noise_sum=0.0,
        data_quantum=2.0**-20 * _power_of_two(box_size) * (1 / level if weighted else level),
        ctf_quantum=2.0**-24 * (level**-2 if weighted else 1),
        particles=np.empty(0, np.uint64),
        half_set=int(halves[0]) if len(halves) == 1 else 0,
        data_sign=int(signs[0]) if len(signs) == 1 else 0,
        engine=engine,
        weighted=weighted,
        normalised=stack.normalisation is not None,
        phases="as they are" if stack.random_phases is None else str(stack.random_phases),
        density_unit=1.0 if stack.normalisation is None else stack.normalisation.unit,
        sources=tuple(sorted(sources)),
        images=sample(_image_numbers(stack)),
    )


def _level(stack: ParticleStack) -> float:
    """A power of two near the root mean square of the images."""
    if stack.normalisation is not None:
        return stack.normalisation.level
    n = stack_shape(stack.files[0])[0]
    chosen = np.unique(np.linspace(0, n - 1, _LEVEL_IMAGES).astype(np.int64))
    size = np.sqrt(np.square(read_images(stack.files[0], chosen).astype(np.float64)).mean((1, 2)))
    size = size[size > 0]
    return _power_of_two(float(np.median(size))) if len(size) else 1.0


def _image_numbers(stack: ParticleStack) -> NDArray[np.uint64]:
    """(n,) a number for each particle's image, of its file (name, size and beginning) and its place in it."""
    files = np.zeros(len(stack.files), np.uint64)
    for i in np.unique(stack.file_index):
        with open(stack.files[i], "rb") as file:
            start = file.read(2**16)
        name = os.fsencode(f"{stack.files[i].name} {stack.files[i].stat().st_size}")  # not all names are UTF-8
        files[i] = int.from_bytes(hashlib.blake2b(name + start, digest_size=8).digest(), "little")
    return _mixed(files[stack.file_index] ^ _mixed(stack.image_index.astype(np.uint64)))


def _identities(stack: ParticleStack) -> NDArray[np.uint64]:
    """(n,) a number for each particle, of its image (name, size and beginning of its file, index) and its pose.

    The same image may stand for several particles, as in a symmetry-expanded set, but not in the same pose.
    """
    identities = _image_numbers(stack)
    for column in np.ascontiguousarray(stack.require_poses()).view(np.uint64).reshape(-1, 9).T:
        identities = _mixed(identities ^ column)
    order = np.argsort(identities, kind="stable")
    twice = np.flatnonzero(identities[order][1:] == identities[order][:-1])
    if len(twice):
        row = int(stack.source_row[order[twice[0] + 1]]) + 1
        first = int(stack.source_row[order[twice[0]]]) + 1
        raise InputError(
            f"the particle is the same as in row {first}", file=stack.source, row=row, remedy="list each particle once"
        )
    return identities


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Steele, Lea and Flood's splitmix64: every bit of the result depends on every bit of x."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _check_resumable(
    done: NormalEquations, empty: NormalEquations, identities: NDArray[np.uint64], checkpoint: Path
) -> None:
    settings = (
        "box_size",
        "pixel_size",
        "half_set",
        "data_sign",
        "engine",
        "weighted",
        "normalised",
        "phases",
        "sources",
    )
    same = all(getattr(done, name) == getattr(empty, name) for name in (*settings, "data_quantum", "ctf_quantum"))
    if not same or not np.isin(done.particles, identities).all():
        raise InputError(
            "this checkpoint was written with other particles or settings",
            file=checkpoint,
            remedy="repeat the command as it was, or delete the checkpoint to start anew",
        )


def _weights(spectrum: NDArray[np.floating], n: int, box_size: int) -> NDArray[np.float32]:
    """(n, D / 2 + 1) one over the noise's power."""
    shape = (n, box_size // 2 + 1)
    if spectrum.shape not in (shape, shape[1:]):
        raise InputError(
            f"a noise spectrum of shape {spectrum.shape} does not fit {n} particles of {box_size} px",
            remedy=f"give one power for each shell from 0 to {box_size // 2}",
        )
    if not np.isfinite(spectrum).all() or (spectrum <= 0).any():
        raise InputError("a noise spectrum must be finite and above 0 in every shell")
    return np.broadcast_to(1 / spectrum, shape).astype(np.float32)


def _border_variance(images: NDArray[np.float32]) -> Float64:
    """(n,) variance of the pixels outside the inscribed circle, where particles seldom reach: the noise."""
    box_size = images.shape[-1]
    axis = np.arange(box_size) - box_size // 2
    outside = np.flatnonzero(axis[:, None] ** 2 + axis**2 >= (box_size / 2) ** 2)
    return images.reshape(len(images), -1)[:, outside].var(axis=1).astype(np.float64)


def _rounded(values: Float64, quantum: float) -> float:
    """Sum of values rounded to multiples of a power of two: exact, whatever their order."""
    return float(np.rint(values / quantum).sum() * quantum)


def _power_of_two(value: float) -> float:
    """The least power of two that is not below a value; 1 for one that has none."""
    return 2.0 ** math.ceil(math.log2(value)) if 0 < value < math.inf else 1.0
