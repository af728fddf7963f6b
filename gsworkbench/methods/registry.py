"""The table of methods: each is one row here and one file. Imports nothing that needs torch, scipy or pandas.

The file of a method holds a frozen record of its settings, DEFAULT, the settings of a user who names none, and
solve(task), which yields a Solution for each part of a task; it may hold PRESETS, recipes by name, and halved, the same
settings with half the steps. It imports torch,
and the modules of its mathematics, only inside functions. Rows name these files by strings, so that the code of a
method counts for the runs of that method alone (experiments/run_keys.py).
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gsworkbench.errors import InputError

if TYPE_CHECKING:
    from gsworkbench.methods.part import Part
    from gsworkbench.methods.task import Solution, Task

    Solve = Callable[[Task], Iterator[tuple[Part, Solution]]]


@dataclass(frozen=True)
class Method:
    """One method: what the command line, the estimates, the workflow and the widgets need to know of it.

    name : of --method. module : its file. says : what it is, for --help. label : in the list of live fits, or None
    where it is not offered there. command : of the command line.
    shared_by_processes : whether processes of torchrun can share its work. weighted_by_noise : whether it divides data
    by the power of their noise. iterates : whether it sees every particle again and again. torch_optimiser : whether it
    uses an optimiser of torch. other_program : whether another program makes the map.
    bytes_per_voxel : of the map, the peak memory of making it and the half maps and of their assessment; None where
    memory is not ours to know. keeps_images : whether it keeps images in memory.
    unfiltered : the settings with which half maps are as noisy as the data, {} for always, None for never.
    leaves_sums : whether it leaves the normal equations of the half sets in the folder of its checkpoints.
    old_names : names that earlier versions gave it.
    """

    name: str
    module: str
    says: str
    label: str | None = None
    command: str = "reconstruct"
    shared_by_processes: bool = False
    weighted_by_noise: bool = False
    iterates: bool = False
    leaves_sums: bool = False
    torch_optimiser: bool = False
    other_program: bool = False
    bytes_per_voxel: int | None = None
    keeps_images: bool = False
    unfiltered: Mapping[str, Any] | None = None
    old_names: tuple[str, ...] = ()

    @property
    def default(self) -> Any:
        """The settings of a user who names none."""
        return importlib.import_module(self.module).DEFAULT

    @property
    def settings(self) -> type:
        """The class of its settings, a frozen dataclass."""
        return type(self.default)

    @property
    def presets(self) -> Mapping[str, Any]:
        """Recipes by name: settings of this method, where its file has a table PRESETS."""
        return getattr(importlib.import_module(self.module), "PRESETS", {})

    @property
    def setting_names(self) -> tuple[str, ...]:
        return tuple(f.name for f in dataclasses.fields(self.settings))

    def halved(self, settings: Any) -> Any:
        """The same settings with half the steps, to see what the other half changes; None where there are none."""
        halved = getattr(importlib.import_module(self.module), "halved", None)
        return None if halved is None else halved(settings)

    @property
    def solve(self) -> Solve:
        """Its function of a task."""
        return importlib.import_module(self.module).solve


METHODS: dict[str, Method] = {
    row.name: row
    for row in (
        Method(
            "one-pass",
            "gsworkbench.methods.one_pass",
            "read the particles once, then fit in seconds (default)",
            label="Gaussians, one pass",
            shared_by_processes=True,
            leaves_sums=True,
            weighted_by_noise=True,
            bytes_per_voxel=600,
            old_names=("normal-equations",),
        ),
        Method(
            "stochastic",
            "gsworkbench.methods.stochastic",
            "Adam on mini-batches of images, as the papers do",
            label="Gaussians, stochastic",
            shared_by_processes=True,
            iterates=True,
            bytes_per_voxel=200,
            keeps_images=True,
        ),
        Method(
            "voxels",
            "gsworkbench.methods.voxels",
            "a map without Gaussians, from the same sums",
            label="free voxels, one pass",
            shared_by_processes=True,
            leaves_sums=True,
            weighted_by_noise=True,
            bytes_per_voxel=600,
        ),
        Method(
            "backprojection",
            "gsworkbench.methods.backprojection",
            "the classical map",
            label="backprojection",
            command="backproject",
            shared_by_processes=True,
            weighted_by_noise=True,
            bytes_per_voxel=420,
            unfiltered={"filter": "none"},
        ),
        Method(
            "neural-field",
            "gsworkbench.methods.neural_field",
            "a neural network, for comparison",
            iterates=True,
            torch_optimiser=True,
        ),
        Method(
            "splatting-3dgs",
            "gsworkbench.methods.splatting_3dgs",
            "3D Gaussian splatting as it is used for scenes, for comparison",
            iterates=True,
            torch_optimiser=True,
            old_names=("3dgs",),
        ),
        Method(
            "relion",
            "gsworkbench.methods.relion_program",
            "relion_reconstruct, where it is installed, on the same particles and half sets",
            other_program=True,
            unfiltered={},
        ),
        Method(
            "cryodrgn",
            "gsworkbench.methods.cryodrgn_program",
            "the program cryoDRGN, likewise",
            other_program=True,
        ),
        Method(
            "external",
            "gsworkbench.methods.external_program",
            "a program of your own, by its command, likewise",
            other_program=True,
        ),
    )
}


def find_method(name: str) -> Method:
    """Return the row of a method by its name or one of its old names.

    Raises InputError for a name that no row has.
    """
    if name in METHODS:
        return METHODS[name]
    for row in METHODS.values():
        if name in row.old_names:
            return row
    raise InputError(f"there is no method {name!r}", remedy=f"choose one of {', '.join(METHODS)}")
