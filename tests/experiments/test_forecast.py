"""What runs need follows from their box, their particles and their method, and is said before a scale starts."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from gsworkbench.experiments import forecast
from gsworkbench.experiments.plan import ROOT, read_registry
from gsworkbench.experiments.sizes import size_of
from gsworkbench.particles.entry_card import OWN_CARDS, EntryParticles, card_with_blanks, find_shipped_card
from gsworkbench.simulation.simulation_config import Simulation


@pytest.fixture(autouse=True)
def as_shipped(monkeypatch):
    """No programs of others, no cards of one's own."""
    monkeypatch.delenv(OWN_CARDS, raising=False)
    monkeypatch.setattr(shutil, "which", lambda _: None)


def test_the_page_says_what_the_program_says():
    """Where this fails: python -m gsworkbench.experiments.forecast empiar, and its lines go into docs/use/empiar.md."""
    page = (ROOT / "docs" / "use" / "empiar.md").read_text(encoding="utf-8").split("\n")
    assert {f"    {line}" for line in forecast.forecast(read_registry("empiar"))} <= set(page)


def test_it_is_said_on_a_login_node_without_torch():
    program = "import sys; sys.modules['torch'] = None; from gsworkbench.experiments import forecast"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("scale", ["paper", "empiar"])
def test_jobs_ask_for_more_where_boxes_and_particles_are_more(scale):
    runs = [*read_registry(scale).runs.values()]
    one_pass = [r for r in runs if r.config.reconstruction.method in ("one-pass", "backprojection")]
    for run in one_pass:
        n, box = size_of(run.config.dataset)
        needs = forecast.needs_of_run(run)
        assert needs.mem_mb > 280 * box**3 / 1e6  # bytes per voxel of the pass over the particles, as measured
        assert needs.runtime >= 30 + n / 200 / 60
    large = max(one_pass, key=lambda run: size_of(run.config.dataset)[1])
    assert forecast.needs_of_run(large).mem_mb > 4500


def test_a_program_counts_where_it_is_installed(monkeypatch):
    run = next(
        r for r in read_registry("empiar").runs.values() if r.method == "cryodrgn" and r.dataset == "spliceosome"
    )
    assert forecast.run_hours(run) == 0 and forecast.run_bytes(run) < 5e9
    monkeypatch.setattr(shutil, "which", lambda _: "/opt/cryodrgn")
    assert forecast.run_hours(run) > 100 and forecast.run_bytes(run) > 327_490 * 256**2 * 4


def test_images_that_a_fit_reads_are_those_of_all_its_maps():
    registry = read_registry("empiar")
    plain = next(r for r in registry.runs.values() if r.name == "lsu-cryodrgn_backprojection-s0")
    fit = next(r for r in registry.runs.values() if r.method == "cryosplat" and r.dataset == "lsu")
    n = size_of(plain.config.dataset)[0]
    assert n == 131_899
    # The map of all particles, two half maps of half as many, and these again with random phases.
    assert forecast.run_hours(fit) == pytest.approx(3 * 5 * n / forecast.PRINTED_RATES["stochastic"] / 3600)


def test_the_number_of_particles_of_an_unfilled_card_is_not_made_up(tmp_path, monkeypatch):
    (tmp_path / "10005.yaml").write_text(card_with_blanks(find_shipped_card(10005)))
    monkeypatch.setenv(OWN_CARDS, str(tmp_path))
    assert size_of(EntryParticles(10005, 256)) == (0, 256)
    assert size_of(EntryParticles(10005, 256, n_particles=9)) == (9, 256)
    assert size_of(Simulation(n_particles=7, box_size=32)) == (7, 32)
    said = forecast.forecast(read_registry("empiar"))
    assert any("10005.yaml: 8 blanks are not filled" in line for line in said)


def test_a_disk_that_is_too_small_is_said(tmp_path, monkeypatch):
    registry = read_registry("rehearsal")
    folder = tmp_path / "not" / "there" / "yet"
    assert forecast.short_of_disk(registry, folder) == ""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10**6})())
    assert f"0.001 GB are free on the disk of {tmp_path}" in forecast.short_of_disk(registry, folder)
