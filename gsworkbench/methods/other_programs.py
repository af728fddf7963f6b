"""Other programs as peers: RELION and cryoDRGN on the very particles, poses, CTF and half sets of a run.

Particles are written to a temporary folder as RELION 3.1 files, white protein, and what comes back is brought to our
axes and units. A program that is not on PATH raises NotRun. Commands and conventions were found by running RELION 3.1.3
and cryoDRGN 4.3.1; cryoDRGN's maps have a scale of their own, its train_nn's one that grows as it converges.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gsworkbench.errors import NotRun
from gsworkbench.io.mrc import read_map
from gsworkbench.methods.part import Part
from gsworkbench.methods.task import Solution, Task
from gsworkbench.particles.copy import write_particles
from gsworkbench.particles.stack import ParticleStack

if TYPE_CHECKING:
    from gsworkbench.methods.cryodrgn_program import Cryodrgn

_COMMANDS = {"relion": "relion_reconstruct", "cryodrgn": "cryodrgn"}


@dataclass(frozen=True)
class ProgramMap:
    """volume : (D, D, D) float32, image units / A where the program's scale is known. cpu_seconds : of the program."""

    volume: NDArray[np.float32]
    cpu_seconds: float
    commands: tuple[str, ...]


def relion_reconstruct(stack: ParticleStack, *, threads: int = 1) -> ProgramMap:
    """`relion_reconstruct --ctf`: gridded backprojection with CTF weights, no filter."""
    require("relion")
    command = f"relion_reconstruct --i particles.star --o map.mrc --ctf --j {threads}"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_particles(stack, folder)
        seconds = _run("relion", [command], folder)
        volume, _ = read_map(folder / "map.mrc")
    # RELION's images are sums along the ray, ours integrals over A.
    return ProgramMap(volume / np.float32(stack.pixel_size), seconds, (command,))


def cryodrgn(stack: ParticleStack, config: Cryodrgn, *, seed: int = 0) -> ProgramMap:
    """`cryodrgn backproject_voxel` or `train_nn` (a neural field of one structure)."""
    require("cryodrgn")
    inputs = "particles.mrcs --poses poses.pkl --ctf ctf.pkl --outdir out"
    train = f"train_nn {inputs} --num-epochs {config.n_epochs} --dim {config.width} --seed {seed}"
    command = f"backproject_voxel {inputs} -b 100 --no-half-maps" if config.command == "backproject_voxel" else train
    commands = (
        "cryodrgn parse_pose_star particles.star -o poses.pkl",
        "cryodrgn parse_ctf_star particles.star -o ctf.pkl --ps 0",
        f"cryodrgn {command}",
    )
    made = "backproject.mrc" if config.command == "backproject_voxel" else f"reconstruct.{config.n_epochs}.mrc"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_particles(stack, folder)
        seconds = _run("cryodrgn", commands, folder)
        volume, _ = read_map(folder / "out" / made)
    if not np.isfinite(volume).all():  # it writes NaN, and says nothing, where a column of the CTF is missing
        raise NotRun("cryodrgn", "its map holds NaN")
    return ProgramMap(volume / np.float32(stack.pixel_size), seconds, commands)


def program_solutions(task: Task, run: Callable[[ParticleStack, int], ProgramMap]) -> Iterator[tuple[Part, Solution]]:
    """Yield the maps that another program makes of the parts of a task; its processor time counts as ours."""
    for part, stack in task.parts.items():
        with task.stage(part):
            result = run(stack, task.seed(part))
        stage = part.stage(task.config.method)
        task.record.cpu_seconds[stage] = round(task.record.cpu_seconds[stage] + result.cpu_seconds, 3)
        report = {"commands": list(result.commands), "program_cpu_seconds": round(result.cpu_seconds, 3)}
        yield part, Solution(result.volume, report=report)


def require(program: str) -> None:
    """Raise NotRun unless the program is on PATH."""
    if shutil.which(_COMMANDS[program]) is None:
        because = f"there is no {_COMMANDS[program]} on PATH"
        raise NotRun(program, because, remedy="install it into an environment of its own and put that on PATH")


def _run(program: str, commands: list[str] | tuple[str, ...], folder: Path) -> float:
    """Run commands in a folder; return their processor time, s. One that fails raises NotRun with its last words."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    for command in commands:
        result = subprocess.run(
            command.split(), cwd=folder, capture_output=True, text=True, check=False, env=_environment()
        )
        if result.returncode:
            words = (result.stderr.strip() or result.stdout.strip() or "it said nothing").splitlines()[-1]
            raise NotRun(program, f"`{command.split()[0]}` failed ({words[:200]})")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _environment() -> dict[str, str]:
    """Ours without PYTHONPATH's and the notebook's, which would reach into the program's own environment."""
    return {k: v for k, v in os.environ.items() if k not in ("PYTHONHOME", "MPLBACKEND")}
