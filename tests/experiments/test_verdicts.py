"""Rules decide as they say: what counts, what is too close, what cannot be ranked, and no verdict from toys."""

from __future__ import annotations

import dataclasses

import pytest

from gsworkbench.experiments import verdicts
from gsworkbench.experiments.plan import Rule, read_registry
from gsworkbench.experiments.results import Measurement, frame, rows_of
from gsworkbench.experiments.verdicts import decide, growth, verdict, with_factors

REGISTRY = read_registry("laptop")
EXPERIMENT = REGISTRY.experiments["fig3"]


def rows(values, metric="fsc_truth_mean", shell=0.03, unit="1"):
    """Rows of runs: (method, number of Gaussians) -> a value for each seed."""
    found = []
    like = EXPERIMENT.runs[0]
    for (method, n), listed in values.items():
        for seed, value in enumerate(listed):
            factors = {"method": method, "n_gaussians": n, "seed": seed}
            run = dataclasses.replace(like, name=f"{method}{n}s{seed}", method=method, seed=seed, factors=factors)
            found += rows_of("fig3", run, [Measurement(metric, value, unit, "said", shell)])
    return with_factors(frame(found))


def rule(**settings):
    return Rule(**({"metric": "fsc_truth_mean", "compare": "higher"} | settings))


A, B = {"method": "one_pass"}, {"method": "tuned"}


@pytest.mark.parametrize(
    ("first", "second", "compare", "holds"),
    [
        ((0.90, 0.91, 0.92), (0.80, 0.81, 0.82), "higher", True),
        ((0.80, 0.81, 0.82), (0.90, 0.91, 0.92), "higher", False),
        ((0.80, 0.81, 0.82), (0.90, 0.91, 0.92), "lower", True),
        ((0.90, 0.91, 0.92), (0.89, 0.90, 0.91), "higher", False),  # less than one shell, 0.03
        ((0.90, 0.91, 0.92), (0.89, 0.90, 0.91), "equal", True),
        ((0.80, 0.90, 1.00), (0.70, 0.80, 0.90), "higher", False),  # less than two standard deviations, 0.2
        ((0.80, 0.90, 1.00), (0.70, 0.80, 0.90), "equal", True),
    ],
)
def test_a_difference_counts_beyond_a_shell_and_two_standard_deviations(first, second, compare, holds):
    finding = decide(
        rule(compare=compare, of=A, than=B), rows({("one_pass", 1): first, ("tuned", 1): second}), REGISTRY
    )
    assert finding.holds is holds, finding.says


def test_what_counts_can_be_given():
    table = rows({("one_pass", 1): (0.91,), ("tuned", 1): (0.90,)}, shell=None)
    assert decide(rule(of=A, than=B, least=0.005), table, REGISTRY).holds
    assert not decide(rule(of=A, than=B, least=0.02), table, REGISTRY).holds


def test_without_a_crossing_nothing_is_ranked():
    table = rows({("one_pass", 1): (None, None), ("tuned", 1): (13.0, 13.1)}, "resolution_half_0.143", unit="A")
    finding = decide(rule(metric="resolution_half_0.143", compare="lower", of=A, than=B), table, REGISTRY)
    assert finding.holds is None and "no crossing" in finding.says
    assert decide(rule(metric="resolution_half_0.143", compare="crosses", of=A), table, REGISTRY).holds is None
    assert decide(rule(metric="resolution_half_0.143", compare="crosses", of=B), table, REGISTRY).holds


@pytest.mark.parametrize(
    ("means", "compare", "holds"),
    [
        ((0.5, 0.7, 0.9), "rising", True),
        ((0.5, 0.9, 0.89), "rising", True),  # falls back by less than what counts
        ((0.5, 0.9, 0.7), "rising", False),
        ((0.5, 0.51, 0.52), "rising", False),
        ((0.9, 0.7, 0.5), "falling", True),
    ],
)
def test_trends(means, compare, holds):
    table = rows({("one_pass", n): (mean,) for n, mean in zip((9, 80, 700), means, strict=True)})
    assert decide(rule(compare=compare, along="n_gaussians", of=A), table, REGISTRY).holds is holds


def test_smallest_and_largest_are_by_number():
    table = rows({("one_pass", 9): (0.5,), ("one_pass", 80): (0.6,), ("one_pass", 700): (0.7,)})
    small, large = ({"method": "one_pass", "n_gaussians": which} for which in ("min", "max"))
    finding = decide(rule(of=large, than=small), table, REGISTRY)
    assert finding.holds and "0.5" in finding.says and "0.7" in finding.says


def test_growth_is_the_exponent_of_a_power_law():
    assert growth([1, 10, 100], [3 * x**0.7 for x in (1, 10, 100)]) == pytest.approx(0.7)
    table = rows({("one_pass", n): (2.0 * n**1.5,) for n in (10, 100)}, "train_cpu_seconds", None, "s")
    finding = decide(
        rule(metric="train_cpu_seconds", compare="exponent_below", along="n_gaussians", value=1.0), table, REGISTRY
    )
    assert finding.holds is False and "n_gaussians^1.50" in finding.says


def test_bounds():
    table = rows({("one_pass", 1): (0.4, 0.6)})
    assert decide(rule(compare="above", of=A, value=0.45), table, REGISTRY).holds
    assert not decide(rule(compare="below", of=A, value=0.45), table, REGISTRY).holds


def test_outcomes():
    table = rows({("one_pass", 1): (0.9,), ("tuned", 1): (0.8,)})
    good, bad = rule(of=A, than=B), rule(of=B, than=A)

    def outcome(registry=REGISTRY, **changes):
        return verdict(dataclasses.replace(EXPERIMENT, **changes), table, registry)[0]

    assert outcome(rules=(good,)) == verdicts.REPRODUCED
    assert outcome(rules=(good, bad)) == verdicts.NOT_REPRODUCED
    assert outcome(rules=(good,), registry=read_registry("smoke")).startswith(verdicts.TOO_SMALL)
    assert outcome(not_run="it costs too much") == "not run, because it costs too much"
    assert outcome(not_run="definition not stated: where?").startswith(verdicts.NOT_STATED)
    missing = rule(of={"method": "backprojection"}, than=B)
    assert outcome(rules=(missing,)) == "not run, because no run of Backprojection has this number"
    assert outcome(rules=(missing, good), registry=read_registry("smoke")).startswith(verdicts.TOO_SMALL)
    nothing = verdict(dataclasses.replace(EXPERIMENT, rules=(good,)), table.iloc[:0], read_registry("smoke"))[0]
    assert nothing.startswith(verdicts.NOT_RUN)


def test_a_number_that_cannot_be_ranked_outweighs_what_holds():
    table = rows({("one_pass", 1): (None,)}, "resolution_half_0.143", unit="A")
    crosses = rule(metric="resolution_half_0.143", compare="crosses", of=A)
    assert verdict(dataclasses.replace(EXPERIMENT, rules=(crosses,)), table, REGISTRY)[0] == verdicts.NYQUIST
