"""Where a stochastic fit begins: Gaussians in box edges whose weights sum to 1/2.

Random starts know nothing of the particles; the one drawn from data reads them once, by backprojection.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from scipy.spatial import cKDTree
from torch import Tensor

from gsworkbench.gaussians.mixture import Gaussians, random_gaussians
from gsworkbench.methods.one_pass import OnePass
from gsworkbench.methods.one_pass_fit import as_problem, start_from_data
from gsworkbench.methods.stochastic import Stochastic
from gsworkbench.normal_equations.equations import accumulate
from gsworkbench.particles.stack import ParticleStack

TOTAL_WEIGHT = 0.5  # CryoSplat starts with A = 1/(2N)
_ANY_SCALE = 0.0075  # where `nearest` replaces it


def start(config: Stochastic, stack: ParticleStack, seed: int) -> Gaussians:
    """(n) isotropic Gaussians as `config` has them begin, equal weights."""
    model = _placed(config, stack, seed)
    if config.initial_scale == "nearest":
        model = replace(model, scales=nearest_distances(model.means)[:, None].repeat(1, 3))
    weights = torch.full((config.n_gaussians,), TOTAL_WEIGHT / config.n_gaussians)
    return replace(model, weights=weights)


def nearest_distances(means: Tensor) -> Tensor:
    """(n,) distance of each mean (n, 3) to the nearest other one, at least 1e-4 of the box."""
    if len(means) < 2:
        return torch.full((len(means),), _ANY_SCALE)
    distances, _ = cKDTree(means.numpy()).query(means.numpy(), k=2)
    return torch.from_numpy(distances[:, 1]).to(means.dtype).clamp_min(1e-4)


def _placed(config: Stochastic, stack: ParticleStack, seed: int) -> Gaussians:
    scale = _ANY_SCALE if config.initial_scale == "nearest" else config.initial_scale
    if config.start == "data":
        settings = OnePass(n_gaussians=config.n_gaussians, initial_spread=config.initial_spread, initial_scale=scale)
        return start_from_data(as_problem(accumulate(stack, label="start")), settings, seed)
    model = random_gaussians(
        config.n_gaussians, spread=config.initial_spread, scale=scale, total_weight=TOTAL_WEIGHT, seed=seed
    )
    if config.start == "normal":
        return model
    generator = torch.Generator().manual_seed(seed)
    return replace(model, means=config.initial_spread * (2 * torch.rand(len(model), 3, generator=generator) - 1))
