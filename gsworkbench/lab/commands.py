"""What reproduces a live fit: the command line, and the rows for paper_figures/experiments."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from gsworkbench.config import to_mapping
from gsworkbench.lab.opened_run import RunFolder, deposit_of
from gsworkbench.methods.one_pass import PREVIEW
from gsworkbench.methods.reconstruction_config import ReconstructionConfig

PRESET = "tuned"  # what the settings of a stochastic fit are told apart from


def preview_config(n_gaussians: int = 2000, **changes: Any) -> ReconstructionConfig:
    """A fit that takes a second or two at 64^3: half the steps, no background. `changes` are other fields."""
    return ReconstructionConfig("one-pass", replace(PREVIEW, n_gaussians=n_gaussians), **changes)


def changed(config: ReconstructionConfig) -> dict[str, Any]:
    """Settings of the method that differ from what the command line takes by default, without n_gaussians."""
    default = to_mapping(config.row.default)
    return {k: v for k, v in to_mapping(config.settings).items() if v != default[k] and k != "n_gaussians"}


def command_line(config: ReconstructionConfig, run: RunFolder, out: str | Path, reading: Sequence[str] = ()) -> str:
    """The command that fits the particles of `run`, in its half sets, with these settings, into the folder `out`.

    reading : the options that `particles_of` returned; or the files of sums that take the place of the particles.
    """
    command = config.row.command
    classical = command != "reconstruct"
    words = ["gsworkbench", command]
    table = run.folder / "run_data.star"
    if not reading and not table.is_file() and (deposit := deposit_of(run)):
        reading = [str(file) for file in deposit.files]
    of_sums = bool(reading) and reading[0].endswith(".npz")
    words += [*([] if of_sums else [str(table)]), *reading, "--out", str(out)]
    words += [] if classical else ["--method", config.method]
    words += ["--preset", PRESET] if config.method == "stochastic" else []
    if (number := config.n_gaussians) is not None:
        words += ["--n-gaussians", str(number)]
    for name, value in changed(config).items():
        words += [f"--{name}", str(value)] if classical else ["--set", f"{name}={_as_yaml(value)}"]
    words += ["--mask", config.mask, "--seed", str(config.seed)]
    if config.noise_substitute_beyond is not None:
        words += ["--noise-substitute-beyond", f"{config.noise_substitute_beyond:g}"]
    if run.truth_path is not None:
        words += ["--truth", str(run.truth_path)]
    return shlex.join(words)


def yaml_rows(config: ReconstructionConfig, dataset: str, name: str = "explored", *, data_seed: int = 0) -> str:
    """Rows for a file in paper_figures/experiments that make the workflow run these settings.

    dataset : a name there. data_seed : that of its simulation, which is otherwise the run's own seed.
    """
    method: dict[str, Any] = {"label": f"explored: {config.method}", "method": config.method}
    if config.method == "stochastic":
        method["preset"] = PRESET
    if rows := changed(config):
        method["settings"] = rows
    factors: dict[str, Any] = {"dataset": [dataset], "method": [name]}
    if (number := config.n_gaussians) is not None:
        factors["n_gaussians"] = [number]
    factors |= {"seed": [config.seed], "data_seed": [data_seed], "mask": [config.mask]}
    if config.noise_substitute_beyond is not None:
        factors["noise_substitute_beyond"] = [config.noise_substitute_beyond]
    experiment = {
        "source": "exploring",
        "question": "What did exploring find?",
        "claim": "",
        "factors": factors,
        "figure": {"kind": "maps_and_curves"},
        "table": ["fsc_truth_mean", "fsc_half_mean", "fsc_estimate_mean"],
    }
    text = yaml.safe_dump({"methods": {name: method}}, sort_keys=False)
    return text + yaml.safe_dump({"experiments": {name: experiment}}, sort_keys=False)


def identity(config: ReconstructionConfig) -> str:
    """A name for these settings: method, number, seed, and a digest of everything."""
    digest = hashlib.sha256(json.dumps(to_mapping(config), sort_keys=True).encode()).hexdigest()[:8]
    number = config.n_gaussians
    return "-".join([config.method, *([] if number is None else [f"n{number}"]), f"s{config.seed}", digest])


def _as_yaml(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("\n").removesuffix("\n...")
