"""The table of methods: each has its settings, its page says what it is, and the command line runs it."""

import runpy
from pathlib import Path

import numpy as np
import pytest

from gsworkbench.cli.main import main
from gsworkbench.io.mrc import read_map
from gsworkbench.methods.reconstruction_config import ReconstructionConfig
from gsworkbench.methods.registry import METHODS
from gsworkbench.methods.stochastic import PRESETS
from gsworkbench.reconstruction.run import reconstruct

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "explain" / "methods.md").read_text(encoding="utf-8")


def test_every_method_and_preset_is_on_the_page():
    for name in {*METHODS, *PRESETS}:
        assert f"`{name}`" in PAGE, name


def test_the_table_of_the_page_is_that_of_the_registry():
    tool = runpy.run_path(str(ROOT / "tools" / "method_table.py"))
    assert tool["with_table"](PAGE) == PAGE, "run python tools/method_table.py"


def test_a_neural_field_from_the_command_line(noisy_set, tmp_path, capsys):
    command = ["reconstruct", str(noisy_set.star), "--out", str(tmp_path), "--method", "neural-field", "--mask", "none"]
    small = ["--set", "width=16", "--set", "n_epochs=1", "--set", "n_components=20", "--set", "domain=fourier"]
    assert main([*command, *small]) == 0
    first, second = (read_map(tmp_path / f"run_half{k}_class001.mrc")[0] for k in (1, 2))
    assert first.any() and not np.array_equal(first, second)
    assert not (tmp_path / "gaussians.npz").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--method", "relion", "--set", "x=1"], "--method relion has no setting 'x'; it has none"),
        (["--method", "neural-field", "--n-gaussians", "9"], "has no setting 'n_gaussians'; it has width"),
        (["--method", "neural-field", "--set", "domain=real"], "must be one of hartley, fourier"),
        (["--method", "stochastic", "--set", "start=anywhere"], "must be one of normal, uniform, data"),
        (["--method", "stochastic", "--set", "initial_scale=wide"], "initial_scale must be float"),
    ],
)
def test_settings_that_are_not(noisy_set, tmp_path, capsys, arguments, sentence):
    assert main(["reconstruct", str(noisy_set.star), "--out", str(tmp_path / "out"), *arguments]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_filter_of_backprojection_is_in_the_record(noisy_set, tmp_path):
    assert main(["backproject", str(noisy_set.star), "--out", str(tmp_path), "--filter", "fsc", "--mask", "none"]) == 0
    from gsworkbench.methods.backprojection import Backprojection

    config = ReconstructionConfig("backprojection", Backprojection("fsc"), mask="none")
    expected = reconstruct(noisy_set.stack, tmp_path / "again", config)
    np.testing.assert_array_equal(read_map(tmp_path / "run_class001.mrc")[0], expected.volume)
    assert expected.record.config["settings"] == {"filter": "fsc"}
