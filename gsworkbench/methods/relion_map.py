"""The map that Gaussians make of the sums RELION hands to an external reconstruction program.

There are no particles to hold out here, but there are Fourier components: as K is diagonal, the noise of one says
nothing of another's. So a first mixture is fitted to nine tenths of the components, and the last tenth, which it never
saw, tells for each shell what the mixture V is worth, as free reflections do in crystallography (Bruenger 1992):

    a = sum Re V* b / sum K |V|^2,    from 0 to 1,    and    S from E|b - K a V|^2 = K^2 S + s^2 K.

The most likely map given such a mixture is then, in every component, with the mixture fitted to all of them,

    a V + S r / (K S + s^2),    r = b - K a V.

Where the mixture explains the data, S is small and the map is the mixture; where it explains nothing, a is 0, and
this is the Wiener filter that RELION itself would have used. If the first mixture explains none of the held-out
components, the map is RELION's own filter, with RELION's tau2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gsworkbench.gaussians.mixture import Gaussians
from gsworkbench.gaussians.parameters import in_angstrom
from gsworkbench.methods.one_pass import DEFAULT, OnePass
from gsworkbench.methods.one_pass_fit import DEFAULT_CONTEXT, FitContext, final_settings, fit_mixture, gain, sample
from gsworkbench.normal_equations.diagonal import (
    DiagonalEquations,
    from_transform,
    misfit_power,
    restricted,
    shell_mean,
    shell_sum,
    softened,
    to_transform,
    wiener_background,
)
from gsworkbench.normal_equations.relion_external import RelionSums, relion_equations, signal_power

HELD_OUT = 0.1  # of the components
_SURE = 3.0  # standard errors by which the first mixture must lower the held-out error
_FIRST_SHARED = 6  # shells before hold too few components to say how much of a mixture to take, and little noise
_LEAST_REACH = 2  # shells to either side that a share is measured over
_START_PIXELS, _START_ANGSTROM = 2.5, 8.0  # of the low-pass that starts.from_data draws centres from


@dataclass(frozen=True)
class RelionMap:
    """A map for RELION, and how it came about.

    volume : (D, D, D) float32, on RELION's scale, nothing from the current resolution on. gaussians : the mixture, in
    voxels, or None where RELION's own filter made the map. share : (D // 2,) how much of the mixture each shell took.
    misfit : (D // 2,) power of what the mixture misses, relative to its own. signal : by how many standard errors the
    first mixture lowers the error of the held-out components.
    """

    volume: NDArray[np.float32]
    gaussians: Gaussians | None
    share: NDArray[np.float64]
    misfit: NDArray[np.float64]
    signal: float


def relion_map(sums: RelionSums, config: OnePass = DEFAULT, context: FitContext = DEFAULT_CONTEXT) -> RelionMap:
    """Fit Gaussians to RELION's sums.

    config.background = False leaves S out: the map is then a V alone. config.combine is not used.
    """
    equations = _with_start(relion_equations(sums), sums)
    box_size = equations.box_size
    unseen_part = held_out_components(box_size, context.seed)
    first, unseen = restricted(equations, ~unseen_part), restricted(equations, unseen_part)
    trial, _ = fit_mixture(softened(first), None, config, context.labelled("trial"))
    seen = to_transform(sample(trial, equations, context.backend))
    signal = gain(unseen, from_transform(seen))
    if not signal >= _SURE:
        nothing = np.zeros(box_size // 2)
        return RelionMap(relion_filter(equations, sums).numpy(), None, nothing, nothing, signal)
    share = _share(unseen, seen)
    power = misfit_power(unseen, seen)
    soft = softened(equations)
    weighted = replace(soft, weight=soft.weight / (1 + soft.kernel * power[soft.shell] / soft.noise))
    gaussians, _ = fit_mixture(weighted, None, final_settings(config), context, start=trial)
    taken = share[equations.shell] * to_transform(sample(gaussians, equations, context.backend))
    taken = taken * (equations.weight > 0)
    power = misfit_power(unseen, share[equations.shell] * seen)
    if config.background:
        taken = taken + wiener_background(equations, taken, power) * (equations.weight > 0)
    own = shell_mean(equations, seen.abs().square()).clamp_min(1e-300)
    half = box_size // 2
    return RelionMap(
        from_transform(taken).float().numpy(),
        _in_voxels(gaussians, equations.pixel_size),
        share[:half].double().numpy(),
        (power / own)[:half].double().numpy(),
        signal,
    )


def _in_voxels(model: Gaussians, pixel_size: float) -> Gaussians:
    """A mixture in the nominal A of the equations, of the same density per voxel, in voxels."""
    return in_angstrom(model, edge=1 / pixel_size, weight_unit=pixel_size**-3)


def relion_filter(equations: DiagonalEquations, sums: RelionSums) -> Tensor:
    """(D, D, D) the map that RELION would have made, b / (K + s^2 / tau2)."""
    power = signal_power(sums).float()[equations.shell]
    damped = (equations.kernel * power + equations.noise).clamp_min(1e-30)
    return from_transform(equations.data * power / damped)


def held_out_components(box_size: int, seed: int) -> Tensor:
    """(D, D, D // 2 + 1) which Fourier components are held out: a component and its mate alike."""
    drawn = torch.rand((box_size,) * 3, generator=torch.Generator().manual_seed(seed))
    mate = (-torch.arange(box_size)) % box_size
    least = torch.minimum(drawn, drawn[mate][:, mate][:, :, mate])[..., : box_size // 2 + 1]
    return least < 1 - math.sqrt(1 - HELD_OUT)


def _share(unseen: DiagonalEquations, seen: Tensor) -> Tensor:
    """(number of shells,) how much of a map with transform `seen` comes closest to equations it was not fitted to."""
    product = shell_sum(unseen, (seen.conj() * unseen.data).real)
    square = shell_sum(unseen, unseen.kernel * seen.abs().square())
    share = torch.ones_like(product)
    for shell in range(_FIRST_SHARED, unseen.box_size // 2):
        reach = max(_LEAST_REACH, shell // 8)
        near = slice(shell - reach, min(unseen.box_size // 2, shell + reach + 1))
        share[shell] = (product[near].sum() / square[near].sum().clamp_min(1e-300)).clamp(0, 1)
    return share.float()


def _with_start(equations: DiagonalEquations, sums: RelionSums) -> DiagonalEquations:
    """The equations with a nominal pixel, such that fits start from a map low-passed where RELION's SNR falls to 1.

    RELION does not say how large pixels are, and nothing but that low-pass asks.
    """
    inside = (equations.weight > 0).float()
    count = shell_sum(equations, inside).clamp_min(1)
    kernel = shell_sum(equations, equations.kernel) / count
    below = torch.nonzero(signal_power(sums) * kernel < equations.noise).flatten()
    below = below[below > 0]
    last = int(below[0]) if len(below) else sums.radius
    pixels = max(_START_PIXELS, equations.box_size / max(last, 4))
    return replace(equations, pixel_size=_START_ANGSTROM / pixels)
