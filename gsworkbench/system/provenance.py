"""run.json: what was run, on what, with what, and what it took. One schema for every command."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from gsworkbench import __version__
from gsworkbench.io.files import sha256, write_json
from gsworkbench.system.memory import peak_memory

SCHEMA_VERSION = 1
LIBRARIES = ("torch", "numpy", "scipy", "mrcfile", "starfile", "finufft", "gemmi")


@dataclass
class RunRecord:
    """The content of run.json; `start` fills it and `finish` writes it.

    schema_version, command (argv), config (as `config.to_mapping` gives it), seeds (name -> int),
    inputs (path -> {"sha256", "bytes"}; files above 1 GB have no hash), n_particles (name -> count), particles (how
    they were read: data_sign, None if mixed, pixel_size in A, box_size in px; of a reconstruction),
    versions (library -> version, with python, gsworkbench and its git commit), machine, device, threads,
    started, ended (ISO 8601, UTC), seconds (stage -> wall seconds), cpu_seconds (stage -> user + system seconds),
    peak_memory_bytes (resident, whole process), results (free: figures that the run prints), warnings (sentences).
    """

    command: list[str]
    config: dict[str, Any]
    seeds: dict[str, int] = field(default_factory=dict)
    inputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    n_particles: dict[str, int] = field(default_factory=dict)
    particles: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    machine: str = ""
    device: str = "cpu"
    threads: int = 0
    started: str = ""
    ended: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    cpu_seconds: dict[str, float] = field(default_factory=dict)
    peak_memory_bytes: int = 0
    results: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    schema_version: int = SCHEMA_VERSION

    @staticmethod
    def start(config: dict[str, Any], inputs: list[Path]) -> RunRecord:
        """Begin a record: hash the inputs, note versions and machine."""
        import torch

        return RunRecord(
            command=list(sys.argv),
            config=config,
            inputs={
                str(p): {"sha256": sha256(p) if p.stat().st_size < 2**30 else None, "bytes": p.stat().st_size}
                for p in inputs
            },
            versions=_versions(),
            machine=machine(),
            threads=torch.get_num_threads(),
            started=_now(),
        )

    def stage(self, name: str) -> _Stage:
        """Return a context manager that adds the time its block takes to `seconds` and `cpu_seconds`."""
        return _Stage(self, name)

    def finish(self, path: str | Path) -> None:
        """Note the peak memory and the time, and write run.json, atomically."""
        self.ended = _now()
        self.peak_memory_bytes = peak_memory()
        if self.device.startswith("cuda"):
            import torch

            self.results["gpu_peak_bytes"] = torch.cuda.max_memory_allocated()
        write_json(path, asdict(self))


class _Stage:
    def __init__(self, record: RunRecord, name: str) -> None:
        self.record, self.name = record, name

    def __enter__(self) -> None:
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def __exit__(self, *_: object) -> None:
        for total, spent in (
            (self.record.seconds, time.perf_counter() - self.wall),
            (self.record.cpu_seconds, time.process_time() - self.cpu),
        ):
            total[self.name] = round(total.get(self.name, 0.0) + spent, 3)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def machine() -> str:
    """Describe this machine in one line: processor, cores, memory."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{model}, {os.cpu_count()} cores, {memory:.0f} GiB"


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "gsworkbench": __version__}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    if commit := _commit(Path(__file__).parents[2]):
        versions["git"] = commit
    return versions


def _commit(checkout: Path) -> str | None:
    """The commit of a checkout of ours, "-dirty" if changed; None of an installed copy, or where there is no git."""
    if not (checkout / ".git").exists():  # installed into somebody else's repository, git would name theirs
        return None
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty"]
    try:
        git = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:  # it is not installed, or not to be run
        return None
    return git.stdout.strip() if git.returncode == 0 else None
