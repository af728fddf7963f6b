"""From two half maps, and a truth or an atomic model, to a folder of curves, files for EMDB and RELION, and alarms.

What `gsworkbench fsc` and `postprocess` do, and the last step of `reconstruct`. `localres` and `directional` are in
assessment/local_judging.py; the judging itself is in assessment/.
"""

from __future__ import annotations

import contextlib
import csv
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gsworkbench.assessment import alarms
from gsworkbench.assessment.corrected import noise_substitution
from gsworkbench.assessment.definitions import Judgement, find_definition, judge
from gsworkbench.assessment.exports import write_fsc_xml, write_postprocess_star
from gsworkbench.assessment.fsc import (
    FscCurve,
    Resolution,
    fourier_shell_correlation,
    resolution,
    without_power,
    write_fsc_csv,
)
from gsworkbench.assessment.half_maps import half_map_alarms
from gsworkbench.assessment.honesty import Overstatement, overstatement
from gsworkbench.assessment.judge_defaults import MODEL_B_FACTOR
from gsworkbench.assessment.linear_maps import linear_alarms, unlike_the_estimate
from gsworkbench.assessment.map_names import LINEAR, REGULARISED, UNFILTERED, find_half_maps
from gsworkbench.assessment.mask_names import MASKS
from gsworkbench.assessment.masks import Mask, MaskRecipe, automatic_mask, doubtful_mask, make_mask, spherical_mask
from gsworkbench.assessment.model_map import model_map
from gsworkbench.assessment.of_files import read_maps
from gsworkbench.assessment.plots import fsc_figure
from gsworkbench.assessment.sharpening import Sharpened, sharpen
from gsworkbench.assessment.truth_estimate import TruthEstimate, estimate_truth_fsc
from gsworkbench.errors import InputError
from gsworkbench.io.files import atomic_path
from gsworkbench.io.mrc import Map, MapPlace, map_origin, write_map
from gsworkbench.molecules import read_atoms

SUBSTITUTED = ("half_map_1_substituted.mrc", "half_map_2_substituted.mrc")
FILES: tuple[str, ...] = (
    "mask.mrc",
    "fsc.csv",
    "fsc.xml",
    "fsc.png",
    "fsc.svg",
    "postprocess.star",
)  # what write_assessment may write
GROWN = {
    "loose": MaskRecipe("grown", dilation=25, edge=15),
    "tight": MaskRecipe("grown", dilation=6, edge=6),
}


@dataclass(frozen=True)
class Assessment:
    """What can be said of a map.

    curves : those of the judgement, then the map against the truth and against the model, unmasked and masked.
    resolutions : read off them, by the definition between half maps, at 0.5 to a truth or model; none of the
    randomised curve. judgement : of the half maps, None without them. overstatements : "unmasked", "masked" -> H, with
    half maps and truth. alarms, notes : sentences.
    estimates : of the FSC to the unknown truth, unmasked and masked, where there were linear maps.
    mask : of the masked curves; None without. model_b_factor : of the model's atoms, A^2.
    place : where what is made from the maps is to lie, None for the default.
    """

    curves: tuple[FscCurve, ...]
    resolutions: tuple[Resolution, ...]
    judgement: Judgement | None
    overstatements: dict[str, Overstatement]
    alarms: tuple[str, ...]
    mask: Mask | None
    voxel_size: float
    model_b_factor: float | None = None
    notes: tuple[str, ...] = ()
    place: MapPlace | None = None
    estimates: tuple[TruthEstimate, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers for run.json: each curve's mean and resolution, and H."""
        read = {r.curve: asdict(r) for r in self.resolutions}
        figures: dict[str, Any] = {c.name: {"mean": c.mean(), **read.get(c.name, {})} for c in self.curves}
        if self.overstatements:
            h = self.overstatements
            figures["overstatement"] = {k: {f: getattr(h[k], f) for f in ("mean", "worst", "worst_shell")} for k in h}
        figures |= {estimate.half.name: estimate.as_dict() for estimate in self.estimates}
        return figures

    def report(self) -> list[str]:
        """Return the lines to print."""
        read = {r.curve: r for r in self.resolutions}
        estimated = {e.half.name for e in self.estimates}
        of_model = "" if self.model_b_factor is None else f"; {self.caption()}"
        lines = [
            f"{read[c.name]}{of_model if c.name.endswith('_model') else ''}; mean FSC {c.mean():.4f}"
            for c in self.curves
            if c.name in read and c.name not in estimated
        ]
        lines += [line for estimate in self.estimates for line in estimate.report()]
        lines += [str(r) for r in self.judgement.half_bits] if self.judgement is not None else []
        lines += [f"{name}: {h}" for name, h in self.overstatements.items()]
        judged = () if self.judgement is None else self.judgement.notes
        lines += [f"note: {note}" for note in dict.fromkeys((*self.notes, *judged))]
        return lines + [f"alarm: {alarm}" for alarm in self.alarms]

    def caption(self) -> str:
        """Return what the caption of a figure has to add."""
        return "" if self.model_b_factor is None else f"atoms of the model at B = {self.model_b_factor:g} A^2"

    def with_alarms(self, *more: str | None) -> Assessment:
        """Return the assessment with further alarms."""
        return replace(self, alarms=tuple(alarms.gather([*self.alarms, *more])))


def assess(
    volume: Map,
    halves: tuple[Map, Map] | None,
    truth: Map | None,
    *,
    voxel_size: float,
    model: Map | None = None,
    linear: tuple[Map, Map] | None = None,
    mask: str | Mask = "auto",
    more_masks: Mapping[str, Mask] = MappingProxyType({}),
    definition: str = "RELION",
    seed: int = 0,
) -> Assessment:
    """Judge a map by its half maps, a known truth or the map of an atomic model.

    Parameters
    ----------
    volume : (D, D, D) array
        The map to compare with the truth and the model. Masks are made from it.
    halves : pair of (D, D, D) arrays, or None
        Half maps from particles that have nothing in common.
    truth : (D, D, D) array or None
        The known truth, as in a simulation.
    voxel_size : float
        Angstrom, of all the maps.
    model : (D, D, D) array, optional
        The map of an atomic model.
    linear : pair of (D, D, D) arrays, optional
        Least-squares backprojections of the two half sets: the FSC to the unknown truth is estimated with them.
    mask : str or Mask
        "auto" (from the map), "own" (as the definition makes it), "sphere", "loose", "tight", "none", or a mask of your
        own.
    more_masks : mapping of str to Mask
        Further masks, each of which gives an FSC curve between the half maps.
    definition : str
        A name of `DEFINITIONS`: the program whose FSC and resolution are computed.
    seed : int
        Decides the random phases and the bootstrap.

    Returns
    -------
    Assessment
        `curves`, `resolutions` (at 0.143 between half maps, at 0.5 to a truth or a model) and `alarms`, sentences that
        say why a number may be wrong. `report()` is what the command line prints.

    Raises
    ------
    InputError
        If boxes differ, or the definition is unknown.

    Examples
    --------
    >>> import numpy as np
    >>> import gsworkbench as gs
    >>> truth, voxel_size = gs.read_map("ribosome/truth.mrc")
    >>> noise = np.random.default_rng(0).normal(size=(2, *truth.shape)) * truth.std()
    >>> halves = (truth + noise[0], truth + noise[1])
    >>> found = gs.assess((halves[0] + halves[1]) / 2, halves, truth, voxel_size=voxel_size, mask="none")
    >>> [(curve.name, round(curve.mean(), 1)) for curve in found.curves]
    [('fsc_unmasked', 0.6), ('fsc_unmasked_truth', 0.8)]
    """
    chosen = mask if isinstance(mask, Mask) else named_mask(mask, volume, voxel_size, definition)
    judgement = None
    if halves is not None:
        judgement = judge(
            *halves,
            definition,
            voxel_size=voxel_size,
            mask=chosen or ("none" if mask == "none" else "own"),
            more_masks={f"fsc_{name}": made for name, made in more_masks.items()},
            seed=seed,
        )
    references = {what: other for what, other in (("truth", truth), ("model", model)) if other is not None}
    others = [
        c
        for what, other in references.items()
        for c in _reference_curves(volume, other, what, chosen, voxel_size, definition)
    ]
    h = _overstatements(halves, truth, chosen, voxel_size, definition, judgement)
    estimates = () if halves is None or linear is None else _estimates(halves, linear, chosen, voxel_size, definition)
    judged = (*(judgement.resolutions if judgement else ()), *(resolution(c, 0.5) for c in others))
    return Assessment(
        curves=(*(judgement.curves if judgement else ()), *others, *(e.half for e in estimates)),
        resolutions=(*judged, *(e.resolution for e in estimates if e.resolution is not None)),
        judgement=judgement,
        overstatements=h,
        alarms=tuple(
            alarms.gather(
                [
                    *_alarms(volume, halves, references, judgement, h, chosen),
                    *(linear_alarms(halves, linear, voxel_size) if estimates and halves and linear else []),
                    *(unlike_the_estimate(*e.overstatement) for e in estimates[:1]),
                ]
            )
        ),
        mask=chosen,
        voxel_size=voxel_size,
        estimates=estimates,
    )


def judge_maps(
    half_1: Path,
    half_2: Path,
    *,
    definition: str = "RELION",
    masks: Sequence[str] = ("none",),
    truth: Path | None = None,
    linear: tuple[Path, Path] | None = None,
    model: Path | None = None,
    b_factor: float = MODEL_B_FACTOR,
    initial: Path | None = None,
    held_out: Path | None = None,
    voxel_size: float | None = None,
    seed: int = 0,
) -> Assessment:
    """Judge half maps on disk, and their mean against a truth and an atomic model.

    masks : names as in `assess`, or paths; the first is that of fsc_masked and of the correction, the others give a
    curve each. linear : least-squares backprojections of the same half sets, without filter, with which the FSC to the
    unknown truth is estimated. model : coordinates (.cif, .pdb) in the frame of half map 1, whose potential has every
    atom at `b_factor` A^2. initial : the map that both fits started from. held_out : the held_out.csv of the fit.
    voxel_size : A, in place of what the headers of all maps say.
    """
    definition = find_definition(definition).name
    linear_1, linear_2 = linear or (None, None)
    paths = {"truth": truth, "initial": initial, "linear map 1": linear_1, "linear map 2": linear_2}
    given = {name: path for name, path in paths.items() if path is not None}
    user = [name for name in masks if name not in MASKS]
    maps = read_maps(half_1, half_2, *given.values(), masks=user, voxel_size=voxel_size)
    (first, second, *others), voxel_size = maps.volumes, maps.voxel_size
    read = dict(zip([*given, *user], others, strict=True))
    mean = (first + second) / np.float32(2)
    made = {name: chosen_mask(name, read.get(name), mean, voxel_size, definition) for name in masks}
    found = assess(
        mean,
        (first, second),
        read.get("truth"),
        voxel_size=voxel_size,
        model=_map_of_atoms(model, half_1, len(first), voxel_size, b_factor) if model else None,
        linear=(read["linear map 1"], read["linear map 2"]) if linear else None,
        mask=made[masks[0]] or masks[0],
        more_masks={_curve_name(name): m for name in masks[1:] if (m := made[name]) is not None},
        definition=definition,
        seed=seed,
    )
    found = replace(found, model_b_factor=b_factor if model else None, notes=maps.notes, place=maps.place)
    assert found.judgement is not None
    if "initial" in read:
        found = found.with_alarms(
            alarms.shared_initialisation(first, second, read["initial"], found.judgement.resolution, found.mask)
        )
    if held_out is not None:
        found = found.with_alarms(alarms.held_out_disagrees(*read_held_out(held_out), found.curves[0].mean()))
    return found


def judge_substituted(
    halves: tuple[Path, Path],
    substituted: tuple[Path, Path],
    *,
    beyond: float,
    mask: str = "none",
    voxel_size: float | None = None,
) -> Assessment:
    """Judge half maps by those of the same method from particles whose phases are random beyond `beyond` A.

    The curves are fsc_measured, fsc_substituted and fsc_corrected, FSC_true of Chen et al. 2013.
    """
    user = [] if mask in MASKS else [mask]
    maps = read_maps(*halves, *substituted, masks=user, voxel_size=voxel_size)
    first, second, third, fourth, *others = maps.volumes
    chosen = chosen_mask(mask, others[0] if user else None, (first + second) / 2, maps.voxel_size)
    found = assess_substituted((first, second), (third, fourth), maps.voxel_size, beyond, chosen)
    return replace(found, notes=maps.notes)


def assess_substituted(
    halves: tuple[Map, Map],
    substituted: tuple[Map, Map],
    voxel_size: float,
    beyond: float,
    mask: Mask | None = None,
) -> Assessment:
    """`judge_substituted` of maps in memory."""
    found = noise_substitution(halves, substituted, from_angstrom=beyond, voxel_size=voxel_size, mask=mask)
    read = tuple(resolution(c) for c in (found.measured, found.substituted, found.corrected))
    raised = tuple(alarms.gather([alarms.fits_noise(found.substituted, found.from_shell)]))
    curves = (found.measured, found.substituted, found.corrected)
    return Assessment(curves, read, None, {}, raised, mask, voxel_size)


def with_substitution(found: Assessment, substitution: Assessment) -> Assessment:
    """Add the curve of substituted half maps, what is left without it (fsc_less_substituted), and the alarm."""
    names = {"fsc_substituted": "fsc_substituted", "fsc_corrected": "fsc_less_substituted"}
    curves = [replace(c, name=names[c.name]) for c in substitution.curves if c.name in names]
    read = [replace(r, curve=names[r.curve]) for r in substitution.resolutions if r.curve in names]
    notes = (*found.notes, *substitution.notes)
    more = replace(found, curves=(*found.curves, *curves), resolutions=(*found.resolutions, *read), notes=notes)
    return more.with_alarms(*substitution.alarms)


@dataclass(frozen=True)
class RunFiles:
    """What `gsworkbench reconstruct` left in a folder for the judge: None where it did not.

    beyond : A, where the phases of the substituted maps' particles become random, by run.json.
    """

    halves: tuple[Path, Path]
    substituted: tuple[Path, Path] | None
    linear: tuple[Path, Path] | None
    beyond: float | None
    held_out: Path | None


def run_folder(path: Path) -> RunFiles:
    """Find half maps, substituted half maps and held_out.csv in the folder of a reconstruction."""
    halves, substituted = find_half_maps(path), (path / SUBSTITUTED[0], path / SUBSTITUTED[1])
    if halves is None:
        remedy = f"it should have {REGULARISED[0]} or {UNFILTERED[0]}, and those of half set 2"
        raise InputError("this folder does not hold two half maps", file=path, remedy=remedy)
    first, second = (path / name for name in LINEAR)
    linear = (first, second) if first.is_file() and second.is_file() else None
    held_out, beyond = path / "held_out.csv", None
    if not all(half.is_file() for half in substituted):
        return RunFiles(halves, None, linear, None, held_out if held_out.is_file() else None)
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # then it has to be given
        beyond = float(json.loads((path / "run.json").read_text())["config"]["noise_substitute_beyond"])
    return RunFiles(halves, substituted, linear, beyond, held_out if held_out.is_file() else None)


def read_held_out(path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the columns error_fitted and error_held_out, (n,) each, of a held_out.csv of `reconstruct`."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = [(float(row["error_fitted"]), float(row["error_held_out"])) for row in csv.DictReader(file)]
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise InputError("not a held_out.csv", file=path, remedy="give the one of a reconstruction") from error
    if not rows or not np.isfinite(rows).all():
        raise InputError("the file has no held-out errors", file=path)
    fitted, held_out = np.array(rows).T
    return fitted, held_out


def chosen_mask(
    choice: str, values: Map | None, volume: Map, voxel_size: float, definition: str = "RELION"
) -> Mask | None:
    """Return the mask of a --mask: of the file `choice`, which holds `values`, or, if these are None, by its name."""
    return named_mask(choice, volume, voxel_size, definition) if values is None else user_mask(values, choice)


def user_mask(values: Map, path: str | Path) -> Mask:
    """Return the mask that a file holds, called as the file is; raises InputError where it is none."""
    if values.min() < 0 or values.max() > 1:
        raise InputError(f"a mask must lie between 0 and 1, not {values.min():.3g} and {values.max():.3g}", file=path)
    if not (values > 0.5).any():
        raise InputError("the mask is empty: no voxel is above 0.5", file=path)
    return Mask(values, Path(path).name)


def named_mask(name: str, volume: Map, voxel_size: float, definition: str = "RELION") -> Mask | None:
    """Return the mask that one of MASKS makes of a map; None for "none", and for a definition that has no mask."""
    if name == "sphere":
        return spherical_mask(len(volume), voxel_size)
    if name == "auto":
        return automatic_mask(volume, voxel_size)
    if name in GROWN:
        return make_mask(GROWN[name], volume, voxel_size)
    recipe = find_definition(definition).masks.get("fsc_masked") if name == "own" else None
    return None if recipe is None else make_mask(recipe, volume, voxel_size)


def postprocess(half_1: Path, half_2: Path, judgement: Judgement, b_factor: float | None = None) -> Sharpened:
    """Weight the mean of two half maps by the FSC of the definition, and sharpen it; see sharpening.sharpen."""
    first, second = read_maps(half_1, half_2, voxel_size=judgement.curves[0].voxel_size).volumes
    curve = judgement.curve(judgement.resolution.curve)
    assert curve is not None
    return sharpen((first + second) / np.float32(2), curve, b_factor, unmasked=judgement.curves[0])


def write_assessment(
    output_dir: Path,
    assessment: Assessment,
    title: str,
    half_maps: tuple[str, str],
    sharpened: Sharpened | None = None,
) -> None:
    """Write FILES: mask.mrc if there is a mask, curves if there are any, fsc.xml and postprocess.star of half maps.

    sharpened : of `postprocess`; gives postprocess.mrc, and postprocess_masked.mrc where there is a mask.
    """
    if assessment.mask is not None:
        mask, size = assessment.mask, assessment.voxel_size
        write_map(output_dir / "mask.mrc", mask.values, size, mask.description, place=assessment.place)
    if not assessment.curves:
        return
    judgement = assessment.judgement
    errors = judgement.errors if judgement else {}
    columns = {f"{name}_error": values for name, values in errors.items()}
    for estimate in assessment.estimates:
        name = estimate.half.name
        errors = {**errors, name: estimate.error}
        columns |= {f"{name}_error": estimate.error, f"{name}_bootstrap": estimate.bootstrap}
        columns |= {f"{name}_linear": estimate.linear.values}
        columns |= {f"{name}_full": estimate.full.values, f"{name}_full_error": estimate.full_error}
    columns |= {f"{name}_bootstrap": values for name, values in (judgement.bootstrap if judgement else {}).items()}
    write_fsc_csv(output_dir / "fsc.csv", assessment.curves, columns)
    from matplotlib import rc_context  # slow to import, and not needed to judge

    remarks = [assessment.caption()] if assessment.caption() else []
    figure = fsc_figure(assessment.curves, assessment.resolutions, title, errors=errors, remarks=remarks)
    for name in ("fsc.png", "fsc.svg"):
        salted = rc_context({"svg.hashsalt": name})  # else names inside an .svg are random
        with salted, atomic_path(output_dir / name) as temporary:
            figure.savefig(temporary, dpi=150, metadata={"Date": None} if name.endswith("svg") else None)
    if sharpened is not None:
        words = f"FSC-weighted, B {sharpened.b_factor:.1f} A^2"
        made: dict[str, tuple[Map, str]] = {"postprocess.mrc": (sharpened.volume, words)}
        if assessment.mask is not None:
            made["postprocess_masked.mrc"] = (sharpened.volume * assessment.mask.values, words + ", masked")
        for file, (volume, label) in made.items():
            write_map(output_dir / file, volume, assessment.voxel_size, label, place=assessment.place)
    if judgement is not None:
        best = judgement.curve(judgement.resolution.curve)
        assert best is not None
        write_fsc_xml(output_dir / "fsc.xml", best, judgement.resolution)
        file = "None" if assessment.mask is None else "mask.mrc"
        write_postprocess_star(output_dir / "postprocess.star", judgement, half_maps, file, sharpened)


def _curve_name(mask: str) -> str:
    """The name of a mask in that of a curve: of a file, its stem."""
    return mask if mask in MASKS else re.sub(r"\W+", "_", Path(mask).stem)


def _map_of_atoms(path: Path, map_path: Path, box_size: int, voxel_size: float, b_factor: float) -> Map:
    """Potential of the atoms of a file on the grid of a map, in the frame of the map's header."""
    coordinates, elements, _ = read_atoms(path)
    origin = map_origin(map_path, voxel_size)
    try:
        return model_map(
            coordinates, elements, box_size=box_size, voxel_size=voxel_size, origin=origin, b_factor=b_factor
        )
    except InputError as error:
        raise InputError(error.problem, file=path, remedy=error.remedy) from error


def _reference_curves(
    volume: Map, other: Map, what: str, mask: Mask | None, voxel_size: float, definition: str
) -> list[FscCurve]:
    """Curves of a map to the "truth" or "model", without and inside the mask."""
    masks: dict[str, Mask | None] = {f"fsc_unmasked_{what}": None}
    masks |= {} if mask is None else {f"fsc_masked_{what}": mask}
    curves = [
        fourier_shell_correlation(
            volume,
            other,
            voxel_size=voxel_size,
            mask=m,
            name=name,
            shells=find_definition(definition).shells,
            definition=definition,
        )
        for name, m in masks.items()
    ]
    return [curves[0], *(without_power(curve, curves[0]) for curve in curves[1:])]


def _estimates(
    halves: tuple[Map, Map], linear: tuple[Map, Map], mask: Mask | None, voxel_size: float, definition: str
) -> tuple[TruthEstimate, ...]:
    """Estimates of the FSC to the unknown truth, without and inside the mask."""
    shells = find_definition(definition).shells
    return tuple(
        estimate_truth_fsc(halves, linear, voxel_size=voxel_size, mask=m, shells=shells, definition=definition)
        for m in dict.fromkeys([None, mask])
    )


def _overstatements(
    halves: tuple[Map, Map] | None,
    truth: Map | None,
    mask: Mask | None,
    voxel_size: float,
    definition: str,
    judgement: Judgement | None,
) -> dict[str, Overstatement]:
    """H unmasked and masked. It needs the mean of the half maps, which `volume` need not be."""
    if halves is None or truth is None or judgement is None:
        return {}
    mean = (halves[0] + halves[1]) / 2
    found = {}
    for c in _reference_curves(mean, truth, "truth", mask, voxel_size, definition):
        name = c.name.removesuffix("_truth")
        half_map_fsc = judgement.curve(name)
        assert half_map_fsc is not None
        found[name.removeprefix("fsc_")] = overstatement(half_map_fsc, c)
    return found


def _alarms(
    volume: Map,
    halves: tuple[Map, Map] | None,
    references: dict[str, Map],
    judgement: Judgement | None,
    overstatements: dict[str, Overstatement],
    mask: Mask | None,
) -> Sequence[str]:
    raised: list[str | None] = [doubtful_mask(mask)]
    if halves is not None and judgement is not None:
        read = {r.curve: r for r in judgement.resolutions}
        unmasked = judgement.curves[0]
        raised += half_map_alarms(*halves, unmasked.voxel_size, mask)
        raised += [alarms.empty_shells(unmasked), alarms.agree_where_empty(*halves, unmasked)]
        raised += [
            alarms.rises_again(c, judgement.errors[c.name]) for c in judgement.curves if c.name in judgement.errors
        ]
        randomised = judgement.curve("fsc_randomized_masked")
        if randomised is not None and judgement.randomised_from is not None:
            corrected = read["fsc_corrected"]
            raised.append(alarms.reaches_too_far(read["fsc_unmasked"], corrected))
            raised.append(alarms.mask_still_agrees(randomised, corrected, judgement.randomised_from))
    raised += [alarms.shared_bias(h.mean) for name, h in overstatements.items() if name == "unmasked"]
    raised += [alarms.unlike_truth(volume, other, what) for what, other in references.items()]
    return alarms.gather(raised)
