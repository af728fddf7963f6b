"""From two half maps on disk to their local and directional resolution, in files and in sentences.

What `gsworkbench localres` and `directional` do. The judging itself is in assessment/.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gsworkbench.assessment.assess import chosen_mask
from gsworkbench.assessment.directional import (
    MOST_UNSAMPLED,
    DirectionalEstimate,
    DirectionalFsc,
    Sampling,
    directional_estimate,
    directional_fsc,
    sampling,
)
from gsworkbench.assessment.half_maps import half_map_alarms
from gsworkbench.assessment.linear_maps import linear_alarms
from gsworkbench.assessment.local import LocalEstimate, LocalResolution, local_estimate, local_resolution
from gsworkbench.assessment.mask_names import MASKS
from gsworkbench.assessment.masks import Mask
from gsworkbench.assessment.of_files import MapsOnOneGrid, read_maps
from gsworkbench.assessment.plots import directional_figure, local_resolution_figure, views_figure
from gsworkbench.errors import InputError
from gsworkbench.io.files import atomic_path
from gsworkbench.io.locks import outputs
from gsworkbench.io.mrc import Map, write_map


@dataclass(frozen=True)
class Finding:
    """What was found, result by result, and what must be said of the maps beside it; `lines` is what to print."""

    results: tuple[LocalResolution | LocalEstimate | DirectionalFsc | DirectionalEstimate | Sampling, ...]
    labels: tuple[str, ...]
    notes: tuple[str, ...]
    alarms: tuple[str, ...]

    def report(self) -> list[str]:
        """Return what to print."""
        found = [f"{label}{result}" for label, result in zip(self.labels, self.results, strict=True)]
        return found + [f"note: {note}" for note in self.notes] + [f"alarm: {alarm}" for alarm in self.alarms]


@dataclass(frozen=True)
class _Masked:
    """Maps on one grid, of which the last two may be linear maps, and the mask chosen for the mean of the first two."""

    maps: MapsOnOneGrid
    mask: Mask | None
    linear: tuple[Map, Map] | None

    def alarms(self) -> tuple[str, ...]:
        first, second = self.maps.volumes[:2]
        found = half_map_alarms(first, second, self.maps.voxel_size, self.mask)
        if self.linear is None:
            return tuple(found)
        more = linear_alarms((first, second), self.linear, self.maps.voxel_size)
        return (*found, *(alarm for alarm in more if alarm))


def localise(
    map_1: Path,
    map_2: Path,
    *,
    out: Path,
    mask: str = "auto",
    window: float | None = None,
    step: float | None = None,
    threshold: float = 0.5,
    truth: Path | None = None,
    linear: tuple[Path, Path] | None = None,
    voxel_size: float | None = None,
) -> Finding:
    """Local resolution of two maps on disk; writes locres.mrc (A) and locres.png (histogram and central sections).

    truth : a map to compare their mean with in the same windows; writes locres_truth.mrc and .png, and returns both.
    linear : unfiltered backprojections of both half sets; writes locres_estimate.mrc, read off the estimated FSC to the
    unknown truth, and returns it too.
    voxel_size : A, in place of what the headers of all maps say.
    """
    read = _maps_and_mask(mask, voxel_size, map_1, map_2, *([truth] if truth else []), linear=linear)
    first, second, *others = read.maps.volumes
    chosen = read.mask
    if chosen is None:
        raise InputError("local resolution needs a mask", remedy="give --mask auto, sphere or a file")
    mean = (first + second) / 2
    pairs = {"locres": (first, second)} | ({"locres_truth": (mean, others[0])} if others else {})
    size = read.maps.voxel_size
    found = {
        file: local_resolution(*pair, voxel_size=size, mask=chosen, window=window, step=step, threshold=threshold)
        for file, pair in pairs.items()
    }
    estimate = None
    if read.linear is not None:
        estimate = local_estimate((first, second), read.linear, voxel_size=size, mask=chosen, window=window, step=step)
    with outputs(out):
        if estimate is not None:
            words = f"A, by the estimate, window {estimate.window:g} A"
            write_map(out / "locres_estimate.mrc", estimate.resolution, size, words, place=read.maps.place)
        for file, local in found.items():
            words = f"A, window {local.window:g} A, step {local.step:g} A"
            write_map(out / f"{file}.mrc", local.resolution, size, words, place=read.maps.place)
            with atomic_path(out / f"{file}.png") as temporary:
                local_resolution_figure(local, mean).savefig(temporary, dpi=150)
    labels = ("half maps: ", "their mean and the truth: ")[: len(found)]
    results = tuple(found.values())
    if estimate is not None:
        return Finding((*results, estimate), (*labels, ""), read.maps.notes, read.alarms())
    return Finding(results, labels, read.maps.notes, read.alarms())


def direct(
    map_1: Path,
    map_2: Path,
    *,
    out: Path,
    mask: str = "auto",
    half_angle: float = 20.0,
    threshold: float = 0.143,
    linear: tuple[Path, Path] | None = None,
    voxel_size: float | None = None,
    rotations: NDArray[np.floating] | None = None,
) -> Finding:
    """Directional FSC of two maps on disk; writes directional.csv, a row per direction, and directional.png.

    linear : unfiltered backprojections of both half sets; the resolution by the estimated FSC to the unknown truth and
    the mean of the estimate are two more columns, nan where they cannot tell, and the estimate one more result.
    voxel_size : A, in place of what the headers of both maps say. rotations : (n, 3, 3) of the particles; then how
    evenly their views sample is a second result, views.png shows it, and directions that no view samples leave the
    sphericity without a value.
    """
    read = _maps_and_mask(mask, voxel_size, map_1, map_2, linear=linear)
    first, second = read.maps.volumes
    found = directional_fsc(
        first,
        second,
        voxel_size=read.maps.voxel_size,
        mask=read.mask,
        half_angle=half_angle,
        threshold=threshold,
    )
    seen = None if rotations is None else sampling(rotations)
    if seen is not None and seen.unsampled > MOST_UNSAMPLED:
        found = found.without_sphericity(f"the views leave {100 * seen.unsampled:.1f} % of the directions unsampled")
    results: list[DirectionalFsc | DirectionalEstimate | Sampling] = [found]
    columns, names = [found.directions, found.values], "x,y,z,resolution_angstrom"
    if read.linear is not None:
        size = read.maps.voxel_size
        estimate = directional_estimate(
            (first, second), read.linear, voxel_size=size, mask=read.mask, half_angle=half_angle
        )
        columns += [estimate.values, estimate.means]
        names += ",estimate_resolution_angstrom,estimate_mean"
        results.append(estimate)
    with outputs(out):
        with atomic_path(out / "directional.csv") as temporary:
            header = f"# {found}\n{names}"
            np.savetxt(temporary, np.column_stack(columns), fmt="%.5f", delimiter=",", header=header, comments="")
        with atomic_path(out / "directional.png") as temporary:
            directional_figure(found).savefig(temporary, dpi=150)
        if seen is not None and rotations is not None:
            with atomic_path(out / "views.png") as temporary:
                views_figure(rotations, seen).savefig(temporary, dpi=150)
    if seen is not None:
        results.append(seen)
    return Finding(tuple(results), ("",) * len(results), read.maps.notes, read.alarms())


def _maps_and_mask(
    mask: str, voxel_size: float | None, first: Path, *others: Path, linear: tuple[Path, Path] | None
) -> _Masked:
    """Maps on the grid of the first, without the mask and the linear maps, and the mask chosen for the mean of the
    first two."""
    user = [] if mask in MASKS else [mask]
    maps = read_maps(first, *others, *(linear or ()), masks=user, voxel_size=voxel_size)
    volumes = maps.volumes[: 1 + len(others)]
    pair = maps.volumes[1 + len(others) : 3 + len(others)] if linear else None
    values = maps.volumes[-1] if user else None
    chosen = chosen_mask(mask, values, (volumes[0] + volumes[1]) / 2, maps.voxel_size)
    on_grid = MapsOnOneGrid(volumes, maps.voxel_size, maps.place, maps.notes)
    return _Masked(on_grid, chosen, None if pair is None else (pair[0], pair[1]))
