"""What particles are, line by line, for `inspect`: of a stack, or of a table whose images are not at hand."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gsworkbench.particles.formats.ctf_columns import is_no_ctf
from gsworkbench.particles.formats.metadata import Metadata, class_counts
from gsworkbench.particles.half_sets import image_numbers
from gsworkbench.particles.stack import CtfParameters, Float64, ParticleStack

MOST = 20  # lines of microscopes


def describe(particles: ParticleStack | Metadata) -> list[str]:
    """What the particles are: where their images are, grid, CTF, poses, half sets, classes; the notes last."""
    images = _images_of_stack(particles) if isinstance(particles, ParticleStack) else _images_of_table(particles)
    signs = ", ".join(f"{sign:+d}" for sign in np.unique(particles.data_sign))
    lines = [*images, _grid(particles.box_size, particles.pixel_size)]
    lines += [] if particles.ctf is None else _ctf(particles.ctf)
    shifts = np.hypot(*particles.shifts_angstrom.T)
    in_pixels = f", that is {spread(shifts / particles.pixel_size, 'px')}" if particles.pixel_size else ""
    lines += [f"shifts         {spread(shifts, 'A')}{in_pixels}"]
    lines += [] if particles.rotations is None else [_views(particles.rotations)]
    lines += [f"half sets      {_half_sets(particles.half_set)}"]
    lines += _groups(particles)
    return [*lines, f"data sign      {signs} (multiplies the images)", *(f"note: {note}" for note in particles.notes)]


def _images_of_stack(stack: ParticleStack) -> list[str]:
    n_images = int(image_numbers(stack.file_index, stack.image_index).max()) + 1
    named = f"{len(stack):,} in {len(stack.files)} file(s), first {stack.files[0]}"
    return [
        f"particles      {named}{_rows(n_images, len(stack))}",
        f"folders        {_folders(stack.files)}",
    ]


def _images_of_table(table: Metadata) -> list[str]:
    if not table.stacks:
        return [f"particles      {len(table):,}"]
    n_images = int(image_numbers(table.stack_index, table.image_index).max()) + 1
    named = f"{len(table):,} in {len(table.stacks)} file(s), first {table.stacks[0]}"
    return [f"particles      {named}{_rows(n_images, len(table))}"]


def _rows(n_images: int, n: int) -> str:
    return f"; {n_images:,} images in {n:,} rows" if n_images < n else ""


def _folders(files: Iterable[Path]) -> str:
    """Where images are read from, links followed: metadata can name any place."""
    folders = sorted({str(file.resolve().parent) for file in files})
    return ", ".join(folders[:5]) + f" and {len(folders) - 5} more" * (len(folders) > 5)


def _grid(box_size: int | None, pixel_size: float | None) -> str:
    if box_size is None or pixel_size is None:
        box = "not stated" if box_size is None else f"{box_size} px"
        size = "pixel size not stated" if pixel_size is None else f"pixels of {pixel_size:.4g} A"
        return f"box            {box}, {size}"
    edge = f"{box_size} px of {pixel_size:.4g} A = {box_size * pixel_size:.4g} A"
    return f"box            {edge}; Nyquist {2 * pixel_size:.4g} A"


def _ctf(ctf: CtfParameters) -> list[str]:
    if is_no_ctf(ctf):
        return ["CTF            none: 1 at every frequency"]
    astigmatism = spread(np.abs(ctf.defocus_u - ctf.defocus_v), "A")
    lines = [f"defocus        {spread((ctf.defocus_u + ctf.defocus_v) / 2e4, 'um')}, astigmatism {astigmatism}"]
    constants = np.column_stack([ctf.voltage_kv, ctf.spherical_aberration_mm, ctf.amplitude_contrast])
    kinds, counts = np.unique(constants.round(6), axis=0, return_counts=True)
    for k, ((kv, cs, contrast), count) in enumerate(zip(kinds[:MOST], counts[:MOST], strict=True)):
        many = f": {count:,} particles" if len(kinds) > 1 else ""
        label = "microscope" if k == 0 else ""
        lines.append(f"{label:15}{kv:g} kV, Cs {cs:g} mm, amplitude contrast {contrast:g}{many}")
    if len(kinds) > MOST:
        lines.append(f"{'':15}and {len(kinds) - MOST} more")
    if ctf.b_factor.any():
        lines.append(f"B factor       {spread(ctf.b_factor, 'A^2')}")
    if np.ptp(ctf.scale):
        lines.append(f"scale          {spread(ctf.scale, '').replace('  ', ' ')}")
    return lines


def _views(rotations: Float64) -> str:
    directions = rotations[:, 2, :]
    moments = np.linalg.eigvalsh(directions.T @ directions / len(directions))
    said = ", ".join(f"{max(moment, 0):.2f}" for moment in moments)
    return f"views          second moments of their directions {said} (0.33 each where they are even)"


def _half_sets(half_set: NDArray[np.int8]) -> str:
    halves = np.bincount(half_set, minlength=3)
    if not halves[1:].any():
        return "none in the file: dealt at random when needed"
    return f"{halves[1]:,} and {halves[2]:,}"


def _groups(particles: ParticleStack | Metadata) -> list[str]:
    """Classes, optics groups and specimens where there are several, and what RELION corrected intensities by."""
    lines = []
    classes = class_counts(particles.class_number)
    if classes is not None and classes.startswith("classes"):
        lines.append(f"class          {classes}")
    if (
        particles.optics_group is not None
        and len(groups := np.unique(particles.optics_group, return_counts=True)[1]) > 1
    ):
        counts = ", ".join(f"{count:,}" for count in groups[:MOST]) + ", ..." * (len(groups) > MOST)
        lines.append(f"optics groups  {len(groups)}: {counts} particles")
    if particles.unit is not None:
        units = len(np.unique(particles.unit))
        lines.append(f"specimens      {units:,}: rows of one filament, or of one particle, stay in one half set")
    if particles.norm_correction is not None and np.ptp(particles.norm_correction):
        corrections = spread(particles.norm_correction, "").replace("  ", " ")
        lines.append(f"norm           rlnNormCorrection {corrections}, shown and not applied")
    return lines


def spread(values: Float64, unit: str) -> str:
    """Median of values with their unit, and where 90 % of them lie."""
    low, middle, high = np.percentile(values, [5, 50, 95])
    return f"{middle:,.4g} {unit} (5 to 95 %: {low:,.4g} to {high:,.4g})"
