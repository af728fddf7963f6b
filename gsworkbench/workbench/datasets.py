"""Make a simulated dataset of experiments.yaml: python -m gsworkbench.workbench.datasets PARAMETERS FOLDER."""

from __future__ import annotations

import sys
from pathlib import Path

import yaml

from gsworkbench.config import SimulationConfig, from_mapping
from gsworkbench.simulate import simulate


def main() -> None:
    """Run the command line."""
    parameters, folder = map(Path, sys.argv[1:])
    simulate(from_mapping(SimulationConfig, yaml.safe_load(parameters.read_text(encoding="utf-8"))), folder)


if __name__ == "__main__":
    main()
