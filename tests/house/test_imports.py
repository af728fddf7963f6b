"""Which room may import which, as a table; and what must be importable where packages are absent."""

from __future__ import annotations

import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from gsworkbench.experiments.digest import PACKAGE, imports, imports_of, reached

MODULES = sorted(
    ".".join(["gsworkbench", *p.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__")
    for p in PACKAGE.rglob("*.py")
)

# Room -> the rooms it may import, beside `errors` and itself. What is not in a row is forbidden.
MAY_IMPORT = {
    "errors": "",
    "config": "",
    "geometry": "",
    "io": "",
    "kernels": "",
    "system": "io kernels",
    "molecules": "",
    "particles": "io geometry system config",
    "imaging": "particles system",
    "rendering": "system kernels",
    # The judge shares no code with what it judges: no imaging, rendering, simulation, normal_equations, methods.
    "assessment": "io molecules",
    # The simulator shares no code with the fits: no imaging, rendering, methods.
    "simulation": "particles molecules io geometry config system",
    "normal_equations": "imaging particles io system kernels",
    "gaussians": "rendering geometry io system kernels",
    # of assessment, the filters, and what half maps of a program of the user's own are checked with
    "methods": "gaussians normal_equations imaging rendering kernels particles config io system assessment",
    "inspection": "methods normal_equations imaging particles assessment io",
    "reconstruction": "inspection methods normal_equations particles assessment config io system",
    "experiments": "reconstruction methods gaussians simulation assessment particles config geometry io system",
    "lab": "experiments reconstruction methods normal_equations gaussians rendering simulation assessment molecules "
    "particles config geometry io system",
}
ANYTHING = {"cli", "__main__", "__init__"}


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


@pytest.mark.parametrize("module", MODULES)
def test_a_room_imports_what_the_table_allows(module):
    if room(module) not in ANYTHING:
        allowed = {*MAY_IMPORT[room(module)].split(), "errors", "__init__", room(module)}
        assert {room(m) for m in imports(module)} <= allowed


def test_the_table_has_no_circles_and_names_what_is_there():
    rooms = {room(module) for module in MODULES}
    assert rooms == {*MAY_IMPORT, *ANYTHING}
    graph = {name: set(row.split()) for name, row in MAY_IMPORT.items()}
    assert set().union(*graph.values()) <= set(graph)
    assert len([*TopologicalSorter(graph).static_order()]) == len(graph)


def test_every_entry_of_the_table_is_used():
    for name, row in MAY_IMPORT.items():
        used = {room(m) for module in MODULES if room(module) == name for m in imports(module)}
        assert not set(row.split()) - used, name


def test_modules_do_not_import_each_other_in_circles():
    graph = {m: imports(m) - {m, m.rpartition(".")[0]} for m in MODULES}  # a module may import its own package
    assert len([*TopologicalSorter(graph).static_order()]) == len(graph)


def test_the_root_has_few_files():
    assert len(list(PACKAGE.glob("*.py"))) <= 5


# Two files of one name are for the same thing in different rooms.
SAME_THING = {"__init__", "__main__"}


def test_no_two_files_have_the_same_name():
    names = [p.stem for p in PACKAGE.rglob("*.py") if p.stem not in SAME_THING]
    assert sorted(names) == sorted(set(names))


JUDGED = ["rendering", "imaging", "gaussians", "normal_equations", "methods", "simulation", "reconstruction"]


@pytest.mark.parametrize("module", [m for m in MODULES if room(m) in ("assessment", "simulation")])
def test_the_judge_and_the_simulator_reach_nothing_of_the_fits(module):
    forbidden = set(JUDGED) - {room(module)}
    assert not {m for m in reached(module) if room(m) in forbidden}


def test_imports_are_seen_in_functions_but_not_for_types():
    assert "gsworkbench.io.mrc" in imports("gsworkbench.particles.stack")  # inside ParticleStack.images
    assert "gsworkbench.reconstruction.run" not in imports("gsworkbench.experiments.results")  # under TYPE_CHECKING


# What must be importable on a login node without torch, on a GPU machine with torch and numpy alone, and in a notebook
# that is executed where there are no widgets.
BARE = {
    "gsworkbench": ["torch"],
    "gsworkbench.config, gsworkbench.experiments.plan": ["torch", "pandas", "scipy", "matplotlib"],
    "gsworkbench.rendering, gsworkbench.gaussians.mixture, gsworkbench.particles.stack": [
        "mrcfile", "starfile", "pandas", "scipy", "matplotlib", "finufft", "gemmi", "tqdm", "yaml",
    ],
    "gsworkbench.lab.explore, gsworkbench.lab.tabs": [
        "ipywidgets", "anywidget", "k3d", "nglview", "matplotlib", "tqdm",
    ],
}  # fmt: skip


def test_public_names_lead_to_the_modules_they_come_from():
    """A notebook that says gs.simulate depends on the simulator, not on the list of names alone."""
    simulator = {"gsworkbench", "gsworkbench.simulation.simulate"}
    for source in ("import gsworkbench as gs\ngs.simulate(1)", "import gsworkbench\ngsworkbench.simulate(1)"):
        assert imports_of(source) == simulator
    assert imports_of("from gsworkbench import simulate") == simulator
    assert imports_of("import gsworkbench as gs\nother.simulate(gs.__version__)") == {"gsworkbench"}


@pytest.mark.parametrize("modules", BARE)
def test_imports_without_what_may_be_absent(modules):
    blocked = ", ".join(f"{name!r}: None" for name in BARE[modules])
    program = f"import sys; sys.modules.update({{{blocked}}}); import {modules}"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=Path(PACKAGE).parent)
    assert result.returncode == 0, result.stderr
