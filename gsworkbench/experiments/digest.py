"""Digests of what a rule depends on beyond its files: the code it runs.

Snakemake compares them between calls, so that a corrected fsc.py re-runs every assessment, while comments, docstrings
and saved notebook outputs re-run nothing.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path

from gsworkbench import _PUBLIC as PUBLIC

PACKAGE = Path(__file__).parents[1]


@functools.cache
def source_digest(*modules: str, without: tuple[str, ...] = ()) -> str:
    """Return a digest of modules of gsworkbench ("gsworkbench.config") and of all they import from it, at any depth.

    A module that is named by a string, as those of methods are in the registry of methods, is not imported: its digest
    is asked for by name. `without` names modules and packages that do not count, nor what is reached through them
    alone. Imports inside functions count. What counts of a module is its syntax without comments and docstrings; its
    data files and C++ (data_files) count byte for byte. A process reads them once, as it does the modules that it runs.
    """
    digest = hashlib.sha256()
    for module in sorted(reached(*modules, without=without)):
        path = module_file(module)
        digest.update(module.encode() + b"\0" + _syntax(path.read_text(encoding="utf-8")).encode())
        for data in data_files(path):
            digest.update(data.name.encode() + b"\0" + data.read_bytes())
    return digest.hexdigest()[:16]


def data_files(path: Path) -> list[Path]:
    """Return the files that a module's strings name: data beside it, C++ in kernels/, and then all headers there.

    A package's __init__.py counts with everything in its folder that is not Python.
    """
    kernels = PACKAGE / "kernels"
    if path.name == "__init__.py" and path.parent not in (PACKAGE, kernels):
        return sorted(p for p in path.parent.iterdir() if p.is_file() and p.suffix not in (".py", ".pyc"))
    names = _file_names(path.read_text(encoding="utf-8"))
    named = [folder / n for n in names for folder in (path.parent, kernels)]
    found = {p for p in named if p.is_file() and p.suffix != ".py"}
    return sorted(found | (set(kernels.glob("*.h")) if any(p.suffix == ".cpp" for p in found) else set()))


@functools.cache
def _file_names(source: str) -> frozenset[str]:
    """Strings of Python source that look like names of files."""
    strings = (node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant))
    return frozenset(s for s in strings if isinstance(s, str) and re.fullmatch(r"[\w.]+\.\w+", s))


def notebook_digest(path: str | Path, without: tuple[str, ...] = ()) -> str:
    """Return a digest of a notebook's cells and of the modules of gsworkbench they import, but for `without`.

    Of a cell its kind, source and tags count, and neither outputs nor other metadata.
    """
    cells = json.loads(Path(path).read_text(encoding="utf-8"))["cells"]
    kept = [[c["cell_type"], "".join(c["source"]), c["metadata"].get("tags", [])] for c in cells]
    code = "\n".join(source for kind, source, _ in kept if kind == "code")
    modules = imports_of(re.sub(r"(?m)^[%!].*$", "", code))  # magics are not Python
    return hashlib.sha256(json.dumps([kept, source_digest(*modules, without=without)]).encode()).hexdigest()[:16]


def reached(*modules: str, without: tuple[str, ...] = ()) -> set[str]:
    """Return `modules` and every module of gsworkbench that they import, at any depth, but for `without`."""
    found: set[str] = set()
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module not in found and not any(f"{module}.".startswith(f"{name}.") for name in without):
            found.add(module)
            waiting += imports(module)
    return found


def imports(module: str) -> frozenset[str]:
    """Return the modules of gsworkbench that `module` itself names in import statements, inside functions too.

    Imports for type checking alone are not among them.
    """
    return imports_of(module_file(module).read_text(encoding="utf-8"))


def imports_of(source: str) -> frozenset[str]:
    """Return the modules of gsworkbench that Python source names in import statements."""
    names = _imported_names(source)
    return frozenset(name for name in names if name.split(".")[0] == PACKAGE.name and module_file(name).is_file())


@functools.cache
def _imported_names(source: str) -> frozenset[str]:
    """Names in the import statements of Python source; methods share most of their code, which is parsed once."""
    names: set[str] = set()
    tree = ast.parse(source)
    for node in _statements(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
            short = {alias.asname or alias.name for alias in node.names if alias.name == PACKAGE.name}
            if short:  # gs.simulate: the module that the public name is loaded from when it is used
                used = (a for a in ast.walk(tree) if isinstance(a, ast.Attribute) and isinstance(a.value, ast.Name))
                names |= {_public_module(a.attr) for a in used if isinstance(a.value, ast.Name) and a.value.id in short}
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from package import name`: the name may be a module of the package.
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
            if node.module == PACKAGE.name:
                names |= {_public_module(alias.name) for alias in node.names}
    return frozenset(names)


def _public_module(name: str) -> str:
    """Return the module that a public name of the package comes from; the package's own for others."""
    return PUBLIC.get(name, PACKAGE.name).partition(":")[0]


def module_file(module: str) -> Path:
    """Return the file of a module; that of one of gsworkbench need not exist."""
    if module.split(".")[0] != PACKAGE.name:
        spec = importlib.util.find_spec(module)
        assert spec is not None and spec.origin is not None
        return Path(spec.origin)
    path = PACKAGE.joinpath(*module.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """Statements below a node at any depth, but for those for type checking; expressions hold none."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt | ast.excepthandler | ast.match_case) and not _for_types_only(child):
            yield child
            yield from _statements(child)


def _for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


@functools.cache
def _syntax(source: str) -> str:
    tree = ast.parse(source)
    for node in [tree, *_statements(tree)]:
        if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if ast.get_docstring(node, clean=False) is not None:
            del node.body[0]
    return ast.dump(tree)
