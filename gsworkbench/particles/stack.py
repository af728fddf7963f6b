"""ParticleStack: where the images of a data set lie, and what is known about each of them.

Every reader ends here, in the units and conventions of CONVENTIONS.md, and everything else starts here. Images stay
on disk until asked for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gsworkbench.errors import InputError
from gsworkbench.particles.half_sets import deal, specimens
from gsworkbench.particles.normalisation import Normalisation
from gsworkbench.particles.random_phases import RandomPhases

Float64 = NDArray[np.float64]


def required_poses(rotations: Float64 | None, source: Path | None) -> Float64:
    """Return `rotations`, or raise InputError naming `source` if the poses are not known."""
    if rotations is None:
        raise InputError(
            "there are no orientations", file=source, remedy="reconstruction needs poses from a refinement"
        )
    return rotations


@dataclass(frozen=True)
class CtfParameters:
    """The contrast transfer function of each of n particles.

    Parameters
    ----------
    defocus_u, defocus_v : (n,) float64
        Angstrom, positive is underfocus.
    defocus_angle : (n,) float64
        Degrees, from the x axis to the direction of `defocus_u`.
    voltage_kv : (n,) float64
        Kilovolt.
    spherical_aberration_mm : (n,) float64
        Millimetre.
    amplitude_contrast : (n,) float64
        Fraction, 0 to 1.
    phase_shift : (n,) float64
        Degrees, of a phase plate.
    b_factor : (n,) float64
        Square angstrom.
    scale : (n,) float64
        Factor of the whole function.

    Notes
    -----
    The formula is that of RELION and of Rohou and Grigorieff 2015 (J. Struct. Biol. 192, 216); imaging/ctf.py
    evaluates it.

    Examples
    --------
    >>> import gsworkbench as gs
    >>> ctf = gs.read_particles("ribosome/particles.star").ctf
    >>> ctf[:2].voltage_kv
    array([300., 300.])
    """

    defocus_u: Float64  # A, positive is underfocus
    defocus_v: Float64  # A
    defocus_angle: Float64  # degrees, from x to U
    voltage_kv: Float64
    spherical_aberration_mm: Float64
    amplitude_contrast: Float64  # fraction
    phase_shift: Float64  # degrees
    b_factor: Float64  # A^2
    scale: Float64

    def __getitem__(self, indices: NDArray[np.integer] | NDArray[np.bool_] | slice) -> CtfParameters:
        return CtfParameters(*(getattr(self, f.name)[indices] for f in dataclasses.fields(self)))


@dataclass(frozen=True)
class Picks:
    """Where particles lie on their micrographs, for telling duplicates.

    micrographs : names, each once. micrograph_index : (n,) int, which of them. positions_angstrom : (n, 2) float64 x, y
    of the particles' centres, refined shifts included where the file's convention is known.
    """

    micrographs: tuple[str, ...]
    micrograph_index: NDArray[np.int64]
    positions_angstrom: Float64

    def __getitem__(self, indices: NDArray[np.integer] | NDArray[np.bool_] | slice) -> Picks:
        return Picks(self.micrographs, self.micrograph_index[indices], self.positions_angstrom[indices])


@dataclass(frozen=True)
class ParticleStack:
    """Where the images of n particles lie, and what is known about each of them.

    `read_particles` and `simulate` make one. `particles[rows]` is the stack of some rows, `particles.images()` reads
    images, `particles.with_half_sets()` assigns every particle to half set 1 or 2.

    Attributes
    ----------
    files : the image files, each once.
    file_index : (n,) int, which of `files` holds the particle.
    image_index : (n,) int, its index in that file, counted from 0.
    box_size : px, even.
    pixel_size : A.
    ctf : CtfParameters of n rows.
    rotations : (n, 3, 3) float64, left-multiply column xyz, map frame to microscope frame; None if not known.
    shifts_angstrom : (n, 2) float64 x, y; shifting an image by +shift centres it. Zero if not known.
    half_set : (n,) int8, 1 or 2; 0 where the file assigns none.
    data_sign : (n,) int8, +1 or -1: the factor that makes protein white. Applied by `images`.
    source : the metadata file that was read, for messages and for writing rows back; None for one made in memory.
    source_row : (n,) int, the row in `source`, counted from 0.
    picks : where the particles were picked; None where the file does not say.
    optics_group : (n,) int64, the optics group of each particle; None where the file has no groups.
    unit : (n,) int64, particles with the same number are one specimen (a filament, the tilt images of one particle), so
        that they belong into one half set; None where every image is a specimen of its own.
    normalisation : what `images` does to backgrounds, hot pixels and noise; None to leave images as the files hold
        them. The scale of the CTF is that of the images as `images` gives them.
    class_number : (n,) int64, the class of each particle as its file numbers it; None where the file has no classes.
    norm_correction : (n,) float64, RELION's rlnNormCorrection, which is shown and not applied; None if not known.
    notes : sentences that the reader wants the user to see.
    random_phases : how `images` replaces phases beyond a resolution, None to leave them as they are.
    also_read : files beside `source` that poses, CTF, rows or fields came from.

    Examples
    --------
    >>> import gsworkbench as gs
    >>> particles = gs.read_particles("ribosome/particles.star")
    >>> particles.rotations.shape, particles.shifts_angstrom.shape
    ((40, 3, 3), (40, 2))
    >>> len(particles[particles.half_set == 1])
    20
    """

    files: tuple[Path, ...]
    file_index: NDArray[np.int64]
    image_index: NDArray[np.int64]
    box_size: int
    pixel_size: float
    ctf: CtfParameters
    rotations: Float64 | None
    shifts_angstrom: Float64
    half_set: NDArray[np.int8]
    data_sign: NDArray[np.int8]
    source: Path | None
    source_row: NDArray[np.int64]
    picks: Picks | None = None
    optics_group: NDArray[np.int64] | None = None
    unit: NDArray[np.int64] | None = None
    normalisation: Normalisation | None = None
    class_number: NDArray[np.int64] | None = None
    norm_correction: Float64 | None = None
    notes: tuple[str, ...] = ()
    random_phases: RandomPhases | None = None
    also_read: tuple[Path, ...] = ()

    def __len__(self) -> int:
        return len(self.image_index)

    def __getitem__(self, indices: NDArray[np.integer] | NDArray[np.bool_] | slice) -> ParticleStack:
        """Return the stack of the chosen particles, in the order asked for."""
        return dataclasses.replace(
            self,
            file_index=self.file_index[indices],
            image_index=self.image_index[indices],
            ctf=self.ctf[indices],
            rotations=None if self.rotations is None else self.rotations[indices],
            shifts_angstrom=self.shifts_angstrom[indices],
            half_set=self.half_set[indices],
            data_sign=self.data_sign[indices],
            source_row=self.source_row[indices],
            picks=None if self.picks is None else self.picks[indices],
            optics_group=None if self.optics_group is None else self.optics_group[indices],
            unit=None if self.unit is None else self.unit[indices],
            normalisation=None if self.normalisation is None else self.normalisation[indices],
            class_number=None if self.class_number is None else self.class_number[indices],
            norm_correction=None if self.norm_correction is None else self.norm_correction[indices],
        )

    def images(self, indices: NDArray[np.integer] | slice | None = None) -> NDArray[np.float32]:
        """Read images, (m, box_size, box_size) float32, white protein, in the order asked for.

        Pixels that are NaN or infinite raise InputError naming the file and the image.
        """
        rows = np.arange(len(self))[slice(None) if indices is None else indices]
        result = self._read(rows, warn=True)
        if self.normalisation is not None:
            result = self.normalisation[rows].apply(result)
        result *= self.data_sign[rows, None, None]
        if self.random_phases is not None:
            for i, row in enumerate(rows):
                which = int(self.file_index[row]), int(self.image_index[row])
                result[i] = self.random_phases.replace(result[i], *which, self.pixel_size)
        return result

    def raw_images(self, rows: NDArray[np.integer]) -> NDArray[np.float32]:
        """Read images, (m, box_size, box_size) float32, as the files hold them, in the order asked for.

        Blank ones raise no warning: whoever looks at images as they are counts them.
        """
        return self._read(rows, warn=False)

    def _read(self, rows: NDArray[np.integer], *, warn: bool) -> NDArray[np.float32]:
        from gsworkbench.io.mrc import read_images

        result = np.empty((len(rows), self.box_size, self.box_size), np.float32)
        for file in np.unique(self.file_index[rows]):
            here = np.flatnonzero(self.file_index[rows] == file)
            result[here] = read_images(self.files[file], self.image_index[rows[here]], warn_of_blank=warn)
        return result

    def chunks(
        self, max_bytes: int = 2**28, *, raw: bool = False
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Yield (indices, images) over all particles once, at most `max_bytes` of images at a time.

        raw : whether to take images as the files hold them, and not as `images` gives them.

        Particles come sorted by file and by place in the file, so that disks read forwards, and the system reads the
        next ones while these are worked on; `indices` are their rows in this stack.
        """
        order = np.lexsort((self.image_index, self.file_index))
        step = max(1, max_bytes // (4 * self.box_size**2))
        for start in range(0, len(order), step):
            indices = order[start : start + step]
            images = self.raw_images(indices) if raw else self.images(indices)
            self._announce(order[start + step : start + 2 * step])
            yield indices, images

    def _announce(self, rows: NDArray[np.int64]) -> None:
        """Say that the images of these rows will be read next."""
        from gsworkbench.io.mrc import announce_images

        for file in np.unique(self.file_index[rows]):
            announce_images(self.files[file], self.image_index[rows[self.file_index[rows] == file]])

    def with_random_phases(self, beyond_angstrom: float, seed: int) -> ParticleStack:
        """Return the stack whose images have random phases beyond a resolution: noise substitution."""
        phases = RandomPhases(beyond_angstrom, seed)
        phases.check(self.box_size, self.pixel_size)
        return dataclasses.replace(self, random_phases=phases)

    def with_half_sets(self, seed: int = 0) -> ParticleStack:
        """Return the stack with every particle in half set 1 or 2.

        Half sets of the file are used as they are. Where it has none, specimens are dealt at random in equal numbers of
        particles: rows of one image, and rows of one `unit`, come into one half. Some assigned and some not, or one
        half empty, raises InputError.
        """
        counts = np.bincount(self.half_set, minlength=3)
        if counts[0] == len(self):
            dealt = deal(self.specimens(), seed)
            if dealt is None:
                problem = "one particle" if len(self) < 2 else f"{len(self):,} rows of one image, filament or particle"
                raise InputError(f"{problem} cannot be split into two half sets", file=self.source)
            return dataclasses.replace(self, half_set=dealt)
        if counts[0] or not counts[1] or not counts[2]:
            raise InputError(
                f"half sets are unusable: {counts[1]} particles in 1, {counts[2]} in 2, {counts[0]} in neither",
                file=self.source,
                row=int(self.source_row[np.flatnonzero(self.half_set == 0)[0]]) + 1 if counts[0] else None,
                remedy="assign every particle to 1 or 2, or remove the column to have them dealt at random",
            )
        return self

    def specimens(self) -> NDArray[np.int64]:
        """(n,) a number for each particle, the same for those that are not independent: of one image or one `unit`."""
        return specimens(self.file_index, self.image_index, self.unit)

    def require_poses(self) -> Float64:
        """Return `rotations`, or raise InputError if the poses are not known."""
        return required_poses(self.rotations, self.source)
