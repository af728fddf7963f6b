"""Does a claim hold? Rules of paper_figures/experiments, decided by the rows of results.csv.

A difference counts if it is larger than one shell and than two standard deviations over seeds. A resolution without a
crossing ranks nothing. Failing verdicts are worded like passing ones.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gsworkbench.experiments.plan import Experiment, Registry, Rule

if TYPE_CHECKING:
    import pandas as pd

REPRODUCED = "reproduced"
NOT_REPRODUCED = "not reproduced"
NYQUIST = "Nyquist-limited, cannot rank"
TOO_SMALL = "too small to decide"
NOT_STATED = "definition not stated"
NOT_RUN = "not run, because "
DECIDED = (REPRODUCED, NOT_REPRODUCED, NYQUIST)


@dataclass(frozen=True)
class Group:
    """The values of one metric over the seeds of one choice of factors; NaN where there is no number.

    shell : what one shell is worth in it.
    """

    label: str
    values: tuple[float, ...]
    shell: float

    @property
    def mean(self) -> float:
        return float(np.mean(self.values))

    @property
    def spread(self) -> float:
        """Standard deviation over seeds; 0 for one."""
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else 0.0

    def __str__(self) -> str:
        number = "no crossing" if math.isnan(self.mean) else f"{self.mean:.4g}"
        return f"{self.label} {number}" + (f" (sd {self.spread:.2g} of {len(self.values)})" if self.spread else "")


@dataclass(frozen=True)
class Finding:
    """What one rule found: holds is None where the numbers cannot rank."""

    says: str
    holds: bool | None


class NothingMeasured(LookupError):
    """No run that a rule speaks of has the number; the message says which."""


def verdict(experiment: Experiment, rows: pd.DataFrame, registry: Registry) -> tuple[str, list[Finding]]:
    """Return one of the outcomes, and what each rule found. rows : those of the experiment, from `with_factors`."""
    if experiment.not_run:
        reason = experiment.not_run
        return (reason if reason.startswith((NOT_STATED, TOO_SMALL)) else NOT_RUN + reason), []
    findings = []
    for rule in experiment.rules:
        try:
            findings.append(decide(rule, rows, registry))
        except NothingMeasured as missing:
            if registry.decides or rows.empty:
                return f"{NOT_RUN}{missing}", findings
    if not experiment.rules:
        return TOO_SMALL, findings
    if not registry.decides:  # nor do toys have every setting that rules name
        return f"{TOO_SMALL} at scale {registry.scale}", findings
    if any(f.holds is None for f in findings):
        return NYQUIST, findings
    return (REPRODUCED if all(f.holds for f in findings) else NOT_REPRODUCED), findings


def with_factors(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows of results.csv with a column "factor NAME" for each factor of a run."""
    import pandas as pd

    parsed = pd.DataFrame([json.loads(text) for text in rows.factors], index=rows.index, dtype=object)
    return rows.join(parsed.add_prefix("factor "))


def decide(rule: Rule, rows: pd.DataFrame, registry: Registry) -> Finding:
    """Decide one rule."""
    return RULES[rule.compare](rule, rows[rows.metric == rule.metric], registry)


def choose(rows: pd.DataFrame, factors: dict[str, Any]) -> pd.DataFrame:
    """Return the rows of runs with these factors; "min" and "max" stand for the smallest and largest value there is."""
    for name, value in sorted(factors.items(), key=lambda item: item[1] in ("min", "max")):
        column = f"factor {name}"
        if column not in rows:
            return rows.iloc[:0]
        if value in ("min", "max") and len(rows):
            numbers = rows[column].dropna().astype(float)
            rows = rows.loc[numbers.index[numbers == getattr(numbers, value)()]]
        else:
            rows = rows[[_same(other, value) for other in rows[column]]]
    return rows


def _same(first: Any, second: Any) -> bool:
    return list(first) == list(second) if isinstance(first, (list, tuple)) else first == second


def group_of(rows: pd.DataFrame, factors: dict[str, Any], registry: Registry) -> Group:
    chosen = choose(rows, factors)
    label = ", ".join(spelt(name, value, registry) for name, value in factors.items()) or "all runs"
    if chosen.empty:
        raise NothingMeasured(f"no run of {label} has this number")
    shell = chosen["shell"].astype(float).max()
    return Group(label, tuple(chosen.value.astype(float)), 0.0 if math.isnan(shell) else float(shell))


def spelt(name: str, value: Any, registry: Registry) -> str:
    """Return a factor in words: a method by its label, others as name = value."""
    if name == "method":
        return registry.methods[value].label
    words = {"min": "smallest", "max": "largest"}.get(value) if isinstance(value, str) else None
    return f"{words} {name.replace('_', ' ')}" if words else f"{name.replace('_', ' ')} = {value}"


def _tolerance(rule: Rule, *groups: Group) -> float:
    shell = max(g.shell for g in groups) if rule.least is None else rule.least
    return max(shell, 2 * max(g.spread for g in groups))


def _two(rule: Rule, rows: pd.DataFrame, registry: Registry) -> Finding:
    of, than = (group_of(rows, factors, registry) for factors in (rule.of, rule.than))
    if math.isnan(of.mean) or math.isnan(than.mean):
        return Finding(f"{rule.metric}: {of}; {than}: without a crossing nothing can be ranked", None)
    difference, tolerance = of.mean - than.mean, _tolerance(rule, of, than)
    holds = {
        "higher": difference > tolerance, "lower": difference < -tolerance, "equal": abs(difference) <= tolerance,
    }[rule.compare]  # fmt: skip
    found = "no difference" if abs(difference) <= tolerance else "higher" if difference > 0 else "lower"
    text = f"{rule.metric}: {of}; {than}; difference {difference:+.3g}, what counts {tolerance:.2g}: {found}"
    return Finding(text, holds)


def series_of(rule: Rule, rows: pd.DataFrame, registry: Registry) -> tuple[list[float], list[Group]]:
    """Return the values of the factor `along` and the group at each, in order."""
    chosen = choose(rows, rule.of)
    column = f"factor {rule.along}"
    points = sorted({float(x) for x in chosen[column].dropna()}) if column in chosen else []
    if len(points) < 2:
        raise NothingMeasured(f"fewer than two values of {rule.along} were run")
    return points, [group_of(chosen[chosen[column].astype(float) == x], {}, registry) for x in points]


def _trend(rule: Rule, rows: pd.DataFrame, registry: Registry) -> Finding:
    points, groups = series_of(rule, rows, registry)
    sign = 1 if rule.compare == "rising" else -1
    means, tolerance = sign * np.array([g.mean for g in groups]), _tolerance(rule, *groups)
    listed = ", ".join(f"{x:g}: {g.mean:.4g}" for x, g in zip(points, groups, strict=True))
    if np.isnan(means).any():
        return Finding(f"{rule.metric} along {rule.along} ({listed}): no crossing", None)
    back = float((np.maximum.accumulate(means) - means).max())
    holds = means[-1] - means[0] > tolerance and back <= tolerance
    text = f"{rule.metric} along {rule.along} ({listed}; {spelt_all(rule.of, registry)}); what counts {tolerance:.2g}"
    return Finding(f"{text}: {'' if holds else 'not '}{rule.compare}", bool(holds))


def growth(points: list[float], values: list[float]) -> float:
    """Return the exponent p of value = c x^p by least squares in logarithms."""
    return float(np.polyfit(np.log(points), np.log(values), 1)[0])


def _exponent(rule: Rule, rows: pd.DataFrame, registry: Registry) -> Finding:
    points, groups = series_of(rule, rows, registry)
    exponent = growth(points, [g.mean for g in groups])
    text = f"{rule.metric} grows as {rule.along}^{exponent:.2f} from {points[0]:g} to {points[-1]:g}"
    return Finding(f"{text} ({spelt_all(rule.of, registry)}); limit {rule.limit:g}", exponent < rule.limit)


def _bound(rule: Rule, rows: pd.DataFrame, registry: Registry) -> Finding:
    of = group_of(rows, rule.of, registry)
    if math.isnan(of.mean):
        return Finding(f"{rule.metric}: {of}", None)
    holds = of.mean > rule.limit if rule.compare == "above" else of.mean < rule.limit
    return Finding(f"{rule.metric}: {of}; is {'' if holds else 'not '}{rule.compare} {rule.limit:g}", holds)


def _crosses(rule: Rule, rows: pd.DataFrame, registry: Registry) -> Finding:
    of = group_of(rows, rule.of, registry)
    never = sum(math.isnan(v) for v in of.values)
    text = f"{rule.metric}: {of.label} never crosses below Nyquist in {never} of {len(of.values)} runs"
    return Finding(text, None if never else True)


def spelt_all(factors: dict[str, Any], registry: Registry) -> str:
    return ", ".join(spelt(name, value, registry) for name, value in factors.items()) or "all runs"


RULES: dict[str, Callable[[Rule, Any, Registry], Finding]] = {
    "higher": _two, "lower": _two, "equal": _two, "rising": _trend, "falling": _trend,
    "exponent_below": _exponent, "above": _bound, "below": _bound, "crosses": _crosses,
}  # fmt: skip
