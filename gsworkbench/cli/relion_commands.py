"""The command that RELION calls in place of its own reconstruction."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from gsworkbench.cli.shared_options import number
from gsworkbench.errors import InputError


def add(commands: Any) -> None:
    """Add external-reconstruct."""
    command = commands.add_parser(
        "external-reconstruct",
        help="make the map of one iteration of relion_refine, with Gaussians",
        description="RELION (3.1 and later) calls this program in every iteration, if relion_refine runs with "
        "--external_reconstruct and the environment variable RELION_EXTERNAL_RECONSTRUCT_EXECUTABLE is 'gsworkbench "
        "external-reconstruct'. It fits Gaussians to the numerator and weight that RELION has written, and writes the "
        "map where RELION expects it, and beside it a .json that says how the map was made. Where it cannot, it says "
        "why and RELION stops; the map is written whole or not at all.",
    )
    command.add_argument(
        "star", type=Path, metavar="FILE", help="the file *_external_reconstruct.star that RELION names"
    )
    command.add_argument("--seed", type=int, default=0, help="random numbers: where Gaussians start, what is held out")
    command.add_argument("--threads", type=int, default=1, metavar="N", help="processor threads to use (default 1)")
    command.add_argument(
        "--set",
        dest="settings",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting of the method one_pass, as n_gaussians=4000 or background=false",
    )
    command.set_defaults(run=_external_reconstruct)


def _external_reconstruct(options: argparse.Namespace) -> None:
    import contextlib
    import sys
    import time

    start, cpu = time.perf_counter(), time.process_time()
    from gsworkbench.io.files import appear_together, write_json
    from gsworkbench.io.mrc import write_map
    from gsworkbench.methods.one_pass_fit import FitContext
    from gsworkbench.methods.relion_map import relion_map
    from gsworkbench.normal_equations.relion_external import read_relion_external
    from gsworkbench.system.progress import reporting

    config = _settings(options.settings)
    sums = read_relion_external(options.star)
    bars = contextlib.nullcontext() if sys.stderr.isatty() else reporting(lambda *_: None)  # RELION's log needs none
    with bars:
        made = relion_map(sums, config, FitContext(options.seed, label=options.star.stem))
    n = 0 if made.gaussians is None else len(made.gaussians)
    report = {
        "made_by": "Gaussians" if n else "the filter of RELION, as the Gaussians explained no held-out component",
        "box_size": sums.box_size,
        "current_size": 2 * sums.radius,
        "n_gaussians": n,
        "signal": round(made.signal, 2),
        "share": [round(float(value), 4) for value in made.share],
        "misfit": [round(float(value), 5) for value in made.misfit],
        "seed": options.seed,
        "settings": options.settings,
        "seconds": round(time.perf_counter() - start, 2),
        "cpu_seconds": round(time.process_time() - cpu, 2),
    }
    with appear_together():
        write_json(sums.result.with_suffix(".json"), report)
        write_map(sums.result, made.volume, 1.0)
    what = f"{n:,} Gaussians" if n else "no Gaussians, as held-out components hold no signal of them"
    print(
        f" + gsworkbench: {what}, box of {sums.box_size}, size {2 * sums.radius}, {report['seconds']:.1f} s", flush=True
    )


def _settings(words: list[str]) -> Any:
    """The settings of one_pass with those of --set."""
    from gsworkbench.config import from_mapping
    from gsworkbench.methods.one_pass import OnePass

    chosen = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise InputError(f"--set {word} is not of the form NAME=VALUE", remedy="give --set background=false")
        chosen[name] = number(value)
    if chosen.get("n_gaussians") == "auto":
        raise InputError("n_gaussians=auto needs particles, and there are none here", remedy="give a number")
    return from_mapping(OnePass, chosen)
