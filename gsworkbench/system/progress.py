"""How far long work has come: a bar on the terminal, or whatever a caller puts in its place.

Work says `track` or `progress`. By default tqdm draws a bar; inside `reporting(report)` there is no bar, and
report(stage, done, of) is called instead, once at the start and after every step. An exception that `report` raises
leaves the work: this is how a fit is cancelled. tqdm is imported with the first bar, and heeds TQDM_DISABLE.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator
from contextvars import ContextVar
from typing import Any, TypeVar

T = TypeVar("T")

# The stage in words, the steps done, and the steps in all, None where nobody knows.
Report = Callable[[str, int, int | None], None]

_report: ContextVar[Report | None] = ContextVar("report", default=None)


class Meter:
    """One stage of some work, drawn or reported."""

    def __init__(self, stage: str, total: int | None, done: int, report: Report | None, bar: Any) -> None:
        self.stage, self.total, self.done = stage, total, done
        self._report, self._bar = report, bar

    def advance(self, steps: int = 1) -> None:
        """Count steps that are done."""
        self.done += steps
        if self._report is not None:
            self._report(self.stage, self.done, self.total)
        else:
            self._bar.update(steps)

    def remark(self, words: str) -> None:
        """Show words beside the bar, where there is one."""
        if self._bar is not None:
            self._bar.set_postfix_str(words, refresh=False)


@contextlib.contextmanager
def reporting(report: Report) -> Iterator[None]:
    """Within this context, tell `report` of progress instead of drawing bars."""
    token = _report.set(report)
    try:
        yield
    finally:
        _report.reset(token)


@contextlib.contextmanager
def progress(
    stage: str, total: int | None, *, unit: str = "it", leave: bool = True, done: int = 0, scale: bool = False
) -> Iterator[Meter]:
    """Measure a stage of `total` steps, `done` of which were done before.

    leave : whether the bar stays when the stage ends. scale : whether numbers are shown as k, M and G.
    """
    report = _report.get()
    if report is not None:
        report(stage, done, total)
        yield Meter(stage, total, done, report, None)
        return
    from tqdm.auto import tqdm

    options: dict[str, Any] = {"unit": unit, "unit_scale": scale, "mininterval": 0.5, "leave": leave}
    with tqdm(total=total, initial=done, desc=stage, **options) as bar:
        yield Meter(stage, total, done, None, bar)


def track(iterable: Iterable[T], stage: str, total: int | None = None, *, unit: str = "it") -> Iterator[T]:
    """Iterate over something as over steps of a stage; `total` defaults to its length, where it has one."""
    if total is None and isinstance(iterable, Collection):
        total = len(iterable)
    with progress(stage, total, unit=unit) as meter:
        for item in iterable:
            yield item
            meter.advance()
