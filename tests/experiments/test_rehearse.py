"""Scale empiar without a network: what is served, what is made of it, and the whole way from download to table."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from gsworkbench.assessment.fsc import fourier_shell_correlation
from gsworkbench.assessment.transforms import cropped, inverse, transform
from gsworkbench.experiments.plan import read_registry
from gsworkbench.experiments.rehearse import problems, rehearse, serving
from gsworkbench.experiments.simulated_entries import MADE_UP, write_entries
from gsworkbench.io.mrc import read_map
from gsworkbench.methods.backprojection import Backprojection
from gsworkbench.particles.empiar import MIRROR, fetch
from gsworkbench.particles.entry_card import OWN_CARDS, EntryParticles, find_card
from gsworkbench.particles.entry_particles import prepare
from gsworkbench.reconstruction.run import reconstruct


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("entries")
    write_entries(folder / "server", folder / "cards", folder / "simulated")
    return folder


@pytest.mark.parametrize("entry", MADE_UP)
def test_published_poses_ctf_sign_and_crop_are_applied(served, entry, tmp_path, monkeypatch):
    """The map of what was downloaded is the truth that the images were made of, which nothing else on the way knows."""
    monkeypatch.setenv(OWN_CARDS, str(served / "cards"))
    box = MADE_UP[entry].cropped_to
    with serving(served / "server") as address:
        monkeypatch.setenv(MIRROR, address)
        fetch(find_card(entry), tmp_path / "raw", wait=0.0)
    particles = prepare(EntryParticles(entry, box), tmp_path / "out", tmp_path / "raw")
    made = reconstruct(particles, tmp_path / "map", Backprojection(), half_maps=False)
    truth, voxel_size = read_map(served / "simulated" / str(entry) / "truth.mrc")
    small = inverse(cropped(transform(truth), box))
    assert particles.pixel_size == pytest.approx(voxel_size * len(truth) / box)
    found = fourier_shell_correlation(made.volume, small, voxel_size=particles.pixel_size)
    assert found.values[2 : box // 3].min() > 0.8
    assert np.vdot(made.volume, small) > 0  # and white


def test_a_rehearsal_comes_through_from_download_to_table(tmp_path):
    """CI has rehearsed before, and names the folder."""
    done = os.environ.get("GSWORKBENCH_REHEARSAL")
    if done:
        assert problems(Path(done)) == []
        return
    out = tmp_path / "rehearsal"
    assert rehearse(out) == []


def test_the_rehearsal_has_the_experiments_methods_and_factors_of_the_real_thing():
    real, rehearsed = (read_registry(scale) for scale in ("empiar", "rehearsal"))
    assert set(real.experiments) == set(rehearsed.experiments)
    for name, experiment in rehearsed.experiments.items():
        kinds = [{(r.dataset.split("-")[0], r.method) for r in e.runs} for e in (experiment, real.experiments[name])]
        assert kinds[0] == kinds[1]
