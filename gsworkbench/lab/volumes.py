"""Views in three dimensions: density and Gaussians in k3d, a map with its atomic model in nglview.

k3d takes arrays z, y, x as they are; lengths are in A from the map's centre D // 2. nglview's frame is that of the
files: it lays maps on coordinates by their headers.
"""

from __future__ import annotations

import json
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import k3d
import numpy as np
from numpy.typing import NDArray

from gsworkbench.gaussians.mixture import Gaussians
from gsworkbench.io.mrc import Map, write_map
from gsworkbench.lab.palette import as_integers, entries, legend, limits, palette
from gsworkbench.lab.pictures import mean_scales
from gsworkbench.lab.surface import Surface

Resolution = tuple[Map, float] | None
MOST_ELLIPSOIDS = 4000  # more than this are shown by their heaviest
COLOUR_BY = ("weight", "scale", "local resolution")
_UNITS = {"weight": "", "scale": ", Å", "local resolution": ", Å"}


class DensityView:
    """The surface of a map at as many of its standard deviations as a slider says.

    The map is sent in units of its standard deviation, so that the browser moves the surface without asking the kernel.
    """

    def __init__(self, volume: Map, voxel_size: float, slider: widgets.FloatSlider, *, height: int = 420) -> None:
        self.plot = _plot(len(volume) * voxel_size, height)
        self.surface = Surface(in_sigma(volume), voxel_size, slider.value)
        self.plot += self.surface.mesh
        self.link = widgets.jslink((slider, "value"), (self.surface, "level"))

    def show(self, volume: Map, resolution: Map | None = None) -> str:
        """Show another map of the same box, coloured by local resolution (A, 0 where unknown) if given; its legend."""
        if resolution is None:
            self.surface.show(in_sigma(volume))
            return ""
        values = known(resolution)
        low, high = limits(values)
        self.surface.show(in_sigma(volume), entries(values, low, high), palette(reverse=True))
        return legend("local resolution, Å", low, high, reverse=True)


class GaussiansView:
    """Gaussians as points or as ellipsoids of one standard deviation, coloured by one of COLOUR_BY."""

    def __init__(self, edge: float, *, height: int = 420) -> None:
        self.plot = _plot(edge, height)
        self.shape: Any = None

    def show(self, gaussians: Gaussians, colour_by: str, *, ellipsoids: bool, resolution: Resolution = None) -> str:
        """Show these Gaussians in place of those before; return the legend of their colours.

        resolution : (map of local resolution in A, its voxel size), for colour_by "local resolution".
        """
        shown = heaviest(gaussians, MOST_ELLIPSOIDS if ellipsoids else 50_000)
        values = values_of(shown, colour_by, resolution)
        low, high = limits(values)
        reverse = colour_by == "local resolution"
        colours = as_integers(palette(reverse=reverse)[entries(values, low, high)])
        shape = _ellipsoids(shown, colours) if ellipsoids else _points(shown, colours)
        if self.shape is not None:
            self.plot -= self.shape
        self.shape = shape
        self.plot += shape
        return legend(f"{colour_by}{_UNITS[colour_by]}", low, high, reverse=reverse)


def values_of(gaussians: Gaussians, what: str, resolution: Resolution = None) -> NDArray[np.floating]:
    """(n,) what Gaussians are coloured by: weight, scale (A), or local resolution at their centres (A; NaN unknown)."""
    if what == "weight":
        return gaussians.weights.numpy()
    if what == "scale":
        return mean_scales(gaussians)
    assert resolution is not None
    volume, voxel_size = resolution
    x, y, z = np.rint(gaussians.means.numpy().T / voxel_size).astype(int) + len(volume) // 2
    inside = np.all([(i >= 0) & (i < len(volume)) for i in (x, y, z)], axis=0)
    values = np.full(len(gaussians), np.nan)
    values[inside] = known(volume)[z[inside], y[inside], x[inside]]
    return values


def known(resolution: Map) -> Map:
    """A map of local resolution with NaN where it says 0: unknown."""
    return np.where(resolution > 0, resolution, np.float32(np.nan))


def _points(gaussians: Gaussians, colours: NDArray[np.uint32]) -> Any:
    sizes = (2 * mean_scales(gaussians)).astype(np.float32)
    return k3d.points(gaussians.means.numpy().astype(np.float32), colors=colours, point_sizes=sizes, shader="3d")


def _ellipsoids(gaussians: Gaussians, colours: NDArray[np.uint32]) -> Any:
    vertices, triangles = ellipsoid_mesh(gaussians)
    each = np.repeat(colours, len(vertices) // len(gaussians))
    return k3d.mesh(vertices, triangles, colors=each, color=0xFFFFFF, flat_shading=False)


def _plot(edge: float, height: int) -> Any:
    """An empty scene. Drawing in software, smooth edges and logarithmic depth would double the time of a picture."""
    hidden = {"grid_visible": False, "menu_visibility": False, "camera_auto_fit": False}
    plot = k3d.plot(height=height, antialias=0, logarithmic_depth_buffer=False, **hidden)
    plot.camera = camera_towards(edge)
    return plot


def in_sigma(volume: Map) -> NDArray[np.float32]:
    """A map over its standard deviation."""
    return (volume / max(float(volume.std()), 1e-30)).astype(np.float32)


def camera_towards(edge: float) -> list[float]:
    """A camera that sees a box of this edge (A) about the origin along -z, x to the right: position, target, up."""
    return [0.0, 0.0, 0.85 * edge, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0]


def heaviest(gaussians: Gaussians, most: int) -> Gaussians:
    """At most this many Gaussians, those of largest weight."""
    if len(gaussians) <= most:
        return gaussians
    kept = gaussians.weights.argsort(descending=True)[:most]
    parts = {name: getattr(gaussians, name)[kept] for name in ("means", "scales", "quaternions", "weights")}
    return Gaussians(**parts, floor_angstrom=gaussians.floor_angstrom)


def ellipsoid_mesh(gaussians: Gaussians) -> tuple[NDArray[np.float32], NDArray[np.uint32]]:
    """Vertices (n m, 3) in A and triangles of the surfaces at one standard deviation: an icosahedron each, m = 12."""
    corners, faces = _icosahedron()
    values, axes = np.linalg.eigh(gaussians.covariances().numpy())
    stretch = axes * np.sqrt(values.clip(min=0))[:, None, :]
    vertices = gaussians.means.numpy()[:, None] + corners @ stretch.transpose(0, 2, 1)
    triangles = faces + len(corners) * np.arange(len(gaussians))[:, None, None]
    return vertices.reshape(-1, 3).astype(np.float32), triangles.reshape(-1, 3).astype(np.uint32)


def map_with_model(map_file: Path, model: Path, level: float) -> Any:
    """An nglview widget of a map (.mrc) at an absolute level and the atoms of a .cif or .pdb, placed by their files."""
    nglview = import_nglview()
    view = nglview.NGLWidget()
    view.add_component(str(map_file), ext=map_file.suffix[1:])  # keep its surface: one added later is not centred
    view.add_component(str(model), ext=model.suffix[1:])
    view.update_representation(component=0, repr_index=0, isolevelType="value", isolevel=float(level), opacity=0.6)
    view.layout.height = "420px"
    return view


def set_model_level(view: Any, level: float) -> None:
    """Move the surface of `map_with_model`."""
    view.update_representation(component=0, repr_index=0, isolevelType="value", isolevel=float(level), opacity=0.6)


def written_for_nglview(volume: Map, voxel_size: float) -> Path:
    """A temporary .mrc of a map, which nglview reads whole when it is given to it."""
    path = Path(tempfile.mkdtemp()) / "map.mrc"
    write_map(path, volume, voxel_size)
    return path


def import_nglview() -> Any:
    """Import nglview, telling it which version of its own JavaScript is installed.

    nglview 4.0.1 declares the front end 4.0 and ships 3.1.5, so that Jupyter finds no module of the name it asks for
    (nglviewer/nglview issues 1172 and 1181).
    """
    shipped = Path(sys.prefix, "share/jupyter/labextensions/nglview-js-widgets/package.json")
    if "nglview" not in sys.modules and shipped.is_file():
        frontend: Any = types.ModuleType("nglview._frontend")
        frontend.__frontend_version__ = json.loads(shipped.read_text(encoding="utf-8"))["version"]
        sys.modules["nglview._frontend"] = frontend
    import nglview

    return nglview


def _icosahedron() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Its 12 corners on the unit sphere and its 20 faces, outwards."""
    from scipy.spatial import ConvexHull

    golden = (1 + 5**0.5) / 2
    corners = np.array([(0, a, b * golden) for a in (-1, 1) for b in (-1, 1)], float)
    corners = np.concatenate([np.roll(corners, k, axis=1) for k in range(3)]) / np.hypot(1, golden)
    faces = ConvexHull(corners).simplices
    a, b, c = corners[faces].transpose(1, 0, 2)
    inwards = (np.cross(b - a, c - a) * a).sum(1) < 0
    faces[inwards] = faces[inwards][:, ::-1]
    return corners, faces
