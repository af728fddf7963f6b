"""A program of the user's own, by its command: it gets the particles of one part at a time and writes a map of them.

Each part goes to a temporary folder of its own, in which nothing else lies: so a program sees neither the other half
set nor a known truth by accident. The maps are checked before they count: half maps that were made from both half sets,
or from the truth, are refused. That is no proof of honesty, for a program can do what it likes on this machine.
"""

from __future__ import annotations

import os
import resource
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from gsworkbench.io.mrc import Map, Volume
    from gsworkbench.methods.part import Part
    from gsworkbench.methods.task import Solution, Task
    from gsworkbench.particles.stack import ParticleStack

_NEEDED = ("{particles}", "{output}")
_EXAMPLE = "give for example command='python my.py {particles} {output} --seed {seed}'"
_DATA = (".mrc", ".mrcs", ".map", ".star", ".cs", ".pkl")
_SURE = 4.0  # standard errors
_OWN_NOISE = 0.1  # of the noise that linear maps hold: maps with less owe nothing to the noise of their own particles
_NEARER = 0.02  # mean FSC to the truth beyond that of the linear map of all particles


@dataclass(frozen=True)
class External:
    """A program of your own (methods/external_program.py).

    command : that makes one map. {particles} stands for the STAR file that it reads, {output} for the MRC map that it
    writes and {seed} for a whole number.
    """

    command: str = ""


DEFAULT = External()


def solve(task: Task) -> Iterator[tuple[Part, Solution]]:
    """Run the command on each part, check the maps together, and yield them."""
    from gsworkbench.errors import InputError
    from gsworkbench.io.files import remove
    from gsworkbench.methods.linear_half_maps import linear_half_maps
    from gsworkbench.methods.task import SUMS, Solution

    words = _words(task.config.settings.command, next(iter(task.parts.values())))
    if not task.resume:  # sums that a killed run left may be of other particles
        for file in task.checkpoints.glob(f"*{SUMS}"):
            remove(file)
    made: dict[Part, Solution] = {}
    for part, stack in task.parts.items():
        with task.stage(part):
            volume, seconds, cpu_seconds = _map_of(stack, words, part, task.seed(part))
        stage = part.stage(task.config.method)
        task.record.cpu_seconds[stage] = round(task.record.cpu_seconds[stage] + cpu_seconds, 3)
        report = {"command": task.config.settings.command, "program_seconds": round(seconds, 3)}
        made[part] = Solution(volume, report=report | {"program_cpu_seconds": round(cpu_seconds, 3)})
    volumes = {part: solution.volume for part, solution in made.items()}
    try:
        check_entry(volumes, linear_half_maps(task), next(iter(task.parts.values())).pixel_size)
    except InputError:
        for file in task.checkpoints.glob(f"*{SUMS}"):
            remove(file)
        raise
    yield from made.items()


def _words(command: str, stack: ParticleStack) -> list[str]:
    """Return the words of a command, with whole paths in place of the names of files, for it runs in another folder.

    Raises InputError for a command that cannot be used, or that names data beside the particles.
    """
    from gsworkbench.errors import InputError, NotRun

    if missing := [name for name in _NEEDED if name not in command]:
        raise InputError(f"the command of method external, {command!r}, has no {missing[0]}", remedy=_EXAMPLE)
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise InputError(f"the command {command!r} cannot be read ({error})", remedy="close every quotation") from error
    if shutil.which(words[0]) is None:
        remedy = "install it, or give its whole path"
        raise NotRun("external", f"there is no program {words[0]!r} for the command `{command}`", remedy=remedy)
    read = {Path(file).resolve() for file in (stack.source, *stack.also_read, *stack.files) if file is not None}
    folders = {file.parent for file in read}
    for number, word in enumerate(words):
        path = Path(word)
        if not (path.is_file() or ("/" in word and path.exists())) or (number == 0 and "/" not in word):
            continue
        found = path.resolve()
        if found in read | folders or (found.parent in folders and found.suffix in _DATA):
            raise InputError(
                f"the command `{command}` names {word}, which is of the particles' folder",
                remedy="an entry sees nothing but {particles}; take it out",
            )
        words[number] = os.path.abspath(path)  # links stay, as those of virtual environments must
    return words


def _map_of(stack: ParticleStack, words: list[str], part: Part, seed: int) -> tuple[Volume, float, float]:
    """Return the map that the command makes of one part, its seconds and its processor seconds."""
    from gsworkbench.errors import NotRun
    from gsworkbench.particles.copy import PARTICLES, write_particles
    from gsworkbench.particles.image_statistics import weighted_alike

    with tempfile.TemporaryDirectory(prefix="gsworkbench-") as name:
        folder = Path(name)
        write_particles(weighted_alike(stack), folder)
        output = folder / "map.mrc"
        stands = {"{particles}": str(folder / PARTICLES), "{output}": str(output), "{seed}": str(seed)}
        # What a shell says of where it is would lead back to the data.
        environment = {k: v for k, v in os.environ.items() if k not in ("PWD", "OLDPWD", "MPLBACKEND")}
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        result = subprocess.run(
            [_replaced(word, stands) for word in words],
            cwd=folder,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            env=environment | {"TMPDIR": name},
        )
        seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
        if result.returncode:
            said = (result.stderr.strip() or result.stdout.strip() or "it said nothing").splitlines()[-1]
            because = f"`{shlex.join(words)}` ended with code {result.returncode} on {part.label} ({said[:200]})"
            raise NotRun("external", because, remedy="run it by hand on a particles.star")
        volume = _checked(output, stack, f"the map of {part.label} by `{shlex.join(words)}`")
    return volume, seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _replaced(word: str, stands: Mapping[str, str]) -> str:
    for name, value in stands.items():
        word = word.replace(name, value)
    return word


def _checked(path: Path, stack: ParticleStack, what: str) -> Volume:
    """Return a map that a program wrote; InputError unless it is on the grid of the particles, finite and no blank."""
    from gsworkbench.assessment.of_files import SAME_SIZE
    from gsworkbench.errors import InputError
    from gsworkbench.io.mrc import map_voxel_size, read_map

    remedy = "it must write {output}, an MRC map"
    if not path.is_file():
        raise InputError(f"{what} is not there", remedy=remedy)
    try:
        size = map_voxel_size(path)
        volume, _ = read_map(path, voxel_size=stack.pixel_size)
    except InputError as error:
        raise InputError(f"{what} cannot be used: {error.problem}", remedy=remedy) from error
    if len(volume) != stack.box_size:
        raise InputError(
            f"{what} has a box of {len(volume)} voxels", remedy=f"that of the particles is {stack.box_size}"
        )
    if size is None or abs(size / stack.pixel_size - 1) > SAME_SIZE:
        says = "no voxel size" if size is None else f"voxels of {size:.4g} A"
        raise InputError(
            f"{what} has {says} in its header", remedy=f"the pixels of the particles are {stack.pixel_size:.4g} A"
        )
    if volume.min() == volume.max():
        raise InputError(f"{what} is constant", remedy="it must hold a map of the particles")
    return volume


def check_entry(maps: Mapping[Part, Volume], linear: tuple[Volume, Volume] | None, voxel_size: float) -> None:
    """Refuse, by InputError, maps whose half maps saw both half sets, or the truth.

    linear : the least-squares maps of the same half sets, which share what independent half maps may share.
    """
    from gsworkbench.assessment.alarms import same_map_twice
    from gsworkbench.assessment.half_maps import noise_correlation, shared_noise
    from gsworkbench.errors import InputError
    from gsworkbench.methods.part import ALL

    remedy = "make each map from its own {particles} alone"
    numbered = [(part.half_set, volume) for part, volume in maps.items() if part != ALL]
    if len(numbered) < 2:
        return
    (_, first), (_, second) = numbered
    if same_map_twice(first, second):
        raise InputError("the entry is refused, because its two half maps are the same map", remedy=remedy)
    for number, half in numbered:
        if ALL in maps and same_map_twice(half, maps[ALL]):
            problem = f"the entry is refused, because its half map {number} is its map of all particles"
            raise InputError(problem, remedy=remedy)
    if linear is None:
        return
    if not shared_noise(*linear):  # else the molecule reaches the edge of the box, and nothing can be said
        pairs = (
            ("its half maps share noise", first, second),
            ("its half map 1 holds noise of half set 2", first, linear[1]),
            ("its half map 2 holds noise of half set 1", second, linear[0]),
        )
        for what, one, other in pairs:
            if shared_noise(one, other):
                raise InputError(
                    f"the entry is refused, because {what} (a correlation of {noise_correlation(one, other):.2f} "
                    f"outside the particle, where linear maps have {noise_correlation(*linear) or 0:.2f}): it saw both "
                    "half sets, or the truth",
                    remedy=remedy,
                )
    _refuse_too_near((first, second), linear, voxel_size, remedy)


def _refuse_too_near(halves: tuple[Map, Map], linear: tuple[Map, Map], voxel_size: float, remedy: str) -> None:
    """Refuse half maps nearer the truth than all particles bring a linear map, without noise of their own particles.

    A prior can bring a fit nearer the truth than a linear map, but what it takes from particles has their noise.
    """
    import numpy as np

    from gsworkbench.assessment.truth_estimate import estimate_truth_fsc
    from gsworkbench.errors import InputError

    estimate = estimate_truth_fsc(halves, linear, voxel_size=voxel_size)
    told = estimate.told & (estimate.linear.values < 0.9)
    if not told.any():
        return
    fsc, samples = estimate.linear.values[told], np.flatnonzero(told) ** 2.0
    weights = samples / samples.sum()
    nearer = float(weights @ (estimate.half.values[told] - np.sqrt(2 * fsc / (1 + fsc))))
    error = float(np.sqrt(np.square(weights * estimate.error[told]).sum()))
    noise, noise_error = own_noise(halves, linear, told)
    if nearer > max(_NEARER, _SURE * error) and noise < _OWN_NOISE and _SURE * noise_error < _OWN_NOISE:
        raise InputError(
            f"the entry is refused, because its half maps are nearer the truth than the data allow (by {nearer:.2f} of "
            f"the mean FSC) and hold {max(noise, 0):.2f} of the noise of their own particles: they saw the truth, or "
            "both half sets",
            remedy=remedy,
        )


def own_noise(halves: tuple[Map, Map], linear: tuple[Map, Map], told: NDArray[np.bool_]) -> tuple[float, float]:
    """Return how much of the noise of their own particles half maps hold, in some shells, and the standard error.

    1 for the linear maps themselves, whose difference is noise alone; 0 for maps that owe as much to the other half
    set as to their own. A map of a particle has its noise in proportion to its signal, unless a prior holds it down.
    """
    import numpy as np

    from gsworkbench.assessment.fsc import shell_indices, shell_weights
    from gsworkbench.assessment.transforms import transform

    box = len(linear[0])
    shells = np.minimum(shell_indices(box), box // 2).ravel()
    counts = np.broadcast_to(shell_weights(box), (box, box, box // 2 + 1)).ravel()
    first, second = map(transform, linear)

    def correlation(a: NDArray[np.complex128], b: NDArray[np.complex128]) -> NDArray[np.float64]:
        sums = [np.bincount(shells, counts * (x * y.conj()).real.ravel())[told] for x, y in ((a, b), (a, a), (b, b))]
        return np.nan_to_num(sums[0] / np.sqrt(np.maximum(sums[1] * sums[2], np.finfo(float).tiny)))

    n = np.bincount(shells, counts)[told]
    noise = first - second
    found, power = 0.0, 0.0
    for half, own, sign in ((halves[0], first, 1), (halves[1], second, -1)):
        usual = correlation(own, sign * noise)
        found += float((n * usual * correlation(transform(half), sign * noise)).sum())
        power += float((n * usual**2).sum())
    return found / power, float(1 / np.sqrt(power))
