"""Everything static is in pyproject.toml; here, C++ is compiled into the wheel, so that users need no compiler.

`pip wheel .` compiles each library of gsworkbench/kernels/build.py for the baseline, AVX2 and AVX512 into
gsworkbench/kernels/built/; the program chooses when it runs. The wheel then has the tag of this platform. Without a
compiler, or where it fails, the wheel is one for all platforms, and libraries are compiled at first use instead, as in
an editable install.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

sys.path.insert(0, str(Path(__file__).parent))
from gsworkbench.kernels import build

# The runtimes of C++ and OpenMP are linked dynamically. torch needs both, and has loaded them before any of these
# libraries is loaded (system/compiler.py). A static libstdc++ would need the C library of the machine that builds the
# wheel (2.36 on Debian 12), whereas the libraries themselves need 2.29.


def compiler() -> list[str] | None:
    """CXX, else g++ or clang++, where there is one; only on Linux are libraries compiled for a wheel."""
    if not sys.platform.startswith("linux"):
        return None
    candidates = [shlex.split(os.environ["CXX"])] if os.environ.get("CXX") else [["g++"], ["clang++"]]
    return next((command for command in candidates if shutil.which(command[0])), None)


def compile_into(folder: Path) -> None:
    """Compile every library for every capability; one that cannot be compiled is left out, with a sentence."""
    command = compiler()
    if command is None:
        print("gsworkbench: no C++ compiler for this wheel; libraries will be compiled at first use")
        return
    folder.mkdir(parents=True, exist_ok=True)

    def make(job: tuple[tuple[str, ...], str]) -> None:
        names, capability = job
        sources = tuple(build.KERNELS / f"{name}.cpp" for name in names)
        target = folder / build.file_name(sources, capability)
        line = [*command, *build.options(capability), *map(str, sources), "-o", str(target)]
        if subprocess.run(line, check=False, capture_output=True).returncode:
            target.unlink(missing_ok=True)
            print(f"gsworkbench: {command[0]} does not compile {names[0]} for {capability}; it is left out")

    jobs = [(names, capability) for names in build.LIBRARIES for capability in build.capabilities()]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(make, jobs))


class BuildWithLibraries(build_py):
    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            built = Path(self.build_lib) / build.BUILT.relative_to(Path(__file__).parent.resolve())
            shutil.rmtree(built, ignore_errors=True)  # of an earlier build
            compile_into(built)


class Contents(Distribution):
    def has_ext_modules(self) -> bool:
        """Whether the wheel is of one platform."""
        return compiler() is not None


class WheelOfThisPlatform(bdist_wheel):
    def get_tag(self) -> tuple[str, str, str]:
        libraries = sorted(Path(self.bdist_dir or "").rglob("kernels/built/*.so"))
        if not libraries:
            return super().get_tag() if self.root_is_pure else ("py3", "none", "any")
        # The newest symbol of the C library that any of them asks for is the oldest one that they run with (PEP 600).
        found = [re.findall(rb"GLIBC_2\.(\d+)", file.read_bytes()) for file in libraries]
        oldest = max(17, *(int(minor) for minors in found for minor in minors))
        return "py3", "none", f"manylinux_2_{oldest}_{platform.machine()}"


setup(distclass=Contents, cmdclass={"build_py": BuildWithLibraries, "bdist_wheel": WheelOfThisPlatform})
