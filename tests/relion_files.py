"""Files as relion_refine --external_reconstruct writes them, made from sums of our own."""

from pathlib import Path

import mrcfile
import numpy as np

from gsworkbench.normal_equations.diagonal import diagonal, shell_sum
from gsworkbench.normal_equations.equations import NormalEquations
from gsworkbench.normal_equations.sums_format import nodes as nodes_of

STEM = "run_it001_class001_external_reconstruct"


def write_external(folder: Path, sums: NormalEquations, *, hermitian: bool = True, size: int | None = None) -> Path:
    """Write sums in RELION's units and layout; return the STAR file. Nothing is written from size / 2 shells on."""
    box = sums.box_size
    size, edge = size or box, 2 * box
    nodes = nodes_of(box, sums.engine)
    real, imaginary, weight = np.zeros((3, *nodes.shape))
    for grid, part in zip((real, imaginary, weight), sums.grid_sums, strict=True):
        grid[nodes] = part
    data = real + 1j * imaginary
    mate = (-np.arange(edge)) % edge
    for plane in (0, box) if hermitian else (box,):  # RELION writes nothing at Nyquist, where we have a little
        data[:, :, plane] += data[mate, :, plane][:, mate].conj()
        weight[:, :, plane] += weight[mate, :, plane][:, mate]
    axis = np.fft.fftfreq(edge, 1 / edge)
    radius = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + np.arange(box + 1) ** 2)
    sigma2 = sums.noise_power / box**4 / 2  # RELION's: of the real part, of a transform over the number of pixels
    within = ((radius < size) | (size == box)) / sigma2  # at full size, spreading beyond is left
    data, weight = data * within / box**2, weight * within
    tau2 = _signal(sums)[: box // 2 + 1] * sums.pixel_size**2 / (2 * box**4)
    folder.mkdir(parents=True, exist_ok=True)
    for name, grid in (("data_real", data.real), ("data_imag", data.imag), ("weight", weight)):
        with mrcfile.new(folder / f"{STEM}_{name}.mrc", overwrite=True) as file:
            file.set_data(grid.astype(np.float32))
    rows = "\n".join(f"{k} {value:.6e} 0.000000" for k, value in enumerate(tau2))
    star = folder / f"{STEM}.star"
    star.write_text(
        f"""
data_external_reconstruct_general

_rlnExtReconsDataReal {folder}/{STEM}_data_real.mrc
_rlnExtReconsDataImag {folder}/{STEM}_data_imag.mrc
_rlnExtReconsWeight {folder}/{STEM}_weight.mrc
_rlnExtReconsResult {folder}/{STEM}.mrc
_rlnExtReconsResultStarfile {folder}/{STEM}_out.star
_rlnTau2FudgeFactor 1.000000
_rlnPaddingFactor 2.000000
_rlnReferenceDimensionality 3
_rlnOriginalImageSize {box}
_rlnCurrentImageSize {size}

data_external_reconstruct_tau2

loop_
_rlnSpectralIndex #1
_rlnReferenceTau2 #2
_rlnGoldStandardFsc #3
{rows}
"""
    )
    return star


def _signal(sums: NormalEquations) -> np.ndarray:
    """Power of the signal per shell, as the data have it, in our own units."""
    equations = diagonal(sums)
    excess = shell_sum(equations, equations.data.abs().square() - equations.noise * equations.kernel)
    return (excess / shell_sum(equations, equations.kernel.square()).clamp_min(1e-300)).clamp_min(0).numpy()
