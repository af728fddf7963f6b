"""From files of sums to the folder of a reconstruction: what `reconstruct` does, without the particles."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from gsworkbench.assessment.mask_names import MASKS
from gsworkbench.config import to_mapping
from gsworkbench.errors import InputError
from gsworkbench.io.locks import lock_folder
from gsworkbench.methods.deposited_sums import KEPT, read_deposit, require_sums_suffice
from gsworkbench.methods.linear_half_maps import linear_half_maps
from gsworkbench.methods.task import FEW, solutions
from gsworkbench.reconstruction.run import (
    CHECKPOINTS,
    Made,
    Reconstruction,
    configured,
    judge_and_write,
    reference_maps,
)
from gsworkbench.system.provenance import RunRecord


def reconstruct_sums(
    files: Sequence[str | Path],
    out: str | Path,
    settings: Any = None,
    *,
    truth: str | Path | None = None,
    mask: str | Path = "auto",
    half_maps: bool = True,
    seed: int = 0,
    backend: str | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> Reconstruction:
    """Make the map of all particles and of each half set from sums over the particles, compare them and write them.

    From the sums that `reconstruct` kept, with its settings and seed, the maps are those that it made, bit for bit.

    Parameters
    ----------
    files : sequence of paths
        Files of sums, of half sets 1 and 2 in this order. One alone makes one map: `half_maps` must be False.
    out : str or Path
        The folder to write to.
    settings : settings of a method, or ReconstructionConfig, optional
        As for `reconstruct`, of a method that works on sums: `OnePass()` (the default), `Voxels()` or
        `Backprojection()` with the filter "wiener" or "none".
    truth : str or Path, optional
        A map on the same grid to compare with.
    mask : str or Path
        The mask of the masked FSC: "auto", "sphere", "none", or the path of a mask.
    half_maps : bool
        Also reconstruct each half set by itself.
    seed : int
        Decides the random numbers of the fit.
    backend : str, optional
        A name of `available_backends()`.
    device : {"auto", "cpu", "cuda"}
        Where the fit runs.

    Returns
    -------
    Reconstruction
        As `reconstruct` returns it.

    Raises
    ------
    InputError
        If a file is damaged, the files do not go together, or the method needs the particles.

    Examples
    --------
    >>> import gsworkbench as gs
    >>> particles = gs.read_particles("ribosome/particles.star").with_half_sets()
    >>> for half in (1, 2):
    ...     gs.accumulate(particles[particles.half_set == half]).save(f"sums{half}.npz")
    >>> made = gs.reconstruct_sums(["sums1.npz", "sums2.npz"], "again", gs.Backprojection(), mask="none")
    >>> made.volume.shape
    (32, 32, 32)
    """
    options = {"mask": str(mask), "half_maps": half_maps, "seed": seed, "backend": backend, "device": device}
    config, out = configured(settings, **options), Path(out)
    require_sums_suffice(config)
    deposit = read_deposit(files)
    if any(path.resolve() == (out / name).resolve() for path in deposit.files for name in KEPT):
        raise InputError("the sums lie in the folder that is to be written", file=out, remedy="give another --out")
    truth = None if truth is None else Path(truth)
    true_map, chosen = reference_maps(truth, config, deposit.stack)
    with lock_folder(out, CHECKPOINTS):
        named = [] if config.mask in MASKS else [Path(config.mask)]
        record = RunRecord.start(to_mapping(config), [*deposit.files, *named, *([truth] if truth else [])])
        record.particles = {"pixel_size": deposit.stack.pixel_size, "box_size": deposit.stack.box_size, "sums": True}
        task = deposit.task(config, record)
        count = record.n_particles["all"]
        few = [f"only {count} particles: expect a poor map, thousands are usual"] if count < FEW else []
        record.warnings += [*few, *deposit.notes]
        solved = dict(solutions(task))
        record.results |= {part.label: solution.report for part, solution in solved.items()}
        linear = linear_half_maps(task) if config.half_maps else None
        return judge_and_write(Made(deposit.stack, config, solved, {}, "", record, linear), out, true_map, chosen)
