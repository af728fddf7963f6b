"""kill -9 of whole process groups at random moments, resuming with the same command, and what is left in the end.

    python benchmarks/kills.py --kills 50 [--stages simulate accumulate ...] [--write docs/measured/crash_safety.md]

Each stage starts where an earlier, other result lies. It is killed at a random moment, started again by the same
command, and so on until it comes to its end; then its files are compared with those of a run that nobody killed, bit
for bit but for times. That is repeated until there were as many kills as asked for. After each kill the files in view
must be those of the earlier result or of the new one. The stages of the core are forked from one process that has
imported everything, the others are commands.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
ROOT = Path(__file__).resolve().parents[1]
MARK = f"GSWORKBENCH_KILLS_{uuid.uuid4().hex[:8]}"  # tells our processes from others after they lost their parents
EXPERIMENT = "control_noise"
TIMES = ("command", "started", "ended", "seconds", "cpu_seconds", "peak_memory_bytes")
COSTS = ("s", "bytes", "1/s")


@dataclass(frozen=True)
class Stage:
    """run : does the work in a folder, in a process of its own. begin : lays out the folder for a new life.

    outputs : the folder, below that one, whose files are compared. finished : the file that says a result is complete;
    after a kill, the files beside it are those of one result. None where files appear one by one, each whole.
    """

    run: Callable[[Path], int]
    begin: Callable[[Path, Path], None]
    outputs: str = "."
    finished: str | None = None


@dataclass
class Outcome:
    """kills : that met a living process. lives : runs to the end. lost : bytes that differ or are missing in the end.
    damaged : bytes in view after a kill that were of neither result. between : kills in the moment of renaming.
    left : processes still there a while after the end."""

    kills: int = 0
    survived: int = 0
    lives: int = 0
    lost: int = 0
    damaged: int = 0
    between: int = 0
    left: int = 0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)


def survive(stage: Stage, kills: int, folder: Path, seed: int = 1) -> Outcome:
    """Kill a stage `kills` times; see the module."""
    draw, outcome = random.Random(seed), Outcome()
    whole = folder / "whole"
    stage.begin(whole, folder)
    began = time.monotonic()
    if code := _run(stage, whole, None):
        raise SystemExit(f"the run that nobody kills ended with code {code}: {(whole / 'log.txt').read_text()[-2000:]}")
    outcome.seconds = time.monotonic() - began
    expected = contents(whole / stage.outputs)
    while outcome.kills < kills:
        life = folder / f"life{outcome.lives}"
        stage.begin(life, folder)
        earlier, before = contents(life / stage.outputs), outcome.kills
        began = time.monotonic()
        while True:
            limit = draw.uniform(0, 1.1 * outcome.seconds) if outcome.kills < kills else None
            code = _run(stage, life, limit)
            if code != -signal.SIGKILL:
                break
            outcome.kills += 1
            _look(stage, life, earlier, expected, outcome)
        if outcome.kills == before:  # a whole run: how long one takes changes with what else the machine does
            outcome.seconds = time.monotonic() - began
        lost = difference(contents(life / stage.outputs), expected)
        strays = [str(p.relative_to(life)) for p in life.rglob(".*.part*")]
        outcome.left += _wait_for_orphans()
        if code or lost or strays:
            log = (life / "log.txt").read_text()[-1500:]
            outcome.problems.append(f"life {outcome.lives}: code {code}, {lost}, strays {strays}\n{log}")
            outcome.lost += sum(lost.values())
        else:
            outcome.survived += outcome.kills - before
        outcome.lives += 1
        print(f"{outcome.survived} of {outcome.kills} kills survived", file=sys.stderr, flush=True)
        shutil.rmtree(life)
    return outcome


def _look(stage: Stage, life: Path, earlier: dict[str, bytes], new: dict[str, bytes], outcome: Outcome) -> None:
    """What is in view after a kill: whole files, and where it says complete, those of one result."""
    found = contents(life / stage.outputs)
    if stage.finished is None:
        known = {name: {earlier.get(name), new.get(name)} for name in found}
        outcome.damaged += sum(len(b) for name, b in found.items() if name in new and b not in known[name])
    elif stage.finished in found or stage.finished in {p.name for p in (life / stage.outputs).iterdir()}:
        outcome.damaged += min(sum(difference(found, earlier).values()), sum(difference(found, new).values()))
    else:
        outcome.between += stage.finished in earlier


def contents(folder: Path) -> dict[str, bytes]:
    """The files below a folder by name, without times; hidden ones, logs, locks and checkpoints are not looked at."""
    if folder.is_file():
        return {folder.name: folder.read_bytes()}
    found = {}
    for path in sorted(folder.rglob("*")) if folder.is_dir() else []:
        name = path.relative_to(folder)
        hidden = any(part.startswith(".") or part in ("logs", "checkpoints") for part in name.parts)
        if path.is_file() and not hidden and name.name != "log.txt":
            found[str(name)] = _placeless(_timeless(path), folder)
    return found


def _placeless(content: bytes, folder: Path) -> bytes:
    """Contents without the name of the folder, which differs between lives, and without costs in tables."""
    text = content.decode("latin-1").replace(str(folder.resolve()), "")
    return re.sub(r"(?<=\| )[\d.,]+ (ms|s|min|h|MiB|GiB)(?= \|)", "", text).encode("latin-1")


def _timeless(path: Path) -> bytes:
    """A file's bytes without what a clock had a part in."""
    if path.name == "run.json":
        record = json.loads(path.read_text())
        return json.dumps({k: v for k, v in record.items() if k not in TIMES}).encode()
    if path.name == "metrics.json":
        return json.dumps([m for m in json.loads(path.read_text()) if m["unit"] not in COSTS]).encode()
    if path.suffix == ".json" and "numbers" in (content := json.loads(path.read_text())):
        numbers = {k: v for k, v in content["numbers"].items() if v["unit"] not in COSTS}
        return json.dumps(content | {"numbers": numbers}).encode()
    if path.suffix == ".csv":
        rows = list(csv.DictReader(io.StringIO(path.read_text())))
        return json.dumps([row for row in rows if row.get("unit") not in COSTS]).encode()
    if path.suffix == ".ipynb":
        cells = json.loads(path.read_text())["cells"]
        return json.dumps(
            [[cell["source"], [o.get("data") for o in cell.get("outputs", [])]] for cell in cells]
        ).encode()
    return path.read_bytes()


def difference(found: dict[str, bytes], expected: dict[str, bytes]) -> dict[str, int]:
    """Bytes of each file that is missing, too many or other than expected."""
    names = found.keys() | expected.keys()
    return {n: len(expected.get(n) or found[n]) for n in names if found.get(n) != expected.get(n)}


def _run(stage: Stage, folder: Path, limit: float | None) -> int:
    """Fork, do the work in a process group of its own, kill it after `limit` seconds; return the exit code."""
    process = os.fork()
    if process == 0:
        code = 99
        try:
            os.setpgid(0, 0)
            os.environ[MARK] = "1"
            log = os.open(folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            for stream in (1, 2):
                os.dup2(log, stream)
            os.chdir(folder)
            code = stage.run(folder)
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    with contextlib.suppress(OSError):  # whoever comes first, parent or child: the group is there before it is killed
        os.setpgid(process, process)
    deadline = None if limit is None else time.monotonic() + limit
    while True:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if deadline is not None and time.monotonic() > deadline:
            os.killpg(process, signal.SIGKILL)
            _, status = os.waitpid(process, 0)
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)


def _wait_for_orphans(patience: float = 60.0) -> int:
    """How many of our processes still run: those with a session of their own, as kernels, outlive their group."""
    deadline = time.monotonic() + patience
    while (left := _orphans()) and time.monotonic() < deadline:
        time.sleep(0.2)
    for process in left:
        os.kill(process, signal.SIGKILL)
    return len(left)


def _orphans() -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if MARK.encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:  # it has ended, or is not ours
            continue
    return found


# --- stages --------------------------------------------------------------------------------------------------------


def _command(*words: object) -> int:
    from gsworkbench.cli.main import main

    return main([str(word) for word in words])


def _in(folder: Path, *words: object) -> None:
    """Run a command to its end, in a process of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    if code := _run(Stage(lambda _: _command(*words), lambda *_: None), folder, None):
        raise SystemExit(f"{words}: code {code}\n{(folder / 'log.txt').read_text()[-2000:]}")


SIMULATED = ("--box-size", 32, "--pixel-size", 12)
PARTICLES = 3000


def _simulate(folder: Path) -> int:
    return _command("simulate", "--out", folder / "out", "--n-particles", 1000, *SIMULATED)


def _begin_simulate(life: Path, shared: Path) -> None:
    if not (shared / "earlier").exists():
        _in(shared / "earlier", "simulate", "--out", shared / "earlier/out", "--n-particles", 300, *SIMULATED)
    shutil.copytree(shared / "earlier/out", life / "out")


def _particles(shared: Path) -> Path:
    if not (shared / "data").exists():
        _in(shared / "data", "simulate", "--out", shared / "data", "--n-particles", PARTICLES, *SIMULATED)
    return shared / "data/particles.star"


def _accumulate(folder: Path) -> int:
    star = folder.parent / "data/particles.star"
    return _command("accumulate", star, "--out", folder / "out/sums.npz", "--checkpoint-every", 0, "--resume")


def _begin_accumulate(life: Path, shared: Path) -> None:
    star = _particles(shared)
    if not (shared / "earlier").exists():
        _in(shared / "earlier", "accumulate", star, "--half-set", 1, "--out", shared / "earlier/out/sums.npz")
    shutil.copytree(shared / "earlier/out", life / "out")


ONE_PASS = ("--n-gaussians", 100, "--mask", "none", "--noise-substitute-beyond", 60)
ONE_PASS += tuple(f"--set={name}=20" for name in ("n_boosted_steps", "n_steps", "n_final_steps"))
STOCHASTIC = ("--method", "stochastic", "--n-gaussians", 30, "--set", "n_epochs=3", "--set", "batch_size=50")
STOCHASTIC += ("--mask", "none")


def _fit(*settings: object) -> tuple[Callable[[Path], int], Callable[[Path, Path], None]]:
    def run(folder: Path) -> int:
        words = ("--resume", "--checkpoint-every", 0)
        return _command(
            "reconstruct", folder.parent / "data/particles.star", "--out", folder / "out", *settings, *words
        )

    def begin(life: Path, shared: Path) -> None:
        star = _particles(shared)
        if not (shared / "earlier").exists():
            _in(shared / "earlier", "backproject", star, "--out", shared / "earlier/out")
        shutil.copytree(shared / "earlier/out", life / "out")

    return run, begin


def _begin_workflow(life: Path, shared: Path) -> None:
    life.mkdir(parents=True)
    for name in ("notebooks", "env"):  # what the Snakefile names by its place
        (life / name).symlink_to(ROOT / name)


def _workflow(folder: Path) -> int:
    command = [sys.executable, "-m", "snakemake", EXPERIMENT, "-s", str(ROOT / "Snakefile")]
    command += ["--config", "scale=smoke", "--cores", "2"]
    environment = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    environment["SNAKEMAKE_PROFILE"] = str(ROOT / "env/profiles/cpu")
    return subprocess.call(command, cwd=folder, env=os.environ | environment)


def _begin_notebook(life: Path, shared: Path) -> None:
    """The runs are made; what the notebook is to do is judge, draw and decide."""
    if not (shared / "made").exists():
        (shared / "made").mkdir()
        runs = (
            "from gsworkbench.experiments import make_runs; "
            f"sys.exit(make_runs.main(['smoke', '{EXPERIMENT}', '.', 'stamp.json']))"
        )
        subprocess.run([sys.executable, "-c", f"import sys; {runs}"], cwd=shared / "made", check=True,
                       env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL)  # fmt: skip
    shutil.copytree(shared / "made", life / "results")


def _notebook(folder: Path) -> int:
    from gsworkbench.experiments.run_notebook import main

    os.environ["PYTHONPATH"] = str(ROOT)
    settings = (f"experiment={EXPERIMENT}", "scale=smoke", "results_dir=results", "output_dir=out")
    return main([str(ROOT / "notebooks/10_claim.ipynb"), "out/executed.ipynb", "--set", *settings])


STAGES = {
    "simulate": Stage(_simulate, _begin_simulate, "out", "particles.star"),
    "accumulate": Stage(_accumulate, _begin_accumulate, "out"),
    "one-pass fit": Stage(*_fit(*ONE_PASS), "out", "run.json"),
    "stochastic fit": Stage(*_fit(*STOCHASTIC), "out", "run.json"),
    "notebook": Stage(_notebook, _begin_notebook, "out"),
    "workflow": Stage(_workflow, _begin_workflow),
}


def _import_everything() -> None:
    """What stages import, so that forks need not; nothing is computed here, as a fork of used threads can hang."""
    import importlib

    for name in (
        "cli.main", "reconstruction.run", "simulation.simulate", "methods.one_pass_fit", "methods.stochastic_fit",
        "methods.sums_of_parts", "assessment.assess", "assessment.plots", "experiments.run_notebook",
    ):  # fmt: skip
        importlib.import_module(f"gsworkbench.{name}")
    for name in ("finufft", "gemmi", "scipy.spatial.transform", "papermill", "matplotlib.figure", "torch"):
        importlib.import_module(name)
    import torch

    torch.set_num_threads(1)
    torch.optim.Adam([torch.zeros(1)])
    import matplotlib.backends.backend_agg
    import matplotlib.backends.backend_svg  # noqa: F401


def table(outcomes: dict[str, Outcome]) -> str:
    """The outcomes as Markdown."""
    heads = "stage|kills survived|runs to the end|bytes lost|bytes damaged in view|kills while renaming"
    heads += "|processes left|one run, s"
    lines = [f"| {heads.replace('|', ' | ')} |", "|---" * 8 + "|"]
    for name, o in outcomes.items():
        kept = f"{o.survived} of {o.kills}"
        lines.append(
            f"| {name} | {kept} | {o.lives} | {o.lost} | {o.damaged} | {o.between} | {o.left} | {o.seconds:.1f} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Run the command line; returns 1 if a kill was not survived."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--stages", nargs="+", default=list(STAGES), choices=list(STAGES))
    parser.add_argument("--write", type=Path, help="put the table into this file, between its markers")
    parser.add_argument("--json", action="store_true", help="print outcomes as JSON")
    given = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    _import_everything()
    outcomes = {}
    with tempfile.TemporaryDirectory() as name:
        for number, stage in enumerate(given.stages):
            (Path(name) / str(number)).mkdir()
            outcomes[stage] = survive(STAGES[stage], given.kills, Path(name) / str(number), given.seed)
            print("\n".join(outcomes[stage].problems), file=sys.stderr)
            print(f"{stage}: {outcomes[stage]}", file=sys.stderr, flush=True)
    print(json.dumps({stage: vars(o) for stage, o in outcomes.items()}) if given.json else table(outcomes))
    if given.write:
        text = given.write.read_text(encoding="utf-8")
        marked = re.compile(r"(<!-- kills -->\n).*?(<!-- /kills -->)", re.S)
        given.write.write_text(marked.sub(lambda m: m[1] + table(outcomes) + "\n" + m[2], text), encoding="utf-8")
    return int(any(o.survived < o.kills or o.damaged or o.left for o in outcomes.values()))


if __name__ == "__main__":
    sys.exit(main())
