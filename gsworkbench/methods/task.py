"""The task that every method is given, and the solution that it makes of each part.

The map of all particles and the half maps are separate fits with separate seeds. What is written, and what compares the
maps, is reconstruction/run.py's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gsworkbench.errors import InputError
from gsworkbench.imaging.residual import require_white_protein
from gsworkbench.io.mrc import Volume
from gsworkbench.methods.part import ALL, HALVES, Part
from gsworkbench.methods.particle_scales import SCALED, measure_scales, with_scales
from gsworkbench.methods.reconstruction_config import ReconstructionConfig
from gsworkbench.normal_equations.equations import CHECKPOINT_SECONDS, NormalEquations
from gsworkbench.particles.image_statistics import (
    as_dict,
    blank,
    kept,
    measure_images,
    outliers,
    sentences,
)
from gsworkbench.particles.stack import ParticleStack
from gsworkbench.system.device import find_device
from gsworkbench.system.provenance import RunRecord

if TYPE_CHECKING:
    from gsworkbench.gaussians.mixture import Gaussians
    from gsworkbench.methods.registry import Solve

PartSums = Mapping[Part, tuple[NormalEquations, NormalEquations | None]]

SUMS = ".sums.npz"  # checkpoints that a finished run removes
FEW = 500  # fewer particles than this get a warning, and half as many no held-out particles


@dataclass(frozen=True)
class Solution:
    """What a method makes of one stack.

    volume : its map. gaussians, background : the parts it is the sum of, where there are any. report : figures for
    run.json. learning_curve : (step, error on fitted particles, error on held-out ones).
    """

    volume: Volume
    gaussians: Gaussians | None = None
    background: Volume | None = None
    report: dict[str, Any] = field(default_factory=dict)
    learning_curve: tuple[tuple[int, float, float], ...] = ()

    def scaled(self, factor: float) -> Solution:
        """The same in other units of density."""
        if factor == 1:
            return self
        g, background = self.gaussians, self.background
        return replace(
            self,
            volume=(self.volume * factor).astype(np.float32),
            gaussians=None if g is None else replace(g, weights=g.weights * factor),
            background=None if background is None else (background * factor).astype(np.float32),
        )


@dataclass(frozen=True)
class Task:
    """What a method is given: the particles of each part, settings, a folder for checkpoints, the run's record.

    checkpoint_seconds : how often to write what cannot be lost. sums : the normal equations of the parts, where they
    are at hand, so that particles need not be read again.
    """

    parts: dict[Part, ParticleStack]
    config: ReconstructionConfig
    checkpoints: Path
    resume: bool
    record: RunRecord
    device: torch.device
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    sums: PartSums | None = None

    def seed(self, part: Part) -> int:
        """Return the seed of a part's fit."""
        return part.seed(self.config.seed)

    def stage(self, part: Part) -> contextlib.AbstractContextManager[None]:
        """Measure the time of a part's fit."""
        return self.record.stage(part.stage(self.config.method))

    def checkpoint(self, part: Part) -> Path:
        """Return the file of a fit's checkpoint."""
        return self.checkpoints / f"{part.file}.pt"

    def sums_file(self, part: Part, what: str) -> Path:
        """Return the file of a part's equations: the "sums" without every tenth particle, or of the "held out"."""
        return self.checkpoints / f"{part.file}{what.replace(' ', '')}{SUMS}"


def solutions(task: Task, solve: Solve | None = None) -> Iterator[tuple[Part, Solution]]:
    """Yield what the method of a task makes of each of its parts, in the units of the images, all particles first.

    solve : in place of that of the method that the task's settings name.
    """
    normalisation = next(iter(task.parts.values())).normalisation
    for part, solution in (solve or task.config.row.solve)(task):
        yield part, solution if normalisation is None else solution.scaled(normalisation.unit)


def make_task(stack: ParticleStack, config: ReconstructionConfig, record: RunRecord, checkpoints: Path) -> Task:
    """Return a task of a stack and, if asked for, its half sets, with images normalised as configured.

    `record` notes how many particles and which seeds, and what a user should know of the images.
    """
    stack = prepared(stack, config, record)
    halves = {part: stack[stack.half_set == part.half_set] for part in HALVES} if config.half_maps else {}
    parts = {ALL: stack} | halves
    record.n_particles |= {part.label: len(chosen) for part, chosen in parts.items()}
    record.seeds |= {part.label: part.seed(config.seed) for part in parts}
    device = fit_device(config)
    record.device = str(device)
    return Task(parts, config, checkpoints, False, record, device)


def prepared(stack: ParticleStack, config: ReconstructionConfig, record: RunRecord) -> ParticleStack:
    """The stack that methods are given: its images normalised, and those that are absurd left out, as configured.

    Raises InputError for images whose protein is dark, and where no image is left.
    """
    stack = _normalised(stack, config, record) if config.normalise else stack
    require_white_protein(stack)
    if not (config.normalise and config.particle_scales) or record.results["images"]["noise_measured"] == "none":
        return stack
    with record.stage("scales of particles"):
        scales = measure_scales(stack, most=SCALED)
        if scales is not None and scales.differ:
            scales = measure_scales(stack)
    if scales is None:
        return stack
    record.results["images"] |= scales.as_dict()
    record.warnings += scales.sentences(len(stack))
    return with_scales(stack, scales) if scales.differ else stack


def _normalised(stack: ParticleStack, config: ReconstructionConfig, record: RunRecord) -> ParticleStack:
    with record.stage("look at images"):
        found = measure_images(stack)
    record.warnings += sentences(found, stack, kept=config.keep_outliers)
    left_out = blank(found) if config.keep_outliers else outliers(found)
    record.results["images"] = as_dict(found) | {"left_out": int(left_out.sum())}
    return kept(stack, found, keep_outliers=config.keep_outliers)


def fit_device(config: ReconstructionConfig) -> torch.device:
    """Where fits run: as configured; auto is the CPU where a renderer is named. Maps are sampled on the CPU anyway."""
    if config.backend == "gpu" or (config.device == "cuda" and config.backend == "cpu"):
        raise InputError(f"renderer {config.backend} cannot be used on this device", remedy="leave out --backend")
    return find_device("cpu" if config.device == "auto" and config.backend else config.device)


def substituted_task(task: Task, beyond: float) -> Task:
    """Return a task of both half sets again, with the same settings and seeds, and random phases beyond `beyond` A."""
    parts = {
        replace(part, substituted=True): task.parts[part].with_random_phases(beyond, task.config.seed)
        for part in HALVES
    }
    return replace(task, parts=parts, sums=None)
