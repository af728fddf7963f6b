"""The tabs of the page that explores a run, one file each. To add one, write its class and name it in `tabs_of`.

Importing this needs no widgets: what a tab shows can be drawn as a picture where there are none.
"""

from __future__ import annotations

from gsworkbench.lab.tabs.atoms_tab import AtomsTab
from gsworkbench.lab.tabs.gaussians_tab import GaussiansTab
from gsworkbench.lab.tabs.live_tab import LiveTab
from gsworkbench.lab.tabs.map_tab import MapTab
from gsworkbench.lab.tabs.particles_tab import ParticlesTab
from gsworkbench.lab.tabs.sections_tab import SectionsTab
from gsworkbench.lab.tabs.tab import Tab, View


def tabs_of(view: View) -> list[Tab]:
    """The tabs of a run in their order. The first, live fits and curves, stands above the others on the page.

    The map comes before what shows the same map: it decides what is shown.
    """
    tabs: list[Tab] = [LiveTab(view), MapTab(view), SectionsTab(view), ParticlesTab(view)]
    if view.gaussians is not None:
        tabs.append(GaussiansTab(view))
    if view.model is not None:
        tabs.append(AtomsTab(view))
    return tabs
