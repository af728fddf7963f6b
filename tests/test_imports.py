"""Who may import whom, as a table; and what the core needs to import at all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gsworkbench.workbench.digest import PACKAGE, imports, module_file, reached

MODULES = sorted(
    ".".join(["gsworkbench", *p.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__")
    for p in PACKAGE.rglob("*.py")
)

# Module or package -> what neither it nor anything it imports may import. Longer names rule their own part alone.
NEVER = {
    "gsworkbench": ["workbench", "lab"],  # but for those two themselves, and the command line that starts them
    "gsworkbench.assessment": [
        "rendering", "training", "backprojection", "gaussians", "imaging", "simulate", "ctf", "reconstruct",
        "normal_equations", "fit_normal_equations", "insertion", "fourier", "parameters",
    ],
    "gsworkbench.simulate": ["rendering", "training", "imaging", "ctf", "backprojection", "gaussians", "reconstruct"],
    "gsworkbench.readers": ["rendering", "training", "imaging", "ctf", "backprojection", "simulate", "reconstruct"],
    "gsworkbench.rendering": ["training", "imaging", "ctf", "backprojection", "simulate", "particles", "gaussians"],
    "gsworkbench.backprojection": ["rendering", "training", "gaussians", "simulate"],
    "gsworkbench.normal_equations": ["rendering", "training", "gaussians", "simulate", "backprojection"],
    "gsworkbench.workbench": ["lab"],
    "gsworkbench.workbench.registry": ["rendering", "training", "reconstruct", "gaussians"],
}  # fmt: skip


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_one_way(module):
    if module == "gsworkbench" or module_file(module).name == "__main__.py":
        return
    within = reached(module)
    for part, never in NEVER.items():
        if part == "gsworkbench" and module.split(".")[1] in ("workbench", "lab", "cli"):
            continue
        if (module + ".").startswith(part + "."):
            found = {m for m in within for n in never if (m + ".").startswith(f"gsworkbench.{n}.")}
            assert not found, f"{module} reaches {', '.join(sorted(found))}"


def test_the_table_names_what_is_there():
    for part in NEVER:
        assert part in MODULES


def test_imports_are_seen_in_functions_but_not_for_types():
    assert "gsworkbench.readers.mrc" in imports("gsworkbench.particles")  # inside ParticleStack.images
    assert "gsworkbench.reconstruct" not in imports("gsworkbench.workbench.results")  # under TYPE_CHECKING


# What a GPU machine with torch and numpy alone must be able to import, and what a login node without torch must.
BARE = {
    "gsworkbench": ["torch"],
    "gsworkbench.config, gsworkbench.workbench.registry": ["torch", "pandas", "scipy", "matplotlib"],
    "gsworkbench.rendering, gsworkbench.gaussians, gsworkbench.particles": [
        "mrcfile", "starfile", "pandas", "scipy", "matplotlib", "finufft", "gemmi", "tqdm", "yaml",
    ],
}  # fmt: skip


@pytest.mark.parametrize("modules", BARE)
def test_imports_without_what_may_be_absent(modules):
    blocked = ", ".join(f"{name!r}: None" for name in BARE[modules])
    program = f"import sys; sys.modules.update({{{blocked}}}); import {modules}"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=Path(PACKAGE).parent)
    assert result.returncode == 0, result.stderr
