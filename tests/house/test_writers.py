"""Nothing is written but to a name that atomic_path gave."""

from __future__ import annotations

import ast

import pytest

from gsworkbench.experiments.plan import ROOT

SOURCES = sorted((ROOT / "gsworkbench").rglob("*.py"))
# Calls that write a file, and which argument names it (-1: what the method is called on).
WRITERS = {
    "savefig": 0, "savetxt": 0, "tofile": 0, "to_csv": 0, "to_json": 0, "to_parquet": 0, "to_pickle": 0,
    "write_text": -1, "write_bytes": -1, "write_zip": 0, "touch": -1, "symlink_to": -1,
    "copy": 1, "copyfile": 1, "copy2": 1, "copytree": 1, "move": 1, "rename": 0, "replace": 1, "new": 0, "new_mmap": 0,
}  # fmt: skip
MODULES = {  # those of the names above, and others, that mean something else elsewhere
    "copy": "shutil", "copyfile": "shutil", "copy2": "shutil", "copytree": "shutil", "move": "shutil",
    "replace": "os", "rename": "os", "new": "mrcfile", "new_mmap": "mrcfile",
}  # fmt: skip
NUMPY = {"save", "savez", "savez_compressed"}
# Where nobody else knows of the file, or what atomic_path gave is at hand under another name.
ALLOWED = {
    # A download that goes on where it broke; it gets its name when it is whole.
    ("system/download.py", "mark.write_text(_version(response), encoding='utf-8')"),
    ("system/download.py", "open(part, mode)"),
    ("system/download.py", "shutil.move(part, output)"),  # to pooch's temporary name
    ("io/files.py", "os.replace(temporary, path)"),
    ("io/locks.py", "open(lock, 'a+', encoding='utf-8')"),
    ("lab/atoms.py", "path.write_text('\\n'.join(pdb_lines(load_molecule(name), centre)) + '\\n', encoding='utf-8')"),
    ("io/mrc.py", "open(path, 'rb+')"),
    ("experiments/rehearse.py", "(out / name).symlink_to(ROOT / name)"),  # in a folder that was new
    ("experiments/run_notebook.py", "written.write_text(json.dumps(content, indent=1, ensure_ascii=False) + '\\n', "
                                  "encoding='utf-8')"),
}  # fmt: skip


def writes(source):
    """(call as text, name of the file as text) of every call in Python source that writes a file."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        owner = ast.unparse(node.func.value) if isinstance(node.func, ast.Attribute) else ""
        if name == "open" and owner in ("", "io", "gzip", "bz2"):
            mode = [a for a in (*node.args[1:2], *(k.value for k in node.keywords if k.arg == "mode"))]
            if mode and not (isinstance(mode[0], ast.Constant) and mode[0].value in ("r", "rb", "rt")):
                yield ast.unparse(node), ast.unparse(node.args[0])
        elif (name in WRITERS and owner and MODULES.get(name, owner) == owner) or (
            name in NUMPY and owner in ("np", "numpy")
        ):
            place = WRITERS.get(name, 0)
            yield ast.unparse(node), owner if place < 0 else ast.unparse(node.args[place])
        elif owner == "torch" and name == "save":
            yield ast.unparse(node), ast.unparse(node.args[1])


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_are_written_to_temporary_names_alone(path):
    name = path.relative_to(ROOT / "gsworkbench").as_posix()
    names = ("temporary", "file", "content", "text")  # what atomic_path yields, opened, or a buffer in memory
    found = [call for call, target in writes(path.read_text(encoding="utf-8")) if target not in names]
    assert [call for call in found if (name, call) not in ALLOWED] == []


def test_the_test_sees_what_writes():
    source = """
open(x, "w"); open(x); open(x, mode="ab"); np.save(x, a); shutil.copy(a, x); Path(x).write_text("a")
figure.savefig(x); table.to_csv(x); torch.save(a, x); "a".replace("a", "b"); os.replace(a, x); mrcfile.new(x, a)
"""
    assert len(list(writes(source))) == 10
