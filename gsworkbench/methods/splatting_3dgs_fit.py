"""3D Gaussian splatting as it comes off the shelf, on particles: why a renderer of scenes does not fit cryo-EM.

Gaussians have opacities and colours and are blended front to back, so that what lies behind is hidden; electrons go
through, and an image is a sum. Beside that: a pixel grid half a pixel off the Fourier transform's, a blur of 0.3 px^2,
and rates for each type of parameter. CTF and squared error are as everywhere here, since nothing could be fitted
without them; cloning, pruning and opacity resets are left out. On a GPU gsplat's rasteriser renders; elsewhere, where
it has none, gsplat's own orthographic projection and our alpha compositing (rendering/tiles.py), which the report says.
"""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import softplus

from gsworkbench.errors import NotRun
from gsworkbench.gaussians.mixture import Gaussians
from gsworkbench.gaussians.parameters import volumes
from gsworkbench.imaging.residual import data_term, squared_error, total_weight
from gsworkbench.methods.starts import nearest_distances
from gsworkbench.particles.stack import ParticleStack
from gsworkbench.rendering.tiles import composite
from gsworkbench.system.progress import track

if TYPE_CHECKING:
    from gsworkbench.methods.splatting_3dgs import Splatting3dgs

_DISTANCE = 10.0  # of the camera from the map's centre, in box edges: in front of everything
_BRIGHTEST = 4.0  # what images are divided by more than in other fits, so that colours are of the order of 1
_LAST_RATE = 0.01  # of the means, as a part of the first

Parameters = dict[str, Tensor]  # means (n, 3), log_scales (n, 3), quaternions (n, 4), logit_opacities, raw_colours (n,)


@dataclass(frozen=True)
class Splatting3dgsFit:
    """volume : (D, D, D) float32, heights opacity times colour, brought to the data's total. rendered_by : who."""

    volume: NDArray[np.float32]
    gaussians: Gaussians
    losses: tuple[float, ...]
    rendered_by: str


def fit_splatting_3dgs(
    stack: ParticleStack, config: Splatting3dgs, *, seed: int = 0, label: str = "splatting-3dgs"
) -> Splatting3dgsFit:
    """Fit by one image a step, in an order that the seed decides; losses are means over tenths of the fit."""
    renderer = _renderer()
    rotations = torch.from_numpy(stack.require_poses()).float()
    term, weight = data_term(stack), total_weight(stack)[0]
    edge, box_size = stack.box_size * stack.pixel_size, stack.box_size
    image_scale = _BRIGHTEST * 2 * abs(weight) / edge**2
    parameters = begin(config, seed)
    rates = {"means": config.rate_means, "log_scales": config.rate_scales, "quaternions": config.rate_quaternions}
    rates |= {"logit_opacities": config.rate_opacities, "raw_colours": config.rate_colours}
    groups = [{"params": [p], "lr": rates[name], "name": name} for name, p in parameters.items()]
    optimizer = torch.optim.Adam(groups, eps=1e-15)
    order, losses = np.random.default_rng(seed), []
    for step in track(range(config.n_steps), label, unit="img"):
        optimizer.param_groups[0]["lr"] = config.rate_means * _LAST_RATE ** (step / config.n_steps)
        indices = order.integers(len(stack), size=1)
        kernel, filtered, energy = term.batch(indices)
        image = render(parameters, rotations[indices[0]], config.blur, box_size, renderer)[None]
        loss, gradient = squared_error(image, kernel, filtered / image_scale, energy / image_scale**2)
        optimizer.zero_grad()
        image.backward(gradient)
        optimizer.step()
        losses.append(float(loss) * image_scale**2)
    tenths = tuple(float(np.mean(part)) for part in np.array_split(losses, 10) if len(part))
    gaussians = as_density(parameters, edge, weight)
    volume = gaussians.voxelize(box_size, stack.pixel_size)
    return Splatting3dgsFit(volume.numpy(), gaussians, tenths, renderer)


def begin(config: Splatting3dgs, seed: int) -> Parameters:
    """Means from a normal distribution, scales from nearest neighbours, one opacity and colour for all."""
    generator, n = torch.Generator().manual_seed(seed), config.n_gaussians
    means = config.initial_spread * torch.randn(n, 3, generator=generator)
    raw = {
        "means": means,
        "log_scales": nearest_distances(means).log()[:, None].repeat(1, 3),
        "quaternions": torch.tensor([1.0, 0, 0, 0]).repeat(n, 1),
        "logit_opacities": torch.full((n,), math.log(config.initial_opacity / (1 - config.initial_opacity))),
        "raw_colours": torch.full((n,), math.log(math.expm1(0.5))),
    }
    return {name: p.requires_grad_() for name, p in raw.items()}


def render(parameters: Parameters, rotation: Tensor, blur: float, box_size: int, renderer: str) -> Tensor:
    """(D, D) one image, x right and y up the rows as everywhere here, but the centre between pixels."""
    view = torch.eye(4)
    view[:3, :3], view[2, 3] = rotation, _DISTANCE
    camera = torch.tensor([[box_size, 0, box_size / 2], [0, box_size, box_size / 2], [0, 0, 1.0]])
    opacities, colours = torch.sigmoid(parameters["logit_opacities"]), softplus(parameters["raw_colours"])
    means, quaternions, scales = parameters["means"], parameters["quaternions"], parameters["log_scales"].exp()
    if renderer == RASTERISER:
        from gsplat import rasterization

        gpu = [t.cuda() for t in (means, quaternions, scales, opacities, colours[:, None], view[None], camera[None])]
        return rasterization(*gpu, box_size, box_size, eps2d=blur, camera_model="ortho")[0][0, :, :, 0].cpu()
    from gsplat.cuda._torch_impl import _fully_fused_projection, _quat_scale_to_covar_preci

    covariances, _ = _quat_scale_to_covar_preci(quaternions, scales, compute_preci=False)
    _, centres, depths, conics, _ = _fully_fused_projection(
        means, covariances, view[None], camera[None], box_size, box_size, eps2d=blur, camera_model="ortho"
    )
    # gsplat counts pixel centres from 1/2, `composite` from 0.
    return composite(centres[0] - 0.5, conics[0], opacities, colours, depths[0], box_size)


def as_density(parameters: Parameters, edge: float, weight: float) -> Gaussians:
    """Gaussians in A as high as opacity times colour says, scaled such that their integral is the data's."""
    with torch.no_grad():
        scales = parameters["log_scales"].exp() * edge
        heights = torch.sigmoid(parameters["logit_opacities"]) * softplus(parameters["raw_colours"])
        weights = heights * volumes(scales, 0.0)
        means, quaternions = parameters["means"] * edge, parameters["quaternions"].detach()
        return Gaussians(means, scales, quaternions, weights * (weight / weights.sum()))


RASTERISER = "gsplat's rasteriser"
STAND_IN = "gsplat's orthographic projection and our own alpha compositing: there is no GPU"


def _renderer() -> str:
    if importlib.util.find_spec("gsplat") is None:
        raise NotRun("splatting-3dgs", "gsplat is not installed", remedy="pip install 'gsworkbench[gpu]'")
    return RASTERISER if torch.cuda.is_available() else STAND_IN
