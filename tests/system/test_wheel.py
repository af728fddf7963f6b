"""A wheel carries compiled libraries; the program loads the one for its processor, unless its source was edited."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from gsworkbench.kernels import KERNELS, build
from gsworkbench.system import compiler

ROOT = KERNELS.parents[1]


def wheel(folder: Path, **environment: str) -> zipfile.ZipFile:
    """Build the wheel of a copy of the checkout."""
    copy = folder / "checkout"
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    for name in ("gsworkbench", "setup.py", "pyproject.toml", "README.md", "LICENSE"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=ignored)
        else:
            shutil.copy(source, copy / name)
    command = [sys.executable, "-m", "pip", "wheel", str(copy), "--no-deps", "--no-build-isolation", "-w", str(folder)]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, **environment})
    return zipfile.ZipFile(next(folder.glob("*.whl")))


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or not (shutil.which("g++") or shutil.which("clang++")), reason="no compiler"
)
def test_a_wheel_carries_every_library_and_says_which_platform_it_is_for(tmp_path):
    made = wheel(tmp_path)
    assert "-py3-none-manylinux_2_" in made.filename
    wanted = {
        "gsworkbench/kernels/built/" + build.file_name(tuple(KERNELS / f"{name}.cpp" for name in names), capability)
        for names in build.LIBRARIES
        for capability in build.capabilities()
    }
    assert wanted == {name for name in made.namelist() if name.endswith(".so")}
    assert {"gsworkbench/py.typed", "gsworkbench/__init__.pyi", "gsworkbench/kernels/simd.h"} <= set(made.namelist())


def test_a_wheel_made_without_a_compiler_is_for_every_platform(tmp_path):
    made = wheel(tmp_path, CXX="no-such-compiler")
    assert made.filename.endswith("-py3-none-any.whl")
    assert not [name for name in made.namelist() if "/built/" in name]


def test_every_library_is_listed():
    """What is compiled at first use is also compiled for the wheel: each .cpp is in one library."""
    assert sorted(name for names in build.LIBRARIES for name in names) == sorted(p.stem for p in KERNELS.glob("*.cpp"))


def test_a_carried_library_is_loaded_until_its_source_is_edited(tmp_path, monkeypatch):
    sources = tmp_path / "kernels"
    sources.mkdir()
    source = sources / "answer.cpp"
    source.write_text('extern "C" int answer() { return 42; }\n')
    monkeypatch.setattr(compiler, "BUILT", sources / "built")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    try:
        compiler._compiler()
    except compiler.BuildError as error:
        pytest.skip(str(error))
    compiler.library.__wrapped__(source)  # compiles it into the cache
    compiled = next((tmp_path / "cache").rglob("*.so"))
    (sources / "built").mkdir()
    compiled.rename(sources / "built" / build.file_name((source,), compiler.capability()))
    monkeypatch.setenv("CXX", "no-such-compiler")
    loaded: ctypes.CDLL = compiler.library.__wrapped__(source)
    assert loaded.answer() == 42
    source.write_text('extern "C" int answer() { return 43; }\n')
    with pytest.raises(compiler.BuildError, match="no C\\+\\+ compiler here"):
        compiler.library.__wrapped__(source)
