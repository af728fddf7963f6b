"""Standard errors of an FSC curve by bootstrap over each shell's effective samples.

The formula of corrected.py supposes components that are Gaussian and alike in all of a shell; the bootstrap draws from
the components that are there. It takes the number of independent ones from the mask, as the formula does.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from gsworkbench.assessment.fsc import Shells, shell_indices
from gsworkbench.assessment.masks import Mask, inside_mask
from gsworkbench.assessment.transforms import transform
from gsworkbench.io.mrc import Map

_MOST = 400  # components in a draw: more would only shrink the scatter by a known factor


def bootstrap_error(
    map_1: Map,
    map_2: Map,
    samples: NDArray[np.float64],
    shells: Shells,
    mask: Mask | None = None,
    *,
    n_draws: int = 200,
    seed: int = 0,
    keep_offset: bool = False,
) -> NDArray[np.float64]:
    """(D // 2 + 1,) standard deviation of the FSC of two (D, D, D) maps, each shell drawn anew `n_draws` times.

    samples : `effective_samples` of the mask, (D // 2 + 1,) real degrees of freedom, that is half as many complex
    components. At most 400 components are drawn with replacement, and the scatter is scaled to as many as there are.
    NaN where a shell has no power. keep_offset : as in `fourier_shell_correlation`.
    """
    first, second = (transform(inside_mask(m, mask, keep_offset=keep_offset)).ravel() for m in (map_1, map_2))
    index = shell_indices(len(map_1), shells).astype(np.int16).ravel()
    order = np.argsort(index, kind="stable")
    starts = np.searchsorted(index[order], np.arange(len(samples) + 1))
    rng = np.random.default_rng(seed)
    errors = np.full(len(samples), np.nan)
    for shell, (start, end) in enumerate(pairwise(starts)):
        if start == end:
            continue
        wanted = max(samples[shell] / 2, 1)
        drawn = order[rng.integers(start, end, (n_draws, int(np.clip(wanted, 2, _MOST))))]
        f, g = first[drawn], second[drawn]
        power = (np.abs(f) ** 2).sum(1) * (np.abs(g) ** 2).sum(1)
        if power.all():
            errors[shell] = np.std((f * g.conj()).real.sum(1) / np.sqrt(power)) * np.sqrt(drawn.shape[1] / wanted)
    return errors
