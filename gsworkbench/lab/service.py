"""The process that makes live fits: takes settings from a pipe and sends messages back.

A fit is cancelled from inside: whenever it reports progress, the process looks whether the fit is still wanted.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from gsworkbench.errors import InputError
from gsworkbench.system.progress import reporting

if TYPE_CHECKING:
    from gsworkbench.lab.fits import Outcome, Volume
    from gsworkbench.methods.reconstruction_config import ReconstructionConfig


@dataclass(frozen=True)
class Ready:
    """The particles are read and summed. reading : options of the command line that they need."""

    reading: tuple[str, ...]


@dataclass(frozen=True)
class Progress:
    """How far a fit is: what it is doing, and the fraction of that, if known. job 0: reading the particles."""

    job: int
    words: str
    fraction: float | None = None


@dataclass(frozen=True)
class MapMade:
    """One of the three maps of a fit, "all" first."""

    job: int
    name: str
    volume: Volume


@dataclass(frozen=True)
class Done:
    job: int
    outcome: Outcome
    table: Path


@dataclass(frozen=True)
class Stopped:
    """A fit that was cancelled, or that could not be done, and why."""

    job: int
    reason: str


REPORT_SECONDS = 0.1  # between two reports of one stage

Message = Ready | Progress | MapMade | Done | Stopped


class Cancelled(Exception):
    """Raised inside a fit that is no longer wanted."""


class _Service:
    """The other end of the pipe."""

    def __init__(self, connection: Connection, folder: Path) -> None:
        self.connection, self.folder = connection, folder
        self.waiting: list[tuple[int, ReconstructionConfig | None]] = []
        self.job = 0
        self.told = ("", 0.0)  # the last stage that was reported, and when

    def run(self) -> None:
        """Read the particles, then fit what comes."""
        with warnings.catch_warnings(), reporting(self.report):
            warnings.simplefilter("ignore")  # they are in the record of a fit, and would appear below the page's cell
            self._run()

    def _run(self) -> None:
        from gsworkbench.lab.fits import LiveFits, record_outcome
        from gsworkbench.lab.opened_run import read_run

        run = read_run(self.folder)
        fits = LiveFits(run)
        fits.warm_up()
        self.connection.send(Ready(fits.reading))
        while True:
            self.job, config = self.waiting.pop() if self.waiting else self.connection.recv()
            self.waiting.clear()
            if config is None:
                self.connection.send(Stopped(self.job, "cancelled"))
                continue
            try:
                outcome = fits.fit(config, lambda name, made: self.show(name, made.volume))
                table = record_outcome(run, outcome)
                self.connection.send(Done(self.job, outcome, table))
            except Cancelled:
                self.connection.send(Stopped(self.job, "cancelled"))
            except InputError as error:
                self.connection.send(Stopped(self.job, str(error)))

    def report(self, stage: str, done: int, of: int | None) -> None:
        """Send how far the fit is, now and then, or leave it if it is no longer wanted."""
        self.check()
        now = time.monotonic()
        if stage != self.told[0] or done == of or now - self.told[1] > REPORT_SECONDS:
            self.told = (stage, now)
            self.connection.send(Progress(self.job, stage, done / of if of else None))

    def show(self, name: str, volume: Volume) -> None:
        self.check()
        self.connection.send(MapMade(self.job, name, volume))

    def check(self) -> None:
        """Leave the fit if another one, or none, is wanted."""
        while self.connection.poll():
            self.waiting.append(self.connection.recv())
        if self.waiting and self.job:
            raise Cancelled


def serve(connection: Connection, folder: Path, threads: int | None) -> None:
    """Fit what is sent as (job, config) until the pipe is closed; (job, None) cancels."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    service = _Service(connection, folder)
    try:
        service.run()
    except InputError as error:
        connection.send(Stopped(service.job, str(error)))
    except (EOFError, BrokenPipeError, KeyboardInterrupt):  # the page is gone
        return
