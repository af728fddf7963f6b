"""A run's folder as views show it: maps, curves, Gaussians, particles. Reads only; fits nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gsworkbench.assessment.fsc import FscCurve, Resolution, read_fsc_csv, resolution
from gsworkbench.assessment.map_names import MAP, find_half_maps
from gsworkbench.errors import InputError
from gsworkbench.gaussians.mixture import Gaussians
from gsworkbench.io.mrc import Volume, read_map
from gsworkbench.methods.deposited_sums import KEPT, Deposit, read_deposit
from gsworkbench.methods.reconstruction_config import ReconstructionConfig, read_config
from gsworkbench.particles.read import read_particles
from gsworkbench.particles.stack import ParticleStack

# What is shown -> its file in the folder. The truth lies elsewhere, and the difference is made.
MAPS = {"full": MAP, "background": "background.mrc"}
_READING = ("--sign", "--pixel-size", "--datadir")  # options of the run that its own run_data.star still needs


@dataclass(frozen=True)
class RunFolder:
    """One run, as `reconstruct` left it in `folder`.

    maps : what is shown -> (D, D, D) map, image units / A: full, half 1, half 2, and truth and background where there
        are any. mask : (D, D, D) or None. curves : those of fsc.csv. record : run.json.
    """

    folder: Path
    maps: dict[str, Volume]
    mask: Volume | None
    voxel_size: float
    curves: tuple[FscCurve, ...]
    gaussians: Gaussians | None
    record: dict[str, Any]

    @property
    def name(self) -> str:
        return self.folder.name

    @cached_property
    def config(self) -> ReconstructionConfig:
        return read_config(self.record["config"])

    @property
    def resolutions(self) -> tuple[Resolution, ...]:
        """0.143 between half maps, 0.5 to a truth; none of curves of random phases, and none of estimates."""
        read = [c for c in self.curves if "randomized" not in c.name and not c.is_estimate]
        return tuple(resolution(c, 0.5 if c.name.endswith("_truth") else 0.143) for c in read)

    @property
    def truth_path(self) -> Path | None:
        return _truth_path(self.folder, self.record)


def read_run(folder: str | Path) -> RunFolder:
    """Read the folder of a run; one that is not complete raises InputError."""
    folder = Path(folder).resolve()
    try:
        record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(
            "not a finished run: it has no run.json", file=folder, remedy="give the --out folder of a reconstruct"
        ) from error
    except ValueError as error:
        raise InputError("damaged JSON", file=folder / "run.json", remedy="run it again") from error
    if not (folder / MAP).is_file():
        raise InputError(f"no reconstruction: it has no {MAP}", file=folder, remedy="give the folder of a reconstruct")
    paths = {name: folder / file for name, file in MAPS.items()}
    if halves := find_half_maps(folder):
        paths = {"full": paths["full"], "half 1": halves[0], "half 2": halves[1]} | paths
    if truth := _truth_path(folder, record):
        paths["truth"] = truth
    read = {name: read_map(path) for name, path in paths.items() if path.is_file()}
    gaussians, mask, curves = (folder / name for name in ("gaussians.npz", "mask.mrc", "fsc.csv"))
    return RunFolder(
        folder=folder,
        maps={name: volume for name, (volume, _) in read.items()},
        mask=read_map(mask)[0] if mask.is_file() else None,
        voxel_size=read["full"][1],
        curves=tuple(read_fsc_csv(curves)) if curves.is_file() else (),
        gaussians=Gaussians.load(gaussians) if gaussians.is_file() else None,
        record=record,
    )


def dataset_of(run: RunFolder) -> str:
    """The name of the folder that the particles of a run came from."""
    source = next((Path(name) for name in run.record.get("inputs", {}) if Path(name).suffix in (".star", ".cs")), None)
    return run.name if source is None else source.parent.name


def find_runs(folder: str | Path) -> list[Path]:
    """The folders of finished reconstructions at or below `folder`, sorted."""
    return sorted(path.parent for path in Path(folder).resolve().rglob("run.json") if (path.parent / MAP).is_file())


def particles_of(run: RunFolder) -> tuple[ParticleStack, tuple[str, ...]]:
    """The particles of a run in its half sets, and the command-line options that run_data.star must be read with.

    Image paths that were relative to the folder the run was started in are looked for from every folder above the run.
    """
    path = run.folder / "run_data.star"
    if not path.is_file():
        raise InputError("no run_data.star: its particles are not known", file=run.folder)
    options = _reading(run.record["command"])
    if not options and run.record.get("particles", {}).get("data_sign") == -1:  # a run from Python
        options = {"--sign": "-1"}
    refused: InputError | None = None
    for attempt in [options, *(options | {"--datadir": str(above)} for above in path.parents)]:
        try:
            return _read(path, attempt), tuple(word for pair in attempt.items() for word in pair)
        except InputError as error:
            refused = refused or error  # of the folder itself, the place to look first
    assert refused is not None
    raise refused


def _read(path: Path, options: dict[str, str]) -> ParticleStack:
    sign, size = options.get("--sign"), options.get("--pixel-size")
    return read_particles(
        path,
        datadir=options.get("--datadir"),
        data_sign=None if sign is None else int(sign),
        pixel_size=None if size is None else float(size),
    ).with_half_sets()


@dataclass(frozen=True)
class Sample:
    """Particles beside what a map predicts, (n, D, D) each, white protein; rows count in the run's particles."""

    rows: NDArray[np.int64]
    data: NDArray[np.float32]
    model: NDArray[np.float32]

    @property
    def residual(self) -> NDArray[np.float32]:
        return self.data - self.model


def deposit_of(run: RunFolder) -> Deposit | None:
    """The files of sums that a run was made from, or that it kept; None where there are none for both half sets."""
    kept = [run.folder / name for name in KEPT]
    if all(path.is_file() for path in kept):
        return read_deposit(kept)
    named = [Path(name) for name in run.record.get("inputs", {}) if name.endswith(".npz")]
    places = (Path.cwd(), *run.folder.parents)
    found = [next((above / path for above in places if (above / path).is_file()), None) for path in named]
    files = [path for path in found if path is not None]
    return read_deposit(files) if len(files) == len(KEPT) else None


def sample_particles(stack: ParticleStack, volume: Volume, n: int = 4, *, seed: int = 0) -> Sample:
    """Draw n particles and form the images of `volume` in their poses, with their CTF and shifts, without noise."""
    from gsworkbench.simulation.simulate import form_images

    rows = np.sort(np.random.default_rng(seed).choice(len(stack), min(n, len(stack)), replace=False))
    chosen = replace(stack[rows], data_sign=np.ones(len(rows), np.int8))
    model = form_images(volume.astype(np.float64), chosen)
    return Sample(rows, stack.images(rows), model.astype(np.float32))


def _truth_path(folder: Path, record: dict[str, Any]) -> Path | None:
    """The map a run was compared with: the one .mrc among its inputs."""
    given = [Path(name) for name in record.get("inputs", {}) if name.endswith(".mrc")]
    places = [above / path for path in given for above in (Path.cwd(), *folder.parents)]
    return next((place.resolve() for place in places if place.is_file()), None)


def _reading(command: Sequence[str]) -> dict[str, str]:
    """Those of _READING that a command line holds, with their values."""
    found = {}
    for word, following in zip(command, [*command[1:], ""], strict=True):
        name, _, value = word.partition("=")
        if name in _READING:
            found[name] = value or following
    return found
