"""Views of a run, and live fits of its particles: what is printed reproduces what is shown."""

from __future__ import annotations

import multiprocessing
import os
import shlex
import shutil
import struct
import time
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import yaml

from gsworkbench.cli.main import main
from gsworkbench.errors import InputError
from gsworkbench.experiments.plan import read_registry, read_sections
from gsworkbench.experiments.results import COLUMNS, read_results
from gsworkbench.lab.commands import command_line, identity, preview_config, yaml_rows
from gsworkbench.lab.fits import LiveFits, explored_table, record_outcome
from gsworkbench.lab.opened_run import dataset_of, find_runs, particles_of, read_run, sample_particles
from gsworkbench.lab.service import Done, MapMade, Progress, Ready, Stopped
from gsworkbench.lab.worker import Worker
from gsworkbench.methods.part import ALL
from gsworkbench.methods.reconstruction_config import ReconstructionConfig
from gsworkbench.methods.stochastic import Stochastic


@pytest.fixture(scope="module")
def folder(noisy_set, tmp_path_factory):
    """A finished run of 600 particles, as `gsworkbench reconstruct` leaves it."""
    out = tmp_path_factory.mktemp("workflow") / "runs" / "a_run"
    command = ["reconstruct", noisy_set.star, "--out", out, "--n-gaussians", 200, "--truth", noisy_set.truth_file]
    assert main([str(word) for word in command]) == 0
    return out


@pytest.fixture(scope="module")
def live_fits(folder):
    return LiveFits(read_run(folder))


@pytest.fixture(scope="module")
def outcome(live_fits):
    return live_fits.fit(preview_config(150, seed=3))


def test_a_run_is_read_with_all_that_views_show(folder, noisy_set):
    run = read_run(folder)
    assert list(run.maps) == ["full", "half 1", "half 2", "background", "truth"]
    assert np.array_equal(run.maps["truth"], noisy_set.truth)
    assert run.mask.shape == (32, 32, 32) and run.voxel_size == 12.0
    assert len(run.gaussians) == 200 and run.config.n_gaussians == 200
    assert {r.criterion for r in run.resolutions if r.curve.endswith("_truth")} == {"0.5"}
    assert find_runs(folder.parent.parent) == [folder]
    assert dataset_of(run) == noisy_set.folder.name


def test_what_is_no_run_is_said(tmp_path):
    with pytest.raises(InputError, match="not a finished run"):
        read_run(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(InputError, match="damaged JSON"):
        read_run(tmp_path)


def test_particles_beside_what_the_map_predicts(folder, noisy_set):
    """The truth predicts the images: what is left of them has the variance of the noise, which is 1."""
    run = read_run(folder)
    stack, reading = particles_of(run)
    assert reading == () and len(stack) == 600 and set(stack.half_set) == {1, 2}
    sample = sample_particles(stack, run.maps["truth"], 100)
    assert abs(sample.residual.var() - 1) < 0.01
    assert sample.data.var() > 1.05  # signal of a tenth of that


def test_images_named_from_where_the_run_was_started_are_found(folder, noisy_set, monkeypatch, tmp_path):
    text = (folder / "run_data.star").read_text()
    moved = tmp_path / "project" / "runs" / "b_run"
    moved.mkdir(parents=True)
    for path in folder.glob("*.*"):
        (moved / path.name).write_bytes(path.read_bytes())
    names = {word.split("@")[1] for word in text.split() if "@" in word}
    assert len(names) == 1
    (moved / "run_data.star").write_text(text.replace(names.pop(), "images/p.mrcs"))
    (tmp_path / "project" / "images").mkdir()
    (tmp_path / "project" / "images" / "p.mrcs").symlink_to(noisy_set.folder / "particles.mrcs")
    stack, reading = particles_of(read_run(moved))
    assert reading == ("--datadir", str(tmp_path / "project")) and len(stack) == 600


def test_the_printed_command_reproduces_the_numbers(live_fits, outcome, tmp_path):
    command = shlex.split(command_line(outcome.config, live_fits.run, tmp_path / "again", live_fits.reading))
    assert command[0] == "gsworkbench" and main(command[1:]) == 0
    again = read_run(tmp_path / "again")
    assert [c.name for c in again.curves] == [c.name for c in outcome.curves]
    for ours, theirs in zip(outcome.curves, again.curves, strict=True):
        assert theirs.values == pytest.approx(ours.values, abs=1e-5, nan_ok=True)
    assert np.allclose(again.maps["full"], outcome.volume, atol=1e-5 * outcome.volume.max())


@pytest.mark.parametrize(
    "config",
    [
        ReconstructionConfig(method="backprojection", mask="sphere"),
        ReconstructionConfig(
            method="stochastic", settings=Stochastic(n_gaussians=100, n_epochs=2, batch_size=50, gamma=0.3)
        ),
    ],
    ids=lambda config: config.method,
)
def test_so_it_does_for_the_other_methods(live_fits, config, tmp_path):
    outcome = live_fits.fit(config)
    assert main(shlex.split(command_line(config, live_fits.run, tmp_path / "again"))[1:]) == 0
    again = read_run(tmp_path / "again")
    for ours, theirs in zip(outcome.curves, again.curves, strict=True):
        assert theirs.values == pytest.approx(ours.values, abs=1e-5, nan_ok=True)


def test_noise_substitution_shows_what_half_maps_share_beyond_the_data(live_fits, tmp_path):
    config = preview_config(100, noise_substitute_beyond=60.0)
    outcome = live_fits.fit(config)
    curves = {c.name: c for c in outcome.curves}
    beyond = round(32 * 12.0 / 60.0) + 2
    noise, measured = (curves[name].values[beyond:15].mean() for name in ("fsc_substituted", "fsc_unmasked"))
    assert noise < measured - 0.1
    assert main(shlex.split(command_line(config, live_fits.run, tmp_path / "again"))[1:]) == 0
    found = read_run(tmp_path / "again").record["results"]["noise_substitution"]
    assert found["fsc_substituted"]["mean"] == pytest.approx(curves["fsc_substituted"].mean(), abs=1e-4)


def test_settings_matter_and_numbers_are_named(live_fits, outcome):
    """Twenty Gaussians alone are worse; combined with the backprojection they are not."""
    config = preview_config(20, seed=3)
    alone = replace(config, settings=replace(config.settings, combine=False))
    other = live_fits.fit(alone)
    assert other.number("fsc_truth_mean") < outcome.number("fsc_truth_mean") - 0.05
    assert live_fits.fit(config).number("fsc_truth_mean") > outcome.number("fsc_truth_mean") - 0.01
    assert identity(other.config) != identity(outcome.config)
    assert outcome.number("train_seconds") > 0


def test_the_yaml_rows_are_the_same_settings_in_the_workflow(outcome, tmp_path):
    content = read_sections()
    for section, rows in yaml.safe_load(yaml_rows(outcome.config, "ribosome")).items():
        content[section] |= rows
    (tmp_path / "experiments.yaml").write_text(yaml.safe_dump(content))
    run, *others = read_registry("smoke", tmp_path / "experiments.yaml").experiments["explored"].runs
    assert run.config.reconstruction == outcome.config and not others


def test_live_fits_land_in_a_table_like_the_workflows(live_fits, outcome, folder):
    table = record_outcome(live_fits.run, outcome)
    assert table == explored_table(folder) == folder / "lab" / "explored.csv"
    record_outcome(live_fits.run, outcome)  # the same settings again: the same rows
    rows = read_results(table)
    assert tuple(rows.columns) == COLUMNS
    assert rows.metric.is_unique and set(rows.experiment) == {"explored"} and set(rows.seed) == {3}
    found = rows[rows.metric == "fsc_truth_mean"].value.item()
    assert found == pytest.approx(outcome.number("fsc_truth_mean"))
    (folder.parent.parent / "results.csv").write_text("the workflow's\n")
    try:
        assert explored_table(folder) == folder.parent.parent / "explored.csv"
    finally:
        (folder.parent.parent / "results.csv").unlink()


def test_sums_are_kept_and_made_again_for_other_particles(live_fits, folder, monkeypatch):
    monkeypatch.setattr(
        "gsworkbench.lab.fits.sums_of_parts", lambda task, hold_out: pytest.fail("read the particles again")
    )
    assert LiveFits(live_fits.run).sums[ALL][0].n_particles == live_fits.sums[ALL][0].n_particles
    (folder / "run_data.star").write_text((folder / "run_data.star").read_text() + "\n")
    with pytest.raises(pytest.fail.Exception, match="read the particles again"):
        LiveFits(live_fits.run)


def wait_for(worker, kind, seconds=60.0):
    """All messages up to the first of a kind."""
    found = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for message in worker.messages():
            found.append(message)
            if isinstance(message, kind):
                return found
        time.sleep(0.02)
    raise AssertionError(f"no {kind.__name__} in {seconds} s, but {found}")


@pytest.fixture(scope="module")
def worker(folder):
    worker = Worker(folder, threads=1)
    wait_for(worker, Ready)
    yield worker
    worker.close()


def test_a_worker_reports_shows_and_ends_with_the_same_numbers(worker, outcome, live_fits):
    worker.submit(outcome.config)
    messages = wait_for(worker, Done)
    assert [m.name for m in messages if isinstance(m, MapMade)] == ["all", "half 1", "half 2"]
    assert any(isinstance(m, Progress) and m.fraction is not None for m in messages)
    assert messages[-1].outcome.number("fsc_half_mean") == pytest.approx(outcome.number("fsc_half_mean"), abs=1e-5)
    assert not worker.busy


def test_a_new_fit_takes_the_place_of_one_that_runs(worker):
    worker.submit(ReconstructionConfig(method="stochastic", settings=Stochastic(n_gaussians=2000)))
    worker.submit(preview_config(50))
    done = wait_for(worker, Done)[-1]
    assert done.outcome.config == preview_config(50)


def test_a_fit_can_be_cancelled_and_another_one_follows(worker):
    long = ReconstructionConfig(method="stochastic", settings=Stochastic(n_gaussians=2000, n_epochs=1000))
    worker.submit(long)
    wait_for(worker, Progress)
    worker.cancel()
    assert wait_for(worker, Stopped)[-1].reason == "cancelled"
    worker.submit(preview_config(50))
    wait_for(worker, Done)


def test_what_cannot_be_done_is_said_and_a_killed_process_replaced(worker):
    worker.submit(ReconstructionConfig(backend="gpu"))
    assert "renderer gpu cannot be used on this device" in wait_for(worker, Stopped)[-1].reason
    worker.submit(preview_config(50))
    worker._process.kill()
    assert "ended" in wait_for(worker, Stopped)[-1].reason
    worker.submit(preview_config(50))
    worker._process.kill()
    worker._process.join()
    worker.cancel()
    assert wait_for(worker, Stopped)[-1].reason == "cancelled"
    worker.submit(preview_config(50))
    wait_for(worker, Done)


def test_a_process_that_ends_while_it_reads_is_said_once_and_replaced_at_the_next_fit(folder):
    with closing(Worker(folder, threads=1)) as worker:
        worker._process.kill()
        assert "that reads the particles ended" in wait_for(worker, Stopped)[-1].reason
        assert list(worker.messages()) == []
        worker.submit(preview_config(50))
        assert wait_for(worker, Done)[-1].outcome.config == preview_config(50)


def test_a_run_whose_particles_cannot_be_read_says_so_at_each_fit(folder, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(folder, run)
    (run / "run_data.star").write_text("nothing\n")
    with closing(Worker(run, threads=1)) as worker:
        why = wait_for(worker, Stopped)[-1].reason
        assert "run_data.star" in why
        worker._process.join()
        assert list(worker.messages()) == []
        worker.submit(preview_config(50))
        assert wait_for(worker, Stopped)[-1].reason == why
        assert not worker.busy


def test_a_process_that_dies_in_the_middle_of_a_message_is_replaced(folder):
    """A map does not fit into the pipe: whoever is short of memory dies there."""
    with closing(Worker(folder, threads=1)) as worker:
        wait_for(worker, Ready)
        worker.submit(preview_config(50))
        worker._process.kill()
        worker._process.join()
        worker._connection, theirs = multiprocessing.Pipe()
        os.write(theirs.fileno(), struct.pack("!i", 100_000) + b"x" * 500)
        theirs.close()
        assert "ended" in wait_for(worker, Stopped)[-1].reason
        worker.submit(preview_config(50))
        wait_for(worker, Done)
