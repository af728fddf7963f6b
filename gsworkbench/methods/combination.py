"""A fitted map combined with the backprojection of the same particles, as far as other particles ask for either.

A fit of Gaussians beats the classical map where the data say enough, and loses where they do not: with few particles or
much noise it fits the noise, and with one-sided views it may miss the molecule. Which of the two holds is seen on
particles that neither map was made of: of half set 1 on half set 2, and the other way round. In each shell, and its
neighbours, the correlation of each map with these particles is measured, the fit's less _SURE standard errors of the
difference, and the two maps are weighed by least squares for these correlations. Where there is no evidence for the
fit, the backprojection is what remains. The same weights serve the half maps and the map of all particles, so that half
maps judge the map that is handed out.

The backprojection is taken inside the support of the molecule, where that has the support of other particles too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from gsworkbench.io.mrc import Volume
from gsworkbench.methods.molecule_support import molecule
from gsworkbench.methods.part import ALL, Part
from gsworkbench.methods.task import Solution, Task
from gsworkbench.normal_equations.diagonal import DiagonalEquations, from_transform, shell_sum, to_transform, wiener_map

Float64 = NDArray[np.float64]

_SURE = 5.0  # standard errors by which a fit's correlation must exceed that of the backprojection to count fully
_LEAST_SIGNAL = 8.0  # of the signal in a shell, in standard errors: below, nothing can be said of a fit
_FLAT = 1.5  # of a shell's mean of K: components with less count by K, ones with more alike
_RIDGE = 0.02  # of the least squares, beside 1: the two maps may be nearly the same
_TRUSTED = 0.1  # mean share of a fit, from which on the support of the molecule is taken from it
SUPPORTS = ("fit", "backprojection", "none")


@dataclass(frozen=True)
class Candidate:
    """Two maps (D, D, D) of the same particles, and what they were made of."""

    equations: DiagonalEquations
    fitted: Volume
    backprojected: Volume

    def supported(self, support: str) -> Volume:
        """The backprojection inside a support: that of the "fit", of its own density, or "none"."""
        if support == "none":
            return self.backprojected
        return self.backprojected * molecule(self.fitted if support == "fit" else self.backprojected)


@dataclass(frozen=True)
class Weights:
    """How two maps are combined. share : (D / 2,) of the fit, shell by shell, 0 to 1. support : one of SUPPORTS.

    known : (D / 2,) whether the signal of a shell is strong enough to tell.
    """

    share: Float64
    support: str
    known: NDArray[np.bool_]

    @property
    def mean(self) -> float:
        """Mean share of the fit over the shells in which there is something to tell; 0 where there are none."""
        return float(self.share[self.known].mean()) if self.known.any() else 0.0

    def sentences(self) -> list[str]:
        """What a user should know of them, in words; empty where the fit holds what it should."""
        if self.mean >= _MUCH:
            return []
        if self.mean < _NOTHING:
            return [
                "the Gaussians predict particles that they were not fitted to no better than backprojection does (few "
                "particles, much noise, or views from one side): the map is the backprojection of the same particles"
            ]
        return [
            "the Gaussians predict particles that they were not fitted to better than backprojection only in part: "
            f"{100 * (1 - self.mean):.0f} % of the map is the backprojection of the same particles"
        ]


_NOTHING, _MUCH = 0.03, 0.25


def combine(candidate: Candidate, weights: Weights) -> Volume:
    """(D, D, D) the fit by its share of each shell, the backprojection for the rest; nothing beyond |k| = D / 2."""
    equations = candidate.equations
    share = torch.zeros(int(equations.shell.max()) + 1)
    share[: len(weights.share)] = torch.from_numpy(weights.share).float()
    share = share[equations.shell]
    other = to_transform(torch.from_numpy(candidate.supported(weights.support)))
    fitted = to_transform(torch.from_numpy(candidate.fitted))
    return from_transform((other + share * (fitted - other)) * (equations.weight > 0)).numpy()


def weigh(pairs: Sequence[tuple[Candidate, DiagonalEquations]]) -> Weights:
    """Weights from maps and the equations of other particles, which test them."""
    agreement = {
        support: np.sum([_evidence(test, made.supported(support), made.fitted) for made, test in pairs], axis=0)
        for support in SUPPORTS
    }
    box_size = pairs[0][1].box_size
    found = {support: _correlations(_near_sums(total, box_size // 2)) for support, total in agreement.items()}
    # Outside the molecule a fit has no noise, and the backprojection has. So they are compared inside each support too,
    # and the fit counts as far as it wins against all of them.
    share = np.min([found[name].share() for name in SUPPORTS], axis=0)
    weights = Weights(share, max(SUPPORTS, key=lambda name: found[name].total()), found["none"].known)
    # A support that is made of a fit which nothing supports may cut the molecule in two.
    return weights if weights.mean >= _TRUSTED else replace(weights, support="none")


@dataclass(frozen=True)
class _Correlations:
    """(D / 2,) each, by shell: of the backprojection and of the fit with the signal of other particles, the correlation
    of the two maps, the standard error of a correlation; where the signal is strong enough to tell."""

    backprojected: Float64
    fitted: Float64
    mutual: Float64
    error: Float64
    known: NDArray[np.bool_]

    def total(self) -> float:
        """How well the backprojection does in all shells that tell anything."""
        return float(self.backprojected[self.known].sum())

    def share(self) -> Float64:
        """Of the fit in the combination of least squares, its correlation less _SURE standard errors."""
        doubt = _SURE * self.error * np.sqrt(2 - 2 * self.mutual)
        w, g = np.clip(self.backprojected, 0, 1), np.clip(self.fitted, 0, 1)
        g = np.clip(w + self.fitted - self.backprojected - doubt, 0, 1)
        of_w = np.clip((1 + _RIDGE) * w - self.mutual * g, 0, None)
        of_g = np.clip((1 + _RIDGE) * g - self.mutual * w, 0, None)
        total = of_w + of_g
        return np.divide(of_g, total, out=np.zeros_like(total), where=self.known & (total > 0))


def _evidence(test: DiagonalEquations, backprojected: Volume, fitted: Volume) -> Float64:
    """(11, number of shells) sums over shells from which correlations with the signal in `test` follow."""
    w, g = (to_transform(torch.from_numpy(np.ascontiguousarray(v, np.float32))) for v in (backprojected, fitted))
    twice = torch.full((w.shape[-1],), 2.0)
    twice[0] = twice[-1] = 1.0
    counted = test.weight.clamp_max(1) * twice
    mean = shell_sum(test, test.kernel * counted) / shell_sum(test, counted).clamp_min(1e-30)
    metric = counted / (test.kernel / mean.float().clamp_min(1e-30)[test.shell] + _FLAT)
    kernel, noise = test.kernel * metric, test.noise * test.kernel * metric.square() / twice
    rows = [
        kernel * w.abs().square(),
        kernel * (w.conj() * g).real,
        kernel * g.abs().square(),
        metric * (w.conj() * test.data).real,
        metric * (g.conj() * test.data).real,
        noise * w.abs().square(),
        noise * g.abs().square(),
        metric * (test.data.abs().square() - test.noise * test.kernel),
        metric * test.kernel.square(),
        kernel,
    ]
    return np.stack([shell_sum(test, row).numpy() for row in rows])


def _near_sums(values: Float64, n_shells: int) -> Float64:
    """(rows, n_shells) sums over each shell and those an eighth of its number to either side, at least one."""
    result = np.zeros((len(values), n_shells))
    for shell in range(n_shells):
        reach = max(1, shell // 8)
        result[:, shell] = values[:, max(0, shell - reach) : min(n_shells, shell + reach + 1)].sum(1)
    return result


def _correlations(sums: Float64) -> _Correlations:
    tiny = 1e-300
    ww, wg, gg, w_data, g_data, w_noise, g_noise, excess, squares, kernel = sums
    signal = np.sqrt(np.maximum(excess, 0) / np.maximum(squares, tiny) * kernel)
    w_norm, g_norm = np.sqrt(np.maximum(ww, tiny)), np.sqrt(np.maximum(gg, tiny))
    error = np.sqrt((w_noise / np.maximum(ww, tiny) + g_noise / np.maximum(gg, tiny)) / 2)
    known = (signal > _LEAST_SIGNAL * error) & (ww > tiny) & (gg > tiny)
    scale = np.where(known, signal, np.inf)
    return _Correlations(
        backprojected=w_data / w_norm / scale,
        fitted=g_data / g_norm / scale,
        mutual=np.clip(wg / (w_norm * g_norm), -1, 1),
        error=np.where(known, error, 0) / scale,
        known=known,
    )


def combined(
    task: Task,
    solved: dict[Part, Solution],
    candidates: dict[Part, Candidate],
    trial: tuple[Volume, DiagonalEquations, DiagonalEquations] | None,
) -> dict[Part, Solution]:
    """Combine fits with backprojections as the other half set asks, or, without half sets, held-out particles."""
    halves = [part for part in candidates if part != ALL]
    if len(halves) == 2:
        first, second = (candidates[part] for part in halves)
        pairs = [(first, second.equations), (second, first.equations)]
    elif trial is not None:
        volume, train, test = trial
        pairs = [(Candidate(train, volume, wiener_map(train).numpy()), test)]
    else:
        return solved
    weights = weigh(pairs)
    if len(halves) == 2:  # a tenth of the particles says less than a half set, and is no reason to worry anybody
        task.record.warnings += weights.sentences()
    report = {"share_of_fit": round(weights.mean, 4), "support_of_backprojection": weights.support}
    result = {}
    for part, solution in solved.items():
        volume = combine(candidates[part], weights)
        mixture = solution.volume if solution.background is None else solution.volume - solution.background
        result[part] = replace(
            solution, volume=volume, background=volume - mixture, report=solution.report | {"combined": report}
        )
    return result
