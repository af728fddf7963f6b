"""What is done to a map for looking at it, and never to a map that is judged: low-pass, B factor, levels."""

from __future__ import annotations

import numpy as np

from gsworkbench.io.mrc import Volume
from gsworkbench.lab.opened_run import RunFolder

DALTON_PER_CUBIC_ANGSTROM = 0.81  # protein, 1.35 g / ml
KINDS = ("full", "half 1", "half 2", "difference", "truth", "background")


def shown_map(maps: dict[str, Volume], kind: str) -> Volume:
    """A map of a run by name; "difference" is half 1 minus half 2, over two."""
    if kind == "difference":
        return (maps["half 1"] - maps["half 2"]) / np.float32(2)
    return maps[kind]


def kinds_of(run: RunFolder) -> list[str]:
    """What can be shown of a run, in the order of KINDS."""
    halves = {"half 1", "half 2"} <= set(run.maps)
    return [kind for kind in KINDS if kind in run.maps or (kind == "difference" and halves)]


def filtered(volume: Volume, voxel_size: float, *, lowpass: float = 0.0, b_factor: float = 0.0) -> Volume:
    """A map (D, D, D) for display: times exp(-B s^2 / 4), and halved at 1 / lowpass (A; 0 for none) by a soft edge.

    The edge is a raised cosine in s from half to one and a half times 1 / lowpass.
    """
    if not lowpass and not b_factor:
        return volume
    frequencies = [np.fft.fftfreq(len(volume), voxel_size)] * 2 + [np.fft.rfftfreq(len(volume), voxel_size)]
    z, y, x = np.meshgrid(*frequencies, indexing="ij", sparse=True)
    square = z**2 + y**2 + x**2
    weight = np.exp(-b_factor * square / 4)
    if lowpass:
        weight *= 0.5 * (1 + np.cos(np.pi * np.clip(np.sqrt(square) * lowpass - 0.5, 0, 1)))
    return np.fft.irfftn(np.fft.rfftn(volume) * weight, s=volume.shape).astype(np.float32)


def in_words(volume: Volume, voxel_size: float, level: float) -> str:
    """A level (image units / A) in standard deviations of the map, absolutely, and by the volume that it encloses."""
    enclosed = float((volume >= level).sum()) * voxel_size**3
    mass = enclosed * DALTON_PER_CUBIC_ANGSTROM / 1000
    return f"{level / volume.std():.2f} σ = {level:.4g}; encloses {enclosed:,.0f} Å³, {mass:,.0f} kDa as protein"
