"""Figures and tables from made-up results: what they say, and that the same results give the same files."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from gsworkbench.assessment.fsc import FscCurve, resolution, write_fsc_csv
from gsworkbench.plotting import fsc_figure
from gsworkbench.provenance import RunRecord
from gsworkbench.readers.mrc import write_map
from gsworkbench.reconstruct import Reconstruction
from gsworkbench.workbench import plots, results, tables
from gsworkbench.workbench.registry import read_registry

BOX, VOXEL = 32, 12.0
SHELLS = np.arange(BOX // 2 + 1)


def curve(name: str, crossing: float) -> FscCurve:
    """An FSC that falls through 0.5 at shell `crossing`; far beyond Nyquist it does not cross."""
    return FscCurve(name, 1 / (1 + np.exp((SHELLS - crossing) / 1.5)), BOX, VOXEL)


@pytest.fixture(scope="module")
def made_up(tmp_path_factory) -> Path:
    """A results folder of scale smoke: truth, maps, fsc.csv, metrics.json, results.csv."""
    folder = tmp_path_factory.mktemp("smoke")
    registry = read_registry("smoke")
    rng = np.random.default_rng(0)
    z, y, x = np.mgrid[:BOX, :BOX, :BOX] - BOX // 2
    truth = np.exp(-(x**2 + 2 * y**2 + 3 * z**2) / 90).astype(np.float32)
    for name in registry.datasets:
        write_map(_made(folder / "datasets" / name) / "truth.mrc", truth, VOXEL)
    for i, run in enumerate(registry.runs.values()):
        output = _made(folder / "runs" / run.name)
        write_map(output / "run_class001.mrc", truth + 0.1 * rng.standard_normal(truth.shape).astype(np.float32), VOXEL)
        curves = curve("fsc_unmasked", 100 if i == 0 else 9.0 + i), curve("fsc_unmasked_truth", 8.0 + i)
        write_fsc_csv(output / "fsc.csv", curves)
        read = (resolution(curves[0], 0.143), resolution(curves[1], 0.5))
        record = RunRecord([], {"method": "magic"}, machine="a machine", threads=1)
        record.seconds["all: magic"], record.cpu_seconds["all: magic"] = 2.0, 1.5 + i
        made = Reconstruction(output, truth, None, curves, read, record)
        results.write_measurements(output / "metrics.json", results.measure(made))
    results.write_results(folder / "results.csv", results.collect(registry, folder))
    return folder


def test_results_are_tidy_and_complete(made_up):
    table = results.read_results(made_up / "results.csv")
    assert tuple(table.columns) == results.COLUMNS == tuple(f.name for f in dataclasses.fields(results.Result))
    registry = read_registry("smoke")
    n_runs = sum(len(e.runs) for e in registry.experiments.values())
    assert len(table) == 7 * n_runs  # two means, two resolutions, two times, memory
    assert not table.duplicated(["experiment", "run", "metric"]).any()
    unit = table.drop_duplicates("metric").set_index("metric").unit
    assert unit["train_cpu_seconds"] == "s" and unit["resolution_half_0.143"] == "A"
    shared = table[(table.run == "ribosome-tuned-n256-s0") & (table.metric == "fsc_truth_mean")]
    assert list(shared.experiment) == ["methods", "number"] and shared.value.nunique() == 1
    assert "no crossing below Nyquist (24.00 A)" in table[table.value.isna()].definition.iloc[0]


@pytest.mark.parametrize(
    ("curve_name", "expected"),
    [
        ("fsc_unmasked", "half"),
        ("fsc_masked", "half_masked"),
        ("fsc_corrected", "half_corrected"),
        ("fsc_unmasked_truth", "truth"),
        ("fsc_masked_truth", "truth_masked"),
    ],
)
def test_metric_names(curve_name, expected):
    assert results.subject(curve_name) == expected


def test_table_says_no_crossing_and_how_it_was_measured(made_up):
    registry = read_registry("smoke")
    table = registry.tables["table_methods"]
    rows = tables.select(results.read_results(made_up / "results.csv"), table)
    page = tables.markdown(rows, table, registry)
    first = next(line for line in page.splitlines() if line.startswith("| Gaussians (one pass) |"))
    assert "no crossing below Nyquist (24.00 A)" in first and "| 256 |" in first and "1.5 s" in first
    assert next(line for line in page.splitlines() if line.startswith("| Backprojection |")).split("|")[3].strip() == ""
    assert "FSC = 0.143, last shell before the first below" in page and "a machine" in page
    wide = tables.numbers(rows, table)
    assert list(wide.run) == [run.name for run in registry.experiments["methods"].runs]
    assert np.isnan(wide["resolution_half_0.143"][0])
    assert wide["fsc_truth_mean"][1] == pytest.approx(curve("fsc_unmasked_truth", 9.0).mean())


def test_a_table_of_something_nobody_measured_says_so(made_up):
    table = dataclasses.replace(read_registry("smoke").tables["table_methods"], metrics=("beauty",))
    with pytest.raises(KeyError, match="beauty"):
        tables.select(results.read_results(made_up / "results.csv"), table)


@pytest.mark.parametrize("name", read_registry("smoke").figures)
def test_every_figure_is_drawn_and_is_the_same_file_twice(made_up, tmp_path, name):
    registry = read_registry("smoke")
    for copy in ("first", "second"):
        page = plots.draw(registry, name, made_up)
        for suffix in plots.FORMATS:
            plots.save(page, tmp_path / copy / f"{name}.{suffix}")
    for suffix in plots.FORMATS:
        first, second = (tmp_path / copy / f"{name}.{suffix}" for copy in ("first", "second"))
        assert first.stat().st_size > 5000
        assert first.read_bytes() == second.read_bytes()
    for axes in page.axes:  # every plot with numbers on it says what they are
        if axes.get_xticks().size:
            assert axes.get_xlabel() and axes.get_ylabel()


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


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder
