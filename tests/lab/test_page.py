"""The page without a browser: what its controls mean, what it shows, and the pictures that stand in for it."""

from __future__ import annotations

import json
import shlex
import shutil
import socket
import subprocess

import numpy as np
import pytest
import torch

from gsworkbench.errors import InputError
from gsworkbench.experiments.results import Result, write_results
from gsworkbench.gaussians.mixture import Gaussians
from gsworkbench.io.files import write_json
from gsworkbench.io.mrc import write_map
from gsworkbench.lab import atoms, display, explore, pictures, serve
from gsworkbench.lab.commands import command_line, preview_config
from gsworkbench.lab.number_tables import as_html, matching, table_of_runs
from gsworkbench.lab.opened_run import read_run
from gsworkbench.molecules import load_molecule
from gsworkbench.particles.read import read_particles
from gsworkbench.reconstruction.run import reconstruct

pytest.importorskip("ipywidgets", reason="the extra lab is not installed")
pytest.importorskip("k3d", reason="the extra lab is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

from gsworkbench.lab.browse import Browser  # noqa: E402
from gsworkbench.lab.controls import Controls  # noqa: E402
from gsworkbench.lab.page import Page  # noqa: E402
from gsworkbench.lab.palette import GREY, as_integers, entries, limits, palette  # noqa: E402
from gsworkbench.lab.tabs import MapTab, View, tabs_of  # noqa: E402
from gsworkbench.lab.volumes import ellipsoid_mesh, heaviest, import_nglview, values_of  # noqa: E402


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
    assert display.kinds_of(run) == ["full", "half 1", "half 2", "difference", "truth", "background"]
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


def in_node(code: str, *arguments: str) -> dict:
    """What a piece of JavaScript prints as JSON; it sees surfaceOf and coloursOf."""
    driver = pytest.importorskip("playwright._impl._driver", reason="Playwright, which has a node, is not installed")
    script = f"import {{ surfaceOf, coloursOf }} from {json.dumps((serve.HERE / 'surface.js').as_uri())};\n{code}"
    node = driver.compute_driver_executable()[0]
    words = [node, "--input-type=module", "--eval", script, *arguments]
    return json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)


def test_the_surface_of_a_ball_is_a_sphere_whose_normals_point_out():
    """On an uneven grid, about a centre that tells the axes apart: radius, volume, Euler characteristic, directions."""
    found = in_node("""
        const shape = [40, 44, 48], centre = [26, 21, 18], radius = 15, field = new Float32Array(40 * 44 * 48);
        for (let z = 0, i = 0; z < 40; z++) for (let y = 0; y < 44; y++) for (let x = 0; x < 48; x++, i++)
          field[i] = 3 + radius - Math.hypot(x - centre[0], y - centre[1], z - centre[2]);
        const { positions, normals, indices } = surfaceOf(field, shape, 3);
        const at = (v) => [0, 1, 2].map((k) => positions[3 * v + k] - centre[k]);
        let volume = 0, off = 0, along = 1;
        for (let v = 0; v < positions.length / 3; v++) {
          const p = at(v), length = Math.hypot(...p);
          off = Math.max(off, Math.abs(length - radius));
          along = Math.min(along, p.reduce((sum, c, k) => sum + c * normals[3 * v + k], 0) / length);
        }
        for (let t = 0; t < indices.length; t += 3) {
          const [a, b, c] = [0, 1, 2].map((k) => at(indices[t + k]));
          volume += (a[0] * (b[1] * c[2] - b[2] * c[1]) + a[1] * (b[2] * c[0] - b[0] * c[2])
            + a[2] * (b[0] * c[1] - b[1] * c[0])) / 6;
        }
        const euler = positions.length / 3 - indices.length / 6; // every edge lies in two triangles
        const paint = new Uint8Array(field.length).fill(1);
        for (let i = 0; i < paint.length; i++) if (i % 48 > centre[0]) paint[i] = 2;
        const palette = Uint8Array.from([9, 9, 9, 10, 0, 0, 20, 0, 0]);
        const colours = coloursOf(positions, paint, palette, shape);
        let wrong = 0;
        for (let v = 0; v < positions.length; v += 3)
          if (colours[v] !== (Math.round(positions[v]) > centre[0] ? 20 : 10)) wrong++;
        const plain = coloursOf(positions, new Uint8Array(0), palette, shape)[0];
        console.log(JSON.stringify({ volume, off, along, euler, wrong, plain, n: positions.length }));""")
    assert found["off"] < 0.03 and found["along"] > 0.998
    assert found["volume"] == pytest.approx(4 / 3 * np.pi * 15**3, rel=0.01)  # signed: triangles face outwards
    assert found["euler"] == 2 and found["wrong"] == 0 and found["plain"] == 9
    assert found["n"] > 3000


def test_numbers_become_colours_and_what_is_missing_grey():
    values = np.array([np.nan, 1.0, 2.0, 3.0])
    assert entries(values, 1.0, 3.0).tolist() == [0, 1, 128, 255]
    assert palette()[0].tolist() == list(GREY) and np.array_equal(palette()[1], palette(reverse=True)[255])
    assert as_integers(np.array([[1, 2, 3]], np.uint8)).tolist() == [0x010203]
    assert limits(np.array([np.nan, np.nan])) == (0.0, 1.0)


def test_gaussians_know_the_local_resolution_at_their_centres():
    means = torch.tensor([[0.0, 0.0, 0.0], [4.0, 0.0, -4.0], [100.0, 0.0, 0.0]])
    g = Gaussians(means, torch.ones(3, 3), torch.tensor([[1.0, 0, 0, 0]] * 3), torch.ones(3))
    resolution = np.zeros((8, 8, 8), np.float32)
    resolution[4, 4, 4], resolution[2, 4, 6] = 5.0, 7.0  # z, y, x; voxels of 2 A
    assert values_of(g, "local resolution", (resolution, 2.0)).tolist()[:2] == [5.0, 7.0]
    assert np.isnan(values_of(g, "local resolution", (resolution, 2.0))[2])


def test_nglview_asks_for_the_front_end_that_is_installed():
    nglview = import_nglview()
    shipped = serve.Path(serve.sys.prefix, "share/jupyter/labextensions/nglview-js-widgets/package.json")
    if not shipped.is_file():
        pytest.skip("nglview has no lab extension here")
    assert nglview.NGLWidget()._view_module_version == json.loads(shipped.read_text())["version"]


def test_atoms_lie_where_the_map_has_the_molecule(run):
    """Of a simulated set, the trace of the molecule fits the density of the truth."""
    path = atoms.atoms_beside(run, None)
    found = np.array([[float(line[i : i + 8]) for i in (30, 38, 46)] for line in path.read_text().splitlines()[:-1]])
    assert 1000 < len(found) <= atoms.MOST_ATOMS
    truth = run.maps["truth"]
    x, y, z = (found / run.voxel_size).round().astype(int).T
    assert truth[z, y, x].mean() > 10 * truth.mean()
    assert truth[z, y, x].mean() > 1.2 * truth[x, y, z].mean()
    assert len(atoms.pdb_lines(load_molecule("chaperonin"), 0.0)) <= atoms.MOST_ATOMS + 1


# --- controls


def test_controls_start_as_the_preview_and_say_when_they_are_let_go():
    changes = []
    controls = Controls(preview_config(1000), lambda: changes.append(controls.config))
    assert controls.config == preview_config(1000)
    controls.number.value = 500
    controls.seed.value = 4
    controls.steps.value = False
    assert [c.n_gaussians for c in changes] == [500, 500, 500]
    assert changes[1].seed == 4 and not changes[1].settings.background
    assert changes[2].settings.background
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
    assert controls.config.settings.shape == "isotropic" and controls.shape.layout.display is None
    assert controls.config.settings.gamma == 0.3 and controls.config.settings.schedule == "epoch"
    controls.method.value = "backprojection"
    assert controls.number.layout.display == "none" and controls.config.method == "backprojection"


# --- the page


@pytest.fixture(scope="module")
def page(run):
    return Page(run, live=False)


@pytest.fixture(scope="module")
def shown(page):
    """The tab of the map."""
    return page.tab(MapTab)


def field_of(page):
    """The map that the browser has, in its standard deviations."""
    surface = page.tab(MapTab).density.surface
    return np.frombuffer(surface.field, np.float32).reshape(surface.shape)


def test_local_resolution_colours_the_surface_once_there_is_some(shown, run):
    shown.colour.value = "local resolution"
    assert f"localres {run.folder}" in shown.legend.value and not shown.density.surface.paint
    resolution = np.where(run.mask > 0, 30.0, 0.0).astype(np.float32)
    resolution[:16] /= 2
    write_map(run.folder / "locres.mrc", resolution, run.voxel_size)
    shown.show(shown.view)
    paint = np.frombuffer(shown.density.surface.paint, np.uint8).reshape(shown.density.surface.shape)
    assert np.array_equal(paint > 0, resolution > 0) and "local resolution, Å: 15" in shown.legend.value
    assert paint[resolution == 15].max() < paint[resolution == 30].min()
    (run.folder / "locres.mrc").unlink()
    shown.colour.value = "one colour"
    assert not shown.density.surface.paint and not shown.legend.value


def test_the_level_moves_the_surface(page, shown, run):
    shown.level.value = 2.0
    assert shown.density.link.source == (shown.level, "value")  # in the browser, without the kernel
    assert shown.density.link.target == (shown.density.surface, "level")
    assert shown.level_words.value.startswith("2.00 σ")
    shown.kind.value = "truth"
    truth = run.maps["truth"]
    assert np.allclose(field_of(page), truth / truth.std(), rtol=1e-5)
    assert f"= {2 * truth.std():.4g};" in shown.level_words.value
    shown.kind.value = "full"


def test_a_click_on_the_curves_filters_the_display_alone(page, shown, run):
    page.live.chart.lowpass = 50.0
    assert shown.lowpass.value == 50.0
    assert page.view.shown.std() < 0.99 * run.maps["full"].std()
    assert np.allclose(field_of(page), page.view.shown / page.view.shown.std(), atol=1e-4)
    assert np.array_equal(page.view.maps["full"], run.maps["full"])
    page.live.chart.lowpass = 0.0


def test_every_state_shows_its_command(page, run):
    page.live.controls.number.value = 200
    assert page.live.command.text == command_line(page.live.controls.config, run, run.folder.parent / "explored")
    assert "200" in shlex.split(page.live.command.text) and "n_gaussians:\n" in page.live.rows.text


def test_pictures_of_what_is_shown_can_be_saved(page, run):
    folder = page.save_pictures()
    assert {p.name for p in folder.iterdir()} == {f"{t.name}.{s}" for t in page.tabs for s in ("png", "svg")}


def test_where_a_program_runs_a_notebook_pictures_stand_in(folder, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    assert explore.explore(folder) is None
    assert len(shown) == len(tabs_of(View(read_run(folder), folder))) == 6
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
    assert len(matching(table, "PASS a_run")) == 1 and matching(table, "stochastic").empty
    assert "a_run" in as_html(table)


def test_a_run_of_the_workflow_stands_beside_the_verdict_of_its_claim(tmp_path):
    table = tmp_path / "results" / "smoke" / "results.csv"
    who = {"dataset": "d", "method": "m", "preset": None, "n_gaussians": 5, "seed": 0}
    number = {"metric": "fsc_truth_mean", "value": 0.5, "unit": "1", "definition": "no mask"}
    write_results(table, [Result(run=f"r{e}", experiment=e, **who, **number) for e in ("fig1", "fig2")])
    claim = {"name": "fig1", "claim": "more is better", "verdict": "holds", "findings": [{"says": "it is <0.1> more"}]}
    write_json(tmp_path / "paper_figures" / "output" / "smoke" / "fig1.json", claim)
    found = table_of_runs(table.parent)
    assert dict(zip(found.experiment, found.verdict, strict=True)) == {"fig1": "holds", "fig2": ""}
    assert list(matching(found, "holds").run) == ["rfig1"]
    assert "it is &lt;0.1&gt; more" in as_html(found) and "<td title='more is better" in as_html(found)


def test_any_number_of_runs_can_be_seen_side_by_side(folder, tmp_path):
    for name in ("one", "two", "three"):
        shutil.copytree(folder, tmp_path / name, ignore=shutil.ignore_patterns("lab"))
    browser = Browser(table_of_runs(tmp_path))
    assert len(browser.chosen.value) == 2 and browser.count.value == "3 of 3 rows"
    browser.chosen.value = tuple(tmp_path / name for name in ("one", "three", "two"))
    browser.show.click()
    assert len(browser.views.children[1].children) == 3 and len(browser.views.children[2].curves) == 9
    browser.words.value = "three"
    assert browser.chosen.value == (tmp_path / "three",) and browser.count.value == "1 of 3 rows"
    browser.show.click()
    assert len(browser.views.children[1].children) == 1
    browser.chosen.value = ()
    browser.show.click()
    assert browser.hint.value == "no run is chosen"


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
