"""The page without a browser: what its controls mean, what it shows, and the pictures that stand in for it."""

from __future__ import annotations

import json
import shlex
import socket

import numpy as np
import pytest
import torch

from gsworkbench.errors import InputError
from gsworkbench.gaussians import Gaussians
from gsworkbench.lab import display, explore, models, pictures, serve
from gsworkbench.lab.commands import command_line, preview_config
from gsworkbench.lab.runs import read_run
from gsworkbench.lab.tables import as_html, matching, table_of_runs
from gsworkbench.molecules import load_molecule
from gsworkbench.readers import read_particles
from gsworkbench.reconstruct import reconstruct

pytest.importorskip("ipywidgets", reason="the extra lab is not installed")
pytest.importorskip("k3d", reason="the extra lab is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

from gsworkbench.lab.controls import Controls  # noqa: E402
from gsworkbench.lab.page import Page  # noqa: E402
from gsworkbench.lab.volumes import bounds_of, ellipsoid_mesh, heaviest, import_nglview  # noqa: E402


@pytest.fixture(scope="module")
def folder(noisy_set, tmp_path_factory):
    out = tmp_path_factory.mktemp("page") / "a_run"
    reconstruct(read_particles(noisy_set.star), out, preview_config(100), truth=noisy_set.truth_file)
    return out


@pytest.fixture(scope="module")
def run(folder):
    return read_run(folder)


# --- display


def test_lowpass_halves_at_its_resolution_and_b_factor_is_that_of_amplitudes():
    noise = np.random.default_rng(0).normal(size=(32, 32, 32)).astype(np.float32)
    size = 4.0  # A
    frequency = np.fft.fftfreq(32, size)[8]
    at = (0, 0, 8)
    whole = np.fft.fftn(noise)[at]
    low = np.fft.fftn(display.filtered(noise, size, lowpass=1 / frequency))[at]
    sharp = np.fft.fftn(display.filtered(noise, size, b_factor=-200.0))[at]
    assert low / whole == pytest.approx(0.5, abs=1e-4)
    assert sharp / whole == pytest.approx(np.exp(50 * frequency**2), rel=1e-4)
    assert display.filtered(noise, size) is noise


def test_a_level_is_said_in_sigma_absolutely_and_by_what_it_encloses():
    volume = np.zeros((10, 10, 10), np.float32)
    volume[:5] = 2.0  # standard deviation 1
    assert display.in_words(volume, 10.0, 1.5) == "1.50 σ = 1.5; encloses 500,000 Å³, 405 kDa as protein"


def test_the_difference_is_of_the_half_maps(run):
    assert display.kinds_of(run) == ["full", "half 1", "half 2", "difference", "truth"]
    shown = display.shown_map(run.maps, "difference")
    assert np.allclose(2 * shown, run.maps["half 1"] - run.maps["half 2"])


# --- three dimensions


def test_ellipsoids_have_the_covariances_of_their_gaussians():
    generator = torch.Generator().manual_seed(0)
    g = Gaussians(
        10 * torch.randn(5, 3, generator=generator), 1 + torch.rand(5, 3, generator=generator),
        torch.randn(5, 4, generator=generator), torch.arange(5.0), 0.5,
    )  # fmt: skip
    vertices, triangles = ellipsoid_mesh(g)
    each = vertices.reshape(5, 12, 3) - g.means.numpy()[:, None]
    spread = each.transpose(0, 2, 1) @ each / 4  # 12 corners of the icosahedron have the moments of 4 unit vectors
    assert np.allclose(spread, g.covariances().numpy(), rtol=1e-4, atol=1e-4)
    assert triangles.shape == (100, 3) and triangles.max() == 59
    assert heaviest(g, 2).weights.tolist() == [4.0, 3.0]


def test_a_map_lies_about_its_centre_voxel():
    low, high, *_ = bounds_of(4, 10.0)
    centres = low + 10.0 * (np.arange(4) + 0.5)
    assert centres[2] == 0 and high == 15.0


def test_nglview_asks_for_the_front_end_that_is_installed():
    nglview = import_nglview()
    shipped = serve.Path(serve.sys.prefix, "share/jupyter/labextensions/nglview-js-widgets/package.json")
    if not shipped.is_file():
        pytest.skip("nglview has no lab extension here")
    assert nglview.NGLWidget()._view_module_version == json.loads(shipped.read_text())["version"]


def test_atoms_lie_where_the_map_has_the_molecule(run):
    """Of a simulated set, the trace of the molecule fits the density of the truth."""
    path = models.atoms_beside(run, None)
    atoms = np.array([[float(line[i : i + 8]) for i in (30, 38, 46)] for line in path.read_text().splitlines()[:-1]])
    assert 1000 < len(atoms) <= models.MOST_ATOMS
    truth = run.maps["truth"]
    x, y, z = (atoms / run.voxel_size).round().astype(int).T
    assert truth[z, y, x].mean() > 10 * truth.mean()
    assert truth[z, y, x].mean() > 1.2 * truth[x, y, z].mean()
    assert len(models.pdb_lines(load_molecule("chaperonin"), 0.0)) <= models.MOST_ATOMS + 1


# --- controls


def test_controls_start_as_the_preview_and_say_when_they_are_let_go():
    changes = []
    controls = Controls(preview_config(1000), lambda: changes.append(controls.config))
    assert controls.config == preview_config(1000)
    controls.number.value = 500
    controls.seed.value = 4
    controls.steps.value = False
    assert [c.normal_equations.n_gaussians for c in changes] == [500, 500, 500]
    assert changes[1].seed == 4 and not changes[1].normal_equations.background
    assert changes[2].normal_equations.background
    assert controls.number.continuous_update is False


def test_only_what_a_method_heeds_is_shown():
    controls = Controls(preview_config(), lambda: None)
    assert controls.gamma.layout.display == "none" and controls.spread.layout.display == "none"
    controls.start.value = "random"
    assert controls.spread.layout.display is None
    controls.method.value = "stochastic"
    controls.schedule.value = "epoch"
    controls.gamma.value = 0.3
    assert controls.gamma.layout.display is None and controls.steps.layout.display == "none"
    controls.shape.value = "isotropic"
    assert controls.config.stochastic.shape == "isotropic" and controls.shape.layout.display is None
    assert controls.config.stochastic.gamma == 0.3 and controls.config.stochastic.schedule == "epoch"
    controls.method.value = "backprojection"
    assert controls.number.layout.display == "none" and controls.config.method == "backprojection"


# --- the page


@pytest.fixture(scope="module")
def page(run):
    return Page(run, live=False)


def test_the_level_moves_the_surface(page, run):
    page.level.value = 2.0
    assert page.density.link.source == (page.level, "value")  # in the browser, without the kernel
    assert page.density.link.target == (page.density.surface, "level")
    assert page.level_words.value.startswith("2.00 σ")
    page.kind.value = "truth"
    truth = run.maps["truth"]
    assert np.allclose(page.density.surface.scalar_field, truth / truth.std(), rtol=1e-5)
    assert f"= {2 * truth.std():.4g};" in page.level_words.value
    page.kind.value = "full"


def test_a_click_on_the_curves_filters_the_display_alone(page, run):
    page.chart.lowpass = 50.0
    assert page.lowpass.value == 50.0
    assert page.shown.std() < 0.99 * run.maps["full"].std()
    assert np.allclose(page.density.surface.scalar_field, page.shown / page.shown.std(), atol=1e-4)
    assert np.array_equal(page.maps["full"], run.maps["full"])
    page.chart.lowpass = 0.0


def test_every_state_shows_its_command(page, run):
    page.controls.number.value = 200
    assert page.command.text == command_line(page.controls.config, run, run.folder.parent / "explored")
    assert "200" in shlex.split(page.command.text) and "n_gaussians:\n" in page.rows.text


def test_pictures_of_what_is_shown_can_be_saved(page, run):
    folder = page.save_pictures()
    assert {p.name for p in folder.iterdir()} == {
        f"{n}.{s}" for n in ("sections", "fsc", "gaussians") for s in ("png", "svg")
    }


def test_where_a_program_runs_a_notebook_pictures_stand_in(folder, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    assert explore.explore(folder) is None
    assert len(shown) == 3
    monkeypatch.setenv("JPY_SESSION_NAME", "somewhere.ipynb")
    assert explore.somebody_sits_here()
    with pytest.raises(InputError, match="no finished reconstruction"):
        explore.explore(folder / "lab" / "nothing")


def test_pictures_have_the_maps_the_right_way_up():
    volume = np.zeros((4, 4, 4))
    volume[3, 2, 1] = 1.0
    panel = pictures.sections(volume, 3)
    assert panel.shape == (4, 12) and panel[2, 1] == 1.0  # across z: rows y, columns x


# --- all runs


def test_runs_are_told_apart_in_a_table_that_can_be_filtered(folder):
    table = table_of_runs(folder.parent)
    row = table.iloc[0]
    assert list(table.run) == ["a_run"] and row.n_gaussians == 100 and row.folder == str(folder)
    assert row["fsc_truth_mean"] > 0.5 and "last shell before" in row.rules["resolution_truth_0.5"]
    assert len(matching(table, "NORMAL a_run")) == 1 and matching(table, "stochastic").empty
    assert "a_run" in as_html(table)


# --- serving


def test_the_notebook_of_a_run_is_small_and_stays_as_it_is(folder):
    path = serve.write_notebook(folder)
    cell = json.loads(path.read_text())["cells"][0]
    assert cell["source"].endswith(f"explore({str(folder)!r})")
    path.write_text(path.read_text() + "\n")  # as JupyterLab may save it
    before = path.read_text()
    assert serve.write_notebook(folder).read_text() == before
    assert "model=" in serve.write_notebook(folder, folder / "x.cif").read_text()


def test_a_port_that_is_taken_is_not_used():
    with socket.socket() as taken:
        taken.bind((serve.LOOPBACK, 0))
        taken.listen()
        number = taken.getsockname()[1]
        assert serve.free_port(number) != number


def test_what_is_missing_is_said(tmp_path):
    with pytest.raises(InputError, match=r"pip install 'gsworkbench\[lab\]'"):
        explore.need("no_such_package")
    with pytest.raises(InputError, match="no such notebook or folder"):
        serve.start_lab(tmp_path / "nothing.ipynb")
    with pytest.raises(InputError, match="no finished reconstruction"):
        serve.start_explore(tmp_path)
