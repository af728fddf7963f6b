"""The surface of a map at a level, made in the browser and shown in a k3d scene (surface.js).

k3d's own marching cubes needs half a second for a new level at 128^3 (docs/measured/lab.md). Here k3d holds a mesh
that is empty, and a widget without a view of its own fills it in the browser, where no kernel is asked.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anywidget
import k3d
import numpy as np
import traitlets
from numpy.typing import NDArray

from gsworkbench.io.mrc import Map

Bytes = NDArray[np.uint8]
ONE_BLUE = np.array([[0x6C, 0x9B, 0xD2]], np.uint8)


class Surface(anywidget.AnyWidget):
    """Fills `mesh` with the surface of a map (D, D, D) at `level`, in the map's own unit.

    level : to be linked to a slider. voxel_size : A. The mesh lies in A, voxel D // 2 of the map at the origin.
    """

    _esm = Path(__file__).parent / "surface.js"
    level = traitlets.Float().tag(sync=True)
    field = traitlets.Bytes().tag(sync=True)  # float32, z slowest
    shape: traitlets.List = traitlets.List().tag(sync=True)
    voxel_size = traitlets.Float().tag(sync=True)
    paint = traitlets.Bytes().tag(sync=True)  # an entry of the palette for each voxel, or nothing: its first
    palette = traitlets.Bytes().tag(sync=True)  # r, g, b of up to 256 entries
    mesh_id = traitlets.Int().tag(sync=True)

    def __init__(self, volume: Map, voxel_size: float, level: float) -> None:
        self.mesh = _box(len(volume) * voxel_size / 2)
        super().__init__(level=level, voxel_size=voxel_size, mesh_id=self.mesh.id)
        self.show(volume)

    def show(self, volume: Map, paint: Bytes | None = None, palette: Bytes = ONE_BLUE) -> None:
        """Show another map of the same box; `paint` (D, D, D) names for each voxel an entry of `palette` (n, 3)."""
        with self.hold_sync():
            self.shape = list(volume.shape)
            self.palette = palette.tobytes()
            self.paint = b"" if paint is None else paint.tobytes()
            self.field = np.ascontiguousarray(volume, np.float32).tobytes()


def _box(half_edge: float) -> Any:
    """A mesh with nothing to see that spans the box of a map, for k3d to place its near and far planes by."""
    corners = np.array([[-1, -1, -1], [1, 1, 1], [1, 1, 1]], np.float32) * np.float32(half_edge)
    return k3d.mesh(corners, np.array([[0, 1, 2]], np.uint32), color=0xFFFFFF, flat_shading=False, side="front")
