"""Folders that are made once: each holds a key that says what it was made from, and is made anew if that differs.

A folder without its key was not finished. Two processes that want the same one wait for each other.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gsworkbench.io.files import strays, write_text
from gsworkbench.io.locks import held

KEY = "made_from.txt"


def key_of(*parts: Any) -> str:
    """Return a digest of plain data."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def key_in(folder: Path) -> str | None:
    """Return the key a finished folder was made from, or None."""
    file = folder / KEY
    return file.read_text(encoding="utf-8").strip() if file.is_file() else None


def made(folder: Path, key: str, make: Callable[[Path], None]) -> bool:
    """Have `make` fill `folder` unless it was made from `key` already; return whether it had to.

    What an unfinished attempt from the same key left is kept for `make` to go on from; anything else is removed.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with held(folder.parent / f".{folder.name}.lock", folder, wait=True):
        if key_in(folder) == key:
            return False
        started = folder / f".{KEY}"
        if not (started.is_file() and started.read_text(encoding="utf-8") == key):
            shutil.rmtree(folder, ignore_errors=True)
        (folder / KEY).unlink(missing_ok=True)
        write_text(started, key)
        for stray in (stray for place in (folder, *folder.rglob("*/")) for stray in strays(place)):
            stray.unlink()
        make(folder)
        write_text(folder / KEY, key + "\n")
    return True
