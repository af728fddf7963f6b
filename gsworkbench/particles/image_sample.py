"""A small sample of the images behind a file of sums, by which files tell whether they share any.

Each image has a number that looks random and depends on its file and place in it alone. A sample is the smallest of
these numbers: of two sets of images, the smallest numbers are shared in the proportion in which the images are.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

MOST = 1000


def sample(numbers: NDArray[np.uint64] | Iterable[int]) -> tuple[int, ...]:
    """The smallest of the numbers of images, each once, in order; all of them where there are few."""
    values = np.unique(np.asarray(numbers if isinstance(numbers, np.ndarray) else list(numbers), np.uint64))
    return tuple(values[:MOST].tolist())


def shared(first: tuple[int, ...], second: tuple[int, ...]) -> float:
    """Which part of the images of the smaller of two sets is in both, from their samples."""
    ends = [numbers[-1] for numbers in (first, second) if len(numbers) == MOST]
    seen = [{number for number in numbers if not ends or number <= min(ends)} for numbers in (first, second)]
    return len(seen[0] & seen[1]) / max(min(map(len, seen)), 1)


def shared_by_halves(samples: Iterable[tuple[int, tuple[int, ...]]]) -> str | None:
    """A sentence where sums of half set 1 and of half set 2 share images. samples : half set (0 to 2) and sample."""
    by_half: dict[int, list[int]] = {1: [], 2: []}
    for half_set, numbers in samples:
        by_half.get(half_set, []).extend(numbers)
    part = shared(sample(by_half[1]), sample(by_half[2]))
    if not part:
        return None
    return (
        f"the same images are in both half sets, about {100 * part:.3g} % of them: the half-map FSC cannot fall below "
        f"{part:.2g}"
    )
