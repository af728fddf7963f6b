"""What reproduces a live fit: the command line, and the row of experiments.yaml."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from gsworkbench.config import PRESETS, NormalEquationsConfig, ReconstructionConfig, StochasticConfig, to_mapping
from gsworkbench.lab.runs import Run

PRESET = "tuned"  # what the settings of a stochastic fit are told apart from
# Methods with settings of their own, and the field of ReconstructionConfig that holds them.
SETTINGS = {"normal-equations": "normal_equations", "stochastic": "stochastic"}


def preview_config(n_gaussians: int = 2000, **changes: Any) -> ReconstructionConfig:
    """A fit that takes a second or two at 64^3: half the steps, no background. `changes` are other fields."""
    settings = NormalEquationsConfig(n_gaussians=n_gaussians, n_boosted_steps=15, n_steps=30, background=False)
    return ReconstructionConfig(normal_equations=settings, **changes)


def settings_of(config: ReconstructionConfig) -> NormalEquationsConfig | StochasticConfig | None:
    """The settings of the method that a config chooses, or None where it has none."""
    field = SETTINGS.get(config.method)
    return None if field is None else getattr(config, field)


def changed(config: ReconstructionConfig) -> dict[str, Any]:
    """Settings of the method that differ from what the command line takes by default, without n_gaussians."""
    settings = settings_of(config)
    if settings is None:
        return {}
    default = to_mapping(PRESETS[PRESET] if config.method == "stochastic" else NormalEquationsConfig())
    return {k: v for k, v in to_mapping(settings).items() if v != default[k] and k != "n_gaussians"}


def command_line(config: ReconstructionConfig, run: Run, out: str | Path, reading: Sequence[str] = ()) -> str:
    """The command that fits the particles of `run`, in its half sets, with these settings, into the folder `out`.

    reading : the options that `particles_of` returned.
    """
    words = ["gsworkbench", "backproject" if config.method == "backprojection" else "reconstruct"]
    words += [str(run.folder / "run_data.star"), *reading, "--out", str(out)]
    settings = settings_of(config)
    if settings is not None:
        words += ["--method", config.method, *(["--preset", PRESET] if config.method == "stochastic" else [])]
        words += [] if settings.n_gaussians is None else ["--n-gaussians", str(settings.n_gaussians)]
        words += [word for k, v in changed(config).items() for word in ("--set", f"{k}={_as_yaml(v)}")]
    words += ["--mask", config.mask, "--seed", str(config.seed)]
    if run.truth_path is not None:
        words += ["--truth", str(run.truth_path)]
    return shlex.join(words)


def yaml_rows(config: ReconstructionConfig, dataset: str, name: str = "explored") -> str:
    """Rows for experiments.yaml that make the workflow run these settings; masks there are automatic."""
    method: dict[str, Any] = {"label": f"explored: {config.method}", "method": config.method}
    if config.method == "stochastic":
        method["preset"] = PRESET
    if rows := changed(config):
        method["settings"] = rows
    settings = settings_of(config)
    factors = {
        "dataset": [dataset],
        "method": [name],
        "n_gaussians": [0 if settings is None else settings.n_gaussians],
        "seed": [config.seed],
    }
    experiment = {"question": "What did exploring find?", "notebook": "01_reconstruct", "factors": factors}
    text = yaml.safe_dump({"methods": {name: method}}, sort_keys=False)
    return text + yaml.safe_dump({"experiments": {name: experiment}}, sort_keys=False)


def identity(config: ReconstructionConfig) -> str:
    """A name for these settings: method, number, seed, and a digest of everything."""
    settings = settings_of(config)
    digest = hashlib.sha256(json.dumps(to_mapping(config), sort_keys=True).encode()).hexdigest()[:8]
    number = [] if settings is None else [f"n{settings.n_gaussians}"]
    return "-".join([config.method, *number, f"s{config.seed}", digest])


def _as_yaml(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("\n").removesuffix("\n...")
