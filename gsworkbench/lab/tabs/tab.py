"""What a tab is, and the view of a run that all tabs share."""

from __future__ import annotations

import html
import shlex
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from gsworkbench.io.mrc import Map, read_map
from gsworkbench.lab.opened_run import RunFolder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from gsworkbench.lab.fits import Outcome

SLIDER = {"style": {"description_width": "110px"}, "layout": {"width": "420px"}}


class View:
    """What is shown of a run: its own maps and Gaussians, or those of a live fit.

    model : atoms to lay over the map, or None. maps, gaussians : those that are shown. kind : which of the maps.
    shown : that map as it is displayed, filtered perhaps. level : of its surface, in its standard deviations.
    outcome, before : the last live fit, and the one before it. changed : called by a tab that changed the view.
    """

    def __init__(self, run: RunFolder, model: Path | None = None) -> None:
        self.run, self.model = run, model
        self.maps: dict[str, Any] = dict(run.maps)
        self.gaussians = run.gaussians
        self.kind, self.level = "full", 4.0
        self.shown: Map = self.maps["full"]
        self.outcome: Outcome | None = None
        self.before: Outcome | None = None
        self.changed: Callable[[Tab], None] = lambda tab: None

    @property
    def edge(self) -> float:
        """The edge of the box in A."""
        return len(self.maps["full"]) * self.run.voxel_size

    def local_resolution(self) -> Map | None:
        """The map of local resolution in A, if one lies in the run's folder."""
        path = self.run.folder / "locres.mrc"
        volume = read_map(path)[0] if path.is_file() else None
        return volume if volume is not None and volume.shape == self.maps["full"].shape else None

    def how_to_localres(self) -> str:
        """What to type for a map of local resolution, as HTML."""
        words = shlex.join(["gsworkbench", "localres", str(self.run.folder), "--out", str(self.run.folder)])
        return (
            f"<small>There is no map of local resolution yet; this makes it: <code>{html.escape(words)}</code></small>"
        )


class Tab:
    """One tab: widgets to display, and a picture of the same for where there are no widgets.

    title : what the page writes on it. name : of the file of its picture.
    """

    title: ClassVar[str]
    name: ClassVar[str]

    def __init__(self, view: View) -> None:
        self.view = view

    @cached_property
    def box(self) -> Any:
        """The widget to display, made when it is first asked for."""
        return self.build()

    def build(self) -> Any:
        """Make the widgets of the tab, and return the one that holds the others."""
        raise NotImplementedError

    def opened(self) -> None:
        """Make what can be made only where it is seen: a canvas that is made out of sight has no size."""

    def show(self, view: View) -> None:
        """Show a view that has changed."""

    def picture(self) -> Figure | None:
        """Draw what the tab shows as a figure; None where there is nothing to draw."""
        raise NotImplementedError

    def resend(self) -> None:
        """Send what may have changed while a browser loaded the page, and missed it."""
