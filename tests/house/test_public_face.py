"""`import gsworkbench as gs`: light, the same names everywhere, each documented with an example that runs."""

from __future__ import annotations

import ast
import contextlib
import doctest
import inspect
import io
import re
import subprocess
import sys
from pathlib import Path

import pytest

import gsworkbench as gs
from gsworkbench.experiments.digest import PACKAGE

ROOT = PACKAGE.parent
DATA = {"PRESETS", "DEFINITIONS"}  # tables, which the API pages show
# Settings, whose fields have comments: the page of settings shows them.
RECORDS = {"Simulation", "OnePass", "Stochastic", "Voxels", "Backprojection", "NeuralField"}
TAKES_NOTHING, RAISES_NOTHING = {"available_backends"}, {"available_backends", "resolution"}


def stub() -> dict[str, str]:
    """Public name -> "module:attribute", as the stub says."""
    tree = ast.parse((PACKAGE / "__init__.pyi").read_text())
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    return {alias.asname: f"{node.module}:{alias.name}" for node in imports for alias in node.names}


def test_package_and_stub_agree():
    assert stub() == gs._PUBLIC
    assert set(gs.__all__) == set(stub()) and set(gs.__all__) <= set(dir(gs))
    tree = ast.parse((PACKAGE / "__init__.pyi").read_text())
    listed = next(node.value for node in tree.body if isinstance(node, ast.Assign))
    assert set(ast.literal_eval(listed)) == set(gs.__all__)
    assert (PACKAGE / "py.typed").is_file()


@pytest.mark.parametrize("name", gs.__all__)
def test_every_public_name_loads(name):
    assert getattr(gs, name) is not None


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'reconstuct'"):
        gs.reconstuct  # noqa: B018


def test_importing_loads_nothing_heavy():
    program = "import sys; before = set(sys.modules); import gsworkbench; print(*sorted(set(sys.modules) - before))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.split() == ["gsworkbench"]


def test_no_module_is_named_like_a_public_name():
    """`gsworkbench.simulate` is a function; a module of that name would replace it once it is imported."""
    assert not set(gs.__all__) & {path.stem for path in PACKAGE.iterdir()}


@pytest.mark.parametrize("name", sorted(set(gs.__all__) - DATA))
def test_docstrings_have_their_sections(name):
    public = getattr(gs, name)
    text = inspect.getdoc(public)
    sections = set(re.findall(r"(?m)^(\w+)\n-{4,}$", text))
    wanted = {"Examples"}
    if name not in TAKES_NOTHING | RECORDS:
        wanted |= {"Attributes"} & sections or {"Parameters"}
    if inspect.isfunction(public) and name != "write_map":
        wanted |= {"Returns"}
    if inspect.isfunction(public) and name not in RAISES_NOTHING:
        wanted |= {"Raises"}
    assert wanted <= sections, f"{name} lacks {wanted - sections}"


@pytest.mark.parametrize("name", sorted(set(gs.__all__) - DATA - RECORDS))
def test_docstrings_name_every_parameter(name):
    public = getattr(gs, name)
    text = inspect.getdoc(public)
    documented = set(re.findall(r"(?m)^((?:\w+, )*\w+) :", text))
    documented = {part for group in documented for part in group.split(", ")}
    assert set(inspect.signature(public).parameters) - documented <= {"version"}


@pytest.fixture(scope="module")
def example_folder(tmp_path_factory) -> Path:
    """A folder with ribosome/particles.star and my_map, as the example of `reconstruct` makes them."""
    folder = tmp_path_factory.mktemp("examples")
    with contextlib.chdir(folder), contextlib.redirect_stderr(io.StringIO()):
        particles = gs.simulate(gs.Simulation(n_particles=40, box_size=32, pixel_size=12.0), "ribosome")
        gs.reconstruct(particles, "my_map", gs.Backprojection(), truth="ribosome/truth.mrc", mask="none")
    return folder


@pytest.mark.parametrize("name", sorted(set(gs.__all__) - DATA))
def test_examples_run(name, example_folder):
    examples = doctest.DocTestParser().get_doctest(inspect.getdoc(getattr(gs, name)), {}, name, None, None)
    assert examples.examples
    said = io.StringIO()
    with contextlib.chdir(example_folder):
        doctest.DocTestRunner().run(examples, out=said.write)
    assert not said.getvalue(), said.getvalue()
