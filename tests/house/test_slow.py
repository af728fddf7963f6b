"""The list of slow test files in conftest.py names files that exist."""

from pathlib import Path

import conftest

TESTS = Path(conftest.__file__).parent


def test_slow_files_exist():
    for folder, names in conftest.SLOW.items():
        for name in names:
            assert (TESTS / folder / f"test_{name}.py").is_file()
