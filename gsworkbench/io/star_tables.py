"""STAR text to tables of strings: the starfile library underneath, a strict reading of the raw text before it.

starfile is lenient where a mistake would go unseen: it reads an empty or Latin-1 file as nothing, cuts values at '#',
fills short rows with NaN, keeps the last of two blocks with one name and turns the name 001 into the number 1. So the
text is checked first, line by line, and starfile then splits the values without interpreting them.
"""

from __future__ import annotations

import linecache
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gsworkbench.errors import InputError
from gsworkbench.io.files import require_plain_file

MOST = 1000  # tables, and columns of all; starfile takes milliseconds for each, and more for each of many
ODD_SPACE = re.compile(r"[^\S \t]")  # white space to Python, not to the parser that starfile uses
TOKEN = re.compile(r""""[^"]*"|'[^']*'|\S+""")  # a quoted value, or one without white space


@dataclass
class Block:
    """One data block as its text stands: labels without underscore, and line numbers counted from 0."""

    name: str
    line: int
    is_loop: bool = False
    labels: list[str] = field(default_factory=list)
    last_label_line: int = -1
    row_lines: list[int] = field(default_factory=list)  # of a loop; empty for a list of single values


def read_lines(path: str | Path) -> list[str]:
    """Return the lines of a text file, or raise InputError if it is absent, empty, not UTF-8 or not text."""
    require_plain_file(path)
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"line {line} is not UTF-8 text", file=path, remedy="convert it, for instance with iconv -f latin1 -t utf8"
        ) from error
    except OSError as error:
        raise InputError(f"the file cannot be read ({error.strerror})", file=path) from error
    if not text.strip():
        raise InputError("the file is empty", file=path)
    if "\0" in text:
        raise InputError("the file is binary, not STAR text", file=path)
    return text.split("\n")


def scan(lines: list[str], path: str | Path) -> tuple[dict[str, Block], list[str]]:
    """Return the blocks of a STAR file by name, and its lines without comments and those that are empty.

    Raises InputError naming the first line that cannot be right.
    """
    blocks: dict[str, Block] = {}
    kept: list[str] = []
    block: Block | None = None
    for number, raw in enumerate(lines):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        if ODD_SPACE.search(line):
            raise _wrong(number, "white space that is neither a space nor a tab", path)
        is_label = line.startswith("_") and not (block and block.row_lines)
        values = _values(line, is_label, number, path)
        kept.append(" ".join(values) if "#" in line else line)
        if line.startswith("data_"):
            block = _new_block(values, number, blocks, path)
        elif block is None:
            raise _wrong(number, f"{values[0]!r} stands before the first data_ block", path)
        elif line.startswith("loop_") and not block.labels and not block.is_loop:
            block.is_loop = True
        elif is_label:
            if sum(len(other.labels) for other in blocks.values()) == MOST:
                raise _wrong(number, f"more than {MOST} columns", path)
            _add_label(block, values, number, path)
        elif not block.is_loop or len(values) != len(block.labels):
            raise _wrong(number, f"{len(values)} values for {len(block.labels)} columns", path)
        else:
            block.row_lines.append(number)
    if not blocks:
        raise InputError("no data_ block in the file, which is not STAR text", file=path)
    for block in blocks.values():
        if not block.labels:
            raise _wrong(block.line, f"data_{block.name} has no columns", path)
    return blocks, kept


def read_tables(path: str | Path) -> dict[str, Any]:
    """Return the tables of a STAR file by block name, as pandas data frames of strings.

    A block of single values becomes a table of one row.
    """
    import pandas as pd
    import starfile

    lines, name = read_lines(path), str(Path(path).absolute())
    blocks, kept = scan(lines, path)
    labels = sorted({label for block in blocks.values() for label in block.labels})
    # starfile reads through this cache: what stayed there when a read went wrong, or in another encoding if a comment
    # says "coding:". It shall read what was checked, without the comments and empty lines that confuse it in headers.
    linecache.cache[name] = (0, None, [line + "\n" for line in kept], name)
    try:
        found = starfile.read(Path(name), always_dict=True, parse_as_string=labels)
    except ValueError as error:
        raise InputError(f"not a readable STAR file ({error})", file=path) from error
    finally:
        linecache.cache.pop(name, None)
    tables = {name: pd.DataFrame([table]) if isinstance(table, dict) else table for name, table in found.items()}
    for name, block in blocks.items():
        n = len(block.row_lines) if block.is_loop else int(bool(block.labels))
        if n and (name not in tables or tables[name].shape != (n, len(block.labels))):
            raise InputError(f"data_{name} cannot be read", file=path, remedy="check its quotes and line ends")
    return tables


def _values(line: str, is_label: bool, number: int, path: str | Path) -> list[str]:
    """Split a line into values and drop a comment at its end; '#' or a lone quote inside a value is refused."""
    if not ("#" in line or '"' in line or "'" in line):
        return line.split()
    tokens = list(TOKEN.finditer(line))
    values = [token[0] for token in tokens]
    for k, value in enumerate(values):
        if value.startswith("#"):
            return values[:k]
        bare = value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'" else value
        joined = bare != value and line[tokens[k].end() :][:1].strip()
        if not is_label and (joined or any(mark in bare for mark in "#\"'")):
            raise _wrong(number, f"the value {value} holds a '#' or a quote, which STAR files cannot hold", path)
    return values


def _new_block(values: list[str], number: int, blocks: dict[str, Block], path: str | Path) -> Block:
    if len(values) > 1:
        raise _wrong(number, f"the value {values[0]} begins with data_ and would be read as a new table", path)
    name = values[0].removeprefix("data_")
    if len(blocks) == MOST:
        raise _wrong(number, f"more than {MOST} tables, where particles have two", path)
    if name in blocks:
        raise _wrong(number, f"a second table data_{name}, the first is on line {blocks[name].line + 1}", path)
    blocks[name] = Block(name, number)
    return blocks[name]


def _add_label(block: Block, values: list[str], number: int, path: str | Path) -> None:
    label = values[0].removeprefix("_")
    if label in block.labels:
        raise _wrong(number, f"a second column _{label} in data_{block.name}", path)
    if not block.is_loop and len(values) != 2:
        raise _wrong(number, f"_{label} needs one value", path)
    if not block.is_loop and "\\" in values[1]:
        raise _wrong(number, f"the value of _{label} holds a backslash, which would be lost", path)
    block.labels.append(label)
    block.last_label_line = number


def _wrong(number: int, problem: str, path: str | Path) -> InputError:
    return InputError(f"line {number + 1}: {problem}", file=path)
