"""Make inputs, guided by coverage, and judge them: python tests/fuzz/run.py star cs --seconds 15 --out build/fuzz

Needs atheris (the extra `fuzz`). Starts from corpus/TARGET.zip and goes on after a finding. OUT/TARGET.json counts the
inputs and what was found; OUT/findings/ holds the inputs of findings, one for each place in the code; the corpus that
grows is in OUT/corpus/TARGET/. `--keep` adds the findings of OUT to corpus/TARGET.zip, where tests replay them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
import traceback
import zipfile
from collections import Counter
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
INSTRUMENTED = ["gsworkbench.particles.read", "gsworkbench.errors", "gsworkbench.particles.stack",
                "gsworkbench.geometry.rotations", "gsworkbench.io.npz", "mrcfile", "starfile",
                "pickletools"]  # fmt: skip
LONGEST = {"star": 4096, "cs": 8192, "pickle": 4096, "mrc": 8192, "arrays": 8192}


def unpack(target: str, folder: Path) -> None:
    """Put the kept corpus into `folder`, one file for each input, named by its hash."""
    folder.mkdir(parents=True, exist_ok=True)
    for data in kept(target):
        (folder / hashlib.sha1(data).hexdigest()).write_bytes(data)


def kept(target: str) -> list[bytes]:
    """The inputs of corpus/TARGET.zip."""
    with zipfile.ZipFile(HERE / "corpus" / f"{target}.zip") as archive:
        return [archive.read(name) for name in archive.namelist()]


def pack(target: str, inputs: list[bytes]) -> None:
    """Write corpus/TARGET.zip, the same bytes for the same inputs."""
    (HERE / "corpus").mkdir(exist_ok=True)
    with zipfile.ZipFile(HERE / "corpus" / f"{target}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for data in sorted(set(inputs), key=lambda data: (len(data), data)):
            archive.writestr(zipfile.ZipInfo(hashlib.sha1(data).hexdigest()), data, zipfile.ZIP_DEFLATED)


class Tally:
    """Judges inputs, counts them, and writes what it found as it goes."""

    def __init__(self, target: str, out: Path) -> None:
        from fuzz import targets

        self.targets, self.target, self.out = targets, target, out
        self.bench, self.started, self.n = targets.Bench(), time.monotonic(), 0
        self.written = self.started
        self.found: Counter[str] = Counter()
        self.places: dict[str, str] = {}

    def one_input(self, data: bytes) -> None:
        self.n += 1
        try:
            self.targets.judge(self.target, self.bench, data)
        except self.targets.Finding as finding:
            self.found[finding.kind] += 1
            self._keep(finding, data)
        if time.monotonic() > self.written + 1:  # atheris ends the process without a last word
            self.write()

    def _keep(self, finding: Exception, data: bytes) -> None:
        cause = finding.__cause__ or finding
        frames = traceback.extract_tb(cause.__traceback__)
        place = f"{type(cause).__name__} " + " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in frames[::-1][:3])
        if place in self.places:
            return
        self.places[place] = str(finding)[:300]
        folder = self.out / "findings"
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{self.target}-{hashlib.sha1(data).hexdigest()[:12]}"
        (folder / name).write_bytes(data)
        (folder / f"{name}.txt").write_text(f"{finding}\n{place}\n" + "".join(traceback.format_exception(cause)))
        print(f"\n{self.target}: {finding}\n  {place}", file=sys.stderr, flush=True)
        self.write()

    def write(self) -> None:
        self.written = time.monotonic()
        counts = {kind: self.found[kind] for kind in ("crash", "hang", "memory", "executed")}
        record = {"inputs": self.n, "seconds": round(self.written - self.started), **counts, "places": self.places}
        partial = self.out / f".{self.target}.json"  # atheris may end the process at any moment
        partial.write_text(json.dumps(record, indent=1) + "\n")
        partial.replace(self.out / f"{self.target}.json")


def _fuzz(tally: Tally, given: argparse.Namespace) -> None:
    """Make inputs until the time is up; atheris then ends the process."""
    import atheris

    target = tally.target
    corpus = given.out / "corpus" / target
    unpack(target, corpus)
    options = [f"-max_len={LONGEST[target]}", f"-seed={given.seed}", "-rss_limit_mb=4096", "-verbosity=0"]
    # Hangs are told by processor time (targets.py); atheris would end the run by the clock, and reads 0 as one second.
    options += ["-timeout=86400", f"-artifact_prefix={given.out}/"]
    options += [f"-dict={HERE / 'words.dict'}", f"-max_total_time={given.seconds}", str(corpus)]
    atheris.Setup([sys.argv[0], *options], tally.one_input, enable_python_coverage=True)
    atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(description="Fuzz the readers.")
    parser.add_argument("targets", nargs="+", choices=LONGEST, help="one after the other")
    parser.add_argument("--seconds", type=int, default=15, help="for each target (default 15)")
    parser.add_argument("--out", type=Path, default=Path("build/fuzz"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="keep the findings of OUT, once mended, and no more")
    given = parser.parse_args()
    if given.keep:
        for target in given.targets:
            found = sorted((given.out / "findings").glob(f"{target}-????????????"))
            pack(target, [*kept(target), *(path.read_bytes() for path in found)])
        return
    given.out.mkdir(parents=True, exist_ok=True)

    import atheris
    import pandas  # noqa: F401  large, not ours, and slow to instrument
    import torch  # noqa: F401

    with atheris.instrument_imports(include=INSTRUMENTED):
        import fuzz.targets  # noqa: F401  imported once, for all children
    for target in given.targets:
        tally = Tally(target, given.out)
        tally.write()
        child = os.fork()
        if child == 0:
            _fuzz(tally, given)
        os.waitpid(child, 0)
        tally.bench.remove()


if __name__ == "__main__":
    main()
