"""Remake the table of docs/measured/robustness.md: python benchmarks/robustness.py --seconds 60

Runs the tests of the readers under coverage.py, then the fuzzer for `--seconds` on each target, and writes what was
counted between the marks of the page. What the fuzzer found in earlier runs lies in `--out` and is added up, so that
long runs can be made one after the other.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "measured" / "robustness.md"
BEGIN, END = "<!-- made by benchmarks/robustness.py -->\n", "<!-- end -->"
TARGETS = {
    "star": "STAR files, read, written with half sets, read again",
    "cs": ".cs files, alone and as their own passthrough",
    "pickle": "poses.pkl, ctf.pkl, ind.pkl",
    "mrc": "MRC stacks and maps, plain and compressed",
    "arrays": "sums and Gaussians (.npz), noise spectra (.npy), lists of stacks",
}
READERS = ("gsworkbench/particles/", "gsworkbench/io/")
TESTS = ("hazards", "forged_files", "stack_paths", "readers_star", "star_writing", "readers_cryosparc",
         "readers_cryodrgn", "readers_mrc", "particles", "properties", "fuzz", "model_map")  # fmt: skip


def covered() -> tuple[dict[str, tuple[int, int]], str]:
    """Run the tests of the readers; return {module: (lines, lines run)} and pytest's last line."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"COVERAGE_FILE": f"{folder}/data", "GSWORKBENCH_FUZZ_SECONDS": "1"}
        files = [str(p) for name in TESTS for p in Path("tests").rglob(f"test_{name}.py")]
        run = [sys.executable, "-m", "coverage"]
        command = [*run, "run", "--source=gsworkbench", "-m", "pytest", "-q", *files]
        tests = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        subprocess.run([*run, "json", "-q", "-o", f"{folder}/found.json"], cwd=ROOT, env=environment, check=True)
        found = json.loads(Path(folder, "found.json").read_text(encoding="utf-8"))["files"]
    said = tests.stdout.strip().splitlines()[-1].strip("= ")
    if tests.returncode:
        sys.exit(f"tests failed, nothing written:\n{tests.stdout[-3000:]}")
    chosen = {name: entry["summary"] for name, entry in found.items() if name.startswith(READERS)}
    return {name: (s["num_statements"], s["covered_lines"]) for name, s in chosen.items()}, said


def fuzz(seconds: int, out: Path) -> None:
    """Fuzz every target, into a folder of this run's own."""
    number = len(list(out.glob("run*")))
    command = [sys.executable, "tests/fuzz/run.py", *TARGETS, "--seconds", str(seconds), "--seed", str(number + 1)]
    subprocess.run([*command, "--out", str(out / f"run{number}")], cwd=ROOT, capture_output=True, check=False)


def table(out: Path, lines: dict[str, tuple[int, int]], said: str) -> str:
    """The two tables of the page, as Markdown."""
    rows = ["| what is fuzzed | inputs tried | minutes | crashes | hangs | memory | code executed |",
            "| --- | --- | --- | --- | --- | --- | --- |"]  # fmt: skip
    for target, words in TARGETS.items():
        records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(out.rglob(f"{target}.json"))]
        total = {
            key: sum(r[key] for r in records) for key in ("inputs", "seconds", "crash", "hang", "memory", "executed")
        }
        counts = [f"{total['inputs']:,}", f"{total['seconds'] / 60:.0f}"]
        counts += [str(total[kind]) for kind in ("crash", "hang", "memory", "executed")]
        rows.append(f"| {words} | {' | '.join(counts)} |")
    rows += ["", f"Tests of the readers: {re.sub(r' in [0-9.]+s.*', '', said)}.", "",
             "| module | lines | run by tests |", "| --- | --- | --- |"]  # fmt: skip
    rows += [f"| {name} | {n} | {100 * run / n if n else 100:.1f} % |" for name, (n, run) in sorted(lines.items())]
    n, run = (sum(values) for values in zip(*lines.values(), strict=True))
    return "\n".join([*rows, f"| all | {n} | {100 * run / n:.1f} % |", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description="Remake the table of docs/measured/robustness.md.")
    parser.add_argument("--seconds", type=int, default=60, help="of fuzzing for each target (default 60)")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "robustness", help="where the fuzzer's runs are")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    lines, said = covered()
    if given.seconds:
        fuzz(given.seconds, given.out)
    head, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(head + BEGIN + table(given.out, lines, said) + END + rest.partition(END)[2], encoding="utf-8")
    print(f"{PAGE.relative_to(ROOT)} written")


if __name__ == "__main__":
    main()
