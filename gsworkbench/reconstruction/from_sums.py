"""From files of sums to the folder of a reconstruction: what `reconstruct` does, without the particles."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gsworkbench.assessment.mask_names import MASKS
from gsworkbench.config import to_mapping
from gsworkbench.errors import InputError
from gsworkbench.io.locks import lock_folder
from gsworkbench.methods.deposited_sums import KEPT, read_deposit, require_sums_suffice
from gsworkbench.methods.linear_half_maps import linear_half_maps
from gsworkbench.methods.reconstruction_config import ReconstructionConfig
from gsworkbench.methods.task import FEW, solutions
from gsworkbench.reconstruction.run import CHECKPOINTS, Made, Reconstruction, judge_and_write, reference_maps
from gsworkbench.system.provenance import RunRecord


def reconstruct_sums(
    files: Sequence[str | Path],
    out: str | Path,
    config: ReconstructionConfig | None = None,
    *,
    truth: str | Path | None = None,
) -> Reconstruction:
    """Make the map of all particles and of each half set from sums over the particles, compare them and write them.

    With the sums that `reconstruct` kept and its settings, the maps are those that it made, bit for bit.

    Parameters
    ----------
    files : sequence of paths
        Files of sums, of half sets 1 and 2 in this order. One alone makes one map: `config.half_maps` must be False.
    out : str or Path
        The folder to write to.
    config : ReconstructionConfig, optional
        The method, one that works on sums, and its settings. By default the one-pass fit.
    truth : str or Path, optional
        A map on the same grid to compare with.

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
    >>> from gsworkbench.reconstruction.from_sums import reconstruct_sums
    >>> reconstruct_sums(["sums_half1.npz", "sums_half2.npz"], "again")  # doctest: +SKIP
    """
    config, out = config or ReconstructionConfig(), Path(out)
    require_sums_suffice(config)
    deposit = read_deposit(files)
    if any(path.resolve() == (out / name).resolve() for path in deposit.files for name in KEPT):
        raise InputError("the sums lie in the folder that is to be written", file=out, remedy="give another --out")
    truth = None if truth is None else Path(truth)
    true_map, mask = reference_maps(truth, config, deposit.stack)
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
        return judge_and_write(Made(deposit.stack, config, solved, {}, "", record, linear), out, true_map, mask)
