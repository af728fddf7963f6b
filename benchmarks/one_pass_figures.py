"""The figures of docs/explain/one_pass.md: python benchmarks/one_pass_figures.py docs/explain

5,000 images of the map with solvent and belt of one_pass.py (64 px of 6 A, SNR 0.05, white noise), fitted with
--n-gaussians auto. Writes figure_one_pass.png, the sums and what the map is made of, and figure_held_out.png, the error
on held-out particles along the fit and against the number of Gaussians.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from numpy.typing import NDArray
from one_pass import SETS, particles

from gsworkbench.io.files import atomic_path
from gsworkbench.methods.one_pass import OnePass
from gsworkbench.methods.one_pass_fit import OnePassFit, fit_one_pass
from gsworkbench.normal_equations.equations import NormalEquations, accumulate


def main() -> None:
    folder = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as scratch:
        stack, truth = particles(Path(scratch), *SETS["solvent"])
        image = stack.images([0])[0]
        held = np.arange(len(stack)) % 10 == 0
        fitted, held_out = accumulate(stack[~held]), accumulate(stack[held])
    found = fit_one_pass(fitted, held_out, OnePass(n_gaussians="auto"))
    pictures(folder / "figure_one_pass.png", image, fitted + held_out, found, truth)
    held_out_curves(folder / "figure_held_out.png", found)


def pictures(path: Path, image: NDArray, sums: NormalEquations, found: OnePassFit, truth: NDArray) -> None:
    assert found.background is not None
    kernel = torch.fft.fftshift(torch.fft.irfftn(sums.kernel(circular=True), s=truth.shape)).numpy()
    spread = np.sign(kernel) * np.abs(kernel) ** 0.3
    mixture = found.volume - found.background
    panels = [
        ("one of 5,000 images", image, image),
        ("b, all images summed up", sums.b().numpy(), None),
        ("K, their point spread (^0.3)", spread, None),
        (f"{len(found.gaussians):,} Gaussians", mixture, truth),
        ("background", found.background, truth),
        ("map = both", found.volume, truth),
        ("truth", truth, truth),
    ]
    figure, axes = plt.subplots(1, len(panels), figsize=(14, 2.4), layout="constrained")
    for axis, (title, values, scale) in zip(axes, panels, strict=True):
        flat = values if values.ndim == 2 else values[len(values) // 2]
        reach = np.percentile(np.abs(flat if scale is None or scale.ndim == 2 else scale[len(scale) // 2]), 99.7)
        axis.imshow(flat, cmap="gray", vmin=-reach, vmax=reach, origin="lower")
        axis.set_title(title, fontsize=9)
        axis.set_axis_off()
    save(figure, path)


def held_out_curves(path: Path, found: OnePassFit) -> None:
    assert found.held_out is not None
    steps, fitted, held_out = np.array(found.held_out.curve).T
    numbers, errors, _ = np.array(found.held_out.ladder).T
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
    left.plot(steps, fitted, "o-", label="fitted on")
    left.plot(steps, held_out, "s-", label="held out")
    left.set(xlabel="step of the first fit", ylabel="error per pixel, less |y|²")
    left.legend()
    right.semilogx(numbers, errors, "s-", base=2)
    right.axvline(len(found.gaussians), color="0.6", linestyle=":")
    right.set(xlabel="Gaussians", ylabel="error on held-out particles")
    right.set_xticks(numbers, [f"{int(n):,}" for n in numbers])
    save(figure, path)


def save(figure: plt.Figure, path: Path) -> None:
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        figure.savefig(file, format="png", dpi=90, metadata={"Software": None})


if __name__ == "__main__":
    main()
