"""From maps to tables, figures and the page, on made-up maps: what they say; the same maps give the same files."""

from __future__ import annotations

import dataclasses
import html.parser
import json
import re
from pathlib import Path

import numpy as np
import pytest
from legible import assert_legible

from gsworkbench.assessment.fsc import FscCurve, resolution
from gsworkbench.assessment.plots import fsc_figure
from gsworkbench.config import to_mapping
from gsworkbench.experiments import figures, report, results
from gsworkbench.experiments.claims import examine, outcome_of, write_claim
from gsworkbench.experiments.plan import read_registry
from gsworkbench.experiments.store import KEY
from gsworkbench.experiments.verdicts import NOT_RUN
from gsworkbench.io.files import write_text
from gsworkbench.io.mrc import write_map
from gsworkbench.system.provenance import RunRecord

BOX, VOXEL = 32, 12.0
SHELLS = np.arange(BOX // 2 + 1)
REGISTRY = read_registry("smoke")
# Every kind of figure is among them, and what is hard to place: long names, narrow ticks.
MADE = ("review_baseline", "fig3", "table1", "fig6", "fig8", "fig9", "fig13", "review_cost", "cryogs_isotropy")


def curve(name: str, crossing: float) -> FscCurve:
    """An FSC that falls through 0.5 at shell `crossing`; far beyond Nyquist it does not cross."""
    return FscCurve(name, 1 / (1 + np.exp((SHELLS - crossing) / 1.5)), BOX, VOXEL)


@pytest.fixture(scope="module")
def made_up(tmp_path_factory) -> Path:
    """A results folder of scale smoke whose runs are a blob and noise; cryoDRGN is not installed there."""
    folder = tmp_path_factory.mktemp("smoke")
    rng = np.random.default_rng(0)
    z, y, x = np.mgrid[:BOX, :BOX, :BOX] - BOX // 2
    truth = np.exp(-(x**2 + 2 * y**2 + 3 * z**2) / 9).astype(np.float32)
    runs = {run.name: run for name in MADE for run in REGISTRY.experiments[name].runs}
    for i, run in enumerate(runs.values()):
        write_map(folder / "datasets" / run.dataset / "truth.mrc", truth, VOXEL)
        out = folder / "runs" / run.name
        if run.method == "cryodrgn":
            write_text(out / "not_run.txt", "there is no cryodrgn on PATH\n")
        for name in ("run_class001", "run_half1_class001", "run_half2_class001"):
            noise = 0.02 * (1 + i % 4) * rng.standard_normal(truth.shape)
            write_map(out / f"{name}.mrc", (truth + noise).astype(np.float32), VOXEL)
        method = run.config.reconstruction.method
        record = RunRecord([], to_mapping(run.config.reconstruction), machine="a machine", threads=1)
        record.seconds[f"all: {method}"], record.cpu_seconds[f"all: {method}"] = 2.0, 1.5 + i
        record.n_particles["all"] = run.config.dataset.n_particles
        record.finish(out / "run.json")
        write_text(out / KEY, "made up\n")
    return folder


@pytest.fixture(scope="module")
def claims(made_up):
    return {name: examine(name, "smoke", made_up) for name in MADE}


def test_results_are_tidy_and_complete(claims, tmp_path):
    claim = claims["review_baseline"]
    results.write_results(tmp_path / "x.csv", claim.results)
    table = results.read_results(tmp_path / "x.csv")
    assert tuple(table.columns) == results.COLUMNS == tuple(f.name for f in dataclasses.fields(results.Result))
    assert not table.duplicated(["experiment", "run", "metric"]).any()
    assert set(table.run) == {run.name for run in claim.experiment.runs if run.method != "cryodrgn"}
    unit = table.drop_duplicates("metric").set_index("metric").unit
    assert unit["train_cpu_seconds"] == "s" and unit["resolution_half_0.143"] == "A"
    assert {"overstatement_mean", "fsc_truth_high", "power_ratio_high", "resolution_half_0.143_gem"} <= set(unit.index)
    shell = table.drop_duplicates("metric").set_index("metric")["shell"]
    assert shell["fsc_truth_mean"] == pytest.approx(1 / 15)  # shells 1 to 15
    assert json.loads(table.factors.iloc[0])["method"] == table.method.iloc[0]


def test_assessments_are_made_once_and_again_where_maps_are_new(claims, made_up):
    run = claims["fig13"].experiment.runs[0]
    file = made_up / "assessments" / "fsc" / run.name / "metrics.json"
    before = file.stat().st_mtime_ns
    examine("fig13", "smoke", made_up)
    assert file.stat().st_mtime_ns == before
    write_text(made_up / "runs" / run.name / KEY, "made anew\n")
    examine("fig13", "smoke", made_up)
    assert file.stat().st_mtime_ns > before


@pytest.mark.parametrize(
    ("curve_name", "expected"),
    [
        ("fsc_unmasked", "half"),
        ("fsc_masked", "half_masked"),
        ("fsc_corrected", "half_corrected"),
        ("fsc_unmasked_truth", "truth"),
        ("fsc_masked_truth", "truth_masked"),
        ("fsc_unmasked_estimate", "estimate"),
        ("fsc_masked_estimate", "estimate_masked"),
    ],
)
def test_metric_names(curve_name, expected):
    assert results.subject(curve_name) == expected


def test_table_says_how_it_was_measured_and_what_was_not_run(claims):
    text = claims["review_baseline"].table()
    first = next(line for line in text.splitlines() if line.startswith("| Gaussians (one pass) |"))
    assert "| 256 |" in first and re.search(r"\| \d+\.5 s \|", first)
    row = next(line for line in text.splitlines() if line.startswith("| Backprojection |"))
    assert row.split("|")[2].strip() == ""  # no number of Gaussians
    assert "FSC = 0.143, last shell before the first below" in text and "a machine" in text
    assert "cryodrgn" not in text
    assert f"{NOT_RUN}there is no cryodrgn on PATH" in claims["review_baseline"].report()


def test_an_experiment_of_absent_programs_alone_says_so(made_up, tmp_path):
    name = "review_baseline"
    text = REGISTRY.experiments[name]
    only = [run for run in text.runs if run.method == "cryodrgn"]
    claim = examine(name, "smoke", made_up)
    alone = dataclasses.replace(
        claim, experiment=dataclasses.replace(text, runs=tuple(only)), results=(), rows=claim.rows.iloc[:0],
        verdict=f"{NOT_RUN}there is no cryodrgn on PATH", findings=(),
    )  # fmt: skip
    write_claim(alone, tmp_path)
    assert json.loads((tmp_path / f"{name}.json").read_text())["numbers"] == {}
    assert (tmp_path / f"{name}.png").stat().st_size > 1000


@pytest.mark.parametrize("name", MADE)
def test_every_figure_is_drawn_and_is_the_same_file_twice(claims, tmp_path, name):
    for copy in ("first", "second"):
        write_claim(claims[name], tmp_path / copy)
    for suffix in (*figures.FORMATS, "csv", "md", "json"):
        first, second = (tmp_path / copy / f"{name}.{suffix}" for copy in ("first", "second"))
        assert first.read_bytes() == second.read_bytes()
    figure = claims[name].figure()
    for axes in figure.axes:  # every plot with numbers on it says what they are
        if axes.axison and axes.get_xticks().size:
            assert axes.get_xlabel(), axes
    assert_legible(figure)


def test_a_picture_has_every_choice_that_was_made(claims):
    claim = claims["review_baseline"]
    labels = [REGISTRY.methods[name].label for name in dict.fromkeys(run.method for run in claim.experiment.runs)]
    made = [label for label in labels if label != REGISTRY.methods["cryodrgn"].label]
    top, bottom = claim.figure().subfigs
    titles = [axes.get_title().replace("\n", " ") for axes in top.axes if axes.axison]
    assert titles == ["truth", *made] and len(made) == 9
    (legend,) = bottom.legends
    assert [text.get_text().rsplit(": ", 1)[0] for text in legend.get_texts()] == made
    looks = [(line.get_color(), line.get_linestyle()) for line in legend.get_lines()]
    assert len(set(looks)) == len(made)
    for axes in bottom.axes:
        drawn = {line.get_label().rsplit(": ", 1)[0]: (line.get_color(), line.get_linestyle()) for line in axes.lines}
        assert [drawn[label] for label in made] == looks


def test_a_picture_does_without_the_runs_that_were_not_made(claims):
    for name in ("fig9", "review_baseline"):
        claim = claims[name]
        last = claim.rows[claim.rows.run == claim.rows.run.iloc[-1]]
        assert_legible(figures.draw(REGISTRY, claim.experiment, last, claim.folder))


def test_a_curve_along_a_factor_prints_its_exponent():
    experiment = read_registry("smoke").experiments["fig4"]
    found = []
    for run in experiment.runs:
        seconds = 0.01 * run.n_gaussians**0.5
        found += results.rows_of("fig4", run, [results.Measurement("train_cpu_seconds", seconds, "s", "made up")])
    from gsworkbench.experiments.verdicts import with_factors

    figure = figures.draw(REGISTRY, experiment, with_factors(results.frame(found)), Path())
    assert "exponent 0.50" in figure.axes[0].get_legend().get_texts()[0].get_text()


class _Tags(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.seen, self.links = [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.links += [value for name, value in attrs if name in ("href", "src")]


def test_the_page_has_every_claim_and_escapes_what_it_prints(claims, tmp_path):
    outcomes = [outcome_of(claim, True) for claim in claims.values()]
    outcomes[0] |= {"claim": "a <script>alert(1)</script> | & b", "name": "a b&c", "figure": 'a "b".png'}
    parser = _Tags()
    text = report.page(REGISTRY, outcomes, tmp_path / "results", tmp_path / "out")
    parser.feed(text)
    assert "script" not in parser.seen and "&lt;script&gt;" in text
    assert parser.seen.count("section") == len(outcomes) and parser.seen.count("img") == len(outcomes)
    assert "a%20%22b%22.png" in parser.links and "../results/notebooks/a%20b%26c.ipynb" in parser.links
    markdown = report.markdown(REGISTRY, outcomes, tmp_path / "results", tmp_path / "out")
    row = next(line for line in markdown.splitlines() if "script" in line)
    assert row.replace(r"\|", "").count("|") == len(report.HEADS) + 1 and "<script>" not in row
    assert all(f"## {outcome['name']}" in markdown for outcome in outcomes)


def test_the_page_counts_outcomes():
    verdicts = (
        "reproduced",
        "contradicted",
        "undecided: too few seeds",
        "undecided: not converged",
        "not run, because x",
    )
    outcomes = [{"verdict": v} for v in (*verdicts, "the same claim as fig3")]
    assert report.summary(outcomes).startswith("5 claims, 2 decided. undecided: 2; ")


def test_all_rows_are_stacked(claims, tmp_path):
    registry = dataclasses.replace(REGISTRY, experiments={n: REGISTRY.experiments[n] for n in MADE})
    for claim in claims.values():
        write_claim(claim, tmp_path)
    report.write_all_rows(registry, tmp_path, tmp_path / "results.csv")
    table = results.read_results(tmp_path / "results.csv")
    assert set(table.experiment) == set(MADE)
    assert len(table) == sum(len(claim.results) for claim in claims.values())


def test_fsc_figure_marks_crossings_nyquist_and_their_absence():
    crossing, above = curve("fsc_unmasked", 8.2), curve("fsc_masked", 100)
    read = [resolution(crossing, 0.143), resolution(above, 0.143), resolution(crossing, 0.5)]
    axes = fsc_figure([crossing, above], read).axes[0]
    said = [text.get_text() for text in axes.get_legend().get_texts()]
    assert said == ["half maps, no mask: 38.4 Å at 0.143, 48.0 Å at 0.5", "half maps, masked: no crossing at 0.143"]
    marks = [line.get_xydata()[0] for line in axes.lines if line.get_marker() == "o"]
    assert [round(1 / x, 6) for x, _ in marks] == [38.4, 48.0]
    assert all(y >= r.threshold for (_, y), r in zip(marks, (read[0], read[2]), strict=True))
    notes = " ".join(text.get_text() for text in axes.texts)
    assert "0.143" in notes and "0.5" in notes and "Nyquist 24.0 Å" in notes
    assert axes.get_xticklabels()[-1].get_text() == "0.042\n(24.0 Å)"


def test_the_page_of_the_repository_says_what_has_no_outcome_yet(claims, tmp_path):
    (docs := tmp_path / "docs").mkdir()
    for name in ("fig3", "fig13"):
        write_claim(claims[name], tmp_path / "out")
    report.write_docs(REGISTRY, tmp_path / "out", docs)
    text = (docs / "results.md").read_text()
    assert "## fig3: too small to decide" in text and "2 claims, 0 decided." in text
    assert "Without an outcome yet: " in text and "table1" in text.split("Without an outcome yet")[1].split("\n")[0]
    assert (docs / "fig3.png").is_file() and not (docs / "fig13.png").exists()  # only some pictures are kept
