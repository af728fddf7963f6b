"""Whose FSC is it? The definitions of four programs as data, and one judge that follows them.

Sources: RELION 3.1 relion_postprocess (equal to 1e-5, tests/assessment/test_judge_command.py, but for constants in the
maps: see OFFSET), cryoDRGN 4.3 cryodrgn_utils fsc (equal likewise), cryoSPARC's guide and forum (closed source: `notes`
say what is not documented), the FSC of the CryoNeRF release, which GEM's numbers come from.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gsworkbench.assessment.bootstrap import bootstrap_error
from gsworkbench.assessment.corrected import (
    corrected_curve,
    corrected_error,
    effective_samples,
    half_bit,
    randomise_phases,
    standard_error,
)
from gsworkbench.assessment.fsc import (
    Crossing,
    FscCurve,
    Resolution,
    Shells,
    fourier_shell_correlation,
    resolution,
    without_power,
)
from gsworkbench.assessment.masks import Mask, MaskRecipe, make_mask
from gsworkbench.errors import InputError
from gsworkbench.io.mrc import Map


@dataclass(frozen=True)
class Definition:
    """What a program means by FSC and resolution.

    shells : how voxels are summed. masks : curve -> recipe; the one of fsc_masked gives the corrected curve, and a
    mask that the user gives takes its place.
    randomise : where phases are randomised from: the first shell whose unmasked FSC is below a height; or the given
    fraction of the frequency where fsc_masked crosses the threshold (half of the unmasked one if it never does); None
    where nothing is corrected.
    corrected_from : shells beyond that, from which the corrected curve is (t - n) / (1 - n). Where that leaves no
    shell before Nyquist there is no corrected curve.
    clipped : the corrected curve is cut to 0...1.
    crossing, threshold : how the resolution is read.
    notes : what is not documented and taken as it stands here, and where we depart on purpose.
    """

    name: str
    shells: Shells
    masks: Mapping[str, MaskRecipe]
    randomise: tuple[Literal["unmasked below", "fraction of masked crossing"], float] | None
    corrected_from: int = 0
    clipped: bool = False
    crossing: Crossing = "before first below"
    threshold: float = 0.143
    notes: tuple[str, ...] = ()


# Under every definition: a constant in a map is no signal, but times a mask it is one, which all half maps share.
OFFSET = "the mean of each map in the soft edge of the mask is taken off first, which none of the programs does"

_WITH_ERRORS = ("fsc_unmasked", "fsc_masked")
_CRYODRGN_GROWN = MaskRecipe("grown", percentile=99.99, steps="taxicab", profile="quarter cosine")

DEFINITIONS: Mapping[str, Definition] = MappingProxyType({
    d.name: d
    for d in (
        Definition(
            "RELION",
            Shells("round", "stored"),
            {"fsc_masked": MaskRecipe("automatic")},
            ("unmasked below", 0.8),
            corrected_from=2,
            notes=(
                OFFSET,
                "sums run over the stored half of the transform, so the plane kx = 0 counts twice",
                "without a mask of the user's the automatic mask of this program is taken; RELION has no default",
            ),
        ),
        Definition(
            "cryoSPARC",
            Shells("round", "all"),
            {
                "fsc_sphere": MaskRecipe("sphere"),
                "fsc_loose": MaskRecipe("grown", dilation=25, edge=15),
                "fsc_masked": MaskRecipe("grown", dilation=6, edge=6),
            },
            ("unmasked below", 0.143),
            crossing="interpolated",
            notes=(
                OFFSET,
                "closed source; shells and filtering before the masks are not documented",
                "interpolation is inferred from the fractional radii in its logs",
            ),
        ),
        Definition(
            "cryoDRGN",
            Shells("floor + 1", "all"),
            {
                "fsc_sphere": MaskRecipe("sphere"),
                "fsc_loose": dataclasses.replace(_CRYODRGN_GROWN, dilation=25, edge=15),
                "fsc_masked": dataclasses.replace(_CRYODRGN_GROWN, dilation=6, edge=6),
            },
            ("fraction of masked crossing", 0.75),
            corrected_from=1,
            clipped=True,
            crossing="last at or above",
            notes=(
                OFFSET,
                "its spherical mask is a cylinder along z; a sphere is taken here",
                "its randomised phases are neither seeded nor those of a real map; they are here",
                "a shell without power counts 1 there; it has no value here",
                "shell i holds i - 1 <= |k| < i but is read as frequency i: half a shell optimistic on average",
                "a curve that ends above the threshold gives its last shell there, no crossing here",
            ),
        ),
        Definition(
            "GEM/CryoNeRF",
            Shells("floor", "all"),
            {},
            None,
            notes=(
                OFFSET,
                "a binary search that takes the curve for monotone; on others the first shell below is taken here",
            ),
        ),
    )
})  # fmt: skip


@dataclass(frozen=True)
class Judgement:
    """Two half maps under one definition.

    curves : fsc_unmasked, one per mask, fsc_randomized_masked and fsc_corrected where there are such.
    errors : curve name -> (D // 2 + 1,) standard errors by formula, of fsc_unmasked, fsc_masked and fsc_corrected.
    bootstrap : the same drawn from the maps, of fsc_unmasked and fsc_masked.
    resolutions : one for every curve but the randomised one.
    resolution : the one the program would report: of the corrected curve, else masked, else unmasked.
    half_bits : where fsc_unmasked and fsc_masked fall below the half-bit curve of their effective samples.
    masks : curve name -> mask. randomised_from : shell, None if nothing was randomised. notes : sentences.
    """

    definition: Definition
    curves: tuple[FscCurve, ...]
    errors: Mapping[str, NDArray[np.float64]]
    bootstrap: Mapping[str, NDArray[np.float64]]
    resolutions: tuple[Resolution, ...]
    half_bits: tuple[Resolution, ...]
    masks: Mapping[str, Mask] = field(repr=False)
    randomised_from: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def resolution(self) -> Resolution:
        return self.resolutions[-1]

    def curve(self, name: str) -> FscCurve | None:
        return next((c for c in self.curves if c.name == name), None)


def find_definition(name: str) -> Definition:
    """Return a definition by its name, whatever its case; an unknown one raises InputError."""
    for definition in DEFINITIONS.values():
        if definition.name.lower() == name.lower():
            return definition
    raise InputError(f"there is no FSC definition {name!r}", remedy=f"the known ones are {', '.join(DEFINITIONS)}")


def judge(
    half_1: Map,
    half_2: Map,
    definition: Definition | str = "RELION",
    *,
    voxel_size: float,
    mask: Mask | Literal["own", "none"] = "own",
    more_masks: Mapping[str, Mask] = MappingProxyType({}),
    seed: int = 0,
    keep_offset: bool = False,
) -> Judgement:
    """Judge two (D, D, D) half maps as `definition` does.

    mask : takes the place of the definition's own mask for fsc_masked and fsc_corrected; "none" leaves out all masks of
    the definition, and with them the correction. more_masks : by the names of the further curves that they give. seed :
    of the random phases and of the bootstrap. keep_offset : leave constants in the maps, as the programs themselves do:
    they multiply a map and its constant by the mask, and count what agrees about the mask as signal.
    """
    definition = find_definition(definition) if isinstance(definition, str) else definition
    # fsc_masked stays last: it is what the correction goes on from.
    masks = {**more_masks, **_masks(definition, (half_1 + half_2) / 2, voxel_size, mask, keep_offset)}

    def correlate(pair: Sequence[Map], name: str, inside: Mask | None) -> FscCurve:
        return fourier_shell_correlation(
            pair[0],
            pair[1],
            voxel_size=voxel_size,
            mask=inside,
            name=name,
            shells=definition.shells,
            definition=definition.name,
            keep_offset=keep_offset,
        )

    halves = (half_1, half_2)
    unmasked = correlate(halves, "fsc_unmasked", None)
    curves = [unmasked, *(without_power(correlate(halves, name, m), unmasked) for name, m in masks.items())]
    samples = {c.name: effective_samples(len(half_1), masks.get(c.name)) for c in curves if c.name in _WITH_ERRORS}
    errors = {c.name: standard_error(c, samples[c.name]) for c in curves if c.name in samples}
    bootstrap = {
        name: bootstrap_error(
            *halves, n, mask=masks.get(name), shells=definition.shells, seed=seed, keep_offset=keep_offset
        )
        for name, n in samples.items()
    }
    half_bits = tuple(
        resolution(c, half_bit(samples[c.name]), definition.crossing, criterion="half-bit")
        for c in curves
        if c.name in samples
    )
    notes: list[str] = []
    shell = None
    if "fsc_masked" in masks and definition.randomise is not None:
        shell = _randomisation_shell(definition, curves[0], curves[-1])
        nothing = _nothing_to_correct(definition, shell, len(half_1))
        shell, notes = (None, [nothing]) if nothing else (shell, notes)
    if shell:
        measured, start = curves[-1], shell + definition.corrected_from
        random = [randomise_phases(half, shell, seed=2 * seed + i) for i, half in enumerate(halves)]
        curves.append(without_power(correlate(random, "fsc_randomized_masked", masks["fsc_masked"]), unmasked))
        errors["fsc_corrected"] = corrected_error(measured, curves[-1], start, samples["fsc_masked"])
        curves.append(_clipped(corrected_curve(measured, curves[-1], start), definition.clipped))
    read = tuple(
        resolution(c, definition.threshold, definition.crossing) for c in curves if c.name != "fsc_randomized_masked"
    )
    return Judgement(definition, tuple(curves), errors, bootstrap, read, half_bits, masks, shell, tuple(notes))


def _masks(
    definition: Definition, mean: Map, voxel_size: float, mask: Mask | Literal["own", "none"], keep_offset: bool
) -> dict[str, Mask]:
    """Return masks by curve, fsc_masked last; the definition makes its own from the mean of the half maps."""
    if mask == "none":
        return {}
    made = {
        name: make_mask(recipe, mean, voxel_size, keep_offset=keep_offset)
        for name, recipe in definition.masks.items()
        if not isinstance(mask, Mask) or name != "fsc_masked"
    }
    return made | ({"fsc_masked": mask} if isinstance(mask, Mask) else {})


def _randomisation_shell(definition: Definition, unmasked: FscCurve, masked: FscCurve) -> int | None:
    """The shell that phases are randomised from; None if the curves never fall far enough, or fall at once."""
    assert definition.randomise is not None
    rule, value = definition.randomise
    if rule == "unmasked below":
        below = np.flatnonzero(~(unmasked.values[1:] >= value))
        return int(below[0]) + 1 if len(below) else None
    found = resolution(masked, definition.threshold, definition.crossing)
    if found.shell is None:
        value, found = 0.5, resolution(unmasked, definition.threshold, definition.crossing)
    shell = unmasked.box_size // 2 - 1 if found.shell is None else found.shell
    return int(value * shell) or None


def _nothing_to_correct(definition: Definition, shell: int | None, box_size: int) -> str | None:
    """Why there is no corrected curve: phases are random from no shell, or from one that leaves none to correct."""
    assert definition.randomise is not None
    rule, value = definition.randomise
    if shell and shell + definition.corrected_from < box_size // 2:
        return None
    if rule != "unmasked below":
        return "no corrected curve: the masked FSC is below the threshold from the first shell on"
    where = f"only in shell {shell} of {box_size // 2}" if shell else "never"
    return f"no corrected curve: the unmasked FSC {where} falls below {value:g}, the sampling limits it"


def _clipped(curve: FscCurve, clipped: bool) -> FscCurve:
    return dataclasses.replace(curve, values=np.clip(curve.values, 0, 1)) if clipped else curve
