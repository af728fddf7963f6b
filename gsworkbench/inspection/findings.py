"""A dry run over particles: what their images are like, whether protein is white, whether poses and shifts fit.

Images are measured and normalised first, as `reconstruct` does, so that no verdict depends on a background, on hot
pixels or on outliers. Half maps cannot show a wrong hand, but most other mistakes (shifts in the wrong unit or of the
wrong sign, images in another order than the poses) make quick half maps of a few thousand particles disagree at low
resolution.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gsworkbench.assessment.alarms import (
    FEWEST_IMAGES,
    fingerprints,
    gather,
    identical_images,
    near_coordinates,
    particles_in_both_halves,
    units_in_both_halves,
)
from gsworkbench.assessment.fsc import fourier_shell_correlation
from gsworkbench.assessment.masks import spherical_mask
from gsworkbench.imaging.residual import ProteinSign, protein_sign
from gsworkbench.inspection.power_spectrum import RingCheck, check_rings
from gsworkbench.methods.particle_scales import SCALED, Scales, measure_scales
from gsworkbench.normal_equations.classical_map import classical_map
from gsworkbench.normal_equations.equations import accumulate
from gsworkbench.particles.description import spread
from gsworkbench.particles.formats.ctf_columns import is_no_ctf
from gsworkbench.particles.half_sets import deal
from gsworkbench.particles.image_statistics import (
    ImageStatistics,
    blank,
    measure_images,
    normalisation,
    normalised,
    outliers,
    sentences,
)
from gsworkbench.particles.stack import ParticleStack
from gsworkbench.particles.views import views_problem

MEASURED = 30_000  # images that are measured; of larger stacks, as many spread over the stack
QUICK_PARTICLES, QUICK_BOX = 2000, 64
NEAR = 20.0  # A; particles picked closer than this to each other are taken for the same one
COMPARED = 10_000  # images that are compared with each other to find copies
ENOUGH = 100  # fewer particles than this make half maps too poor to judge poses by

_REASSIGNED = 3  # times that poses are handed to other images, to see what chance gives
_SATURATED = 0.95  # half maps of chance that agree by more leave nothing to see
_HIGH = 0.6  # chance is as high as this for views from few directions only
_SCATTERS = 5.0  # standard deviations of chance, by which poses must be better than it
_LEAST_SCATTER = 0.01
_CLEARLY = 0.2  # of the way from chance to 1, by which poses fit
_COPIES = 0.95  # correlation of noise from which on images are copies,
_NOISE_FREE_COPIES = 0.999  # and that of images whose signal is stronger than their noise


@dataclass(frozen=True)
class Contrast:
    """Mean of the image centre minus mean of its border, over images, with its standard error; and protein's sign.

    Both are in units of the noise where the stack is normalised, else of the images.
    """

    centre_minus_border: float
    standard_error: float
    sign: ProteinSign

    @property
    def suggested_sign(self) -> int | None:
        """The factor to multiply the data by, +1 or -1, or None if the images do not tell."""
        return self.sign.suggested_sign


@dataclass(frozen=True)
class PoseCheck:
    """Mean FSC between quick half maps, shells 1 to Nyquist / 2 of a box of at most QUICK_BOX, in a sphere.

    as_given : with the poses and shifts of the file. alternatives : with one thing changed. chance : the largest of
    several, with the poses handed to other images at random, with or without the shifts: two similar blobs, above which
    agreement has to rise. scatter : standard deviation of one of these from the next.
    """

    n_particles: int
    as_given: float
    alternatives: dict[str, float]
    chance: float
    scatter: float = _LEAST_SCATTER

    @property
    def beyond_chance(self) -> float:
        """By how much an FSC must exceed that of chance to differ from it at all."""
        return _SCATTERS * max(self.scatter, _LEAST_SCATTER)

    @property
    def fits(self) -> bool:
        """Whether poses and shifts fit the images, clearly better than chance and than the alternatives."""
        best = max(self.alternatives.values())
        clear = max(self.beyond_chance, _CLEARLY * (1 - self.chance))
        return (
            self.n_particles >= ENOUGH
            and self.chance < _SATURATED
            and self.as_given >= max(self.chance + clear, best - clear)
        )

    def verdict(self) -> str:
        """Say in a sentence whether poses and shifts fit the images."""
        clear = max(self.beyond_chance, _CLEARLY * (1 - self.chance))
        best = max(self.alternatives, key=lambda name: self.alternatives[name])
        if self.n_particles < ENOUGH:
            return f"{self.n_particles} particles are too few to judge poses and shifts by"
        if self.chance >= _SATURATED:
            return (
                f"not measurable, because half maps agree by {self.chance:.3f} even where poses are handed to other "
                "images: all particles look alike, as when they are seen from one side"
            )
        if max(self.as_given, self.alternatives[best]) < self.chance + self.beyond_chance:
            return "no better than chance: poses may belong to other images, or the images hold little signal" + (
                f"; or chance does well ({self.chance:.2f}) as all particles are seen from few directions"
                if self.chance > _HIGH
                else ""
            )
        if self.alternatives[best] > self.as_given + clear:
            return f"with {best} the halves agree better: check the conventions of this file"
        if self.as_given < self.chance + clear:
            return (
                "little better than chance: the images hold little signal, or poses or shifts do not fit them "
                "(more particles would tell)"
            )
        return "poses and shifts fit the images (the hand cannot be told from this)"


@dataclass(frozen=True)
class MeasuredImages:
    """The images of a stack, or a sample spread over it, as they were found.

    stack : the particles measured, as their files hold them, in the order of the table. found : a row for each.
    n_particles : of the whole stack.
    """

    stack: ParticleStack
    found: ImageStatistics
    n_particles: int

    def kept(self) -> NDArray[np.bool_]:
        """(n,) the images that a reconstruction uses."""
        return ~outliers(self.found)

    def prepared(self) -> ParticleStack:
        """The particles that a reconstruction uses, with normalised images."""
        return normalised(self.stack, self.found)[self.kept()]

    def sentences(self) -> list[str]:
        """What a user should know of these images, in words."""
        return sentences(self.found, self.stack)

    def report(self) -> list[str]:
        """What the images are like, and what is odd about them."""
        plan = self.found.plan
        of = (
            "all"
            if len(self.stack) == self.n_particles
            else f"{len(self.stack):,} of {self.n_particles:,}, spread evenly,"
        )
        where = {
            "border": "outside the inscribed circle",
            "high frequencies": "in the highest frequencies",
            "none": "weaker than the signal",
        }
        lines = [
            f"images         {of} measured, background {spread(self.found.offset, '').replace('  ', ' ')}",
            f"               noise {spread(self.found.noise, '').replace('  ', ' ')}, {where[plan.measure]}",
        ]
        said = self.sentences()
        lines += [f"               finding: {sentence}" for sentence in said]
        return lines if said else [*lines, "               nothing is unusual about them"]


@dataclass(frozen=True)
class Inspection:
    """What was found of particles.

    images : those measured. contrast : of the normalised images. rings : of the CTF, in their
        power; None where there is no CTF, or no ring. alarms : what half sets share.
    scales, scaled : scales of some particles beside a map of others, and which rows of `images` these are; None where
        they could not be measured.
    poses : how well they fit; None where there are none, or where `views` says that they make no map.
    """

    images: MeasuredImages
    contrast: Contrast
    rings: RingCheck | None
    alarms: list[str]
    scales: Scales | None
    scaled: NDArray[np.int64]
    views: str | None
    poses: PoseCheck | None


def inspect_particles(stack: ParticleStack, say: Callable[[str], None] = lambda line: None) -> Inspection:
    """Measure the images of a stack, and check contrast, duplicates, scales and poses.

    say : takes each line of what is found, as soon as it is.

    Raises InputError for pixels that are NaN or infinite, for images that are all blank, and for rows that name an
    image twice in one half set.
    """
    images = measured_images(stack)
    for line in images.report():
        say(line)
    prepared = images.prepared()
    guess = contrast(prepared)
    say(
        f"contrast       centre minus border {guess.centre_minus_border:+.3g} +- {guess.standard_error:.2g} "
        "(standard deviations of the noise)"
    )
    say(f"               {guess.sign.sentence()}")
    rings = check_rings(prepared)
    if rings is not None:
        say(f"CTF            {rings.sentence()}")
    elif not is_no_ctf(stack.ctf):
        say("CTF            the table's defocus predicts no ring below Nyquist: there is none to look for")
    alarms = _duplicates(stack, say)
    problem = views_problem(stack)
    if stack.rotations is None:
        say("poses          none in this file: reconstruction needs poses from a refinement")
        return Inspection(images, guess, rings, alarms, None, np.array([], np.int64), None, None)
    if problem is not None:
        say(f"poses          {problem}")
        return Inspection(images, guess, rings, alarms, None, np.array([], np.int64), problem, None)
    check = check_poses(prepared)
    say(f"poses          mean half-map FSC to half Nyquist of a quick map of {check.n_particles:,} particles:")
    for name, value in {"as given": check.as_given, **check.alternatives, "chance": check.chance}.items():
        say(f"               {value:6.3f}  {name}")
    say(f"               {check.verdict()}")
    scales, rows = _scales(prepared, images)
    for line in _scale_lines(scales, images, len(rows)):
        say(line)
    return Inspection(images, guess, rings, alarms, scales, rows, None, check)


def measured_images(stack: ParticleStack, most: int = MEASURED) -> MeasuredImages:
    """Measure all images, or `most` of them spread evenly over the stack in the order of its files."""
    if len(stack) <= most:
        return MeasuredImages(stack, measure_images(stack), len(stack))
    order = np.lexsort((stack.image_index, stack.file_index))
    part = stack[np.sort(order[np.unique(np.linspace(0, len(order) - 1, most).astype(int))])]
    return MeasuredImages(part, measure_images(part), len(stack))


def contrast(stack: ParticleStack, *, n_images: int = QUICK_PARTICLES, seed: int = 0) -> Contrast:
    """Look at up to `n_images` images for whether protein is white (brighter in the centre than at the border)."""
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
    return Contrast(mean, error, protein_sign(stack))


def check_poses(stack: ParticleStack, *, n_particles: int = QUICK_PARTICLES, seed: int = 0) -> PoseCheck:
    """Backproject up to `n_particles` in two halves, as given and with one thing changed at a time.

    Give normalised images: backgrounds, hot pixels and outliers agree between halves whatever the poses are.
    """
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
    kinds = [[_half_map_fsc(other) for other in others] for others in _reassigned(part, seed)]
    return PoseCheck(
        len(part),
        _half_map_fsc(part),
        {name: _half_map_fsc(variant) for name, variant in variants.items()},
        max(max(chance) for chance in kinds),
        max(float(np.std(chance, ddof=1)) for chance in kinds),
    )


def _reassigned(stack: ParticleStack, seed: int) -> list[list[ParticleStack]]:
    """The particles with their poses handed to other images, several times; then the same without the shifts."""
    orders = [np.random.default_rng(seed + again).permutation(len(stack)) for again in range(_REASSIGNED)]
    others = [
        dataclasses.replace(
            stack[order], rotations=stack.rotations, shifts_angstrom=stack.shifts_angstrom, ctf=stack.ctf
        )
        for order in orders
    ]
    unshifted = [dataclasses.replace(other, shifts_angstrom=0 * stack.shifts_angstrom) for other in others]
    return [others, unshifted] if stack.shifts_angstrom.any() else [others]


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
        found.append(_copies(part))
    return gather(found)


def _copies(stack: ParticleStack) -> str | None:
    """A sentence where images of one half set are copies of images of the other, whatever their background."""
    found = measure_images(stack)
    stack = dataclasses.replace(stack, normalisation=normalisation(found)[0])[~blank(found)]
    least = _NOISE_FREE_COPIES if found.plan.measure == "none" else _COPIES
    rows, components = zip(*((rows, fingerprints(images)) for rows, images in stack.chunks()), strict=True)
    return identical_images(np.concatenate(components), stack.half_set[np.concatenate(rows)], least)


def _duplicates(stack: ParticleStack, say: Callable[[str], None]) -> list[str]:
    """What half sets share, and a line on what was compared."""
    if len(np.unique(stack.specimens())) < 2:
        say("duplicates     one particle: there is nothing to compare it with")
        return []
    shared = particle_alarms(stack, most_images=COMPARED)
    where = "entries, places on micrographs" if stack.picks is not None else "entries (the file has no coordinates)"
    n = min(len(stack), COMPARED)
    compared = f"copies among {n:,} images" if n >= FEWEST_IMAGES else "no copies among so few images"
    say(f"duplicates     {where}, {compared}: {'none in both half sets' if not shared else ''}".rstrip())
    for sentence in shared:
        say(f"               alarm: {sentence}")
    return shared


def _scales(prepared: ParticleStack, images: MeasuredImages) -> tuple[Scales | None, NDArray[np.int64]]:
    """Scales of some particles, the same ones as `reconstruct` looks at, and which of those measured they are."""
    none = np.array([], np.int64)
    if images.found.plan.measure == "none" or len(prepared) < ENOUGH:
        return None, none
    rows = _sample(len(prepared), SCALED, 0)
    dealt = prepared if prepared.half_set.all() else prepared.with_half_sets()
    scales = measure_scales(dealt[rows])
    return (None, none) if scales is None else (scales, np.flatnonzero(images.kept())[rows])


def _scale_lines(scales: Scales | None, images: MeasuredImages, n: int) -> list[str]:
    """How the strength of the signal differs, and what follows."""
    if scales is None:
        why = "quick maps of these particles predict none of their images better than noise would be"
        if images.found.plan.measure == "none":
            why = "the signal is stronger than the noise, and all images count alike"
        elif np.count_nonzero(images.kept()) < ENOUGH:
            why = f"there are fewer than {ENOUGH} particles"
        return [f"scales         not measured: {why}"]
    lines = [
        f"scales         strength of the signal of {n:,} particles, beside a map of others: spread "
        f"{100 * scales.spread:.0f} %, without signal {100 * scales.empty:.1f} % of the images"
    ]
    return lines + [f"               finding: {sentence}" for sentence in scales.sentences(n)]


def _half_map_fsc(stack: ParticleStack) -> float:
    box_size = min(stack.box_size, QUICK_BOX)
    pixel_size = stack.pixel_size * stack.box_size / box_size
    order = np.random.default_rng(0).permutation(len(stack))
    parts = [np.sort(order[k::2]) for k in (0, 1)]
    specimens = stack.specimens()
    if len(np.unique(specimens)) < len(stack) and (dealt := deal(specimens, 0)) is not None:
        parts = [np.flatnonzero(dealt == half) for half in (1, 2)]
    halves: list[NDArray[np.float32]] = [
        classical_map(accumulate(stack[part], box_size=box_size, label="quick map")) for part in parts
    ]
    sphere = spherical_mask(box_size, pixel_size)
    curve = fourier_shell_correlation(*halves, voxel_size=pixel_size, mask=sphere)
    return float(np.nan_to_num(curve.values[1 : box_size // 4 + 1]).mean())


def _sample(n: int, most: int, seed: int) -> NDArray[np.int64]:
    return np.sort(np.random.default_rng(seed).permutation(n)[:most])
