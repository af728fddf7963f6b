"""The papers' fit: Adam on mini-batches of particle images (CryoSplat and its kin).

Lengths are in box edges inside this file, so that the papers' rates and starts apply as printed, and images are
divided by one scale, chosen such that the map's integral is 1/2, as CryoSplat's start A = 1/(2N) assumes. Gaussians
come back in A and image units.
"""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gsworkbench.config import to_mapping
from gsworkbench.errors import InputError
from gsworkbench.gaussians.mixture import Gaussians, split
from gsworkbench.gaussians.optimiser import Descent, Mixture, descent, is_fused
from gsworkbench.gaussians.parameters import (
    Parameterisation,
    Parameters,
    Rates,
    cosine,
    from_parameters,
    in_angstrom,
    to_parameters,
)
from gsworkbench.imaging.residual import DataTerm, data_term, require_white_protein, squared_error, total_weight
from gsworkbench.io.files import atomic_path
from gsworkbench.methods import compiled_steps
from gsworkbench.methods.as_published import blurred_in_y, off_the_grid, projections
from gsworkbench.methods.starts import ANY_SCALE, TOTAL_WEIGHT, at_random, from_data, nearest_distances
from gsworkbench.normal_equations.diagonal import diagonal
from gsworkbench.normal_equations.equations import accumulate
from gsworkbench.particles.stack import ParticleStack
from gsworkbench.rendering.finite import require_finite
from gsworkbench.system import distributed
from gsworkbench.system.device import to_device
from gsworkbench.system.progress import progress

if TYPE_CHECKING:
    from gsworkbench.methods.stochastic import Stochastic

_OTHERS = 500  # particles of the other half set that the held-out error is measured on, at most
_CHECKPOINT_SECONDS = 5.0  # between checkpoints inside an epoch of many passes


@dataclass(frozen=True)
class Fit:
    """A fitted mixture in A and image units, and how it went.

    image_scale : what the images were divided by. losses : mean squared error per pixel of each pass over the
    particles, image units^2. steps : of Adam.
    """

    gaussians: Gaussians
    image_scale: float
    losses: tuple[float, ...]
    steps: int


def fit(
    stack: ParticleStack,
    config: Stochastic,
    *,
    seed: int = 0,
    checkpoint: Path | None = None,
    resume: bool = False,
    backend: str | None = None,
    device: torch.device | str = "cpu",
    label: str = "fit",
) -> Fit:
    """Fit Gaussians to all particles of a stack, on a device. What is returned is on the CPU.

    `checkpoint` names a file written after each epoch. With `resume`, a fit that was interrupted goes on from it and
    ends, on the CPU with the same number of threads, at the same bits; a checkpoint of other settings or other
    particles raises InputError.

    Processes of torchrun look at a share of every batch each, add up their gradients, and all return
    the same; the first writes the checkpoint. The last bits depend on their number.
    """
    device = torch.device(device)
    rotations = torch.from_numpy(stack.require_poses()).float()
    shifted = off_the_grid(stack, config.grid_offset)
    term = data_term(shifted, boost=config.boost, band=config.band, device=device)
    state = None
    if resume and checkpoint and checkpoint.exists():
        state = _restore(checkpoint, stack, config, seed, device, backend)
    distributed.wait()  # the first process must not write the checkpoint anew before all have read it
    if state is None:
        image_scale = _image_scale(stack)
        state = {
            "epoch": 0,
            "parameters": _parameters(start(config, stack, seed).to(device), config, stack.box_size),
            "optimizer": None,
            "losses": [],
            "image_scale": image_scale,
        }
    optimizer = _optimizer(state["parameters"], config, stack.box_size)
    if state["optimizer"]:
        optimizer.restore(state["optimizer"])
    losses = list(state["losses"])
    n_passes = math.ceil(_passes(config, len(stack)))
    saved = time.monotonic()
    for epoch in range(state["epoch"], n_passes):
        description = f"{label}: pass {epoch + 1}/{n_passes}"
        losses.append(
            _epoch(optimizer, term, rotations, state["image_scale"], config, seed, epoch, backend, description)
        )
        ended = (epoch + 1) % config.passes_per_epoch == 0
        if ended and (epoch + 1) // config.passes_per_epoch in config.double_after_epochs:
            doubled = split(_gaussians(optimizer.parameters, config, stack.box_size), seed=seed + epoch)
            optimizer = _optimizer(_parameters(doubled, config, stack.box_size), config, stack.box_size)
        late = ended or epoch + 1 == n_passes or time.monotonic() - saved > _CHECKPOINT_SECONDS
        if checkpoint and late and distributed.is_first():
            saved = time.monotonic()
            done = {"epoch": epoch + 1, "losses": losses, "image_scale": state["image_scale"]}
            _save(checkpoint, optimizer, done, _fingerprint(stack, config, seed, optimizer.parameters, backend))
    edge = stack.box_size * stack.pixel_size
    scale = state["image_scale"]
    # A projection in box edges and divided images is weight / edge^2 of one in A and image units.
    model = _gaussians(optimizer.parameters, config, stack.box_size)
    steps = sum(math.ceil(n / config.batch_size) for n in _seen_in_passes(config, len(stack)))
    return Fit(in_angstrom(model, edge=edge, weight_unit=scale * edge**2).to("cpu"), scale, tuple(losses), steps)


def error_on_others(fit: Fit, others: ParticleStack, config: Stochastic, *, backend: str | None = None) -> float:
    """Mean squared error per pixel, image units^2, on particles that the fit did not see; on some of them if many.

    It is measured as the losses are, and above them by what was fitted to the noise of the particles seen.
    """
    step = math.ceil(len(others) / _OTHERS)
    part = off_the_grid(others[np.arange(0, len(others), step)], config.grid_offset)
    term = data_term(part, boost=config.boost, band=config.band)
    edge = part.box_size * part.pixel_size
    g = fit.gaussians
    mixture = Mixture(g.means / edge, g.covariances() / edge**2, g.weights / (fit.image_scale * edge**2))
    rotations, total = torch.from_numpy(part.require_poses()).float(), 0.0
    with torch.no_grad():
        for start in range(0, len(part), 50):
            indices = np.arange(start, min(len(part), start + 50))
            kernel, filtered, energy = term.batch(indices)
            images = blurred_in_y(
                projections(mixture, rotations[indices], config, part.box_size, backend), config.blur_y
            )
            scale = fit.image_scale
            loss, _ = squared_error(images, kernel, filtered / scale, energy / scale**2)
            total += float(loss) * len(indices)
    return total / len(part) * fit.image_scale**2


def start(config: Stochastic, stack: ParticleStack, seed: int) -> Gaussians:
    """(n) isotropic Gaussians in box edges as `config` has them begin, equal weights."""
    model = _placed(config, stack, seed)
    if config.initial_scale == "nearest":
        model = replace(model, scales=nearest_distances(model.means)[:, None].repeat(1, 3))
    weights = torch.full((config.n_gaussians,), TOTAL_WEIGHT / config.n_gaussians)
    return replace(model, weights=weights)


def _placed(config: Stochastic, stack: ParticleStack, seed: int) -> Gaussians:
    n, scale = config.n_gaussians, ANY_SCALE if config.initial_scale == "nearest" else config.initial_scale
    model = at_random(n, spread=config.initial_spread, scale=scale, seed=seed)
    if config.start == "data":
        drawn = from_data(diagonal(accumulate(stack, label="start")), n, scale=scale, seed=seed)
        return model if drawn is None else drawn
    if config.start == "normal":
        return model
    generator = torch.Generator().manual_seed(seed)
    return replace(model, means=config.initial_spread * (2 * torch.rand(len(model), 3, generator=generator) - 1))


def _epoch(
    optimizer: Descent,
    term: DataTerm,
    rotations: Tensor,
    image_scale: float,
    config: Stochastic,
    seed: int,
    epoch: int,
    backend: str | None,
    description: str,
) -> float:
    """Go over all particles once, in an order that (seed, epoch) decides. Return the mean loss in image units^2.

    Where the number of steps is given, the last epoch ends with them.
    """
    n = len(term.stack)
    order = np.random.default_rng((seed, epoch)).permutation(n)
    if config.n_steps is not None:
        order = order[: config.n_steps * config.batch_size - epoch * n]

    def one_step(indices: NDArray[np.integer], rates: Sequence[float]) -> float | Tensor:
        loss, gradients = _shared_loss_and_gradients(
            optimizer.mixture(), term, rotations, indices, image_scale, config, backend
        )
        optimizer.step(gradients, rates[0])
        return loss.double() * len(indices)

    run: Callable[[NDArray[np.integer], list[float]], float | Tensor] = one_step
    at_once = config.batch_size
    if compiled_steps.serves(optimizer.parameters, term.stack, backend):
        compiled = compiled_steps.compiled_steps(optimizer, term, rotations, config, image_scale)
        run, at_once = compiled.run, compiled.at_once
    seen, told = 0, 0
    total = torch.zeros((), dtype=torch.float64, device=term.spectrum.device)  # each look at it waits for the device
    with progress(description, len(order), unit="img") as meter:
        while seen < len(order):
            indices = order[seen : seen + at_once]
            starts = range(seen, seen + len(indices), config.batch_size)
            total += run(indices, [_learning_rate(config, n, epoch, start / n) for start in starts])
            seen += len(indices)
            meter.advance(len(indices))
            if seen - told >= 50 * config.batch_size:
                told = seen
                meter.remark(f"loss {float(total) / seen * image_scale**2:.5g}")
    if not math.isfinite(total):
        require_finite(**optimizer.parameters)
    return float(total) / seen * image_scale**2


def loss_and_gradients(
    mixture: Mixture,
    term: DataTerm,
    rotations: Tensor,
    indices: NDArray[np.integer],
    image_scale: float,
    config: Stochastic,
    backend: str | None = None,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Mean squared error per pixel over some particles, and its gradients with respect to a mixture in box edges."""
    kernel, filtered, energy = term.batch(indices)
    views = to_device(rotations[indices], term.spectrum.device)
    images = projections(mixture, views, config, term.stack.box_size, backend)
    seen = blurred_in_y(images, config.blur_y)
    loss, gradient = squared_error(seen, kernel, filtered / image_scale, energy / image_scale**2)
    return loss, torch.autograd.grad(images, mixture, gradient)


def _shared_loss_and_gradients(
    mixture: Mixture, term: DataTerm, rotations: Tensor, indices: NDArray[np.integer], *settings: Any
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """loss_and_gradients over the shares of all processes: one vector travels, as long as the mixture's numbers."""
    if distributed.size() == 1:
        return loss_and_gradients(mixture, term, rotations, indices, *settings)
    own = distributed.share(indices)
    shapes = [torch.Size([]), *(part.shape for part in mixture)]
    sent = torch.zeros(sum(shape.numel() for shape in shapes), device=mixture.means.device)
    if len(own):
        loss, gradients = loss_and_gradients(mixture, term, rotations, own, *settings)
        sent = torch.cat([part.flatten() for part in (loss, *gradients)]) * (len(own) / len(indices))
    distributed.add_up([sent])
    parts = sent.split([shape.numel() for shape in shapes])
    loss, means, covariances, weights = (part.view(shape) for part, shape in zip(parts, shapes, strict=True))
    return loss, (means, covariances, weights)


def _parameters(model: Gaussians, config: Stochastic, box_size: int) -> Parameters:
    return to_parameters(model, _meaning(config, box_size), isotropic=config.shape == "isotropic")


def _gaussians(parameters: Parameters, config: Stochastic, box_size: int) -> Gaussians:
    return from_parameters(parameters, _meaning(config, box_size))


def _meaning(config: Stochastic, box_size: int) -> Parameterisation:
    return Parameterisation(config.floor_pixels / box_size, config.minimum_scale, peak=config.amplitude == "peak")


def _image_scale(stack: ParticleStack) -> float:
    """What to divide images by, so that the map's integral is 1/2 in box units; refuse data whose protein is dark."""
    require_white_protein(stack)
    weight, error = total_weight(stack)
    weight = max(abs(weight), error)  # below the noise its error is the best guess of its size
    return 2 * weight / (stack.box_size * stack.pixel_size) ** 2


def optimiser_of(config: Stochastic, stack: ParticleStack, seed: int = 0) -> Descent:
    """Return an optimiser of the mixture that `config` has a fit begin with."""
    return _optimizer(_parameters(start(config, stack, seed), config, stack.box_size), config, stack.box_size)


def _optimizer(parameters: Parameters, config: Stochastic, box_size: int) -> Descent:
    rates = Rates(config.rate_means, config.rate_scales, config.rate_quaternions, config.rate_weights)
    return descent(parameters, rates, _meaning(config, box_size))


def _seen_in_passes(config: Stochastic, n: int) -> list[int]:
    """How many particles of n each pass sees: where the number of steps is given, the last pass ends with them."""
    left = math.ceil(_passes(config, n) * n) if config.n_steps is None else config.n_steps * config.batch_size
    return [min(n, left - n * number) for number in range(math.ceil(_passes(config, n)))]


def _passes(config: Stochastic, n: int) -> float:
    """How often the fit goes over n particles."""
    passes = config.n_epochs * config.passes_per_epoch
    return passes if config.n_steps is None else config.n_steps * config.batch_size / n


def _learning_rate(config: Stochastic, n: int, epoch: int, done: float) -> float:
    """The common learning rate when the fraction `done` of the pass `epoch` over n particles is behind us."""
    if config.schedule == "epoch":
        return config.learning_rate * config.gamma ** (epoch // config.passes_per_epoch)
    progress = (epoch + done) / _passes(config, n)
    if config.schedule == "exponential":
        return config.learning_rate * config.gamma**progress
    return config.learning_rate * cosine(progress)


def _fingerprint(
    stack: ParticleStack, config: Stochastic, seed: int, parameters: Parameters, backend: str | None
) -> dict[str, Any]:
    """What a checkpoint must agree with: settings, seed, which particles, and what decides the last bits."""
    particles = np.stack([stack.file_index, stack.image_index])
    return {
        "config": to_mapping(config),
        "seed": seed,
        "particles": [len(stack), int(particles.sum()), float(np.abs(stack.shifts_angstrom).sum())],
        "threads": torch.get_num_threads(),
        "processes": distributed.size(),
        "device": parameters["means"].device.type,
        "optimizer": "fused" if is_fused(parameters) else "torch",
        "steps": "compiled" if compiled_steps.serves(parameters, stack, backend) else "one by one",
    }


def _save(path: Path, optimizer: Descent, progress: dict[str, Any], fingerprint: dict[str, Any]) -> None:
    state = {
        **progress,
        "parameters": {name: p.detach().contiguous() for name, p in optimizer.parameters.items()},
        "optimizer": optimizer.state(),
        "fingerprint": fingerprint,
    }
    content = io.BytesIO()
    torch.save(state, content)  # to a file on a full disk, it would say no more than that its writer failed
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.getbuffer())


def _restore(
    path: Path, stack: ParticleStack, config: Stochastic, seed: int, device: torch.device, backend: str | None
) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location=device)
        saved = state["fingerprint"]
        expected = _fingerprint(stack, config, seed, state["parameters"], backend)
    except Exception as error:  # whatever a damaged file makes the unpickler say
        raise InputError("not a readable checkpoint", file=path, remedy="remove it to start anew") from error
    different = [name for name in expected if saved.get(name) != expected[name]]
    if different:
        raise InputError(
            f"the checkpoint was made with other {', '.join(different)}",
            file=path,
            remedy="repeat the first command's settings, or leave out --resume to start anew",
        )
    return state
