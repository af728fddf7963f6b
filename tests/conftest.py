"""Small simulated sets with known truth, made once per test session."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gsworkbench.io.mrc import read_map
from gsworkbench.particles.read import read_particles
from gsworkbench.particles.stack import ParticleStack
from gsworkbench.simulation.simulate import simulate
from gsworkbench.simulation.simulation_config import Simulation

# The arrays of tests are small: on a busy machine, threads that wait for each other cost more than they gain.
torch.set_num_threads(1)


# Files whose tests start programs, notebooks, servers or many fits. `pytest -m "not slow"` leaves them out.
SLOW = {
    "browser": ["explore"],
    "cli": ["every_case"],
    "experiments": ["make_runs", "rehearse", "tables_figures", "workflow"],
    "house": ["crash", "documentation", "fuzz", "notebooks", "public_face"],
    "inspection": ["findings"],
    "io": ["disk", "properties"],
    "lab": ["fits", "page", "web_surface"],
    "methods": ["determinism", "methods_page", "presets", "registry", "relion_map", "splatting_3dgs"],
    "normal_equations": ["accumulate_jobs"],
    "particles": ["empiar", "real_particles"],
    "rendering": ["cpu_kernels", "gpu"],
    "system": ["distributed", "memory", "provenance", "wheel"],
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    slow = {(folder, f"test_{name}") for folder, names in SLOW.items() for name in names}
    for item in items:
        if (item.path.parent.name, item.path.stem) in slow:
            item.add_marker(pytest.mark.slow)


class SimulatedSet:
    """A folder as `gsworkbench simulate` writes it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.star, self.truth_file = folder, folder / "particles.star", folder / "truth.mrc"

    @property
    def stack(self) -> ParticleStack:
        return read_particles(self.star)

    @property
    def truth(self):
        return read_map(self.truth_file)[0]


def _made(tmp_path_factory: pytest.TempPathFactory, name: str, **changes: object) -> SimulatedSet:
    settings = {"n_particles": 1000, "box_size": 32, "pixel_size": 12.0, "snr": 10.0, "seed": 5}
    folder = tmp_path_factory.mktemp(name)
    simulate(Simulation(**(settings | changes)), folder)
    return SimulatedSet(folder)


@pytest.fixture(scope="session")
def clean_set(tmp_path_factory: pytest.TempPathFactory) -> SimulatedSet:
    """1,000 ribosome images, 32^2 at 12 A/px, SNR 10: mistakes of convention show, noise does not."""
    return _made(tmp_path_factory, "clean")


@pytest.fixture(scope="session")
def noisy_set(tmp_path_factory: pytest.TempPathFactory) -> SimulatedSet:
    """The same molecule at SNR 0.1, 600 images."""
    return _made(tmp_path_factory, "noisy", n_particles=600, snr=0.1)


@pytest.fixture(scope="module")
def bench():
    """What judges inputs of the fuzzer (fuzz/targets.py)."""
    from fuzz import targets

    bench = targets.Bench()
    yield bench
    bench.remove()
