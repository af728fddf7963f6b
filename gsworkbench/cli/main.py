"""The command line, `gsworkbench COMMAND`: the list of commands, and what becomes of their errors.

A group of commands is a file: its options, and the functions that call the core and print what came out. Packages that
take long to import are imported inside these functions.

Exit codes: 0 done, 2 input that cannot be used (one sentence says why, nothing was written), 70 something unexpected
(one sentence, and a log that names the place in the program), 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from gsworkbench import __version__
from gsworkbench.cli import (
    accumulate_commands,
    judge_commands,
    lab_commands,
    particle_commands,
    reconstruct_command,
    relion_commands,
)
from gsworkbench.cli.crash_log import UNEXPECTED, unexpected
from gsworkbench.errors import InputError, Note
from gsworkbench.system import distributed
from gsworkbench.system.memory import is_out_of_memory, keep_freed_memory

NOT_ENOUGH = (
    "bin the images to a smaller box, or go where there is more (docs/use/scale.md says what a box takes); "
    "the same command with --resume goes on where it can"
)


# The commands, in the order in which --help lists them.
GROUPS = (particle_commands, reconstruct_command, accumulate_commands, relion_commands, judge_commands, lab_commands)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    keep_freed_memory()
    options = parser().parse_args(arguments)
    with _notes():
        return _run(options)


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; what is parsed names the command, and `run` is its function."""
    result = argparse.ArgumentParser(
        prog="gsworkbench",
        description="Cryo-EM maps as mixtures of 3D Gaussians, from particles with known poses and CTF.",
        epilog="Start with: gsworkbench inspect particles.star",
    )
    result.add_argument("--version", action="version", version=f"gsworkbench {__version__}")
    commands = result.add_subparsers(title="commands", dest="command", required=True, metavar="COMMAND")
    for group in GROUPS:
        group.add(commands)
    return result


@contextlib.contextmanager
def _notes() -> Iterator[None]:
    """Print what is noted on the way as one line each, once, without the place in the program that Python adds."""
    with warnings.catch_warnings():
        warnings.filterwarnings("always", category=Note)
        shown, otherwise = set[str](), warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if not issubclass(category, Note):
                otherwise(message, category, *where, **more)
            elif str(message) not in shown:
                shown.add(str(message))
                print(f"gsworkbench: note: {message}", file=sys.stderr, flush=True)

        warnings.showwarning = show
        yield


def _run(options: argparse.Namespace) -> int:
    try:
        if getattr(options, "threads", None):
            import torch

            torch.set_num_threads(options.threads)
        with distributed.processes():
            options.run(options)
    except InputError as error:
        print(f"gsworkbench: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"gsworkbench: {error.filename or 'a file'}: {error.strerror or error}.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("gsworkbench: interrupted; the same command with --resume goes on where it can.", file=sys.stderr)
        return 130
    except Exception as error:  # whatever it is, a user gets one sentence
        if is_out_of_memory(error):
            print(f"gsworkbench: there is not enough memory: {NOT_ENOUGH}.", file=sys.stderr)
            return 2
        print(f"gsworkbench: {unexpected(error, options.command, getattr(options, 'out', None))}.", file=sys.stderr)
        return UNEXPECTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
