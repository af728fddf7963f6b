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

from gsworkbench.gaussians import Gaussians
from gsworkbench.lab.pictures import mean_scales
from gsworkbench.readers import write_map

Volume = NDArray[np.floating]
MOST_ELLIPSOIDS = 4000  # more than this are shown by their heaviest
COLOUR_BY = ("weight", "scale")
_BLUE = 0x4F81BD


class DensityView:
    """The surface of a map at as many of its standard deviations as a slider says.

    The map is sent in units of its standard deviation, so that the browser moves the surface without asking the kernel.
    """

    def __init__(self, volume: Volume, voxel_size: float, slider: widgets.FloatSlider, *, height: int = 420) -> None:
        self.plot = k3d.plot(height=height, grid_visible=False, menu_visibility=False, camera_auto_fit=False)
        self.surface = k3d.marching_cubes(
            in_sigma(volume), level=slider.value, color=_BLUE, bounds=bounds_of(len(volume), voxel_size),
            flat_shading=False, compression_level=1,
        )  # fmt: skip
        self.plot += self.surface
        self.plot.camera = camera_towards(len(volume) * voxel_size)
        self.link = widgets.jslink((slider, "value"), (self.surface, "level"))

    def show(self, volume: Volume, colours: Volume | None = None) -> None:
        """Show another map of the same box, coloured by the values of a second one if given (0 counts as missing)."""
        self.surface.scalar_field = in_sigma(volume)
        if colours is None:
            self.surface.attribute = np.zeros(0, np.float32)
            return
        low, high = np.percentile(colours[colours > 0], [2, 98])
        self.surface.color_map = np.asarray(k3d.matplotlib_color_maps.Viridis_r, np.float32)
        self.surface.color_range = [float(low), float(high)]
        self.surface.attribute = colours.astype(np.float32)


class GaussiansView:
    """Gaussians as points or as ellipsoids of one standard deviation, coloured by weight or by scale."""

    def __init__(self, gaussians: Gaussians, edge: float, *, height: int = 420) -> None:
        self.plot = k3d.plot(height=height, grid_visible=False, menu_visibility=False, camera_auto_fit=False)
        self.plot.camera = camera_towards(edge)
        self.shape: Any = None
        self.show(gaussians)

    def show(self, gaussians: Gaussians, *, ellipsoids: bool = False, colour_by: str = "weight") -> None:
        """Show these Gaussians in place of those before."""
        shown = heaviest(gaussians, MOST_ELLIPSOIDS if ellipsoids else 50_000)
        values = shown.weights.numpy() if colour_by == "weight" else mean_scales(shown)
        low, high = (float(v) for v in np.percentile(values, [2, 98]))
        colours = {
            "color_map": k3d.matplotlib_color_maps.Viridis,
            "color_range": [low, max(high, low + 1e-12)],
            "name": colour_by,
        }
        if ellipsoids:
            vertices, triangles = ellipsoid_mesh(shown)
            each = len(vertices) // len(shown)
            shape = k3d.mesh(
                vertices, triangles, attribute=np.repeat(values, each).astype(np.float32), flat_shading=False, **colours
            )
        else:
            shape = k3d.points(
                shown.means.numpy().astype(np.float32), attribute=values.astype(np.float32),
                point_sizes=(2 * mean_scales(shown)).astype(np.float32), shader="3d", **colours,
            )  # fmt: skip
        if self.shape is not None:
            self.plot -= self.shape
        self.shape = shape
        self.plot += shape


def in_sigma(volume: Volume) -> NDArray[np.float32]:
    """A map over its standard deviation."""
    return (volume / max(float(volume.std()), 1e-30)).astype(np.float32)


def bounds_of(box_size: int, voxel_size: float) -> list[float]:
    """What k3d calls bounds: the outer faces, in A, of a map (D, D, D) whose index D // 2 is the origin."""
    low, high = (-(box_size // 2) - 0.5) * voxel_size, (box_size - box_size // 2 - 0.5) * voxel_size
    return [low, high] * 3


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


def written_for_nglview(volume: Volume, voxel_size: float) -> Path:
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
