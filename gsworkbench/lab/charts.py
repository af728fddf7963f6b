"""Two small widgets of our own: FSC curves to point at, and text to copy. Their JavaScript lies beside this file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import anywidget
import traitlets

from gsworkbench.assessment.fsc import FscCurve
from gsworkbench.assessment.plots import COLOURS

HERE = Path(__file__).parent


class FscChart(anywidget.AnyWidget):
    """FSC curves; pointing reads them in A, a click sets `lowpass` (A; outside the axes 0, none).

    Sends {"shown": true} each time that a browser has drawn it.
    """

    _esm = HERE / "fsc_chart.js"
    curves: traitlets.List = traitlets.List().tag(sync=True)
    nyquist = traitlets.Float(1.0).tag(sync=True)  # A
    lowpass = traitlets.Float(0.0).tag(sync=True)  # A

    def show(self, curves: Mapping[str, FscCurve], faint: Mapping[str, FscCurve] | None = None) -> None:
        """Draw curves by label; `faint` are earlier ones, to compare with."""
        colours = [*COLOURS, *COLOURS]
        rows = [_row(label, c, colour, False) for (label, c), colour in zip(curves.items(), colours, strict=False)]
        rows += [_row(label, c, "#777777", True) for label, c in (faint or {}).items()]
        with self.hold_sync():
            self.nyquist = next(iter(curves.values())).nyquist_angstrom
            self.curves = rows


class CopyText(anywidget.AnyWidget):
    """Text with a button that copies it."""

    _esm = HERE / "copy_text.js"
    text = traitlets.Unicode().tag(sync=True)


def _row(label: str, curve: FscCurve, colour: str, faint: bool) -> dict:
    values = [None if v != v else round(float(v), 5) for v in curve.values]
    step = float(curve.frequencies[1])
    return {"label": label, "values": values, "step": step, "colour": colour, "faint": faint}
