"""Errors as sentences, files whole or absent, settings strict about names and types."""

import json
import os
import stat
from dataclasses import dataclass

import pytest

from gsworkbench.config import from_mapping, to_mapping
from gsworkbench.errors import InputError
from gsworkbench.experiments.plan import RunConfig
from gsworkbench.io.files import atomic_path, sha256, write_json, write_text
from gsworkbench.methods.reconstruction_config import ReconstructionConfig
from gsworkbench.methods.stochastic import PRESETS
from gsworkbench.simulation.simulation_config import Simulation


def test_error_is_one_sentence_with_file_row_and_remedy():
    error = InputError("the value is missing", file="a.star", row=3, remedy="add it")
    assert str(error) == "a.star, row 3: the value is missing; add it."
    assert str(InputError("it is wrong")) == "it is wrong."
    assert isinstance(error, ValueError) and (error.row, error.remedy) == (3, "add it")


def test_file_appears_only_when_its_block_succeeds(tmp_path):
    path = tmp_path / "deep" / "map.mrc"
    with atomic_path(path) as temporary:
        assert temporary.suffix == ".mrc" and temporary.name.startswith(".")
        temporary.write_bytes(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~_umask()


def test_failure_leaves_the_old_file_and_no_litter(tmp_path):
    path = tmp_path / "map.mrc"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), atomic_path(path) as temporary:
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_json_and_text_and_hash(tmp_path):
    write_json(tmp_path / "a.json", {"x": [1, 2.5]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": [1, 2.5]}
    with pytest.raises(ValueError):
        write_json(tmp_path / "b.json", {"x": float("nan")})
    assert not (tmp_path / "b.json").exists()
    write_text(tmp_path / "c.txt", "abc")
    assert sha256(tmp_path / "c.txt") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@dataclass(frozen=True)
class Needy:
    size: int
    ratio: float = 0.5


def test_settings_survive_plain_data():
    config = RunConfig(Simulation(snr=0.05), ReconstructionConfig("stochastic", PRESETS["cryosplat"], seed=7))
    assert from_mapping(RunConfig, json.loads(json.dumps(to_mapping(config)))) == config


def test_int_is_accepted_as_float_and_nothing_else_is_converted():
    assert from_mapping(Needy, {"size": 2, "ratio": 1}) == Needy(2, 1.0)


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"size": 1, "raito": 2.0}, "Needy has no parameter 'raito'; it has size, ratio"),
        ({}, "Needy needs a value for size"),
        ({"size": "5"}, "Needy.size must be int, not '5'"),
        ({"size": 5.0}, "Needy.size must be int"),
        ({"size": True}, "Needy.size must be int"),
        ({"size": 1, "ratio": "0.5"}, "Needy.ratio must be float"),
        ({"size": 1, "ratio": None}, "Needy.ratio must be float"),
        (["size"], "Needy needs named values"),
    ],
)
def test_wrong_settings_are_named(mapping, message):
    with pytest.raises(InputError, match=message):
        from_mapping(Needy, mapping)


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"method": "stochastic", "settings": {"n_gausians": 3}}, "Stochastic has no parameter 'n_gausians'"),
        ({"method": "stochastic", "settings": {"schedule": "linear"}}, "Stochastic.schedule must be one of"),
        ({"method": "stochastic", "settings": {"double_after_epochs": [1, "2"]}}, "double_after_epochs"),
        ({"backend": 3}, "ReconstructionConfig.backend"),
    ],
)
def test_wrong_nested_settings_are_named(mapping, message):
    with pytest.raises(InputError, match=message):
        from_mapping(ReconstructionConfig, mapping)


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask
