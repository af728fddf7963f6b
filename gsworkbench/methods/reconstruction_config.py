"""What `reconstruct` does with one stack of particles. Imports no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from gsworkbench.config import from_mapping
from gsworkbench.errors import InputError
from gsworkbench.methods.registry import METHODS, Method, find_method


@dataclass(frozen=True)
class ReconstructionConfig:
    """A method with its settings, and what is common to all methods.

    method : a name of the registry of methods; an old name is replaced by today's. settings : the record of that
    method; named plain values are made one, and None takes the method's default.
    """

    method: str = "one-pass"
    settings: Any = None
    half_maps: bool = True
    normalise: bool = True  # take background and hot pixels off each image, and weigh each by its own noise
    particle_scales: bool = True  # where the signal differs from particle to particle, give each its own scale
    keep_outliers: bool = False  # keep images whose power is absurd
    mask: str = "auto"  # auto, sphere, none, or the path of a mask
    noise_spectrum: str = "white"  # white, measured (noise.measured_noise), or the path of powers per shell (.npy)
    noise_substitute_beyond: float | None = None  # A: repeat half maps with random phases beyond
    seed: int = 0
    backend: str | None = None  # None takes the fastest that works here
    device: Literal["auto", "cpu", "cuda"] = "auto"  # where fits run; auto takes a GPU that works

    def __post_init__(self) -> None:
        """Settle the method's name and its settings; raise InputError for ones that do not exist or do not fit."""
        row = find_method(self.method)
        settings = row.default if self.settings is None else self.settings
        if isinstance(settings, Mapping):
            settings = from_mapping(row.settings, settings)
        if type(settings) is not row.settings:
            given = type(settings).__name__
            raise InputError(f"the method {row.name} has settings {row.settings.__name__}, not {given}")
        object.__setattr__(self, "method", row.name)
        object.__setattr__(self, "settings", settings)

    @property
    def row(self) -> Method:
        """What the registry says of the method."""
        return METHODS[self.method]

    @property
    def n_gaussians(self) -> int | None:
        """The number of Gaussians, where the method has such a setting and it is a number."""
        number = getattr(self.settings, "n_gaussians", None)
        return number if isinstance(number, int) else None


# The fields in which run.json had the settings of every method, when each had a field of its own.
_OLD_FIELDS = {
    "normal_equations": "one-pass",
    "stochastic": "stochastic",
    "voxels": "voxels",
    "backprojection": "backprojection",
    "neural_field": "neural-field",
    "blending": "splatting-3dgs",
    "cryodrgn": "cryodrgn",
}


def read_config(recorded: Mapping[str, Any]) -> ReconstructionConfig:
    """Return the configuration that a run.json records, of today's form or with a field for every method's settings."""
    values = {name: value for name, value in recorded.items() if name not in _OLD_FIELDS}
    if "settings" not in values:
        method = find_method(values.get("method", "one-pass")).name
        own = (value for name, value in recorded.items() if _OLD_FIELDS.get(name) == method)
        values["settings"] = next(own, None)
    return from_mapping(ReconstructionConfig, values)


def general_settings() -> tuple[str, ...]:
    """Return the names of what is common to all methods."""
    return tuple(f.name for f in dataclasses.fields(ReconstructionConfig) if f.name not in ("method", "settings"))
