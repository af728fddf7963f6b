"""Several processes at one pass or fit, started by torchrun; what they share is sums.

    torchrun --nproc-per-node 4 -m gsworkbench reconstruct particles.star --out map --method stochastic

Every process goes through the same steps; of a list of particles each takes its `share`, and `add_up` makes of their
results the sum in all of them. Particles never travel: each process reads its own. Nothing here does anything in a
process that is alone. The first process alone writes files.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

_SLICE = 2**24  # elements that travel at a time: libraries copy what they send


@contextlib.contextmanager
def processes() -> Iterator[None]:
    """Join the processes that torchrun started with this one, if any: gloo for the CPU, NCCL for GPUs, one each.

    Once in a program; within it, calls do nothing.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or _joined():
        yield
        return
    if int(os.environ["RANK"]) > 0:
        os.environ["TQDM_DISABLE"] = "1"  # one progress bar is enough
    import torch
    import torch.distributed as dist

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def size() -> int:
    """How many processes there are."""
    return _group().get_world_size() if _joined() else 1


def rank() -> int:
    """The number of this process, from 0."""
    return _group().get_rank() if _joined() else 0


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return rank() == 0


def share(rows: NDArray[np.integer]) -> NDArray[np.integer]:
    """The rows of a list that this process looks at: a run of them, of nearly equal length in all."""
    import numpy as np

    return np.array_split(rows, size())[rank()]


def add_up(tensors: Sequence[Tensor]) -> None:
    """Replace contiguous tensors by their sums over processes, in place."""
    if size() == 1:
        return
    for tensor in tensors:
        for part in tensor.view(-1).split(_SLICE):
            _group().all_reduce(part)


def wait() -> None:
    """Go on when all processes have come here."""
    if size() > 1:
        _group().barrier()


def _joined() -> bool:
    """Whether `processes` is at work. Does not import what a process that is alone has no need of."""
    return "WORLD_SIZE" in os.environ and _group().is_available() and _group().is_initialized()


def _group():  # type: ignore[no-untyped-def]
    import torch.distributed

    return torch.distributed
