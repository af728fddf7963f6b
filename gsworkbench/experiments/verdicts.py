"""Does a claim hold? Rules of paper_figures/experiments, decided by the rows of results.csv.

A rule compares runs seed by seed, and the interval of the differences with a margin (intervals.py). It holds, is
contradicted, or is undecided: too few seeds, a fit that has not converged (convergence.py), a resolution without a
crossing. Only the rules of the claim decide it; remarks are printed below. Failing verdicts are worded like passing
ones.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from gsworkbench.experiments.convergence import Gate, unconverged
from gsworkbench.experiments.intervals import (
    Interval,
    Outcome,
    interval,
    is_above,
    is_equal,
    is_more,
    seeds_needed,
    spread_limits,
)
from gsworkbench.experiments.plan import Experiment, Registry, Rule
from gsworkbench.experiments.tables import HEADINGS

if TYPE_CHECKING:
    import pandas as pd

REPRODUCED = "reproduced"
CONTRADICTED = "contradicted"
HOLDS = "holds"  # of a claim that no paper makes
STAND_IN_HOLDS = "holds for our stand-in"
STAND_IN_FAILS = "does not hold for our stand-in"
UNDECIDED = "undecided: "
TOO_SMALL = "too small to decide"
NOT_STATED = "definition not stated"
NOT_RUN = "not run, because "
SEE = "the same claim as "
DECIDED = (REPRODUCED, CONTRADICTED, HOLDS, STAND_IN_HOLDS, STAND_IN_FAILS)

# Unit of a metric -> the margin where a rule gives none, and how it is said.
_FRACTION_OF_COST = 0.05
_MARGIN = 0.01
_MARGIN_SAID = {
    "1": "0.01",
    "A": "half a shell",
    "s": "5 % of it",
    "1/s": "5 % of it",
    "bytes": "5 % of it",
}
_OF_TWO = ("higher", "lower", "equal")  # comparisons of two groups of runs
# Where a mask comes into the name of a metric: fsc_truth_mean -> fsc_truth_in_sphere_mean.
MASKS = {"none": "", "sphere": "_in_sphere", "soft": "_in_soft_mask"}


@dataclass(frozen=True)
class Finding:
    """What one rule found. outcome : None where it could not be run. why : if undecided, what would decide it.

    room : by how much the numbers may move before the outcome is another.
    """

    says: str
    outcome: Outcome | None
    why: str = ""
    room: float = 0.0


class NothingMeasured(LookupError):
    """No run that a rule speaks of has the number; the message says which."""


def verdict(
    experiment: Experiment, rows: pd.DataFrame, registry: Registry, gates: Iterable[Gate] = ()
) -> tuple[str, list[Finding], list[Finding]]:
    """Return the outcome, what each of the claim's rules found, and what each remark found.

    rows : those of the experiment, from `with_factors`. gates : how far each fit has converged.
    """
    if experiment.not_run:
        reason = experiment.not_run
        return (reason if reason.startswith((NOT_STATED, TOO_SMALL)) else NOT_RUN + reason), [], []
    if experiment.see:
        return f"{SEE}{experiment.see}", [], []
    gates = tuple(gates)
    findings, remarks = (
        [_found(rule, rows, registry, gates) for rule in rules] for rules in (experiment.rules, experiment.remarks)
    )
    return _outcome(experiment, rows, registry, findings), findings, remarks


def _outcome(experiment: Experiment, rows: pd.DataFrame, registry: Registry, findings: list[Finding]) -> str:
    ran = [f for f in findings if f.outcome is not None]
    if experiment.rules and not ran and (registry.decides or rows.empty):
        return NOT_RUN + findings[0].why
    if not experiment.rules:
        return TOO_SMALL
    if not registry.decides:  # nor do toys have every setting that rules name
        return f"{TOO_SMALL} at scale {registry.scale}"
    stand_in = experiment.of_paper and not _own_recipe(experiment, registry)
    if any(f.outcome == "contradicted" for f in ran):
        return STAND_IN_FAILS if stand_in else CONTRADICTED
    for finding in ran:
        if finding.outcome == "undecided":
            return UNDECIDED + finding.why
    if not experiment.of_paper:
        return HOLDS
    return STAND_IN_HOLDS if stand_in else REPRODUCED


def _own_recipe(experiment: Experiment, registry: Registry) -> bool:
    """Whether the rules speak of the paper's own recipe, as printed."""
    subjects = {rule.of.get("method") for rule in experiment.rules}
    named = {s for s in subjects if s is not None} or {run.method for run in experiment.runs}
    return all(registry.methods[name].recipe == "printed" for name in named)


def _found(rule: Rule, rows: pd.DataFrame, registry: Registry, gates: tuple[Gate, ...]) -> Finding:
    try:
        finding = decide(rule, rows, registry)
    except NothingMeasured as missing:
        return Finding(f"{rule.metric}: not run, because {missing}", None, str(missing))
    if finding.outcome is None or rule.metric.endswith(("seconds", "second", "bytes")):
        return finding
    because = unconverged(_spoken_of(rule, rows), gates, rule.metric, margin_of(rule, rows), finding.room)
    if because:
        return Finding(f"{finding.says}; {because}", "undecided", f"not converged, {because}")
    return finding


def _spoken_of(rule: Rule, rows: pd.DataFrame) -> set[str]:
    """The names of the runs that a rule compares."""
    chosen = [choose(rows, rule.of), *([choose(rows, rule.than)] if rule.compare in _OF_TWO else [])]
    return {name for table in chosen for name in table.run}


def with_factors(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows of results.csv with a column "factor NAME" for each factor of a run."""
    import pandas as pd

    parsed = pd.DataFrame([json.loads(text) for text in rows.factors], index=rows.index, dtype=object)
    return rows.join(parsed.add_prefix("factor "))


def decide(rule: Rule, rows: pd.DataFrame, registry: Registry) -> Finding:
    """Decide one rule."""
    return RULES[rule.compare](rule, rows, registry)


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


def by_seed(rows: pd.DataFrame, metric: str, factors: dict[str, Any], registry: Registry) -> dict[Any, float]:
    """Return one value of a metric for each seed, the mean of the runs that share it; NaN without a number."""
    chosen = choose(rows[rows.metric == metric], factors)
    if chosen.empty:
        raise NothingMeasured(f"no run of {spelt_all(factors, registry)} has the number {metric}")
    data_seeds = chosen["factor data_seed"] if "factor data_seed" in chosen else chosen["factor seed"]
    keys = list(zip(chosen["factor seed"], data_seeds.fillna(-1), strict=True))
    values: dict[Any, list[float]] = {}
    for key, value in zip(keys, chosen.value.astype(float), strict=True):
        values.setdefault(key, []).append(value)
    return {key: float(np.mean(listed)) for key, listed in values.items()}


def margin_of(rule: Rule, rows: pd.DataFrame) -> float:
    """Return the difference that counts: that of the rule, or that of the metric's unit."""
    if rule.margin is not None:
        return rule.margin
    chosen = rows[rows.metric == rule.metric]
    unit = chosen.unit.iloc[0] if len(chosen) else "1"
    if unit == "A":
        shell = chosen["shell"].astype(float).max()
        return 0.5 * float(shell) if not math.isnan(shell) else 0.0
    if unit == "1":
        return _MARGIN
    other = choose(chosen, rule.than)
    return _FRACTION_OF_COST * float(abs((chosen if other.empty else other).value.astype(float).mean()))


def spelt(name: str, value: Any, registry: Registry) -> str:
    """Return a factor in words: a method by its label, others as name = value."""
    if name == "method":
        return registry.methods[value].label
    words = {"min": "smallest", "max": "largest"}.get(value) if isinstance(value, str) else None
    return f"{words} {name.replace('_', ' ')}" if words else f"{name.replace('_', ' ')} = {value}"


def spelt_all(factors: dict[str, Any], registry: Registry) -> str:
    return ", ".join(spelt(name, value, registry) for name, value in factors.items()) or "all runs"


def _worded(rule: Rule, found: Interval, outcome: Outcome, test: Callable[[Interval], Outcome], text: str) -> Finding:
    """Add to a text what an interval decided, and to an undecided outcome what would decide it."""
    if outcome != "undecided":
        return Finding(f"{text}: {outcome}", outcome, room=_room(found, outcome, test))
    more = seeds_needed(found, test)
    if not found.bounded:
        why = "one seed has no interval; run at least three"
    elif more is not None:
        why = f"too few seeds: about {more} would decide"
    else:
        why = "too close to what counts for any number of seeds"
    return Finding(f"{text}: undecided, {why}", outcome, why)


def _room(found: Interval, outcome: Outcome, test: Callable[[Interval], Outcome]) -> float:
    """By how much a whole interval may be moved, either way, before a test says something else: by bisection."""

    def same(by: float) -> bool:
        moved = (
            Interval(found.mean + s * by, found.low + s * by, found.high + s * by, found.sd, found.n) for s in (1, -1)
        )
        return all(test(at) == outcome for at in moved)

    low, high = 0.0, 1.0
    if same(high):
        return high
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (middle, high) if same(middle) else (low, middle)
    return low


def named(metric: str) -> str:
    """Return a metric in words, as tables head it."""
    return HEADINGS.get(metric, metric)


def masked(metric: str, mask: str) -> str:
    """Return the metric of an FSC inside a mask: fsc_truth_mean, sphere -> fsc_truth_in_sphere_mean."""
    stem, _, last = metric.rpartition("_")
    return f"{stem}{MASKS[mask]}_{last}"


def _two(rule: Rule, rows: pd.DataFrame, registry: Registry) -> Finding:
    """Compare two groups under the masks that the rule names, and say where other masks give another outcome."""
    finding = _two_in(rule, rows, registry, rule.masks)
    if not rule.metric.startswith(("fsc_truth", "fsc_half")) or rule.of.get("method") == rule.than.get("method"):
        return finding
    others = []
    for masks, said in _PAIRS_OF_MASKS.items():
        if masks == rule.masks:
            continue
        try:
            other = _two_in(rule, rows, registry, masks)
        except NothingMeasured:
            continue
        others.append(f"{said}: {other.outcome}")
    return replace(finding, says=f"{finding.says}. With {'; '.join(others)}") if others else finding


# `masks` of a rule -> in words. paper: a sphere for what the claim is compared with, none for its subject.
_PAIRS_OF_MASKS = {
    "none": "no masks",
    "paper": "a sphere for the baseline alone, as the paper has it",
    "soft": "one soft mask of the truth for both",
}
_OF_THAN = {"none": ("none", "none"), "paper": ("none", "sphere"), "soft": ("soft", "soft")}


def _two_in(rule: Rule, rows: pd.DataFrame, registry: Registry, masks: str) -> Finding:
    of_mask, than_mask = _OF_THAN[masks]
    of = by_seed(rows, masked(rule.metric, of_mask), rule.of, registry)
    than = by_seed(rows, masked(rule.metric, than_mask), rule.than, registry)
    labels = spelt_all(rule.of, registry), spelt_all(rule.than, registry)
    if any(math.isnan(v) for v in (*of.values(), *than.values())):
        text = f"{named(rule.metric)}: {labels[0]} {_spell(of)}; {labels[1]} {_spell(than)}"
        why = "limited by Nyquist: without a crossing below it nothing can be ranked"
        return Finding(f"{text}: {why}", "undecided", why)
    shared = [key for key in of if key in than]
    if not shared:
        raise NothingMeasured(f"{labels[0]} and {labels[1]} share no seed")
    found, margin = interval([of[key] - than[key] for key in shared]), margin_of(rule, rows)

    def test(at: Interval) -> Outcome:
        if rule.compare == "equal":
            return is_equal(at, margin)
        return is_more(at.turned() if rule.compare == "lower" else at, margin)

    outcome = test(found)
    wanted = {"equal": "no difference", "higher": "a positive difference", "lower": "a negative difference"}
    text = (
        f"{named(rule.metric)}: {labels[0]} {_spell(of)}; {labels[1]} {_spell(than)}. The difference is {found}; "
        f"claimed is {wanted[rule.compare]}, and {margin:.2g} counts"
    )
    claimed = found.turned() if rule.compare == "lower" else found
    if (
        outcome == "undecided"
        and found.bounded
        and rule.compare != "equal"
        and claimed.low > 0
        and claimed.high < margin
    ):
        why = f"in the direction that was claimed, by less than counts ({margin:.2g})"
        return Finding(f"{text}: undecided, {why}", outcome, why)
    return _worded(rule, found, outcome, test, text)


def _spell(values: dict[Any, float]) -> str:
    listed = list(values.values())
    if any(math.isnan(v) for v in listed):
        return f"no crossing in {sum(map(math.isnan, listed))} of {len(listed)} seeds"
    spread = f" (sd {np.std(listed, ddof=1):.2g} of {len(listed)})" if len(listed) > 1 else ""
    return f"{np.mean(listed):.4g}{spread}"


def series_of(rule: Rule, rows: pd.DataFrame, registry: Registry) -> tuple[list[float], list[dict[Any, float]]]:
    """Return the values of the factor `along` and the values by seed at each, in order."""
    chosen = choose(rows[rows.metric == rule.metric], rule.of)
    column = f"factor {rule.along}"
    points = sorted({float(x) for x in chosen[column].dropna()}) if column in chosen else []
    if len(points) < 2:
        raise NothingMeasured(f"fewer than two values of {rule.along} were run")
    at = [chosen[chosen[column].astype(float) == x] for x in points]
    return points, [by_seed(part, rule.metric, {}, registry) for part in at]


def _trend(rule: Rule, rows: pd.DataFrame, registry: Registry) -> Finding:
    """Rising: at every step by more than nothing, and from end to end by as much as counts."""
    points, groups = series_of(rule, rows, registry)
    sign, margin = 1 if rule.compare == "rising" else -1, margin_of(rule, rows)
    listed = ", ".join(f"{x:g}: {_spell(g)}" for x, g in zip(points, groups, strict=True))
    text = f"{named(rule.metric)} along {rule.along} ({listed}; {spelt_all(rule.of, registry)})"
    if any(math.isnan(v) for g in groups for v in g.values()):
        why = "limited by Nyquist: without a crossing below it nothing can be ranked"
        return Finding(f"{text}: {why}", "undecided", why)

    def differences(first: dict[Any, float], second: dict[Any, float]) -> Interval:
        return interval([sign * (second[key] - first[key]) for key in second if key in first])

    whole = differences(groups[0], groups[-1])
    steps = [differences(groups[i], groups[i + 1]) for i in range(len(groups) - 1)]
    tests: list[tuple[Interval, Callable[[Interval], Outcome], str]] = [
        (whole, lambda at: is_more(at, margin), f"{rule.compare} by {whole} from end to end, what counts {margin:.2g}")
    ]
    for i, step in enumerate(steps):
        tests.append((step, _above_zero, f"{rule.compare} from {points[i]:g} to {points[i + 1]:g} by {step}"))
    found = [(at, test, says, test(at)) for at, test, says in tests]
    for wanted in ("contradicted", "undecided"):
        for at, test, says, outcome in found:
            if outcome == wanted:
                return _worded(rule, at, outcome, test, f"{text}; {says}")
    return Finding(f"{text}; {found[0][2]}, and at every step: holds", "holds")


def _above_zero(found: Interval) -> Outcome:
    return is_above(found, 0.0)


def growth(points: list[float], values: list[float]) -> float:
    """Return the exponent p of value = c x^p by least squares in logarithms."""
    return float(np.polyfit(np.log(points), np.log(values), 1)[0])


def _exponent(rule: Rule, rows: pd.DataFrame, registry: Registry) -> Finding:
    points, groups = series_of(rule, rows, registry)
    shared = [key for key in groups[0] if all(key in g for g in groups)]
    if not shared:
        raise NothingMeasured(f"no seed has every value of {rule.along}")
    found = interval([growth(points, [g[key] for g in groups]) for key in shared])
    text = f"{named(rule.metric)} grows as {rule.along} to the power of {found} from {points[0]:g} to {points[-1]:g}"
    text = f"{text} ({spelt_all(rule.of, registry)}); limit {rule.limit:g}"

    def test(at: Interval) -> Outcome:
        return is_above(at.turned(), -rule.limit)

    return _worded(rule, found, test(found), test, text)


def _bound(rule: Rule, rows: pd.DataFrame, registry: Registry) -> Finding:
    values = by_seed(rows, rule.metric, rule.of, registry)
    text = f"{named(rule.metric)}: {spelt_all(rule.of, registry)} {_spell(values)}"
    if any(math.isnan(v) for v in values.values()):
        why = "limited by Nyquist: there is no crossing below it"
        return Finding(f"{text}: {why}", "undecided", why)
    sign = 1 if rule.compare == "above" else -1
    found = interval(list(values.values()))

    def test(at: Interval) -> Outcome:
        return is_above(at if sign == 1 else at.turned(), sign * rule.limit)

    return _worded(rule, found, test(found), test, f"{text}; {rule.compare} {rule.limit:g}")


def _crosses(rule: Rule, rows: pd.DataFrame, registry: Registry) -> Finding:
    """A resolution was measured where the curve falls below its threshold before Nyquist, in every seed."""
    values = by_seed(rows, rule.metric, rule.of, registry)
    never = sum(math.isnan(v) for v in values.values())
    text = (
        f"{rule.metric}: {spelt_all(rule.of, registry)} never crosses below Nyquist in {never} of {len(values)} seeds"
    )
    if 0 < never < len(values):
        return Finding(f"{text}: undecided, seeds differ", "undecided", "seeds differ in whether the curve crosses")
    outcome: Outcome = "contradicted" if never else "holds"
    return Finding(f"{text}: {outcome}", outcome)


def _together(rule: Rule, rows: pd.DataFrame, registry: Registry) -> Finding:
    """Seeds agree: twice their standard deviation, and what it may be with so few of them, is below the value."""
    values = list(by_seed(rows, rule.metric, rule.of, registry).values())
    low, high = (2 * limit for limit in spread_limits(values))
    text = f"{named(rule.metric)}: {spelt_all(rule.of, registry)}, twice the sd over {len(values)} seeds"
    text = f"{text} between {low:.2g} and {high:.2g}; limit {rule.limit:g}"
    outcome: Outcome = "holds" if high < rule.limit else "contradicted" if low > rule.limit else "undecided"
    why = "too few seeds" if outcome == "undecided" else ""
    return Finding(f"{text}: {outcome}", outcome, why)


RULES: dict[str, Callable[[Rule, Any, Registry], Finding]] = {
    "higher": _two, "lower": _two, "equal": _two, "rising": _trend, "falling": _trend,
    "exponent_below": _exponent, "above": _bound, "below": _bound, "crosses": _crosses, "together": _together,
}  # fmt: skip
