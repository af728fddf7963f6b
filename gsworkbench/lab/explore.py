"""`explore(folder)`: in a notebook that somebody sits at, a page of widgets; in one that a program runs, pictures.

from gsworkbench.lab.explore import explore
explore("my_map")
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
from pathlib import Path
from typing import Any

from gsworkbench.errors import InputError
from gsworkbench.lab.atoms import atoms_beside
from gsworkbench.lab.opened_run import RunFolder, find_runs, read_run
from gsworkbench.lab.tabs import View, tabs_of

NEEDED = ("ipywidgets", "anywidget", "k3d", "nglview")


def explore(folder: str | Path, *, model: str | Path | None = None, interactive: bool | None = None) -> Any:
    """Show a finished run in a notebook: widgets that change its settings, or static pictures.

    Parameters
    ----------
    folder : str or Path
        The folder of a run, or one with runs below it, of which the first is shown.
    model : str or Path, optional
        Atoms (.cif, .pdb) in the frame of the map's file, to draw over the map.
    interactive : bool, optional
        Widgets (True) or static pictures (False). By default widgets in JupyterLab and voila, pictures elsewhere.

    Returns
    -------
    widget or None
        The widget to display. None after static pictures, which are displayed at once.

    Raises
    ------
    InputError
        If there is no finished run, or a package that the widgets need is not installed.

    Examples
    --------
    >>> import gsworkbench as gs
    >>> gs.explore("my_map", interactive=False)  # doctest: +ELLIPSIS
    Figure(...)
    """
    found = find_runs(folder)
    if not found:
        raise InputError(
            "there is no finished reconstruction", file=folder, remedy="give the --out folder of a reconstruct"
        )
    run, model = read_run(found[0]), None if model is None else Path(model)
    if not (somebody_sits_here() if interactive is None else interactive):
        return show_pictures(run, model)
    need(*NEEDED)
    from gsworkbench.lab.page import Page

    page = Page(run, model=model)
    asyncio.get_running_loop().create_task(page.follow())
    page.box.page = page  # lives as long as what is displayed
    return page.box


def show_pictures(run: RunFolder, model: Path | None = None) -> None:
    """Display the picture of every tab of the page."""
    from IPython.display import display

    for tab in tabs_of(View(run, atoms_beside(run, model))):
        if (figure := tab.picture()) is not None:
            display(figure)


def somebody_sits_here() -> bool:
    """Whether this kernel was started by JupyterLab or voila, and not by papermill or nbconvert."""
    return "JPY_SESSION_NAME" in os.environ or "VOILA_KERNEL_ID" in os.environ


def need(*packages: str) -> None:
    """Raise InputError if one of these packages is not installed."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"this needs {', '.join(missing)}, not installed here", remedy="pip install 'gsworkbench[lab]'"
        )
