"""What a user gets when a command fails in a way that nobody foresaw: one sentence, and a log to send us."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
import tempfile
import time
import traceback
from pathlib import Path

from gsworkbench import __version__
from gsworkbench.errors import one_line
from gsworkbench.io.files import write_text

UNEXPECTED = 70  # exit code; EX_SOFTWARE of BSD's sysexits
SHOW = "GSWORKBENCH_TRACEBACK"  # an environment variable: set to 1, the traceback goes to the screen
_LONGEST = 200  # characters of the error's own words


def unexpected(error: Exception, command: str, out: Path | None) -> str:
    """Return the sentence for an error of the program itself, without a full stop, and write the log that it names.

    The log lies beside the folder or file that the command was to write, else in the system's folder for such files.
    """
    words = one_line(str(error))[:_LONGEST]
    said = f"{type(error).__name__}: {words}" if words else type(error).__name__
    text = "".join(traceback.format_exception(error))
    if os.environ.get(SHOW, "") not in ("", "0"):
        sys.stderr.write(text)
    return (
        f"something unexpected happened in {command} ({said}); {_likely(words)}please report this with "
        f"{_written(text, command, out)}"
    )


def _likely(words: str) -> str:
    """What is known to be behind such an error."""
    if "is not finite" in words or "NaN or infinit" in words:
        return (
            "numbers ran over, most likely because some images hold absurd values or their background holds no noise "
            "at all, as in images with empty corners; `gsworkbench inspect` on the particles names such images; if it "
            "does not, "
        )
    return "if numbers in the input are unusual, `gsworkbench inspect` on the particles names them; "


def _written(text: str, command: str, out: Path | None) -> str:
    """Write the log, and say where it is."""
    name = f"gsworkbench-{command}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    head = f"gsworkbench {__version__}, Python {platform.python_version()}, {platform.platform()}\n{sys.argv}\n\n"
    folders = [] if out is None else [Path(out).absolute().parent]
    for folder in (*folders, Path(tempfile.gettempdir())):
        if not folder.is_dir():
            continue
        with contextlib.suppress(OSError):
            write_text(folder / name, (head + text).encode("utf-8", "backslashreplace").decode("utf-8"))
            return f"the log {folder / name}"
    return f"what is printed after setting {SHOW}=1, for no log could be written"
