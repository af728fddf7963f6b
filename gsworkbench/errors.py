"""The one error a user's input can cause: a sentence that names file, row and remedy."""

from __future__ import annotations

from collections.abc import Collection
from itertools import islice
from pathlib import Path
from typing import Any

LONGEST = 2000  # characters of a sentence; a file may hold a name of a million


class InputError(ValueError):
    """The input cannot be used; the message is one sentence that names the file, the row and what to do.

    The command line prints the message and exits with code 2. Nothing has been written by then.

    Parameters
    ----------
    problem : str
        What is wrong, in plain words, without a full stop.
    file : str or Path, optional
        The file that the problem is in.
    row : int, optional
        The row or particle in that file, counted from 1.
    remedy : str, optional
        What the user can do about it.

    Examples
    --------
    >>> import gsworkbench as gs
    >>> try:
    ...     gs.read_map("absent.mrc")
    ... except gs.InputError as error:
    ...     print(error)
    absent.mrc: there is no such file.
    """

    def __init__(
        self,
        problem: str,
        *,
        file: str | Path | None = None,
        row: int | None = None,
        remedy: str | None = None,
    ) -> None:
        self.problem, self.file, self.row, self.remedy = problem, file, row, remedy
        where = [] if file is None else [str(file)]
        if row is not None:
            where.append(f"row {row}")
        sentence = f"{', '.join(where)}: {problem}" if where else problem
        if remedy:
            sentence += f"; {remedy}"
        super().__init__(one_line(sentence) + ".")


class Note(UserWarning):
    """A sentence the user should see while the work goes on; the command line prints it as `note: ...`."""


def first_few(values: Collection[Any], most: int = 5) -> str:
    """Values for a message: all if they are few, else the first and dots, as a file may hold thousands; "none"."""
    return ", ".join([*map(str, islice(values, most)), *["..."] * (len(values) > most)]) or "none"


def one_line(text: str) -> str:
    """One line of readable length, whatever a file holds: what would steer a terminal is spelt out."""
    line = " ".join(filter(None, (part.strip() for part in text.split("\n"))))
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
    return line if len(line) <= LONGEST else f"{line[: LONGEST // 2]} ... {line[-LONGEST // 4 :]}"


class NotRun(InputError):
    """A method that cannot run here, for no fault of the input: "NAME was not run, because REASON".

    The command line prints it like any other; the workflow records it in place of a result.
    """

    def __init__(self, name: str, because: str, *, remedy: str | None = None) -> None:
        self.name, self.because = name, because
        super().__init__(f"{name} was not run, because {because}", remedy=remedy)
