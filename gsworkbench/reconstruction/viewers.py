"""Files beside a run for other viewers: a ChimeraX script of its maps, and its Gaussians as a 3DGS .ply.

The .ply is an export to look at, as splat viewers draw (opaque, sorted, composited): the model itself is gaussians.npz,
whose weights add up, and the map is the .mrc.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gsworkbench.io.files import atomic_path, write_text

if TYPE_CHECKING:
    from gsworkbench.gaussians.mixture import Gaussians

LEVEL = 4.0  # standard deviations of the map
COLOURS = ("cornflower blue", "goldenrod", "medium sea green", "orchid", "light gray")
_SH_CONSTANT = 0.28209479177387814  # of the spherical harmonic of degree 0: rgb = 0.5 + _SH_CONSTANT f_dc
_PLY_FIELDS = (
    *("x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", "opacity"),
    *("scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"),
)


def write_chimerax_script(path: str | Path, maps: Mapping[str, NDArray[np.floating]]) -> None:
    """Write a .cxc that opens map files lying beside it, {file name: volume}, the first shown and the others hidden.

    Each is drawn at 4 standard deviations; ChimeraX runs a script in the folder that it lies in.
    """
    lines = ["# Open this file with ChimeraX. Contour levels are 4 standard deviations of each map."]
    for number, (file, volume) in enumerate(maps.items(), 1):
        level = LEVEL * float(volume.std())
        colour = COLOURS[(number - 1) % len(COLOURS)]
        lines += [f'open "{file}" id {number}', f"volume #{number} style surface level {level:.6g} step 1"]
        lines.append(f'color #{number} "{colour}"')
    if len(maps) > 1:
        lines.append(f"hide #2-{len(maps)} models")
    lines += ["set bgColor white", "lighting soft", "view", ""]
    write_text(path, "\n".join(lines))


def write_splats(path: str | Path, gaussians: Gaussians) -> None:
    """Write Gaussians as a 3DGS .ply (binary, little endian): means in A, log scales, quaternions wxyz, grey.

    The floor is in the scales. Opacity is 1 - exp(-c / 2), c the column density through the centre along the shortest
    axis, weight / (2 pi s1 s2), relative to its 95th percentile. Gaussians without positive weight are left out.
    """
    means, scales, rotations, weights = (
        getattr(gaussians, name).detach().cpu().numpy() for name in ("means", "scales", "quaternions", "weights")
    )
    kept = weights > 0
    scales = np.sqrt(scales[kept] ** 2 + gaussians.floor_angstrom**2)
    rotations = rotations[kept]
    rotations = rotations / np.linalg.norm(rotations, axis=1, keepdims=True)
    longer = np.sort(scales, axis=1)[:, 1:].prod(1)
    column = weights[kept] / (2 * np.pi * longer)
    strength = column / np.percentile(column, 95) if len(column) else column
    opacity = np.clip(1 - np.exp(-0.5 * strength), 1e-3, 1 - 1e-3)
    table = np.zeros(len(scales), [(name, "<f4") for name in _PLY_FIELDS])
    for names, columns in (
        (("x", "y", "z"), means[kept]),
        (("scale_0", "scale_1", "scale_2"), np.log(scales)),
        (("rot_0", "rot_1", "rot_2", "rot_3"), rotations),
        (("f_dc_0", "f_dc_1", "f_dc_2"), np.full((len(scales), 3), (0.7 - 0.5) / _SH_CONSTANT)),
        (("opacity",), np.log(opacity / (1 - opacity))[:, None]),
    ):
        for name, column_ in zip(names, columns.T, strict=True):
            table[name] = column_
    header = ["ply", "format binary_little_endian 1.0", "comment lengths in A", f"element vertex {len(table)}"]
    header += [*(f"property float {name}" for name in _PLY_FIELDS), "end_header", ""]
    with atomic_path(path) as temporary:
        temporary.write_bytes("\n".join(header).encode("ascii") + table.tobytes())
