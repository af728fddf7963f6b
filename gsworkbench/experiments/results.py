"""The tidy results table: one row per number, with everything needed to read it alone.

Every assessment ends in a metrics.json of measurements, which know nothing of experiments; rows say what each run was.
Tables, plots and verdicts read nothing else but saved curves and maps.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gsworkbench.config import from_mapping
from gsworkbench.io.files import atomic_path, write_json

if TYPE_CHECKING:
    import pandas as pd

    from gsworkbench.assessment.fsc import FscCurve, Resolution
    from gsworkbench.experiments.plan import Run
    from gsworkbench.reconstruction.run import Reconstruction

COLUMNS = (
    "run", "experiment", "dataset", "method", "preset", "n_gaussians", "seed", "metric", "value", "unit", "definition",
    "shell", "factors",
)  # fmt: skip


@dataclass(frozen=True)
class Measurement:
    """One number of one run. `value` None means that there is no such number, and `definition` says why.

    metric : fsc_truth_mean, resolution_half_0.143, train_cpu_seconds, ...
    unit : A, s, bytes, 1/s or 1. definition : mask, threshold, rule, box and voxel size, or what was timed and where.
    shell : what one shell is worth in this number, for comparisons; None where it has no shells.
    """

    metric: str
    value: float | None
    unit: str
    definition: str
    shell: float | None = None


@dataclass(frozen=True)
class Result:
    """A measurement with the run it belongs to: a row of results.csv.

    run : id of the run, the folder below results/SCALE/runs. experiment, dataset, method : their names in
    paper_figures/experiments. preset, n_gaussians : None where the method has no such thing. factors : those of the
    run, as JSON.
    """

    run: str
    experiment: str
    dataset: str
    method: str
    preset: str | None
    n_gaussians: int | None
    seed: int
    metric: str
    value: float | None
    unit: str
    definition: str
    shell: float | None = None
    factors: str = "{}"


def measure(reconstruction: Reconstruction) -> list[Measurement]:
    """Return the numbers of a reconstruction: mean FSC and resolution of every curve, time, memory."""
    record = reconstruction.record
    fit = f"all: {record.config['method']}"
    where = f"{record.threads} thread{'s' if record.threads > 1 else ''}, {record.machine}"
    once = "accumulate" in record.seconds  # what reads the particles for all maps at once counts for this one
    what = f"{'one pass over the particles and ' if once else ''}map of all particles, {where}"
    seconds, cpu_seconds = (t[fit] + t.get("accumulate", 0.0) for t in (record.seconds, record.cpu_seconds))
    timed = [
        Measurement("train_seconds", seconds, "s", f"wall time, {what}"),
        Measurement("train_cpu_seconds", cpu_seconds, "s", f"CPU time, {what}"),
        Measurement("peak_memory_bytes", float(record.peak_memory_bytes), "bytes", "resident, whole process"),
    ]
    means = [of_mean(curve) for curve in reconstruction.curves]
    return [*means, *(of_resolution(r) for r in reconstruction.resolutions), *timed]


def of_mean(curve: FscCurve) -> Measurement:
    """Return the mean of a curve; one shell more or less is one over their number."""
    grid = f"box {curve.box_size}, {curve.voxel_size:g} A/voxel"
    shells, which = curve.box_size // 2 - 1, "shells 1 to Nyquist - 1"
    if curve.is_estimate:
        shells = sum(map(math.isfinite, curve.values[1 : curve.box_size // 2]))
        which = f"the {shells} shells that have an estimate"
    definition = f"mean over {which}, mask: {curve.mask}, {grid}"
    value = curve.mean()
    step = 1 / shells if shells else None
    return Measurement(f"fsc_{subject(curve.name)}_mean", None if math.isnan(value) else value, "1", definition, step)


def of_resolution(resolution: Resolution, metric: str | None = None) -> Measurement:
    """Return a resolution; None without a crossing, and one shell is the step to the next coarser one."""
    metric = metric or f"resolution_{subject(resolution.curve)}_{resolution.threshold:g}"
    step = None
    if resolution.angstrom is not None:
        step = resolution.angstrom**2 / (resolution.box_size * resolution.voxel_size)
    return Measurement(metric, resolution.angstrom, "A", str(resolution), step)


def subject(curve: str) -> str:
    """Return what a curve compares, for names of metrics: half or truth, then the treatment unless it is "unmasked".

    fsc_unmasked -> half, fsc_masked -> half_masked, fsc_unmasked_truth -> truth, fsc_unmasked_estimate -> estimate.
    """
    treatment, against = curve.removeprefix("fsc_"), "half"
    for name in ("truth", "estimate"):
        if curve.endswith(f"_{name}"):
            treatment, against = treatment.removesuffix(f"_{name}"), name
    return against if treatment == "unmasked" else f"{against}_{treatment}"


def write_measurements(path: str | Path, measurements: Sequence[Measurement]) -> None:
    """Write metrics.json."""
    write_json(path, [dataclasses.asdict(m) for m in measurements])


def read_measurements(path: str | Path) -> list[Measurement]:
    """Read metrics.json, strictly."""
    return [from_mapping(Measurement, row) for row in json.loads(Path(path).read_text(encoding="utf-8"))]


def rows_of(experiment: str, run: Run, measurements: Sequence[Measurement]) -> list[Result]:
    """Return the rows of results.csv of one run of an experiment."""
    who = (run.name, experiment, run.dataset, run.method, run.preset, run.n_gaussians, run.seed)
    factors = json.dumps(run.factors)
    return [Result(*who, *dataclasses.astuple(m), factors) for m in measurements]  # type: ignore[call-arg]


def write_results(path: str | Path, results: Sequence[Result]) -> None:
    """Write results.csv; None is an empty field."""
    with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        table: Any = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        table.writerows(dataclasses.astuple(result) for result in results)


def frame(results: Sequence[Result]) -> pd.DataFrame:
    """Return results as `read_results` reads them."""
    import pandas as pd

    table = pd.DataFrame([dataclasses.astuple(r) for r in results], columns=list(COLUMNS))
    return table.astype({"n_gaussians": "Int64", "value": float, "shell": float})


def read_results(path: str | Path) -> pd.DataFrame:
    """Read results.csv; numbers that are not there are NaN or <NA>."""
    import pandas as pd

    return pd.read_csv(path, dtype={"n_gaussians": "Int64", "value": float, "shell": float})
