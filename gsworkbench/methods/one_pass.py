"""The fit that reads the particles once: its settings and how a task is solved.

The mathematics are in one_pass_fit.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from gsworkbench.methods.part import Part
    from gsworkbench.methods.task import Solution, Task


@dataclass(frozen=True)
class OnePass:
    """Settings of the fit that reads the particles once (methods/one_pass_fit.py), the default method.

    Lengths are fractions of the box side unless said otherwise.

    Examples
    --------
    >>> import gsworkbench as gs
    >>> gs.OnePass(n_gaussians="auto").weights
    'non-negative'
    """

    # None: 3,000 for a box of 64, in proportion to the voxels, at most 30,000. auto: as held-out particles ask for.
    n_gaussians: int | Literal["auto"] | None = None
    n_boosted_steps: int = 30  # first, with Fourier components weighted by exp(boost k^2 / k_nyquist^2)
    n_steps: int = 60  # then, with the true weights
    n_final_steps: int = 40  # with a background, of the second fit, which goes on from the first at half the rate
    boost: float = 2.0
    learning_rate: float = 2e-3
    rate_means: float = 1.0  # multipliers of the learning rate, per parameter type
    rate_scales: float = 20.0
    rate_quaternions: float = 20.0
    rate_weights: float = 20.0
    start: Literal["data", "random"] = "data"  # centres drawn from a low-passed map, or from N(0, initial_spread^2)
    weights: Literal["non-negative", "signed"] = "non-negative"
    initial_spread: float = 0.12
    initial_scale: float = 0.004
    floor_pixels: float = 0.45  # additive floor of the covariances
    background: bool = True  # measure on held-out particles what the mixture misses, and add it as a smooth map
    combine: bool = True  # with backprojection, where other particles ask for it (methods/combination.py)
    cutoff: float = 3.5  # footprint half width in standard deviations while fitting


DEFAULT = OnePass()
PREVIEW = OnePass(n_boosted_steps=15, n_steps=30, background=False)  # a second or two at 64^3


def halved(settings: OnePass) -> OnePass:
    """The same with half the steps of each part of the descent."""
    first, second, last = (n // 2 for n in (settings.n_boosted_steps, settings.n_steps, settings.n_final_steps))
    return replace(settings, n_boosted_steps=first, n_steps=second, n_final_steps=last)


def solve(task: Task) -> Iterator[tuple[Part, Solution]]:
    """Fit Gaussians to the normal equations of each part, and combine the maps with backprojections."""
    from gsworkbench.methods.combination import Candidate, combined
    from gsworkbench.methods.one_pass_fit import FitContext, fit_one_pass
    from gsworkbench.methods.sums_of_parts import load_part, write_sums
    from gsworkbench.methods.task import Solution
    from gsworkbench.normal_equations.diagonal import wiener_map
    from gsworkbench.system import distributed

    settings: OnePass = task.config.settings
    files = write_sums(task, hold_out=settings.background or settings.n_gaussians == "auto")
    if not distributed.is_first():
        return  # the particles have been read; the fit is one process's
    solved: dict[Part, Solution] = {}
    candidates: dict[Part, Candidate] = {}
    trial = None
    for part in task.parts:
        with task.stage(part):
            train, test = load_part(task, files, part)
            chosen = settings if test is not None else replace(settings, background=False)
            result = fit_one_pass(
                train,
                test,
                chosen,
                FitContext(task.seed(part), task.config.backend, task.device, part.label),
            )
            del train, test
            candidates[part] = Candidate(result.equations, result.volume, wiener_map(result.equations).numpy())
        report: dict[str, Any] = {"n_gaussians": len(result.gaussians)}
        held_out = result.held_out
        if result.misfit is not None and held_out is not None:
            report["misfit"] = [round(float(m), 5) for m in result.misfit]
            report["held_out"] = {"signal": held_out.signal, "missed": held_out.missed, "ladder": held_out.ladder}
            task.record.warnings += [f"{part.label}: {sentence}" for sentence in held_out.warnings()]
        curve = () if held_out is None else held_out.curve
        solved[part] = Solution(result.volume, result.gaussians, result.background, report, curve)
        trial = result.trial if len(task.parts) == 1 else None
    if settings.combine:
        with task.record.stage("combine with backprojection"):
            solved = combined(task, solved, candidates, trial)
    yield from solved.items()
