"""What to ask a cluster for: python -m gsworkbench.experiments.resources SCALE RESULTS PROFILE.

Copies env/profiles/slurm to the folder PROFILE and adds memory and time of every rule whose runs are in RESULTS
(results/SCALE), as their run.json measured them, with a margin. Rules without a finished run keep the default. Imports
no torch, so that it runs on a login node.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

import yaml

from gsworkbench.errors import InputError
from gsworkbench.experiments.plan import ROOT, Registry, Run, read_registry
from gsworkbench.io.files import write_text

PROFILE = ROOT / "env" / "profiles" / "slurm" / "config.yaml"
MEMORY_MARGIN = 1.5
TIME_MARGIN = 3.0  # other processors, shared disks
LEAST_MINUTES = 10

Needs = dict[str, dict[str, int]]


def measured(registry: Registry, results: Path) -> Needs:
    """Return {rule: {"mem_mb", "runtime" in minutes}} of the rules that make runs: their largest, and all of them."""
    needs = {}
    for name, runs in registry.owned.items():
        records = [record for run in runs for record in _records(run, results)]
        if records:
            peak = max(record["peak_memory_bytes"] for record in records)
            seconds = sum(sum(record["seconds"].values()) for record in records)
            needs[f"runs_{name}"] = {
                "mem_mb": math.ceil(MEMORY_MARGIN * peak / 2**20),
                "runtime": max(LEAST_MINUTES, math.ceil(TIME_MARGIN * seconds / 60)),
            }
    return needs


def _records(run: Run, results: Path) -> list[dict[str, Any]]:
    """run.json of a run and of its particles, as far as they are there."""
    files = (results / "runs" / run.name / "run.json", results / "datasets" / run.dataset / "run.json")
    return [json.loads(file.read_text(encoding="utf-8")) for file in files if file.is_file()]


def write_profile(folder: Path, needs: Needs) -> None:
    """Write the Slurm profile with these needs to `folder`/config.yaml."""
    if not needs:
        raise InputError("no finished run was found", remedy="give the folder of one, as results/laptop")
    added = yaml.safe_dump({"set-resources": needs}, sort_keys=True)
    write_text(folder / "config.yaml", f"{PROFILE.read_text(encoding='utf-8')}# Measured:\n{added}")


def main() -> int:
    parser = argparse.ArgumentParser(description="write a Slurm profile with the memory and time of earlier runs")
    parser.add_argument("scale", help="smoke, laptop or paper")
    parser.add_argument("results", type=Path, help="where its runs are: results/SCALE")
    parser.add_argument("profile", type=Path, help="folder to write")
    options = parser.parse_args()
    try:
        needs = measured(read_registry(options.scale), options.results)
        write_profile(options.profile, needs)
    except InputError as error:
        print(f"resources: {error}", file=sys.stderr)
        return 2
    print(f"{len(needs)} rules in {options.profile}/config.yaml: snakemake all --profile {options.profile}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
