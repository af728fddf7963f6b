"""From two half maps, and a truth if there is one, to a folder of curves, files for EMDB and RELION, and alarms.

What `gsworkbench fsc` and `postprocess` do, and the last step of `reconstruct`. The judging itself is in assessment/.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gsworkbench.assessment import alarms
from gsworkbench.assessment.definitions import Judgement, find_definition, judge
from gsworkbench.assessment.directional import DirectionalFsc, directional_fsc
from gsworkbench.assessment.exports import write_fsc_xml, write_postprocess_star
from gsworkbench.assessment.fsc import FscCurve, Resolution, fourier_shell_correlation, resolution, write_fsc_csv
from gsworkbench.assessment.honesty import Overstatement, overstatement
from gsworkbench.assessment.local import LocalResolution, local_resolution
from gsworkbench.assessment.masks import automatic_mask, make_mask, spherical_mask
from gsworkbench.errors import InputError
from gsworkbench.files import atomic_path
from gsworkbench.plotting import directional_figure, fsc_figure, local_resolution_figure
from gsworkbench.readers import read_map, write_map

Volume = NDArray[np.floating]

MASKS = ("own", "auto", "sphere", "none")
FILES = ("mask.mrc", "fsc.csv", "fsc.xml", "fsc.png", "fsc.svg", "postprocess.star")  # what write_assessment may write


@dataclass(frozen=True)
class Assessment:
    """What can be said of a map.

    curves : those of the judgement, then the map against the truth, unmasked and masked. resolutions : read off them,
    by the definition between half maps, at 0.5 to a truth; none of the randomised curve. judgement : of the half maps,
    None without them. overstatements : "unmasked", "masked" -> H, with half maps and truth. alarms : sentences.
    mask, mask_name : of the masked curves; None, "none" without.
    """

    curves: tuple[FscCurve, ...]
    resolutions: tuple[Resolution, ...]
    judgement: Judgement | None
    overstatements: dict[str, Overstatement]
    alarms: tuple[str, ...]
    mask: Volume | None
    mask_name: str
    voxel_size: float

    def figures(self) -> dict[str, Any]:
        """Return the numbers for run.json: each curve's mean and resolution, and H."""
        read = {r.curve: asdict(r) for r in self.resolutions}
        figures: dict[str, Any] = {c.name: {"mean": c.mean(), **read.get(c.name, {})} for c in self.curves}
        if self.overstatements:
            h = self.overstatements
            figures["overstatement"] = {k: {f: getattr(h[k], f) for f in ("mean", "worst", "worst_shell")} for k in h}
        return figures

    def lines(self) -> list[str]:
        """Return what to print."""
        read = {r.curve: r for r in self.resolutions}
        lines = [f"{read[c.name]}; mean FSC {c.mean():.4f}" for c in self.curves if c.name in read]
        lines += [f"{name}: {h}" for name, h in self.overstatements.items()]
        if self.judgement is not None:
            lines += [f"note: {note}" for note in self.judgement.notes]
        return lines + [f"alarm: {alarm}" for alarm in self.alarms]


def assess(
    volume: Volume,
    halves: tuple[Volume, Volume] | None,
    truth: Volume | None,
    *,
    voxel_size: float,
    mask: str = "auto",
    user_mask: Volume | None = None,
    definition: str = "RELION",
    seed: int = 0,
) -> Assessment:
    """Judge maps (D, D, D) under a named definition.

    volume : the map compared with the truth, and that masks are made from. mask : "own" (as the definition makes it),
    "auto", "sphere", "none", or the name of `user_mask`. seed : of the random phases.
    """
    chosen, name = choose_mask(mask, user_mask, volume, voxel_size, definition)
    judgement = None
    if halves is not None:
        judgement = judge(
            *halves, definition, voxel_size=voxel_size, mask=chosen, mask_name=name, masked=mask != "none", seed=seed
        )
    to_truth = [] if truth is None else _truth_curves(volume, truth, chosen, name, voxel_size, definition)
    h = _overstatements(halves, truth, chosen, name, voxel_size, definition, judgement)
    return Assessment(
        curves=(*(judgement.curves if judgement else ()), *to_truth),
        resolutions=(*(judgement.resolutions if judgement else ()), *(resolution(c, 0.5) for c in to_truth)),
        judgement=judgement,
        overstatements=h,
        alarms=tuple(_alarms(volume, halves, truth, judgement, h)),
        mask=chosen,
        mask_name=name,
        voxel_size=voxel_size,
    )


def judge_maps(
    half_1: Path,
    half_2: Path,
    *,
    definition: str = "RELION",
    mask: str = "none",
    truth: Path | None = None,
    seed: int = 0,
) -> Assessment:
    """Judge half maps on disk, and their mean against a truth. `mask` as in `assess`, or a path."""
    definition = find_definition(definition).name
    user = [] if mask in MASKS else [Path(mask)]
    (first, second, *others), voxel_size = read_maps(half_1, half_2, *([truth] if truth else []), *user)
    return assess(
        (first + second) / np.float32(2),
        (first, second),
        others[0] if truth else None,
        voxel_size=voxel_size,
        mask=mask,
        user_mask=others[-1] if user else None,
        definition=definition,
        seed=seed,
    )


def read_maps(first: Path, *others: Path) -> tuple[list[Volume], float]:
    """Read maps that must lie on the grid of the first; return them and the voxel size, A."""
    volume, voxel_size = read_map(first)
    volumes: list[Volume] = [volume]
    for path in others:
        other, size = read_map(path)
        if other.shape != volume.shape or abs(size / voxel_size - 1) > 0.01:
            raise InputError(f"its grid is not that of {first}", file=path)
        volumes.append(other)
    return volumes, voxel_size


def choose_mask(
    choice: str, user_mask: Volume | None, volume: Volume, voxel_size: float, definition: str
) -> tuple[Volume | None, str]:
    """Return the mask of the masked curves and its description; (None, "none") for no mask."""
    if user_mask is not None:
        if user_mask.min() < 0 or user_mask.max() > 1:
            raise InputError("a mask must lie between 0 and 1", file=choice)
        return user_mask, Path(choice).name
    if choice == "sphere":
        return spherical_mask(len(volume), voxel_size)
    if choice == "auto":
        return automatic_mask(volume, voxel_size)
    recipe = find_definition(definition).masks.get("fsc_masked") if choice == "own" else None
    return (None, "none") if recipe is None else make_mask(recipe, volume, voxel_size)


def write_assessment(output_dir: Path, assessment: Assessment, title: str, half_maps: tuple[str, str]) -> None:
    """Write FILES: mask.mrc if there is a mask, curves if there are any, fsc.xml and postprocess.star of half maps."""
    if assessment.mask is not None:
        write_map(output_dir / "mask.mrc", assessment.mask, assessment.voxel_size, assessment.mask_name)
    if not assessment.curves:
        return
    write_fsc_csv(output_dir / "fsc.csv", assessment.curves)
    figure = fsc_figure(assessment.curves, assessment.resolutions, title)
    for name in ("fsc.png", "fsc.svg"):
        with atomic_path(output_dir / name) as temporary:
            figure.savefig(temporary, dpi=150, metadata={"Date": None} if name.endswith("svg") else None)
    judgement = assessment.judgement
    if judgement is not None:
        best = judgement.curve(judgement.resolution.curve)
        assert best is not None
        write_fsc_xml(output_dir / "fsc.xml", best, judgement.resolution)
        mask = "None" if assessment.mask is None else "mask.mrc"
        write_postprocess_star(output_dir / "postprocess.star", judgement, half_maps, mask)


def localise(
    map_1: Path,
    map_2: Path,
    *,
    out: Path,
    mask: str = "auto",
    window: float | None = None,
    step: float | None = None,
    threshold: float = 0.5,
) -> LocalResolution:
    """Local resolution of two maps on disk; writes locres.mrc (A) and locres.png (histogram and central section)."""
    (first, second), chosen, name, voxel_size = _pair_and_mask(map_1, map_2, mask)
    if chosen is None:
        raise InputError("local resolution needs a mask to look inside", remedy="give --mask auto, sphere or a file")
    found = local_resolution(
        first,
        second,
        voxel_size=voxel_size,
        mask=chosen,
        mask_name=name,
        window=window,
        step=step,
        threshold=threshold,
    )
    write_map(out / "locres.mrc", found.resolution, voxel_size, f"A, window {found.window:g} A, step {found.step:g} A")
    with atomic_path(out / "locres.png") as temporary:
        local_resolution_figure(found, (first + second) / 2).savefig(temporary, dpi=150)
    return found


def direct(
    map_1: Path, map_2: Path, *, out: Path, mask: str = "auto", half_angle: float = 20.0, threshold: float = 0.143
) -> DirectionalFsc:
    """Directional FSC of two maps on disk; writes directional.csv, a row per direction, and directional.png."""
    (first, second), chosen, name, voxel_size = _pair_and_mask(map_1, map_2, mask)
    found = directional_fsc(
        first,
        second,
        voxel_size=voxel_size,
        mask=chosen,
        mask_name=name,
        half_angle=half_angle,
        threshold=threshold,
    )
    rows = np.column_stack([found.directions, found.values])
    with atomic_path(out / "directional.csv") as temporary:
        header = f"# {found}\nx,y,z,resolution_angstrom"
        np.savetxt(temporary, rows, fmt="%.5f", delimiter=",", header=header, comments="")
    with atomic_path(out / "directional.png") as temporary:
        directional_figure(found).savefig(temporary, dpi=150)
    return found


def _pair_and_mask(map_1: Path, map_2: Path, mask: str) -> tuple[tuple[Volume, Volume], Volume | None, str, float]:
    user = [] if mask in MASKS else [Path(mask)]
    (first, second, *others), voxel_size = read_maps(map_1, map_2, *user)
    chosen, name = choose_mask(mask, others[0] if user else None, (first + second) / 2, voxel_size, "RELION")
    return (first, second), chosen, name, voxel_size


def _truth_curves(
    volume: Volume, truth: Volume, mask: Volume | None, mask_name: str, voxel_size: float, definition: str
) -> list[FscCurve]:
    masks: list[tuple[str, Volume | None, str]] = [("fsc_unmasked_truth", None, "none")]
    masks += [] if mask is None else [("fsc_masked_truth", mask, mask_name)]
    return [
        fourier_shell_correlation(
            volume,
            truth,
            voxel_size=voxel_size,
            mask=m,
            mask_name=words,
            name=name,
            shells=find_definition(definition).shells,
            definition=definition,
        )
        for name, m, words in masks
    ]


def _overstatements(
    halves: tuple[Volume, Volume] | None,
    truth: Volume | None,
    mask: Volume | None,
    mask_name: str,
    voxel_size: float,
    definition: str,
    judgement: Judgement | None,
) -> dict[str, Overstatement]:
    """H unmasked and masked. It needs the mean of the half maps, which `volume` need not be."""
    if halves is None or truth is None or judgement is None:
        return {}
    mean = (halves[0] + halves[1]) / 2
    found = {}
    for c in _truth_curves(mean, truth, mask, mask_name, voxel_size, definition):
        name = c.name.removesuffix("_truth")
        half_map_fsc = judgement.curve(name)
        assert half_map_fsc is not None
        found[name.removeprefix("fsc_")] = overstatement(half_map_fsc, c)
    return found


def _alarms(
    volume: Volume,
    halves: tuple[Volume, Volume] | None,
    truth: Volume | None,
    judgement: Judgement | None,
    overstatements: dict[str, Overstatement],
) -> Sequence[str]:
    raised: list[str | None] = []
    if halves is not None and judgement is not None:
        read = {r.curve: r for r in judgement.resolutions}
        unmasked = judgement.curves[0]
        raised += [alarms.empty_shells(unmasked), alarms.agree_where_empty(*halves, unmasked)]
        raised += [
            alarms.rises_again(c, judgement.errors[c.name]) for c in judgement.curves if c.name in judgement.errors
        ]
        randomised = judgement.curve("fsc_randomized_masked")
        if randomised is not None:
            raised.append(alarms.reaches_too_far(read["fsc_unmasked"], read["fsc_corrected"]))
            raised.append(alarms.mask_still_agrees(randomised, read["fsc_corrected"]))
    raised += [alarms.shared_bias(h.mean) for name, h in overstatements.items() if name == "unmasked"]
    raised += [] if truth is None else [alarms.unlike_truth(volume, truth)]
    return alarms.gather(raised)
