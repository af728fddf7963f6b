"""What an optimiser sees of a mixture: unconstrained parameters, a learning rate for each type.

Lengths are in box edges, so that the papers' rates and starts apply as printed. Scales, and weights unless they may be
negative, are softplus of their parameters. Signed weights are their parameters over the number of Gaussians, so that a
rate means as much for any number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from gsworkbench.gaussians.mixture import Gaussians

Parameters = dict[str, Tensor]  # means (n, 3), scales (n, 3) or (n, 1), quaternions (n, 4), weights (n,)


@dataclass(frozen=True)
class Rates:
    """Learning rate of each type of parameter as a multiple of a common one."""

    means: float = 1.0
    scales: float = 1.0
    quaternions: float = 1.0
    weights: float = 1.0


@dataclass(frozen=True)
class Parameterisation:
    """What parameters stand for. Lengths in box edges.

    floor : added to scales in squares. minimum_scale : below it scales are clamped; 0 for none. peak : weights are of
    heights, not integrals. signed : weights may be negative.
    """

    floor: float = 0.0
    minimum_scale: float = 0.0
    peak: bool = False
    signed: bool = False


def to_parameters(
    model: Gaussians, meaning: Parameterisation = Parameterisation(), *, isotropic: bool = False
) -> Parameters:
    """Parameters of a mixture in box edges, ready to be optimised. `from_parameters` inverts it if the floors agree.

    isotropic : scales are (n, 1), the mean of each Gaussian's three. The model's own floor tells its heights.
    """
    scales = model.scales.mean(1, keepdim=True) if isotropic else model.scales
    weights = model.weights / volumes(scales.expand(-1, 3), model.floor_angstrom) if meaning.peak else model.weights
    raw = {
        "means": model.means,
        "scales": _inverse_softplus(scales),
        "quaternions": model.quaternions,
        "weights": weights * len(model) if meaning.signed else _inverse_softplus(weights),
    }
    return {name: p.detach().clone().requires_grad_() for name, p in raw.items()}


def from_parameters(parameters: Parameters, meaning: Parameterisation = Parameterisation()) -> Gaussians:
    """The mixture in box edges that parameters stand for."""
    scales = softplus(parameters["scales"])
    if meaning.minimum_scale:
        scales = scales.clamp_min(meaning.minimum_scale)
    scales, weights = scales.expand(-1, 3), parameters["weights"]
    weights = weights / len(weights) if meaning.signed else softplus(weights)
    if meaning.peak:
        weights = weights * volumes(scales, meaning.floor)
    return Gaussians(parameters["means"], scales, parameters["quaternions"], weights, meaning.floor)


def volumes(scales: Tensor, floor: float) -> Tensor:
    """(n,) integrals of Gaussians of height 1: (2 pi)^(3/2) times the root of the covariance's determinant."""
    return (2 * math.pi) ** 1.5 * (scales**2 + floor**2).sqrt().prod(-1)


def in_angstrom(model: Gaussians, *, edge: float, weight_unit: float) -> Gaussians:
    """A mixture in box edges, detached, as one in A: lengths times `edge` (A), weights times `weight_unit`."""
    return Gaussians(
        means=model.means.detach() * edge,
        scales=model.scales.detach() * edge,
        quaternions=model.quaternions.detach(),
        weights=model.weights.detach() * weight_unit,
        floor_angstrom=model.floor_angstrom * edge,
    )


def adam(parameters: Parameters, rates: Rates) -> torch.optim.Adam:
    """Adam over the parameters; `set_learning_rate` gives each type its rate."""
    groups = [{"params": [p], "rate": getattr(rates, name)} for name, p in parameters.items()]
    return torch.optim.Adam(groups, lr=0.0, eps=1e-15, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Set the common learning rate; every type gets its multiple of it."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["rate"]


def cosine(done: float, *, last: float = 0.0) -> float:
    """Half a cosine from 1 to `last` as `done` goes from 0 to 1."""
    return last + (1 - last) * 0.5 * (1 + math.cos(math.pi * done))


def _inverse_softplus(values: Tensor) -> Tensor:
    return values + torch.log(-torch.expm1(-values))
