"""A dry run over particles: what they are, whether protein is white, whether poses and shifts fit the images.

Half maps cannot show a wrong hand, but most other mistakes (shifts in the wrong unit or of the wrong sign, images in
another order than the poses) make quick half maps of a few thousand particles disagree at low resolution.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gsworkbench.assessment.alarms import (
    fingerprints,
    gather,
    identical_images,
    near_coordinates,
    particles_in_both_halves,
    units_in_both_halves,
)
from gsworkbench.assessment.fsc import fourier_shell_correlation
from gsworkbench.assessment.masks import spherical_mask
from gsworkbench.backprojection import solve
from gsworkbench.half_sets import deal
from gsworkbench.normal_equations import accumulate
from gsworkbench.particles import ParticleStack

QUICK_PARTICLES, QUICK_BOX = 2000, 64
NEAR = 20.0  # A; particles picked closer than this to each other are taken for the same one
COMPARED = 10_000  # images that are compared with each other to find copies
ENOUGH = 100  # fewer particles than this make half maps too poor to judge poses by


@dataclass(frozen=True)
class Contrast:
    """Mean of the image centre minus mean of its border, over images, with its standard error; in image units.

    suggested_sign : the factor to multiply the data by, +1 or -1, or None if the difference is within 3 errors of zero.
    """

    centre_minus_border: float
    standard_error: float
    suggested_sign: int | None


@dataclass(frozen=True)
class PoseCheck:
    """Mean FSC between quick half maps, shells 1 to Nyquist / 2 of a box of at most QUICK_BOX, in a sphere.

    as_given : with the poses and shifts of the file. alternatives : with one thing changed. chance : with the poses
    handed to other images, with or without the shifts: two similar blobs, above which agreement has to rise.
    """

    n_particles: int
    as_given: float
    alternatives: dict[str, float]
    chance: float

    def verdict(self) -> str:
        """Say in a sentence whether poses and shifts fit. A fifth of the way from chance to 1 counts as better."""
        margin = 0.2 * (1 - self.chance)
        best = max(self.alternatives, key=lambda name: self.alternatives[name])
        if self.n_particles < ENOUGH:
            return f"{self.n_particles} particles are too few to judge poses and shifts by"
        if max(self.as_given, self.alternatives[best]) < self.chance + margin:
            return "no better than chance: poses may belong to other images, or the images hold little signal"
        if self.alternatives[best] > self.as_given + margin:
            return f"with {best} the halves agree better: check the conventions of this file"
        return "poses and shifts fit the images (the hand cannot be told from this)"


def contrast(stack: ParticleStack, *, n_images: int = QUICK_PARTICLES, seed: int = 0) -> Contrast:
    """Guess from up to `n_images` images whether protein is white (brighter in the centre than at the border)."""
    box_size = stack.box_size
    axis = np.arange(box_size) - box_size // 2
    radius = np.sqrt(axis[:, None] ** 2 + axis**2) / box_size
    centre, border = radius < 0.2, radius >= 0.45
    differences = [
        images[:, centre].mean(1) - images[:, border].mean(1)
        for _, images in stack[_sample(len(stack), n_images, seed)].chunks(2**26)
    ]
    values = np.concatenate(differences)
    mean, error = float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else np.inf
    sign = None if abs(mean) < 3 * error else int(np.sign(mean))
    return Contrast(mean, error, sign)


def check_poses(stack: ParticleStack, *, n_particles: int = QUICK_PARTICLES, seed: int = 0) -> PoseCheck:
    """Backproject up to `n_particles` in two halves, as given and with one thing changed at a time."""
    part = stack[_sample(len(stack), n_particles, seed)]
    rotations = part.require_poses()
    variants = {
        "shifts reversed": dataclasses.replace(part, shifts_angstrom=-part.shifts_angstrom),
        "shifts ignored": dataclasses.replace(part, shifts_angstrom=0 * part.shifts_angstrom),
        "shifts read as pixels": dataclasses.replace(part, shifts_angstrom=part.shifts_angstrom * part.pixel_size),
        "rotations transposed": dataclasses.replace(part, rotations=np.swapaxes(rotations, 1, 2).copy()),
    }
    if not part.shifts_angstrom.any():
        variants = {"rotations transposed": variants["rotations transposed"]}
    order = np.random.default_rng(seed).permutation(len(part))
    others = dataclasses.replace(part, file_index=part.file_index[order], image_index=part.image_index[order])
    return PoseCheck(
        len(part),
        _half_map_fsc(part),
        {name: _half_map_fsc(variant) for name, variant in variants.items()},
        max(
            _half_map_fsc(others), _half_map_fsc(dataclasses.replace(others, shifts_angstrom=0 * part.shifts_angstrom))
        ),
    )


def particle_alarms(stack: ParticleStack, *, most_images: int | None = None, seed: int = 0) -> list[str]:
    """Sentences on what half sets 1 and 2 share: entries of the file, places on micrographs, copies of images.

    Half sets are those of `stack`; where it has none, they are dealt as a reconstruction would. most_images : how many
    images to compare, drawn at random; 0 for none, None for all.
    """
    halves = stack if stack.half_set.all() else stack.with_half_sets(seed)
    found = [particles_in_both_halves(halves.file_index, halves.image_index, halves.half_set)]
    if halves.unit is not None:
        found.append(units_in_both_halves(halves.unit, halves.half_set))
    if halves.picks is not None:
        where = halves.picks
        found.append(near_coordinates(where.micrograph_index, where.positions_angstrom, halves.half_set, NEAR))
    if most_images != 0:
        part = halves if most_images is None else halves[_sample(len(halves), most_images, seed)]
        rows, components = zip(*((rows, fingerprints(images)) for rows, images in part.chunks()), strict=True)
        found.append(identical_images(np.concatenate(components), part.half_set[np.concatenate(rows)]))
    return gather(found)


def _half_map_fsc(stack: ParticleStack) -> float:
    box_size = min(stack.box_size, QUICK_BOX)
    pixel_size = stack.pixel_size * stack.box_size / box_size
    order = np.random.default_rng(0).permutation(len(stack))
    parts = [np.sort(order[k::2]) for k in (0, 1)]
    specimens = stack.specimens()
    if len(np.unique(specimens)) < len(stack) and (dealt := deal(specimens, 0)) is not None:
        parts = [np.flatnonzero(dealt == half) for half in (1, 2)]
    halves: list[NDArray[np.float32]] = [
        solve(accumulate(stack[part], box_size=box_size, label="quick map")) for part in parts
    ]
    mask, name = spherical_mask(box_size, pixel_size)
    curve = fourier_shell_correlation(*halves, voxel_size=pixel_size, mask=mask, mask_name=name)
    return float(np.nan_to_num(curve.values[1 : box_size // 4 + 1]).mean())


def _sample(n: int, most: int, seed: int) -> NDArray[np.int64]:
    return np.sort(np.random.default_rng(seed).permutation(n)[:most])
