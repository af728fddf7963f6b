"""Every cell of the papers' tables is there, with a number of ours or a reason."""

from __future__ import annotations

from collections import Counter

import pytest

from gsworkbench.errors import InputError
from gsworkbench.experiments.paper_tables import PRINTED, cells_of, markdown, read_tables
from gsworkbench.experiments.plan import read_registry
from gsworkbench.experiments.results import Measurement, frame, rows_of

REGISTRY = read_registry("rehearsal")
# Sets times rows: what the papers print, and rows of ours beside them.
CELLS = {
    "cryosplat_resolution": 4 * 3 + 4 * 2,
    "cryosplat_beside": 4 * 5,
    "cryosplat_memory": 2 * 8,
    "cryosplat_speed": 2 * 5,
    "gem_speed": 4 * 3,
    "gem_memory": 4 * 3,
    "gem_resolution": 4 * 3 + 4,
    "gem_local": 4 * 3 + 4,
    "gem_fslc": 4 * 3,
    "gem_ablation": 4 * 4,
    "cryogs_resolution": 2,
}
NOTHING = frame([])


def test_every_cell_is_there_and_says_why_it_has_no_number():
    cells = cells_of(REGISTRY, NOTHING, {})
    assert Counter(cell.table for cell in cells) == CELLS
    assert all(cell.printed and cell.ours.startswith("not run, because ") for cell in cells)
    text = markdown(REGISTRY, cells)
    assert all(f"{cell.printed} / {cell.ours}" in text for cell in cells)


def test_what_has_runs_in_the_file_has_runs_at_both_scales():
    """A cell that names runs which no experiment makes would say "has no such run" for ever."""
    for scale in ("rehearsal", "empiar"):
        cells = cells_of(read_registry(scale), NOTHING, {})
        assert not [cell for cell in cells if "has no such run" in cell.ours]


def test_numbers_are_means_over_seeds_in_the_unit_of_the_table():
    experiment = read_registry("empiar").experiments["empiar_gem"]
    whole = [run for run in experiment.runs if run.method == "gem" and run.dataset == "rag"]
    results = rows_of(
        "x", experiment.twins[whole[0].name], [Measurement("resolution_half_0.143_gem", 9.0, "A", "twin")]
    )
    for run, value in zip(whole, (2.5, 2.6, 2.7), strict=True):
        found = Measurement("resolution_half_0.143_gem", value, "A", "x [y]")
        results += rows_of("empiar_gem", run, [found])
        results += rows_of("twice", run, [found])
    cells = cells_of(read_registry("empiar"), frame(results), {})
    ours = {(c.table, c.row, c.column): c.ours for c in cells}
    assert ours["gem_resolution", "GEM", "EMPIAR-10049"] == "2.60"
    assert ours["gem_ablation", "full", "EMPIAR-10049"] == "2.60"
    assert ours["gem_resolution", "GEM", "EMPIAR-10028"].startswith("not run, because")


def test_a_curve_that_does_not_cross_is_said_and_reasons_are_handed_on():
    (run,) = [r for r in REGISTRY.runs.values() if r.method == "cryosplat" and r.dataset == "lsu"]
    none = Measurement("resolution_half_0.143_cryodrgn", None, "A", "no crossing below Nyquist (26.20 A) [curve]")
    cells = cells_of(REGISTRY, frame(rows_of("x", run, [none])), {r: "no disk" for r in REGISTRY.runs if "trpv1" in r})
    ours = {(c.table, c.row, c.column): c.ours for c in cells}
    assert ours["cryosplat_resolution", "CryoSplat", "EMPIAR-10076"] == "no crossing below Nyquist (26.20 A)"
    assert ours["gem_local", "GEM", "EMPIAR-10005"] == "not run, because no disk"


def test_a_file_that_lacks_a_text_or_a_reason_is_refused(tmp_path):
    file = tmp_path / "tables.yaml"
    text = PRINTED.read_text(encoding="utf-8")
    file.write_text(text.replace("printed: ['508', '396']", "printed: ['508']"))
    with pytest.raises(InputError, match="cryosplat_memory, backprojection, batch 1: 1 texts for 2 columns"):
        read_tables(file)
    file.write_text(text.replace("not_run: our backprojection runs on the CPU", "note: none"))
    with pytest.raises(InputError, match="give runs with a metric, or a reason"):
        read_tables(file)
