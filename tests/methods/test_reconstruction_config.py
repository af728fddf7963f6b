"""What a run.json records of a run's settings can be read back, of this version and of earlier ones."""

import json
from pathlib import Path

import pytest

from gsworkbench.config import to_mapping
from gsworkbench.errors import InputError
from gsworkbench.methods.reconstruction_config import ReconstructionConfig, general_settings, read_config
from gsworkbench.methods.registry import METHODS
from gsworkbench.methods.stochastic import PRESETS

# The "config" of runs that had a field for the settings of every method.
OLD = json.loads(Path(__file__).with_name("configs_of_old_runs.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("method", METHODS)
def test_a_record_of_today_is_read_back(method):
    config = ReconstructionConfig(method, seed=3, mask="sphere")
    assert read_config(json.loads(json.dumps(to_mapping(config)))) == config


@pytest.mark.parametrize(
    ("run", "method", "settings"),
    [
        ("one", "one-pass", {"n_gaussians": 60}),
        ("splat", "splatting-3dgs", {"n_gaussians": 40, "n_steps": 30}),
        ("vox", "voxels", {"n_steps": 20}),
        ("bp", "backprojection", {"filter": "wiener"}),
    ],
)
def test_a_record_with_settings_of_every_method_is_read(run, method, settings):
    config = read_config(OLD[run])
    assert config == ReconstructionConfig(
        method, to_mapping(METHODS[method].default) | settings, **{k: OLD[run][k] for k in general_settings()}
    )


def test_an_old_record_keeps_what_differs_from_a_preset():
    config = read_config(OLD["stoch"])
    assert to_mapping(config.settings) == to_mapping(PRESETS["tuned"]) | {"n_gaussians": 50, "n_epochs": 1}


def test_what_no_version_has_written_is_refused():
    with pytest.raises(InputError, match="ReconstructionConfig has no parameter 'mode'"):
        read_config(OLD["one"] | {"mode": 3})
