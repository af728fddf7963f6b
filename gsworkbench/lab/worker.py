"""Live fits in a process of their own, so that a page never waits: submit, poll for messages, cancel.

A new submission takes the place of what is running. Cancelling asks first; a process that does not come to a point
where it can stop is ended, and another one started.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

from gsworkbench.lab.service import Done, Message, Ready, Stopped, serve
from gsworkbench.methods.reconstruction_config import ReconstructionConfig

PATIENCE = 1.0  # seconds that a fit is given to stop by itself


class Worker:
    """A process that fits the particles of the run in `folder`. Not thread-safe: one owner polls it."""

    def __init__(self, folder: str | Path, *, threads: int | None = None) -> None:
        self.folder, self.threads = Path(folder), threads
        self.job = 0
        self.busy = False
        self._asked: float | None = None  # when cancelling was asked for
        self._start()

    def submit(self, config: ReconstructionConfig) -> int:
        """Start a fit, in place of any that is running; return the number that its messages carry."""
        self.job += 1
        self.busy = True
        self._asked = None
        if self._said_why:
            self._restart()
        try:
            self._connection.send((self.job, config))
        except OSError:  # the process has ended
            self._restart()
            self._connection.send((self.job, config))
        return self.job

    def cancel(self) -> None:
        """Stop what is running; a Stopped message follows."""
        if self.busy and self._asked is None:
            self._asked = time.monotonic()
            with contextlib.suppress(OSError):  # the process has ended, as messages() will say
                self._connection.send((self.job, None))

    def messages(self) -> Iterator[Message]:
        """What has happened since, without waiting. Messages of fits that were replaced are dropped."""
        ended = not self._process.is_alive()  # looked at first: its last words are then all here
        while (message := self._received()) is not None:
            if isinstance(message, Ready) or message.job == 0 or (self.busy and message.job == self.job):
                if isinstance(message, Done | Stopped):
                    self.busy, self._asked = False, None
                    self._said_why = message.job == 0  # what cannot be read ends the process
                yield message
        if self.busy and (ended or self._overdue()):
            words = "cancelled" if self._asked is not None else "the process of the fit ended; is memory short?"
            self._restart()
            self.busy, self._asked = False, None
            yield Stopped(self.job, words)
        elif ended and not self._said_why:
            self._said_why = True
            yield Stopped(0, "the process that reads the particles ended; is memory short?")

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.terminate()
        self._process.join()

    def _received(self) -> Message | None:
        try:
            return self._connection.recv() if self._connection.poll() else None
        except (EOFError, OSError):  # the process has ended, perhaps in the middle of a message
            return None

    def _overdue(self) -> bool:
        return self._asked is not None and time.monotonic() - self._asked > PATIENCE

    def _restart(self) -> None:
        self.close()
        self._start()

    def _start(self) -> None:
        self._said_why = False  # why the process ended
        context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
        self._connection, theirs = context.Pipe()
        self._process: BaseProcess = context.Process(
            target=serve, args=(theirs, self.folder, self.threads), daemon=True
        )
        self._process.start()
        theirs.close()
