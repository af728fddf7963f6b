"""Standard errors of FSC curves by bootstrap over the components of each shell.

The formulas of corrected.py and truth_estimate.py suppose components that are Gaussian and alike in all of a shell; the
bootstrap draws from the components that are there. It takes the number of independent ones from the mask, as the
formulas do.

The components of a shell are dealt out to groups, and groups are drawn, so that any number of components costs the
same. The scatter is that of as many components as were dealt out, and is scaled to as many as are independent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from gsworkbench.assessment.fsc import Shells, shell_indices
from gsworkbench.assessment.masks import Mask, inside_mask
from gsworkbench.assessment.transforms import transform
from gsworkbench.io.mrc import Map

GROUPS = 60  # of components; a shell with fewer components has a group for each


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
    components. NaN where a shell has no power. keep_offset : as in `fourier_shell_correlation`.
    """
    f, g = (transform(inside_mask(m, mask, keep_offset=keep_offset)) for m in (map_1, map_2))
    products = (real_product(f, g), real_product(f, f), real_product(g, g))
    return bootstrap_statistic(products, _fsc, samples, shells, n_draws=n_draws, seed=seed)


def bootstrap_statistic(
    products: Sequence[NDArray[np.float64]],
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    samples: NDArray[np.float64],
    shells: Shells,
    *,
    n_draws: int = 200,
    seed: int = 0,
) -> NDArray[np.float64]:
    """(D // 2 + 1,) standard deviation of a function of sums over a shell, each shell drawn anew `n_draws` times.

    products : k arrays (D, D, D // 2 + 1) of what is summed. statistic : of (k, n_draws, D // 2 + 1) sums, one number
    for each draw and shell. samples : as in `bootstrap_error`. NaN where the statistic is NaN in any draw.
    """
    n = len(samples)
    index = np.minimum(shell_indices(len(products[0]), shells), n).astype(np.int16).ravel()
    rng = np.random.default_rng(seed)
    order = np.argsort(index, kind="stable")
    size = np.bincount(index, minlength=n + 1)
    group = np.empty(len(index), np.int64)
    group[order] = (np.arange(len(index)) - np.repeat(np.cumsum(size) - size, size)) % GROUPS
    place = index * np.int64(GROUPS) + group
    sums = [np.bincount(place, p.ravel(), minlength=(n + 1) * GROUPS)[: n * GROUPS] for p in products]
    groups = np.minimum(size[:n], GROUPS)
    counts = np.zeros((n_draws, n, GROUPS))
    for shell, there in enumerate(groups):
        if there:
            counts[:, shell, :there] = rng.multinomial(there, np.full(there, 1 / there), n_draws)
    drawn = np.stack([np.einsum("dsg,sg->ds", counts, s.reshape(n, GROUPS)) for s in sums])
    with np.errstate(invalid="ignore", divide="ignore"):
        scatter = np.std(statistic(drawn), axis=0, ddof=1)
        lost = np.sqrt(groups / np.maximum(groups - 1, 1))  # a draw from n groups scatters by (n - 1) / n of theirs
        return np.asarray(scatter * lost * np.sqrt(size[:n] / np.maximum(samples / 2, 1)))


def real_product(f: NDArray[np.complex128], g: NDArray[np.complex128]) -> NDArray[np.float64]:
    return f.real * g.real + f.imag * g.imag


def _fsc(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(sums[0] / np.sqrt(sums[1] * sums[2]))
