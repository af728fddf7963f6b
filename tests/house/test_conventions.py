"""Every rule of CONVENTIONS.md names a test, and the tests it names exist."""

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "CONVENTIONS.md").read_text(encoding="utf-8")
NAMED = re.findall(r"`(\w+)::(\w+)`", PAGE)


def test_the_tests_it_names_exist():
    for file, name in NAMED:
        tree = ast.parse(next(TESTS.rglob(f"test_{file}.py")).read_text(encoding="utf-8"))
        assert f"test_{name}" in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, (
            f"{file}::{name}"
        )


def test_every_rule_names_a_test():
    rules = re.findall(r"^- (.+?)(?=^- |^#|\Z)", PAGE, flags=re.M | re.S)
    assert len(rules) > 15
    for rule in rules:
        assert re.search(r"`\w+::\w+`", rule), rule
