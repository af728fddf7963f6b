"""Maps made again from files of sums, without the particles: what a deposit holds, and the task that it makes.

A deposit is one file of sums for each half set, which `reconstruct --keep-sums` or `accumulate` writes. It takes the
place of the particles for the methods that work on sums; they then do what they would do with the particles.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gsworkbench.errors import InputError
from gsworkbench.methods.linear_half_maps import linear_map
from gsworkbench.methods.part import ALL, HALVES, Part
from gsworkbench.methods.reconstruction_config import ReconstructionConfig
from gsworkbench.methods.task import PartSums, Task, fit_device
from gsworkbench.normal_equations.equations import NormalEquations, sample_of
from gsworkbench.normal_equations.sums_format import read_header
from gsworkbench.particles.image_sample import shared_by_halves
from gsworkbench.particles.normalisation import Normalisation
from gsworkbench.particles.stack import CtfParameters, ParticleStack
from gsworkbench.system.provenance import RunRecord

KEPT = ("sums_half1.npz", "sums_half2.npz")  # in the folder of `reconstruct --keep-sums`
METHODS_OF_SUMS = ("one-pass", "voxels", "backprojection")
FILTERS_OF_SUMS = ("wiener", "none")  # of backprojection; the others measure halves of the particles
_MUST_AGREE = ("box_size", "pixel_size", "data_sign", "engine", "weighted", "normalised", "phases")


class SumsOnDisk(Mapping[Part, tuple[NormalEquations, NormalEquations | None]]):
    """The sums of each part, read when they are asked for; those of all particles add up from the half sets.

    files : of both half sets, or of all particles alone.
    """

    def __init__(self, files: dict[Part, Path]) -> None:
        self.files = files

    def __getitem__(self, part: Part) -> tuple[NormalEquations, NormalEquations | None]:
        if part in self.files:
            return NormalEquations.load_pair(self.files[part], half_set=part.half_set or None)
        if part != ALL:
            raise KeyError(part)
        (train, test), (train_2, test_2) = (self[half] for half in HALVES)
        file = self.files[HALVES[1]]
        whole = train.plus(train_2, file)
        return whole, None if test is None or test_2 is None else test.plus(test_2, file)

    def __iter__(self) -> Iterator[Part]:
        return iter(dict.fromkeys((ALL, *self.files)))

    def __len__(self) -> int:
        return len({ALL, *self.files})


@dataclass(frozen=True)
class Deposit:
    """Files of sums in place of particles.

    files : of half sets 1 and 2, or one of all particles. header : what all of them say. n_particles : of each part.
    stack : without any row, with box, pixel size and unit. notes : sentences on what the files do not tell.
    """

    files: tuple[Path, ...]
    header: dict[str, Any]
    n_particles: dict[str, int]
    stack: ParticleStack
    notes: tuple[str, ...]

    @property
    def unit(self) -> float:
        """What brings maps of the sums to image units / A."""
        return 1.0 if self.stack.normalisation is None else self.stack.normalisation.unit

    @property
    def sums(self) -> PartSums:
        """The sums of each part, read from the files when they are asked for."""
        parts = HALVES if len(self.files) == len(HALVES) else (ALL,)
        return SumsOnDisk(dict(zip(parts, self.files, strict=True)))

    def task(self, config: ReconstructionConfig, record: RunRecord) -> Task:
        """Return the task of these sums. A method or a setting that needs the particles raises InputError."""
        require_sums_suffice(config)
        parts = [ALL, *HALVES] if config.half_maps else [ALL]
        if config.half_maps and len(self.files) != len(HALVES):
            raise InputError("half maps need a file of sums for each half set", file=self.files[0])
        if config.method == "one-pass" and "held_out" not in self.header:
            record.warnings.append("the sums hold no held-out particles: the mixture is fitted without a background")
        record.n_particles |= {part.label: self.n_particles[part.label] for part in parts}
        record.seeds |= {part.label: part.seed(config.seed) for part in parts}
        device = fit_device(config)
        record.device = str(device)
        stacks = dict.fromkeys(parts, self.stack)
        return Task(stacks, config, self.files[0].parent, False, record, device, sums=self.sums)


def read_deposit(files: Sequence[str | Path]) -> Deposit:
    """Look at files of sums: of half sets 1 and 2 in this order, or one of any particles; the sums stay on disk.

    Files that are damaged, differ in box, pixel size or treatment, or are of the wrong half set raise InputError.
    """
    paths = tuple(map(Path, files))
    headers = [_header(path) for path in paths]
    if len(paths) == len(HALVES):
        for path, header, half_set in zip(paths, headers, (1, 2), strict=True):
            if header["half_set"] != half_set:
                is_of = f"half set {header['half_set']}" if header["half_set"] else "no single half set"
                remedy = "give the files of half sets 1 and 2 in this order"
                raise InputError(f"the sums are of {is_of}, not of half set {half_set}", file=path, remedy=remedy)
        for name in _MUST_AGREE:
            if headers[0][name] != headers[1][name]:
                raise InputError(
                    f"{name} is {headers[1][name]} here and {headers[0][name]} in {paths[0].name}", file=paths[1]
                )
        if ("held_out" in headers[0]) != ("held_out" in headers[1]):
            raise InputError("one of the two files holds held-out particles, and the other none", file=paths[1])
    counts = [
        sum(int(h[name].get("n_particles", 0)) for name in ("training", "held_out") if name in h) for h in headers
    ]
    labels = [part.label for part in HALVES] if len(paths) == len(HALVES) else []
    n_particles = {ALL.label: sum(counts)} | dict(zip(labels, counts, strict=False))
    units = [header.get("density_unit") for header in headers]
    unit = next((float(found) for found in units if found is not None), None)
    return Deposit(paths, headers[0], n_particles, _no_particles(headers[0], unit or 1.0), _notes(paths, headers, unit))


def linear_maps_of_sums(first: Path, second: Path) -> tuple[Deposit, tuple[Any, Any]]:
    """Return what two files of sums are, of half sets 1 and 2, and the linear map (D, D, D) of each.

    Raises InputError as `read_deposit`, and for particles that are in both.
    """
    deposit = read_deposit((first, second))
    train, test = deposit.sums[HALVES[0]]
    maps = [linear_map(train, test, deposit.unit)]
    other, other_test = deposit.sums[HALVES[1]]
    for one in (train, test):
        for two in (other, other_test):
            if one is not None and two is not None:
                one.require_addable(two)
    maps.append(linear_map(other, other_test, deposit.unit))
    return deposit, (maps[0], maps[1])


def require_sums_suffice(config: ReconstructionConfig) -> None:
    """Raise InputError for a method or a setting that needs the particles themselves."""
    remedy = f"use {', '.join(METHODS_OF_SUMS)}, or give the particles"
    if config.method not in METHODS_OF_SUMS:
        raise InputError(f"the method {config.method} needs particles, and there are only sums", remedy=remedy)
    used = getattr(config.settings, "filter", None)
    if used is not None and used not in FILTERS_OF_SUMS:
        remedy = f"use {' or '.join(FILTERS_OF_SUMS)}"
        raise InputError(f"the filter {used!r} needs particles, and there are only sums", remedy=remedy)
    if config.noise_substitute_beyond is not None:
        raise InputError("noise substitution needs particles, and there are only sums", remedy="give the particles")
    if config.noise_spectrum != "white":
        problem = "data in sums are weighted by noise already, or not at all"
        raise InputError(problem, remedy="leave out the noise spectrum, or give the particles")


def _header(path: Path) -> dict[str, Any]:
    """The header of a file of sums with every entry that is needed here."""
    try:
        header = read_header(path)
        missing = [name for name in (*_MUST_AGREE, "half_set", "training") if name not in header]
        box_size, size = int(header["box_size"]), float(header["pixel_size"])
        if missing or box_size % 2 or box_size <= 0 or not 0 < size < np.inf:
            raise ValueError("entries of the header")
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError("there is no such file", file=path) from error
    except Exception as error:  # zipfile and NumPy meet damage with errors of a dozen types
        raise InputError("not a file of sums, or a damaged one", file=path, remedy="accumulate them again") from error
    if header["training"].get("n_particles") is None:  # version 3: as many as have an identity
        header["training"]["n_particles"] = NormalEquations.load(path).n_particles
    return header


def _notes(paths: Sequence[Path], headers: Sequence[dict[str, Any]], unit: float | None) -> tuple[str, ...]:
    notes = []
    if len(paths) == len(HALVES):
        if alarm := shared_by_halves(sample_of(path) for path in paths):
            notes.append(alarm)
        if not all(header["training"].get("images") for header in headers):
            notes.append(
                "the sums do not say which particles they are of: whether a particle or an image is in both half sets "
                "was not checked"
            )
    if headers[0]["normalised"] and unit is None:
        notes.append("the sums do not say the unit of the images: densities are in units of the noise")
    if headers[0]["phases"] != "as they are":
        notes.append(f"the sums are of images with {headers[0]['phases']}")
    return tuple(notes)


def _no_particles(header: dict[str, Any], unit: float) -> ParticleStack:
    """A stack without particles that has the box, the pixel size and the unit of density of sums."""
    none = np.empty(0)
    rows = np.empty(0, np.int64)
    return ParticleStack(
        files=(),
        file_index=rows,
        image_index=rows,
        box_size=int(header["box_size"]),
        pixel_size=float(header["pixel_size"]),
        ctf=CtfParameters(*[none] * 9),
        rotations=np.empty((0, 3, 3)),
        shifts_angstrom=np.empty((0, 2)),
        half_set=np.empty(0, np.int8),
        data_sign=np.empty(0, np.int8),
        source=None,
        source_row=rows,
        normalisation=Normalisation(none, np.empty((0, 2)), none, none, unit=unit),
    )
