"""experiments.yaml: every entry resolves; whatever does not is said before anything runs."""

from __future__ import annotations

import copy

import pytest
import yaml

from gsworkbench.config import PRESETS, RunConfig, SimulationConfig, from_mapping, to_mapping
from gsworkbench.errors import InputError
from gsworkbench.workbench.plots import KINDS
from gsworkbench.workbench.registry import EXPERIMENTS_FILE, ROOT, read_registry

CONTENT = yaml.safe_load(EXPERIMENTS_FILE.read_text(encoding="utf-8"))
REGISTRIES = {scale: read_registry(scale) for scale in CONTENT["scales"]}
RUNS = [pytest.param(r, run, id=f"{scale}-{run.name}") for scale, r in REGISTRIES.items() for run in r.runs.values()]


@pytest.mark.parametrize(("registry", "run"), RUNS)
def test_every_run_resolves_to_a_config_that_survives_yaml(registry, run):
    from gsworkbench.molecules import MOLECULES
    from gsworkbench.reconstruct import METHODS

    text = yaml.safe_dump(registry.parameters("runs", run.name), sort_keys=False)
    config = from_mapping(RunConfig, yaml.safe_load(text)["run"])
    assert config == run.config
    assert config.dataset == registry.datasets[run.dataset]
    assert config.dataset.molecule in MOLECULES
    assert config.reconstruction.method in METHODS
    assert (ROOT / "notebooks" / f"{run.notebook}.ipynb").is_file()


@pytest.mark.parametrize("scale", REGISTRIES)
def test_every_view_has_a_kind_and_an_experiment(scale):
    registry = REGISTRIES[scale]
    assert {figure.kind for figure in registry.figures.values()} <= set(KINDS)
    views = [*registry.figures.values(), *registry.tables.values()]
    assert {view.experiment for view in views} == set(registry.experiments)


def test_a_run_is_its_preset_with_the_factors_in_it():
    run = REGISTRIES["laptop"].runs["ribosome-tuned-n2048-s0"]
    assert to_mapping(run.config.reconstruction.stochastic) == to_mapping(PRESETS["tuned"]) | {"n_gaussians": 2048}
    assert run.config.dataset == SimulationConfig()  # 5,000 x 64^2 at 6 A/px, SNR 0.1: the benchmark


def test_experiments_share_runs_and_gaussians_do_not_multiply_backprojection(tmp_path):
    registry = REGISTRIES["laptop"]
    shared = {r.name for r in registry.experiments["methods"].runs} & {
        r.name for r in registry.experiments["number"].runs
    }
    assert shared == {"ribosome-one_pass-n2048-s0", "ribosome-tuned-n2048-s0"}
    content = copy.deepcopy(CONTENT)
    content["experiments"]["methods"]["factors"]["n_gaussians"] = [16, 32]
    names = set(_read(content, tmp_path, "laptop").runs)
    assert {"ribosome-backprojection-s0", "ribosome-tuned-n16-s0", "ribosome-tuned-n32-s0"} <= names
    assert sum("backprojection" in name for name in names) == 1


def test_a_method_can_change_its_preset(tmp_path):
    content = copy.deepcopy(CONTENT)
    content["methods"]["cryosplat"]["settings"] = {"gamma": 0.2}
    stochastic = _read(content, tmp_path).runs["ribosome-cryosplat-n256-s0"].config.reconstruction.stochastic
    assert stochastic.gamma == 0.2
    assert stochastic.minimum_scale == PRESETS["cryosplat"].minimum_scale


def _number(content):
    return content["experiments"]["number"]


BAD = {
    "scale": (lambda c: c["scales"].remove("smoke"), "no scale 'smoke'"),
    "section": (lambda c: c.pop("tables"), "sections must be"),
    "dataset setting": (lambda c: c["datasets"]["ribosome"]["smoke"].update(boxsize=8), "no parameter 'boxsize'"),
    "dataset": (lambda c: _number(c)["factors"].update(dataset=["phage"]), "no dataset 'phage'"),
    "method": (lambda c: _number(c)["factors"].update(method=["magic"]), "no method 'magic'"),
    "preset": (lambda c: c["methods"]["tuned"].update(preset="best"), "no preset 'best'"),
    "setting": (lambda c: c["methods"]["tuned"].update(settings={"gama": 0.1}), "no parameter 'gama'"),
    "type": (lambda c: _number(c)["factors"].update(seed=["0"]), "Factors.seed must be int"),
    "factor": (lambda c: _number(c)["factors"].update(snr=[0.1]), "no parameter 'snr'"),
    "factor at scale": (lambda c: _number(c)["factors"].update(seed={"paper": [0]}), "at scale 'smoke'"),
    "notebook": (lambda c: _number(c).update(notebook="99_none"), "no notebook '99_none'"),
    "experiment field": (lambda c: _number(c).update(grid={}), "grid does not fit"),
    "figure's experiment": (lambda c: c["figures"]["figure_number"].update(experiment="x"), "no experiment 'x'"),
    "figure's kind": (lambda c: c["figures"]["figure_number"].pop("kind"), "needs a value for kind"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_what_is_not_known_is_named_with_the_file(what, tmp_path):
    content = copy.deepcopy(CONTENT)
    change, message = BAD[what]
    change(content)
    with pytest.raises(InputError, match=message) as caught:
        _read(content, tmp_path)
    assert str(caught.value).startswith(str(tmp_path / "experiments.yaml"))


def _read(content, tmp_path, scale="smoke"):
    path = tmp_path / "experiments.yaml"
    path.write_text(yaml.safe_dump(content))
    return read_registry(scale, path)
