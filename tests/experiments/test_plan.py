"""Every claim of the papers is in paper_figures/experiments and resolves; errors are reported before anything runs."""

from __future__ import annotations

import copy

import pytest
import yaml

from gsworkbench.config import from_mapping, to_mapping
from gsworkbench.errors import InputError
from gsworkbench.experiments.figures import KINDS
from gsworkbench.experiments.measures import KINDS as MEASURES
from gsworkbench.experiments.plan import EMPIAR_EXPERIMENTS, EMPIAR_SCALES, RunConfig, read_registry, read_sections
from gsworkbench.experiments.plan import EXPERIMENTS as FOLDER
from gsworkbench.experiments.verdicts import RULES
from gsworkbench.methods.stochastic import PRESETS
from gsworkbench.particles.entry_card import read_cards
from gsworkbench.simulation.simulation_config import Simulation

CONTENT = read_sections()
REGISTRIES = {scale: read_registry(scale) for scale in (*CONTENT["scales"], *EMPIAR_SCALES)}
EXPERIMENTS = [pytest.param(r, e, id=f"{s}-{n}") for s, r in REGISTRIES.items() for n, e in r.experiments.items()]

CLAIMS = """
fig2 conv fig3 fig6 fig4 table1 fig7 fig8 fig9 gamma_bias fig10 fig11 fig12 fig13 fig14 norm align lr dens saturation
released start splatting_3dgs molecules deposited
gem_speed gem_memory gem_resolution gem_local gem_fslc gem_ablation gem_gradient
cryogs_resolution cryogs_pose_deg cryogs_pose_px cryogs_particles cryogs_snr cryogs_mixture cryogs_isotropy
cryogs_cost
review_baseline review_truth review_numbers review_smoothness review_crossing review_cost control_noise control_poses
"""


def test_every_claim_of_the_papers_and_wish_of_their_reviewers_is_there():
    assert set(CONTENT["experiments"]) == set(CLAIMS.split())


@pytest.mark.parametrize(("registry", "experiment"), EXPERIMENTS)
def test_every_experiment_has_runs_and_a_rule_or_a_reason(registry, experiment):
    assert experiment.claim and experiment.question.endswith("?") and experiment.source
    if experiment.not_run:
        return
    assert experiment.runs and bool(experiment.rules) is not bool(experiment.see)
    assert not experiment.see or experiment.see in registry.experiments
    assert experiment.figure is not None and experiment.figure.kind in KINDS
    assert {rule.compare for rule in experiment.rules} <= set(RULES)
    assert set(experiment.measures) <= set(MEASURES)
    for rule in experiment.rules:
        for factors in (rule.of, rule.than):
            assert any(_has(run.factors, factors) for run in experiment.runs) or registry.scale in (
                "smoke",
                "rehearsal",
            ), factors


def _has(run: dict, factors: dict) -> bool:
    return all(run.get(k) == v or (v in ("min", "max") and k in run) for k, v in factors.items())


@pytest.mark.parametrize("scale", REGISTRIES)
def test_every_run_resolves_to_a_config_that_survives_yaml(scale):
    from gsworkbench.methods.registry import METHODS
    from gsworkbench.molecules import MOLECULES

    registry = REGISTRIES[scale]
    for run in registry.runs.values():
        text = yaml.safe_dump(registry.parameters("runs", run.name), sort_keys=False)
        config = from_mapping(RunConfig, yaml.safe_load(text)["run"])
        assert config == run.config
        if isinstance(config.dataset, Simulation):
            assert config.dataset.molecule in MOLECULES
        else:
            assert config.dataset.entry in read_cards()
        assert config.reconstruction.method in METHODS


def test_empiar_scales_are_those_of_their_folder():
    assert set(read_sections(EMPIAR_EXPERIMENTS)["scales"]) == set(EMPIAR_SCALES)


@pytest.mark.parametrize("scale", REGISTRIES)
def test_names_stand_for_configs(scale):
    """One name, one config; one dataset folder, one simulation."""
    registry = REGISTRIES[scale]
    configs, simulations = {}, {}
    for experiment in registry.experiments.values():
        for run in experiment.runs:
            assert configs.setdefault(run.name, run.config) == run.config
            assert simulations.setdefault(run.dataset, run.config.dataset) == run.config.dataset
    assert len({repr(c) for c in configs.values()}) == len(configs)  # and no config is run twice


def test_every_run_has_one_owner_and_experiments_know_theirs():
    registry = REGISTRIES["laptop"]
    owned = [run.name for runs in registry.owned.values() for run in runs]
    assert sorted(owned) == sorted(registry.runs)
    for name, experiment in registry.experiments.items():
        made = {run.name for owner in registry.owners(name) for run in registry.owned[owner]}
        assert {run.name for run in experiment.runs} <= made


def test_quality_at_laptop_scale_has_three_seeds():
    for experiment in REGISTRIES["laptop"].experiments.values():
        if not experiment.not_run:
            assert len({run.seed for run in experiment.runs}) >= 3, experiment.name


def test_a_run_is_its_preset_with_the_factors_in_it():
    run = REGISTRIES["laptop"].runs["ribosome-tuned-n2048-passes_per_epoch4-s0"]
    assert to_mapping(run.config.reconstruction.settings) == to_mapping(PRESETS["tuned"]) | {
        "n_gaussians": 2048, "passes_per_epoch": 4,
    }  # fmt: skip
    assert run.config.dataset == Simulation()  # 5,000 x 64^2 at 6 A/px, SNR 0.1
    noisy = REGISTRIES["laptop"].runs["sweep-snr0.01-one_pass-n1024-s1"].config
    assert noisy.dataset.snr == 0.01 and noisy.dataset.seed == noisy.reconstruction.seed == 1
    other = next(run for run in REGISTRIES["laptop"].experiments["fig13"].runs if run.seed == 2)
    assert other.config.dataset.seed == 0 and other.config.reconstruction.seed == 2


def test_experiments_share_runs_and_settings_a_method_lacks_do_not_multiply_it(tmp_path):
    registry = REGISTRIES["laptop"]
    assert not registry.owned["fig6"]  # all of fig3's
    content = copy.deepcopy(CONTENT)
    content["experiments"]["fig12"]["factors"][0] |= {
        "n_gaussians": [16, 32],
        "method": ["cryosplat", "backprojection"],
    }
    names = [run.name for run in _read(content, tmp_path, "laptop").experiments["fig12"].runs]
    assert sum("backprojection" in name for name in names) == 3  # one for each seed
    assert sum("cryosplat" in name for name in names) == 6


def test_what_is_as_usual_goes_without_saying(tmp_path):
    content = copy.deepcopy(CONTENT)
    content["experiments"]["fig14"]["factors"] = {
        "dataset": ["bench"],
        "method": ["cryosplat"],
        "n_gaussians": [8],
        "gamma": [0.1, 0.2],
        "snr": [0.3, 0.5],
    }
    names = {run.name for run in _read(content, tmp_path).experiments["fig14"].runs}
    assert names == {"bench-cryosplat-n8-s0", "bench-cryosplat-n8-gamma0.2-s0", "bench-snr0.5-cryosplat-n8-s0",
                     "bench-snr0.5-cryosplat-n8-gamma0.2-s0"}  # fmt: skip


def test_a_method_can_change_its_preset(tmp_path):
    content = copy.deepcopy(CONTENT)
    content["methods"]["cryosplat"]["settings"] = {"gamma": 0.3}
    runs = _read(content, tmp_path).experiments["fig2"].runs
    stochastic = next(r for r in runs if r.method == "cryosplat").config.reconstruction.settings
    assert stochastic.gamma == 0.3
    assert stochastic.minimum_scale == PRESETS["cryosplat"].minimum_scale


def _fig3(content):
    return content["experiments"]["fig3"]


def _factors(content):
    return _fig3(content)["factors"][0]


BAD = {
    "scale": (lambda c: c["scales"].remove("smoke"), "no scale 'smoke'"),
    "section": (lambda c: c.pop("methods"), "sections must be"),
    "dataset setting": (lambda c: c["datasets"]["ribosome"]["smoke"].update(boxsize=8), "no parameter 'boxsize'"),
    "dataset": (lambda c: _factors(c).update(dataset=["phage"]), "'fig3': there is no dataset 'phage'"),
    "method": (lambda c: _factors(c).update(method=["magic"]), "no method 'magic'"),
    "preset": (lambda c: c["methods"]["tuned"].update(preset="best"), "no preset 'best'"),
    "setting": (lambda c: c["methods"]["tuned"].update(settings={"gama": 0.1}), "no parameter 'gama'"),
    "type": (lambda c: _factors(c).update(seed=["0"]), "seed must be int"),
    "factor": (lambda c: _factors(c).update(gama=[0.1]), "no factor 'gama'"),
    "no list": (lambda c: _factors(c).update(gamma=0.1), "'gamma' needs a list"),
    "experiment field": (lambda c: _fig3(c).update(grid={}), "no parameter 'grid'"),
    "no claim": (lambda c: _fig3(c).pop("claim"), "needs a value for claim"),
    "no runs": (lambda c: _fig3(c).update(factors=[]), "neither runs nor a reason"),
    "figure's kind": (lambda c: _fig3(c)["figure"].pop("kind"), "needs a value for kind"),
    "rule": (lambda c: _fig3(c)["verdict"][0].update(compare="nicer"), "compare must be one of"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_what_is_not_known_is_named_with_the_file(what, tmp_path):
    content = copy.deepcopy(CONTENT)
    change, message = BAD[what]
    change(content)
    with pytest.raises(InputError, match=message) as caught:
        _read(content, tmp_path)
    assert str(caught.value).startswith(str(tmp_path / "experiments.yaml"))


def test_one_name_in_two_files_is_refused(tmp_path):
    for file in FOLDER.glob("*.yaml"):
        (tmp_path / file.name).write_text(file.read_text())
    assert read_registry("smoke", tmp_path).runs == REGISTRIES["smoke"].runs
    (tmp_path / "more.yaml").write_text(yaml.safe_dump({"experiments": {"fig3": CONTENT["experiments"]["fig3"]}}))
    with pytest.raises(InputError, match=r"more\.yaml.*fig3 of section 'experiments' is in another file"):
        read_registry("smoke", tmp_path)


def test_files_can_be_read():
    for file in (*FOLDER.glob("*.yaml"), *EMPIAR_EXPERIMENTS.glob("*.yaml")):
        assert max(map(len, file.read_text(encoding="utf-8").splitlines())) <= 120


def _read(content, tmp_path, scale="smoke"):
    path = tmp_path / "experiments.yaml"
    path.write_text(yaml.safe_dump(content))
    return read_registry(scale, path)
