"""Intervals of means and of paired differences over seeds, and what they decide.

Seeds share particles: two methods of one seed saw the same images, so that the difference between them is far steadier
than either. An interval holds the mean with 95 % confidence, by Student's t, which supposes that what differs between
seeds is Gaussian. Everything is decided by where an interval lies beside a margin, the difference that counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

CONFIDENCE = 0.95
MOST_SEEDS = 1000  # beyond which nobody would run them

Outcome = Literal["holds", "contradicted", "undecided"]


@dataclass(frozen=True)
class Interval:
    """A mean over n seeds with its 95 % interval. sd : over seeds. Of one seed, or of none, it is unbounded."""

    mean: float
    low: float
    high: float
    sd: float
    n: int

    @property
    def bounded(self) -> bool:
        return math.isfinite(self.low) and math.isfinite(self.high)

    def __str__(self) -> str:
        if not self.bounded:
            return f"{self.mean:+.3g} ({self.n} seed{'s' if self.n != 1 else ''}, no interval)"
        return f"{self.mean:+.3g} ({self.low:+.3g} to {self.high:+.3g}, {self.n} seeds)"

    def turned(self) -> Interval:
        """Return the interval of the negative."""
        return Interval(-self.mean, -self.high, -self.low, self.sd, self.n)


def interval(values: Sequence[float]) -> Interval:
    """Return the mean of one value for each seed, with its interval."""
    n = len(values)
    mean = float(np.mean(values)) if n else math.nan
    if n < 2:
        return Interval(mean, -math.inf, math.inf, math.nan, n)
    sd = float(np.std(values, ddof=1))
    half = quantile(n) * sd / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, sd, n)


def quantile(n: int) -> float:
    """Return Student's t of n - 1 degrees of freedom, two-sided."""
    from scipy.stats import t

    return float(t.ppf((1 + CONFIDENCE) / 2, n - 1))


def is_more(found: Interval, margin: float) -> Outcome:
    """Decide whether a difference is positive, and by as much as counts.

    It holds where the whole interval lies above the margin. It is contradicted where the interval lies below zero, and
    where it reaches below zero but nowhere up to the margin: no difference that counts. It is undecided otherwise, a
    difference that is surely positive and surely smaller than the margin included.
    """
    if found.low > margin:
        return "holds"
    if found.high <= 0 or (found.low <= 0 and found.high < margin):
        return "contradicted"
    return "undecided"


def is_equal(found: Interval, margin: float) -> Outcome:
    """Decide whether a difference is smaller than the margin, by equivalence: the whole interval lies within it."""
    if -margin < found.low and found.high < margin:
        return "holds"
    return "contradicted" if found.low > margin or found.high < -margin else "undecided"


def is_above(found: Interval, limit: float) -> Outcome:
    """Decide whether a mean is above a limit."""
    return "holds" if found.low > limit else "contradicted" if found.high < limit else "undecided"


def seeds_needed(found: Interval, decide: Callable[[Interval], Outcome]) -> int | None:
    """Return how many seeds of this mean and scatter would decide; None where no number of them would, or unknown."""
    if not math.isfinite(found.sd):
        return None
    for n in sorted({*range(found.n + 1, 31), *(round(30 * 1.2**i) for i in range(20))}):
        if n > MOST_SEEDS:
            break
        half = quantile(n) * found.sd / math.sqrt(n)
        if decide(Interval(found.mean, found.mean - half, found.mean + half, found.sd, n)) != "undecided":
            return n
    return None


def spread_limits(values: Sequence[float]) -> tuple[float, float]:
    """Return the limits that hold the standard deviation over seeds with 95 % confidence; (0, inf) of one seed."""
    from scipy.stats import chi2

    n = len(values)
    if n < 2:
        return 0.0, math.inf
    sum_of_squares = (n - 1) * float(np.var(values, ddof=1))
    low, high = (chi2.ppf(p, n - 1) for p in ((1 + CONFIDENCE) / 2, (1 - CONFIDENCE) / 2))
    return math.sqrt(sum_of_squares / low), math.sqrt(sum_of_squares / high)
