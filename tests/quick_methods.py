"""The methods that tests go through, as the registry has them, with settings that make each of them quick."""

from typing import Any

from gsworkbench.methods.reconstruction_config import ReconstructionConfig
from gsworkbench.methods.registry import METHODS

# What is not named here takes its defaults.
QUICK: dict[str, dict[str, Any]] = {
    "one-pass": {"n_gaussians": 16, "n_boosted_steps": 3, "n_steps": 3, "n_final_steps": 3},
    "stochastic": {"n_gaussians": 16, "n_epochs": 1},
    "neural-field": {"width": 16, "n_epochs": 1},
    "splatting-3dgs": {"n_gaussians": 16, "n_steps": 20},
}


def own_methods() -> list[str]:
    """Return the names of the methods whose maps this package makes itself."""
    return [name for name, row in METHODS.items() if not row.other_program]


def quick(method: str, **common: Any) -> ReconstructionConfig:
    """Return a quick configuration of a method; `common` are settings of all methods."""
    return ReconstructionConfig(method, QUICK.get(method, {}), **common)


def command_words(method: str) -> list[str]:
    """Return the first words of the command line that runs a method quickly, without particles and --out."""
    row = METHODS[method]
    words = [row.command, *(["--method", method] if row.command == "reconstruct" else [])]
    return [*words, *(word for name, value in QUICK.get(method, {}).items() for word in ("--set", f"{name}={value}"))]
