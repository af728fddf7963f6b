"""The tidy results table: one row per number, with everything needed to read it alone.

Every run ends in a metrics.json of such rows; `collect` stacks them; tables and plots read nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

COLUMNS = (
    "run", "experiment", "dataset", "method", "preset", "n_gaussians", "seed", "metric", "value", "unit", "definition",
)  # fmt: skip


@dataclass(frozen=True)
class Result:
    """One number. `value` None means that there is no such number, and `definition` says why ("no crossing ...").

    run : id of the run, the folder below results/runs. experiment, dataset : their ids in experiments.yaml.
    method, preset, n_gaussians, seed : the factors; None where the method has no such thing.
    metric : fsc_truth_mean, resolution_half_0.143, train_cpu_seconds, ...
    unit : A, s, images/s, bytes, or 1. definition : mask, threshold, rule, box and voxel size, or what was timed.
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
