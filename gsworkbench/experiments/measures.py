"""Judge the maps of a run: curves and numbers below results/SCALE/assessments, apart from the making of the maps.

A kind of assessment is a function (maps) -> measurements and is named in KINDS; "fsc" is made of every run, others
where an experiment asks for them. What the judge's code and the maps have not changed is not made again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gsworkbench.assessment.assess import SUBSTITUTED, Assessment, assess, assess_substituted
from gsworkbench.assessment.definitions import judge
from gsworkbench.assessment.directional import directional_fsc
from gsworkbench.assessment.fsc import FscCurve, fourier_shell_correlation, write_fsc_csv
from gsworkbench.assessment.local import local_resolution
from gsworkbench.assessment.map_names import LINEAR, MAP, find_half_maps
from gsworkbench.assessment.masks import Mask, automatic_mask, spherical_mask
from gsworkbench.assessment.transforms import transform
from gsworkbench.errors import InputError
from gsworkbench.experiments.digest import source_digest
from gsworkbench.experiments.plan import Run
from gsworkbench.experiments.results import Measurement, of_mean, of_resolution, read_measurements, write_measurements
from gsworkbench.experiments.sizes import images_read
from gsworkbench.experiments.store import KEY, key_in, key_of, made
from gsworkbench.io.mrc import Volume, read_map
from gsworkbench.methods.part import ALL
from gsworkbench.simulation.simulation_config import Simulation

SCHEMES = "gsworkbench.methods.gradient_schemes"


@dataclass(frozen=True)
class Maps:
    """What a run made in `folder`, beside its truth: (D, D, D) maps, the half maps or None; voxel_size in A.

    linear : least-squares maps of the half sets, where the run wrote them. truth : None of real particles.
    substituted : half maps of particles whose phases are random beyond a resolution, where the run made them.
    """

    run: Run
    folder: Path
    volume: Volume
    halves: tuple[Volume, Volume] | None
    linear: tuple[Volume, Volume] | None
    truth: Volume | None
    voxel_size: float
    record: dict[str, Any]
    substituted: tuple[Volume, Volume] | None = None


def assess_run(run: Run, kinds: Sequence[str], folder: Path) -> list[Measurement]:
    """Return the numbers of a run below `folder`, results/SCALE, from files where they are up to date."""
    made_run = folder / "runs" / run.name
    run_key = key_in(made_run)
    if run_key is None:
        raise InputError("the run was not made, or not finished", file=made_run / KEY, remedy="run snakemake")
    if (made_run / "not_run.txt").is_file():
        return []
    measurements: list[Measurement] = []
    for kind in kinds:
        out = folder / "assessments" / kind / run.name
        made(out, key_of(run_key, judge_digest(kind), kind), partial(_judge, kind, run, folder))
        measurements += read_measurements(out / "metrics.json")
    return measurements


def why_not_run(run: Run, folder: Path) -> str | None:
    """Return why a run could not be made here, or None if it was."""
    file = folder / "runs" / run.name / "not_run.txt"
    return file.read_text(encoding="utf-8").strip() if file.is_file() else None


def curves_file(run: Run, folder: Path) -> Path:
    return folder / "assessments" / "fsc" / run.name / "fsc.csv"


def judge_digest(kind: str = "fsc") -> str:
    """Return the digest of the code that judges; the renderers are no part of it, but where they are what is judged."""
    return source_digest("gsworkbench.experiments.measures", without=() if kind == "schemes" else (SCHEMES,))


def _judge(kind: str, run: Run, folder: Path, out: Path) -> None:
    made_run = folder / "runs" / run.name
    volume, voxel_size = read_map(made_run / MAP)
    halves = None
    if run.config.reconstruction.half_maps:
        found = find_half_maps(made_run)
        if found is None:
            raise InputError("the run has no half maps", file=made_run, remedy="run snakemake")
        halves = read_map(found[0])[0], read_map(found[1])[0]
    linear = None if halves is None else _pair(made_run, LINEAR)
    substituted = None if halves is None else _pair(made_run, SUBSTITUTED)
    simulated = isinstance(run.config.dataset, Simulation)
    truth = read_map(folder / "datasets" / run.dataset / "truth.mrc")[0] if simulated else None
    record = json.loads((made_run / "run.json").read_text(encoding="utf-8"))
    maps = Maps(run, made_run, volume, halves, linear, truth, voxel_size, record, substituted)
    curves, measurements = KINDS[kind](maps)
    if curves:
        write_fsc_csv(out / "fsc.csv", curves)
    write_measurements(out / "metrics.json", measurements)


def _pair(folder: Path, names: tuple[str, str]) -> tuple[Volume, Volume] | None:
    """Read two maps, None where they are not both there."""
    if not all((folder / name).is_file() for name in names):
        return None
    return read_map(folder / names[0])[0], read_map(folder / names[1])[0]


Judged = tuple[Sequence[FscCurve], list[Measurement]]


def _fsc(maps: Maps) -> Judged:
    """Curves under RELION's definition; what they say; resolutions under the other definitions; time and memory."""
    config = maps.run.config
    found = assess(
        maps.volume, maps.halves, maps.truth,
        linear=maps.linear, voxel_size=maps.voxel_size,
        mask=config.reconstruction.mask, seed=config.reconstruction.seed,
    )  # fmt: skip
    curves = list(found.curves)
    estimated = {e.half.name for e in found.estimates}
    measurements = [of_mean(c) for c in curves if c.name not in estimated]
    measurements += [of_resolution(r) for r in found.resolutions if r.curve not in estimated]
    measurements += _estimates(maps, found)
    measurements += [_high(curve) for curve in curves if curve.name in ("fsc_unmasked", "fsc_unmasked_truth")]
    measurements += [*_power(maps), *_costs(maps), *_in_masks(maps)]
    if maps.halves is not None:
        half = next(c for c in curves if c.name == "fsc_unmasked")
        measurements += _honesty(found, half)
        measurements += [*_other_definitions(maps), *_substitution(maps)]
        beyond = config.dataset.random_phases_beyond if isinstance(config.dataset, Simulation) else 0.0
        if beyond:
            shell = round(half.box_size * half.voxel_size / beyond) + 2
            text = f"half-map FSC, mean over shells {shell} to Nyquist - 1, where phases are random"
            measurements.append(_mean_over(half, "fsc_half_beyond", shell, text))
    return curves, measurements


def _estimates(maps: Maps, found: Assessment) -> list[Measurement]:
    """The estimated FSC of half maps to the truth, how far it is from the FSC to the truth, and the overstatement."""
    measurements = []
    for estimate in found.estimates:
        mask = None if estimate.half.mask == "none" else found.mask
        name = "estimate" if mask is None else "estimate_masked"
        told = estimate.told
        if not told.any() or maps.halves is None:
            continue
        where = f"mean over the {told.sum()} shells that have an estimate, mask: {estimate.half.mask}"
        measurements += [
            Measurement(
                f"fsc_{name}_mean",
                estimate.mean,
                "1",
                f"estimated FSC of a half map to the truth, {where}",
                1 / told.sum(),
            ),
            Measurement(
                f"fsc_{name}_overstatement",
                estimate.overstatement[0],
                "1",
                f"half-map FSC less the product of the estimates of both half maps, {where}",
                None,
            ),
        ]
        if maps.truth is None:
            continue
        to_truth = [
            fourier_shell_correlation(half, maps.truth, voxel_size=maps.voxel_size, mask=mask) for half in maps.halves
        ]
        true = (to_truth[0].values + to_truth[1].values) / 2
        text = f"its distance from the FSC to the known truth, {where}"
        error = float(np.abs(estimate.half.values - true)[told].mean())
        measurements.append(Measurement(f"fsc_{name}_error", error, "1", text, None))
    return measurements


def _high(curve: FscCurve) -> Measurement:
    first = 2 * (curve.box_size // 2) // 3
    name = "fsc_truth_high" if curve.name.endswith("_truth") else "fsc_half_high"
    return _mean_over(curve, name, first, f"mean over shells {first} to Nyquist - 1, mask: {curve.mask}")


def _in_masks(maps: Maps) -> list[Measurement]:
    """Mean FSC, of all shells and of the last third, inside a sphere as the papers' baselines have it, and inside a
    soft mask of the truth, which is the same for all methods."""
    masks = {"in_sphere": spherical_mask(len(maps.volume), maps.voxel_size)}
    pairs = {} if maps.halves is None else {"half": maps.halves}
    if maps.truth is not None:
        masks["in_soft_mask"] = _truth_mask(maps.truth, maps.voxel_size)
        pairs = {"truth": (maps.volume, maps.truth), **pairs}
    measurements = []
    for name, mask in masks.items():
        for subject, pair in pairs.items():
            curve = fourier_shell_correlation(*pair, voxel_size=maps.voxel_size, mask=mask)
            for part, first in (("mean", 1), ("high", 2 * (curve.box_size // 2) // 3)):
                text = f"mean over shells {first} to Nyquist - 1, mask: {curve.mask}"
                measurements.append(_mean_over(curve, f"fsc_{subject}_{name}_{part}", first, text))
    return measurements


def _truth_mask(truth: Volume, voxel_size: float) -> Mask:
    made = automatic_mask(truth, voxel_size)
    return Mask(made.values, f"of the truth, {made.description}")


def _mean_over(curve: FscCurve, name: str, first: int, definition: str) -> Measurement:
    values = np.nan_to_num(curve.values[first : curve.box_size // 2])
    return Measurement(name, float(values.mean()), "1", definition, 1 / len(values))


def _power(maps: Maps) -> list[Measurement]:
    """How much of the truth's power the map has where detail is: below 1, it looks smooth."""
    if maps.truth is None:
        return []
    n = len(maps.volume)
    k = np.fft.fftfreq(n, 1 / n)
    radius = np.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + np.arange(n // 2 + 1) ** 2)
    high = (radius >= n // 3) & (radius < n // 2 - 1)
    power, true_power = (float((np.abs(transform(v)[high]) ** 2).sum()) for v in (maps.volume, maps.truth))
    ratio = power / true_power if true_power else None
    text = "power of the map over the truth's, last third of the shells"
    return [Measurement("power_ratio_high", ratio, "1", text)]


def _honesty(found: Assessment, half: FscCurve) -> list[Measurement]:
    n = half.box_size // 2
    measurements = []
    if h := found.overstatements.get("unmasked"):
        text = "half-map FSC minus what the truth allows, mean over shells, no mask (docs/use/judge.md)"
        measurements.append(Measurement("overstatement_mean", h.mean, "1", text, 1 / n))
    values = np.nan_to_num(half.values[1:n])
    rise = float((values - np.minimum.accumulate(values)).max())
    text = "the most that the half-map FSC rises again after a dip, no mask"
    return [*measurements, Measurement("rise_after_dip", rise, "1", text)]


def _other_definitions(maps: Maps) -> list[Measurement]:
    """Resolution without a mask as other programs read it, and under cryoDRGN's masks what the correction takes."""
    assert maps.halves is not None
    measurements = []
    for name in ("cryoDRGN", "GEM/CryoNeRF"):
        judged = judge(*maps.halves, name, voxel_size=maps.voxel_size, seed=maps.run.seed)
        metric = f"resolution_half_0.143_{name.split('/')[0].lower()}"
        for curve, ending in (("fsc_unmasked", ""), ("fsc_sphere", "_sphere")):
            measurements += [of_resolution(r, metric + ending) for r in judged.resolutions if r.curve == curve]
        masked, corrected = judged.curve("fsc_masked"), judged.curve("fsc_corrected")
        if masked is not None and corrected is not None:
            start = (judged.randomised_from or 0) + 1
            gaps = (masked.values - corrected.values)[start : masked.box_size // 2]
            text = f"{name}'s tight-mask FSC minus its corrected FSC, mean over shells {start} to Nyquist - 1"
            if np.isfinite(gaps).any():
                measurements.append(Measurement("correction_gap", float(np.nanmean(gaps)), "1", text, 1 / len(gaps)))
    return measurements


def _substitution(maps: Maps) -> list[Measurement]:
    """Half maps of particles with random phases beyond a resolution: how far they agree there, and what is left."""
    beyond = maps.run.config.reconstruction.noise_substitute_beyond
    if maps.substituted is None or maps.halves is None or beyond is None:
        return []
    found = assess_substituted(maps.halves, maps.substituted, maps.voxel_size, beyond)
    curves = {c.name: c for c in found.curves}
    noise = curves["fsc_substituted"]
    shell = round(noise.box_size * noise.voxel_size / beyond) + 2
    text = f"FSC of half maps of random phases beyond {beyond:g} A, mean over shells {shell} to Nyquist - 1, no mask"
    left = next(r for r in found.resolutions if r.curve == "fsc_corrected")
    return [
        _mean_over(noise, "fsc_substituted_beyond", shell, text),
        of_resolution(left, "resolution_half_less_substituted_0.143"),
    ]


def _costs(maps: Maps) -> list[Measurement]:
    """Time and memory of the map of all particles, as run.json has them."""
    record = maps.record
    fit = ALL.stage(record["config"]["method"])
    once = "accumulate" in record["seconds"]  # what reads the particles for all maps at once counts for this one
    threads = record["threads"]
    where = f"{threads} thread{'s' if threads > 1 else ''}, {record['machine']}"
    what = f"{'one pass over the particles and ' if once else ''}map of all particles, {where}"
    seconds, cpu_seconds = (
        record[t].get(fit, 0.0) + record[t].get("accumulate", 0.0) for t in ("seconds", "cpu_seconds")
    )
    steps = images_read(maps.run.config.reconstruction, record["n_particles"][ALL.label])
    device = record["device"]
    on_gpu = record["results"].get("gpu_peak_bytes")
    per_second = f"images read per second of wall time, {device}, {what}"
    text = "torch's allocations on the GPU at their peak, without what its runtime takes"
    memory = [] if on_gpu is None else [Measurement("gpu_peak_bytes", float(on_gpu), "bytes", text)]
    return [
        *memory,
        Measurement("images_per_second", steps / max(seconds, 1e-3), "1/s", per_second),
        Measurement("train_seconds", seconds, "s", f"wall time, {what}"),
        Measurement("train_cpu_seconds", cpu_seconds, "s", f"CPU time, {what}"),
        Measurement(
            "images_per_cpu_second", steps / max(cpu_seconds, 1e-3), "1/s", f"images read per CPU second, {what}"
        ),
        Measurement("peak_memory_bytes", float(record["peak_memory_bytes"]), "bytes", "resident, whole process"),
    ]


def _local(maps: Maps) -> Judged:
    """Local resolution inside the automatic mask of the truth, or of the map: of half maps, and of the map to the
    truth."""
    if maps.truth is None:
        mask, pairs = automatic_mask(maps.volume, maps.voxel_size), {}
    else:
        mask, pairs = _truth_mask(maps.truth, maps.voxel_size), {"local_truth_mean": (maps.volume, maps.truth)}
    if maps.halves is not None:
        pairs["local_half_mean"] = maps.halves
    found = {metric: local_resolution(*pair, voxel_size=maps.voxel_size, mask=mask) for metric, pair in pairs.items()}
    return (), [Measurement(metric, float(f.values.mean()), "A", f"{f}") for metric, f in found.items()]


def _directional(maps: Maps) -> Judged:
    """Sphericity of the conical FSC: of the half maps at 0.143, of the map to the truth at 0.5."""
    pairs = {} if maps.truth is None else {"sphericity_truth": ((maps.volume, maps.truth), 0.5)}
    if maps.halves is not None:
        pairs["sphericity_half"] = (maps.halves, 0.143)
    measurements = []
    for metric, (pair, threshold) in pairs.items():
        found = directional_fsc(*pair, voxel_size=maps.voxel_size, threshold=threshold)
        measurements.append(Measurement(metric, found.sphericity, "1", f"{found}"))
        at = metric.replace("sphericity", "directions_at_nyquist")
        measurements.append(Measurement(at, found.at_nyquist, "1", "fraction of directions that never cross"))
    return (), measurements


def _schemes(maps: Maps) -> Judged:
    """Cost per image of ways to make the same sum, on the fitted Gaussians, skipping contributions as the fit did."""
    import torch

    from gsworkbench.gaussians.mixture import Gaussians
    from gsworkbench.geometry.rotations import random_rotations
    from gsworkbench.methods.gradient_schemes import measure_schemes

    threshold = maps.run.config.reconstruction.settings.skip_below * maps.record["results"][ALL.label]["image_scale"]
    views = torch.from_numpy(random_rotations(8, np.random.default_rng(0))).float()
    costs = measure_schemes(
        Gaussians.load(maps.folder / "gaussians.npz"), views,
        box_size=len(maps.volume), pixel_size=maps.voxel_size, thresholds=(threshold,),
    )  # fmt: skip
    measurements = []
    for cost in costs:
        name = cost.scheme if cost.scheme != "tiles" else f"{cost.order}_{cost.backward}"
        seconds = cost.forward_seconds + cost.backward_seconds
        text = f"CPU time of projection and gradient of one image, {name}, least of 3, {maps.record['machine']}"
        measurements.append(Measurement(f"scheme_{name}_seconds", seconds, "s", text))
        text = f"relative change of the gradient from the renderer without skipping, {name}"
        measurements.append(Measurement(f"scheme_{name}_gradient_change", cost.gradient_change, "1", text))
    return (), measurements


KINDS: dict[str, Callable[[Maps], Judged]] = {
    "fsc": _fsc,
    "local": _local,
    "directional": _directional,
    "schemes": _schemes,
}
