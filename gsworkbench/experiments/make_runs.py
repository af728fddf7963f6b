"""Make the runs that an experiment owns: python -m gsworkbench.experiments.make_runs SCALE EXPERIMENT FOLDER STAMP.

The name of a run in place of EXPERIMENT makes that run alone; the name of a data set, with --dataset in place of STAMP,
makes that data set. Where they are large, the workflow makes each by itself, and deletes images after their runs.

Each run goes in a process of its own, forked from one that has imported everything: so its peak memory is its own, it
owes nothing to the runs before it, and one that fails takes no other with it. Finished runs are not made again; what
was killed goes on from its checkpoint. Maps are made here and judged elsewhere (experiments/measures.py).
"""

from __future__ import annotations

import contextlib
import importlib
import json
import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

from gsworkbench.errors import InputError, NotRun
from gsworkbench.experiments.digest import imports
from gsworkbench.experiments.plan import Run, read_registry
from gsworkbench.experiments.run_keys import dataset_key, run_key
from gsworkbench.experiments.store import KEY, key_in, made
from gsworkbench.io.files import write_json, write_text
from gsworkbench.methods.registry import Method
from gsworkbench.particles.copy import IMAGES
from gsworkbench.particles.entry_card import EntryParticles
from gsworkbench.particles.entry_particles import prepare
from gsworkbench.particles.read import read_particles
from gsworkbench.reconstruction.run import make_maps
from gsworkbench.simulation.simulate import simulate
from gsworkbench.simulation.simulation_config import Simulation
from gsworkbench.system.memory import keep_freed_memory

NOT_RUN = "not_run.txt"


def make_runs(runs: Sequence[Run], folder: Path) -> dict[str, str]:
    """Make datasets and runs below `folder`, results/SCALE; return an error for each run that failed.

    For a process that has done nothing else: it forks (see make_runs_apart).
    """
    failed = {}
    for run in runs:
        run_key(run)  # read code once, and not in every fork
    _import_for([run.config.reconstruction.row for run in runs])
    for run in runs:
        dataset = folder / "datasets" / run.dataset
        error = ""
        if key_in(folder / "runs" / run.name) != run_key(run):
            error = _forked(partial(_dataset, run.config.dataset, dataset))
        error = error or _forked(partial(_run, run, dataset, folder / "runs" / run.name))
        print(f"{run.name}: {error or 'done'}", flush=True)
        if error:
            failed[run.name] = error
    return failed


def make_runs_apart(runs: Sequence[Run], folder: Path) -> dict[str, str]:
    """make_runs in a new process, for callers that have computed: a fork of one that has used threads can hang."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_make_and_send, args=(sender, list(runs), folder))
    process.start()
    sender.close()
    failed = None
    with contextlib.suppress(EOFError):  # it ended without a word
        failed = receiver.recv()
    process.join()
    if failed is None:
        raise RuntimeError(f"the process that makes runs ended with code {process.exitcode}")
    return failed


def _make_and_send(sender: Connection, runs: Sequence[Run], folder: Path) -> None:
    sender.send(make_runs(runs, folder))


def _import_for(methods: Sequence[Method]) -> None:
    """Import what is otherwise imported at first use, in every fork anew."""
    import finufft  # noqa: F401
    import gemmi  # noqa: F401
    import pandas  # noqa: F401
    import scipy.spatial.transform  # noqa: F401

    for module in sorted({module for method in methods for module in imports(method.module)}):
        importlib.import_module(module)
    if any(method.torch_optimiser for method in methods):  # the first optimiser takes two seconds to import
        import torch

        torch.optim.Adam([torch.zeros(1)])


def make_dataset(config: Simulation | EntryParticles, folder: Path) -> str:
    """Make a data set in the folder of its name below results/SCALE/datasets; return what went wrong, or "".

    The file of its images is there then in any case: empty, where the data set could not be made here.
    """
    error = _forked(partial(_dataset, config, folder))
    if not error and not (folder / IMAGES).is_file():
        write_text(folder / IMAGES, "")
    return error


def _dataset(config: Simulation | EntryParticles, folder: Path) -> None:
    def make(out: Path) -> None:
        try:
            if isinstance(config, EntryParticles):
                prepare(config, out, entry_folder(folder.parents[1], config.entry))
            else:
                simulate(config, out)
        except NotRun as absent:
            write_text(out / NOT_RUN, f"{absent.because}\n")

    if not (folder / IMAGES).is_file() and not (folder / NOT_RUN).is_file():  # deleted since, to make room
        (folder / KEY).unlink(missing_ok=True)
    made(folder, dataset_key(config), make)


def entry_folder(results: Path, entry: int) -> Path:
    """Return where the files of an EMPIAR entry lie below results/SCALE."""
    return results / str(entry)


def _run(run: Run, dataset: Path, folder: Path) -> None:
    def make(out: Path) -> None:
        if (dataset / NOT_RUN).is_file():
            write_text(out / NOT_RUN, (dataset / NOT_RUN).read_text(encoding="utf-8"))
            return
        try:
            stack = read_particles(dataset / "particles.star")
            _, record = make_maps(stack, out, run.config.reconstruction, resume=True)
        except NotRun as absent:
            write_text(out / NOT_RUN, f"{absent.because}\n")
            return
        except InputError as refusal:
            write_text(out / NOT_RUN, f"the method refused these particles: {refusal}\n")
            return
        record.finish(out / "run.json")

    made(folder, run_key(run), make)


def _forked(work: Callable[[], None]) -> str:
    """Do `work` in a forked process; return what went wrong, or ""."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def child() -> None:
        os.environ["TQDM_DISABLE"] = "1"  # a notebook's progress bars cannot be drawn from a fork
        try:
            work()
        except Exception as error:
            traceback.print_exc()
            sender.send(f"{type(error).__name__}: {error}")

    process = context.Process(target=child)
    process.start()
    sender.close()
    message = ""
    with contextlib.suppress(EOFError):  # nothing was sent: nothing went wrong, or all at once
        message = receiver.recv()
    process.join()
    return message or ("" if process.exitcode == 0 else f"ended with code {process.exitcode}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns 1 if a run failed, after all others were made."""
    keep_freed_memory()
    scale, experiment, folder, stamp = sys.argv[1:] if arguments is None else arguments
    if stamp == "--dataset":
        error = make_dataset(read_registry(scale).made_of(experiment), Path(folder) / "datasets" / experiment)
        print(error, file=sys.stderr)
        return bool(error)
    registry = read_registry(scale)
    runs = (registry.runs[experiment],) if experiment in registry.runs else registry.owned[experiment]
    failed = make_runs(runs, Path(folder))
    if failed:
        print(json.dumps(failed, indent=2), file=sys.stderr)
        return 1
    write_json(stamp, {run.name: run_key(run) for run in runs})
    return 0


if __name__ == "__main__":
    sys.exit(main())
