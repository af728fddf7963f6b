"""What data sets, runs and whole scales take, from their settings alone: bytes and hours. Imports no torch.

python -m gsworkbench.experiments.forecast SCALE says what a scale takes, as the workflow does before it starts.
"""

from __future__ import annotations

import math
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

from gsworkbench.experiments.plan import Registry, Run, read_registry
from gsworkbench.experiments.sizes import images_read, size_of
from gsworkbench.particles.entry_card import EntryParticles, find_card, find_shipped_card
from gsworkbench.reconstruction.memory_needed import START, bytes_of
from gsworkbench.simulation.simulation_config import Simulation

# Images per second by which hours are foretold: what GEM prints of Gaussians and of cryoDRGN at boxes of 320 and 360
# px on an A6000 (table 1), and, for methods that read each image once, what a disk gives. Ours was not measured.
PRINTED_RATES = {"stochastic": 95.0, "neural-field": 50.0, "cryodrgn": 50.0}
ONE_PASS_RATE = 200.0
SIMULATED_RATE = 20.0  # images of 256 px that one thread simulates in a second
TIME_MARGIN = 3.0
JUDGED = 420  # bytes per voxel of judging a map: that of backprojection, which does little else
PROGRAM = 100  # bytes per voxel of a map that another program, or a network, makes
CROPPED_IMAGES = 2**27  # bytes that reading, cropping and writing hold


def image_bytes(dataset: Simulation | EntryParticles) -> int:
    """What the images of a data set take on the disk."""
    n, box = size_of(dataset)
    return 4 * n * box**2


def dataset_bytes(dataset: Simulation | EntryParticles) -> int:
    """Peak memory of making a data set."""
    box = size_of(dataset)[1]
    if isinstance(dataset, Simulation):  # the states, each a map and its padded transform, and 2^29 bytes of images
        return int(START + 2**30 + (128 + 32 * (1 + len(dataset.absent_chains))) * box**3)
    return int(START + 8 * CROPPED_IMAGES)


def run_bytes(run: Run) -> int:
    """Peak memory of a run, of the host."""
    n, box = size_of(run.config.dataset)
    config = run.config.reconstruction
    known = bytes_of(n, box, config)
    if known is not None:
        return known
    images = 4 * n * box**2 * _starts_program(run)  # cryoDRGN holds them; ours are read batch by batch
    return int(START + 2**30 + PROGRAM * box**3 + images)


def map_bytes(run: Run) -> int:
    """What the maps of a run take on the disk: up to a dozen."""
    return 12 * 4 * size_of(run.config.dataset)[1] ** 3


def _starts_program(run: Run) -> bool:
    """Whether a run starts another program; one that is not installed is not run."""
    config = run.config.reconstruction
    return config.row.other_program and shutil.which(config.method) is not None


def run_hours(run: Run) -> float:
    """Hours of a run at PRINTED_RATES: the map of all particles, both half maps, and these again for noise."""
    config = run.config.reconstruction
    n, _ = size_of(run.config.dataset)
    if config.row.other_program and not _starts_program(run):
        return 0.0
    steps = getattr(config.settings, "n_steps", None)
    halves = (2.0 if steps else 1.0) if config.half_maps else 0.0  # half sets have half as many epochs of images
    whole = 1.0 + halves * (2.0 if config.noise_substitute_beyond is not None else 1.0)
    return images_read(config, n) * whole / PRINTED_RATES.get(config.method, ONE_PASS_RATE) / 3600


class Needs(NamedTuple):
    """What to ask a cluster for: MB of memory and of disk, minutes."""

    mem_mb: int
    disk_mb: int
    runtime: int


def needs_of_run(run: Run) -> Needs:
    """Return what a run needs."""
    copies = image_bytes(run.config.dataset) * _starts_program(run)
    minutes = math.ceil(30 + 60 * TIME_MARGIN * run_hours(run))
    return Needs(_mb(run_bytes(run)), _mb(map_bytes(run) + copies), minutes)


def needs_of_dataset(dataset: Simulation | EntryParticles) -> Needs:
    """Return what the rule needs that makes a data set."""
    n, box = size_of(dataset)
    rate = SIMULATED_RATE * (256 / box) ** 2 if isinstance(dataset, Simulation) else ONE_PASS_RATE
    minutes = math.ceil(10 + TIME_MARGIN * n / rate / 60)
    return Needs(_mb(dataset_bytes(dataset)), _mb(image_bytes(dataset)), minutes)


def needs_of_judging(registry: Registry, name: str) -> Needs:
    """Return what the rule needs that judges the runs of an experiment."""
    runs = registry.experiments[name].all_runs
    box = max((size_of(run.config.dataset)[1] for run in runs), default=32)
    # A map of 256 px is judged in about a minute: read, masked, correlated, drawn again and again for its error.
    return Needs(_mb(int(START + JUDGED * box**3)), 100, math.ceil(20 + 3 * len(runs) * (box / 256) ** 3))


def _mb(size: int) -> int:
    return max(1000, math.ceil(1.2 * size / 1e6))


def forecast(registry: Registry) -> list[str]:
    """Say before the start what a scale takes: downloads, disk, memory, hours."""
    entries = sorted({entry for name in registry.owned for entry in registry.entries(name)})
    lines = []
    downloads = 0
    for entry in entries:
        card = find_shipped_card(entry)
        try:
            card = find_card(entry)
        except ValueError as blanks:
            lines.append(f"{card.name}: not run, because {blanks}")
            continue
        if card.table is None:
            lines.append(f"{card.name}: not run, because its files are not known here")
            continue
        known = card.image_bytes or 0
        downloads += 0 if card.folder else known
        where = f"in {card.folder}" if card.folder else f"to download, {_gb(known)}, which stay"
        lines.append(f"{card.name}: {card.n_particles or 0:,} images of {card.box_size} px, {where}")
    datasets = {run.dataset: run.config.dataset for run in registry.runs.values()}
    sizes = [image_bytes(dataset) for dataset in datasets.values()]
    hours = [run_hours(run) for run in registry.runs.values()]
    maps = sum(map(map_bytes, registry.runs.values()))
    memory = max(run_bytes(run) for run in registry.runs.values())
    lines += [
        f"disk: {_gb(downloads)} of downloads, {_gb(maps)} of maps, and images of data sets, which are deleted when "
        f"their runs are done: {_gb(max(sizes))} the largest, {_gb(sum(sizes))} if all were there at once",
        f"memory: up to {_gb(memory)} for a run",
        f"time: {sum(hours):,.0f} hours of one GPU at the rates that the papers print (ours was not measured), in "
        f"{len(hours)} runs, the longest of {max(hours):,.0f} hours",
        f"of these hours: {_by_method(registry)}",
    ]
    return lines


def short_of_disk(registry: Registry, folder: Path) -> str:
    """Return a sentence where the disk of a folder has less room than the maps and the largest data set take, or ""."""
    there = folder.resolve()
    while not there.exists():
        there = there.parent
    sets = {run.dataset: image_bytes(run.config.dataset) for run in registry.runs.values()}
    needed, free = sum(map(map_bytes, registry.runs.values())) + max(sets.values()), shutil.disk_usage(there).free
    if free >= needed:
        return ""
    return f"{_gb(free)} are free on the disk of {there}: they do not suffice for maps and images, {_gb(needed)}"


def _by_method(registry: Registry) -> str:
    """Hours of each method that has one at least, twins with half the steps among them."""
    hours: dict[str, float] = {}
    for run in registry.runs.values():
        hours[run.method] = hours.get(run.method, 0.0) + run_hours(run)
    listed = sorted(hours.items(), key=lambda item: -item[1])
    return (
        ", ".join(f"{method} {spent:,.0f}" for method, spent in listed if spent >= 1) or "less than one of any method"
    )


def _gb(size: float) -> str:
    return f"{size / 1e9:,.3g} GB"


if __name__ == "__main__":
    print("\n".join(forecast(read_registry(sys.argv[1]))))
