"""Every rule can hold, be contradicted and be undecided; fits that have not converged decide nothing; nor do toys."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from gsworkbench.errors import InputError
from gsworkbench.experiments import verdicts
from gsworkbench.experiments.convergence import Gate
from gsworkbench.experiments.intervals import Interval, interval, is_more, seeds_needed, spread_limits
from gsworkbench.experiments.plan import Rule, read_registry, read_sections
from gsworkbench.experiments.results import Measurement, frame, rows_of
from gsworkbench.experiments.verdicts import choose, decide, growth, verdict, with_factors

REGISTRY = read_registry("laptop")
UNGATED = {name: row.get("ungated", False) for name, row in read_sections()["experiments"].items()}
EXPERIMENT = dataclasses.replace(REGISTRY.experiments["fig3"], twins={}, remarks=())


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
FIRST = (0.900, 0.911, 0.922)  # seeds that differ by more than what counts


@pytest.mark.parametrize(
    ("differences", "compare", "outcome"),
    [
        ((0.020, 0.021, 0.022), "higher", "holds"),
        ((-0.020, -0.021, -0.022), "higher", "contradicted"),
        ((0.001, -0.001, 0.0), "higher", "contradicted"),  # no difference that counts
        ((0.006, 0.0061, 0.0062), "higher", "undecided"),  # surely there, surely too small to count
        ((0.00, 0.04, 0.08), "higher", "undecided"),  # too few seeds
        ((0.02,), "higher", "undecided"),  # one seed has no interval
        ((-0.020, -0.021, -0.022), "lower", "holds"),
        ((0.020, 0.021, 0.022), "lower", "contradicted"),
        ((-0.08, 0.0, -0.04), "lower", "undecided"),
        ((0.001, -0.001, 0.0), "equal", "holds"),
        ((0.020, 0.021, 0.022), "equal", "contradicted"),
        ((0.00, 0.01, 0.02), "equal", "undecided"),
    ],
)
def test_differences_are_taken_seed_by_seed(differences, compare, outcome):
    """The seeds themselves differ by .022: what they share is not scatter of the difference."""
    first = FIRST[: len(differences)]
    second = [value - difference for value, difference in zip(first, differences, strict=True)]
    table = rows({("one_pass", 1): first, ("tuned", 1): second})
    finding = decide(rule(compare=compare, of=A, than=B), table, REGISTRY)
    assert finding.outcome == outcome, finding.says
    assert bool(finding.why) is (outcome == "undecided")


def test_seeds_that_only_one_of_them_has_are_left_out():
    table = rows({("one_pass", 1): FIRST, ("tuned", 1): (*(v - 0.02 for v in FIRST), 5.0)})
    assert decide(rule(of=A, than=B), table, REGISTRY).outcome == "holds"


def test_an_undecided_difference_says_how_many_seeds_would_decide():
    table = rows({("one_pass", 1): (0.90, 0.94, 0.98), ("tuned", 1): (0.90, 0.90, 0.90)})
    finding = decide(rule(of=A, than=B), table, REGISTRY)
    assert finding.outcome == "undecided" and "about 10 would decide" in finding.why
    found = interval([0.0, 0.04, 0.08])
    n = seeds_needed(found, lambda at: is_more(at, 0.01))
    wide = 2.262 * found.sd / 10**0.5  # Student's t of 9 degrees of freedom
    assert n == 10 and found.mean - wide > 0.01


def test_intervals_hold_the_mean_as_often_as_they_say():
    rng = np.random.default_rng(0)
    found = [interval(rng.normal(0.3, 0.1, 4)) for _ in range(2000)]
    assert abs(np.mean([at.low < 0.3 < at.high for at in found]) - 0.95) < 0.015
    limits = [spread_limits(rng.normal(0, 0.1, 5)) for _ in range(2000)]
    assert abs(np.mean([low < 0.1 < high for low, high in limits]) - 0.95) < 0.015


@pytest.mark.parametrize(("unit", "difference", "holds"), [("1", 0.02, True), ("1", 0.009, False)])
def test_what_counts_without_a_margin(unit, difference, holds):
    table = rows({("one_pass", 1): (0.9, 0.9001, 0.9), ("tuned", 1): [0.9 - difference] * 3}, unit=unit)
    assert (decide(rule(of=A, than=B), table, REGISTRY).outcome == "holds") is holds


def test_what_counts_is_half_a_shell_of_a_resolution_and_a_twentieth_of_a_cost():
    fine, coarse = (20.0, 20.1, 20.0), (21.0, 21.1, 21.0)
    table = rows({("one_pass", 1): fine, ("tuned", 1): coarse}, "resolution_half_0.143", 1.0, "A")
    which = {"metric": "resolution_half_0.143", "compare": "lower", "of": A, "than": B}
    assert decide(rule(**which), table, REGISTRY).outcome == "holds"
    table = rows({("one_pass", 1): fine, ("tuned", 1): coarse}, "resolution_half_0.143", 2.2, "A")
    assert decide(rule(**which), table, REGISTRY).outcome != "holds"
    table = rows({("one_pass", 1): (9.0, 9.1, 9.0), ("tuned", 1): (9.3, 9.4, 9.3)}, "train_cpu_seconds", None, "s")
    which["metric"] = "train_cpu_seconds"
    assert decide(rule(**which), table, REGISTRY).outcome == "undecided"  # 3 % less
    assert decide(rule(**which, margin=0.2, why="a test"), table, REGISTRY).outcome == "holds"
    with pytest.raises(InputError, match="reason"):
        rule(**which, margin=0.2)


def test_without_a_crossing_nothing_is_ranked():
    table = rows({("one_pass", 1): (None, None), ("tuned", 1): (13.0, 13.1)}, "resolution_half_0.143", unit="A")
    finding = decide(rule(metric="resolution_half_0.143", compare="lower", of=A, than=B), table, REGISTRY)
    assert finding.outcome == "undecided" and "Nyquist" in finding.why


@pytest.mark.parametrize(
    ("values", "outcome"), [((13.0, 13.1), "holds"), ((None, None), "contradicted"), ((13.0, None), "undecided")]
)
def test_a_crossing_is_there_or_not(values, outcome):
    table = rows({("one_pass", 1): values}, "resolution_half_0.143", unit="A")
    assert decide(rule(metric="resolution_half_0.143", compare="crosses", of=A), table, REGISTRY).outcome == outcome


@pytest.mark.parametrize(
    ("means", "scatter", "compare", "outcome"),
    [
        ((0.5, 0.7, 0.9), 0.001, "rising", "holds"),
        ((0.5, 0.9, 0.8999), 0.00001, "rising", "contradicted"),  # it falls, by however little
        ((0.5, 0.9, 0.7), 0.001, "rising", "contradicted"),
        ((0.5, 0.502, 0.504), 0.0001, "rising", "undecided"),  # rises, by less than counts
        ((0.5, 0.9, 0.901), 0.01, "rising", "undecided"),  # the last step is smaller than its scatter
        ((0.9, 0.7, 0.5), 0.001, "falling", "holds"),
        ((0.9, 0.7, 0.8), 0.001, "falling", "contradicted"),
    ],
)
def test_trends_are_asked_at_every_step(means, scatter, compare, outcome):
    off = scatter * np.array([[0, 1, -1], [1, -1, 0], [-1, 0, 1]])
    table = rows({("one_pass", n): tuple(m + o) for n, m, o in zip((9, 80, 700), means, off, strict=True)})
    finding = decide(rule(compare=compare, along="n_gaussians", of=A), table, REGISTRY)
    assert finding.outcome == outcome, finding.says


def test_smallest_and_largest_are_by_number():
    table = rows({("one_pass", 9): (0.5,) * 2, ("one_pass", 80): (0.6,) * 2, ("one_pass", 700): (0.7,) * 2})
    small, large = ({"method": "one_pass", "n_gaussians": which} for which in ("min", "max"))
    finding = decide(rule(of=large, than=small), table, REGISTRY)
    assert finding.outcome == "holds" and "0.5" in finding.says and "0.7" in finding.says


@pytest.mark.parametrize(("exponent", "scatter", "outcome"), [
    (0.5, 0.01, "holds"), (1.5, 0.01, "contradicted"), (0.95, 0.2, "undecided"),
])  # fmt: skip
def test_growth_is_the_exponent_of_a_power_law(exponent, scatter, outcome):
    assert growth([1, 10, 100], [3 * x**0.7 for x in (1, 10, 100)]) == pytest.approx(0.7)
    table = rows(
        {("one_pass", n): [2.0 * n ** (exponent + s * scatter) for s in (-1, 0, 1)] for n in (10, 100)},
        "train_cpu_seconds", None, "s",
    )  # fmt: skip
    asked = rule(metric="train_cpu_seconds", compare="exponent_below", along="n_gaussians", value=1.0)
    assert decide(asked, table, REGISTRY).outcome == outcome


@pytest.mark.parametrize(("values", "outcome"), [
    ((0.49, 0.50, 0.51), "holds"), ((0.39, 0.40, 0.41), "contradicted"), ((0.3, 0.5, 0.7), "undecided"),
    ((0.6,), "undecided"),
])  # fmt: skip
def test_bounds(values, outcome):
    table = rows({("one_pass", 1): values})
    assert decide(rule(compare="above", of=A, value=0.45), table, REGISTRY).outcome == outcome
    turned = {"holds": "contradicted", "contradicted": "holds", "undecided": "undecided"}
    assert decide(rule(compare="below", of=A, value=0.45), table, REGISTRY).outcome == turned[outcome]


@pytest.mark.parametrize(("spread", "outcome"), [(0.0005, "holds"), (0.05, "contradicted"), (0.005, "undecided")])
def test_whether_seeds_agree(spread, outcome):
    table = rows({("one_pass", 1): tuple(0.9 + spread * x for x in (-1, -0.5, 0, 0.5, 1))})
    assert decide(rule(compare="together", of=A, value=0.01), table, REGISTRY).outcome == outcome


def test_papers_masks_decide_where_the_rule_says_so_and_other_masks_are_said():
    """The baseline gains by its sphere what it lacked; in one mask for both there is no difference."""
    values = {
        "fsc_truth_mean": (0.98, 0.92), "fsc_truth_in_sphere_mean": (0.98, 0.985),
        "fsc_truth_in_soft_mask_mean": (0.99, 0.99),
    }  # fmt: skip
    import pandas as pd

    tables = [
        rows({("one_pass", 1): (of, of + 0.001), ("tuned", 1): (than, than + 0.001)}, metric)
        for metric, (of, than) in values.items()
    ]
    table = pd.concat(tables, ignore_index=True)
    bare = decide(rule(of=A, than=B), table, REGISTRY)
    printed = decide(rule(of=A, than=B, masks="paper"), table, REGISTRY)
    soft = decide(rule(of=A, than=B, masks="soft"), table, REGISTRY)
    assert [f.outcome for f in (bare, printed, soft)] == ["holds", "contradicted", "contradicted"]
    assert "a sphere for the baseline alone, as the paper has it: contradicted" in bare.says
    assert "no masks: holds" in printed.says


def gates(change, metric="fsc_truth_mean"):
    return [Gate("a fit", ("one_pass1s0", "one_pass1s1"), "20 steps", {metric: change})]


def test_a_fit_that_has_not_converged_decides_nothing():
    table = rows({("one_pass", 1): (0.92, 0.93), ("tuned", 1): (0.90, 0.91)})
    experiment = dataclasses.replace(EXPERIMENT, rules=(rule(of=A, than=B),), source="a reviewer")
    for change, expected in ((0.002, "holds"), (0.02, "undecided: not converged"), (-0.02, "undecided: not conv")):
        assert verdict(experiment, table, REGISTRY, gates(change))[0].startswith(expected)


def test_a_difference_far_larger_than_what_more_steps_change_is_decided():
    """By .2, of which .19 is room: a third of that is more than the .02 that half the steps still change."""
    table = rows({("one_pass", 1): (0.92, 0.93), ("tuned", 1): (0.72, 0.73)})
    experiment = dataclasses.replace(EXPERIMENT, rules=(rule(of=A, than=B),), source="a reviewer")
    assert verdict(experiment, table, REGISTRY, gates(0.02))[0] == verdicts.HOLDS
    assert verdict(experiment, table, REGISTRY, gates(0.08))[0].startswith(verdicts.UNDECIDED)


def test_gates_of_other_fits_and_costs_do_not_matter():
    table = rows({("one_pass", 1): (9.0, 9.0), ("tuned", 1): (1.0, 1.0)}, "train_cpu_seconds", None, "s")
    slower = dataclasses.replace(EXPERIMENT, rules=(rule(metric="train_cpu_seconds", of=A, than=B),), source="us")
    assert verdict(slower, table, REGISTRY, gates(0.5))[0] == verdicts.HOLDS
    table = rows({("one_pass", 1): (0.92, 0.93), ("tuned", 1): (0.90, 0.91)})
    other = [Gate("another", ("one_pass9s0",), "20 steps", {"fsc_truth_mean": 0.5})]
    right = dataclasses.replace(EXPERIMENT, rules=(rule(of=A, than=B),), source="us")
    assert verdict(right, table, REGISTRY, other)[0] == verdicts.HOLDS


def test_outcomes():
    table = rows(
        {("one_pass", 1): (0.9, 0.9), ("tuned", 1): (0.8, 0.8), ("cryosplat", 1): (0.95, 0.95), ("gem", 1): (0.9, 0.8)}
    )
    good, bad = rule(of=A, than=B), rule(of=B, than=A)
    printed, unsure = rule(of={"method": "cryosplat"}, than=A), rule(of={"method": "gem"}, than=B)

    def outcome(registry=REGISTRY, source="a reviewer", **changes):
        return verdict(dataclasses.replace(EXPERIMENT, source=source, **changes), table, registry)[0]

    assert outcome(rules=(good,)) == verdicts.HOLDS
    assert outcome(rules=(good, bad)) == outcome(rules=(unsure, bad)) == verdicts.CONTRADICTED
    assert outcome(rules=(good, unsure)).startswith(verdicts.UNDECIDED)
    assert outcome(rules=(good,), remarks=(bad,)) == verdicts.HOLDS  # ours decide nothing
    paper = {"source": "CryoSplat, figure 0"}
    assert outcome(rules=(printed,), **paper) == verdicts.REPRODUCED
    assert outcome(rules=(good,), **paper) == verdicts.STAND_IN_HOLDS
    assert outcome(rules=(bad,), **paper) == verdicts.STAND_IN_FAILS
    assert outcome(rules=(rule(of={"method": "cryosplat"}, than=A, compare="lower"),), **paper) == verdicts.CONTRADICTED
    assert outcome(see="fig3") == "the same claim as fig3"
    assert outcome(rules=(good,), registry=read_registry("smoke")).startswith(verdicts.TOO_SMALL)
    assert outcome(not_run="it costs too much") == "not run, because it costs too much"
    assert outcome(not_run="definition not stated: where?").startswith(verdicts.NOT_STATED)
    missing = rule(of={"method": "relion"}, than=B)
    assert outcome(rules=(missing,)).startswith("not run, because no run of relion_reconstruct has the number")
    assert outcome(rules=(missing, good)) == verdicts.HOLDS  # what could not be run decides nothing
    assert outcome(rules=(missing, good), registry=read_registry("smoke")).startswith(verdicts.TOO_SMALL)
    nothing = verdict(dataclasses.replace(EXPERIMENT, rules=(good,)), table.iloc[:0], read_registry("smoke"))[0]
    assert nothing.startswith(verdicts.NOT_RUN)


def test_every_rule_of_the_registry_speaks_of_runs_that_there_are():
    """A rule of which no run has the factors could neither hold nor fail."""
    for experiment in REGISTRY.experiments.values():
        if experiment.not_run:
            continue
        metrics = [Measurement("x", 1.0, "1", "said", 0.1)]
        table = with_factors(frame([row for run in experiment.runs for row in rows_of("x", run, metrics)]))
        for asked in (*experiment.rules, *experiment.remarks):
            for factors in (asked.of, asked.than):
                assert len(choose(table, factors)), (experiment.name, factors)
            if asked.compare in ("higher", "lower", "equal"):
                assert asked.of != asked.than, experiment.name


def test_every_fit_that_a_verdict_rests_on_has_a_twin_with_half_the_steps():
    for experiment in REGISTRY.experiments.values():
        asked = [r for r in experiment.rules if not r.metric.endswith(("seconds", "second", "bytes"))]
        if not asked or experiment.not_run or UNGATED[experiment.name]:
            continue
        fits = {run.method for run in experiment.runs if run.config.reconstruction.row.iterates}
        by_name = {run.name: run.method for run in experiment.runs}
        assert fits <= {by_name[name] for name in experiment.twins}, experiment.name


def test_intervals_of_one_seed_are_unbounded():
    assert not interval([0.3]).bounded and "no interval" in str(interval([0.3]))
    assert interval([0.3, 0.3]) == Interval(0.3, 0.3, 0.3, 0.0, 2)
