"""The papers' fit: Adam on mini-batches of particle images (CryoSplat and its kin).

Lengths are in box edges inside this file, so that the papers' rates and starts apply as printed, and images are
divided by one scale, chosen such that the map's integral is 1/2, as CryoSplat's start A = 1/(2N) assumes. Gaussians
come back in A and image units.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from gsworkbench.config import StochasticConfig, to_mapping
from gsworkbench.device import to_device
from gsworkbench.errors import InputError
from gsworkbench.files import atomic_path
from gsworkbench.gaussians import Gaussians, random_gaussians, split
from gsworkbench.imaging import DataTerm, data_term, squared_error, total_weight
from gsworkbench.parameters import (
    Parameters,
    Rates,
    adam,
    cosine,
    from_parameters,
    in_angstrom,
    set_learning_rate,
    to_parameters,
)
from gsworkbench.particles import ParticleStack
from gsworkbench.rendering import project, require_finite


@dataclass(frozen=True)
class Fit:
    """A fitted mixture in A and image units, and how it went.

    image_scale : what the images were divided by. losses : mean squared error per pixel of each epoch, image units^2.
    """

    gaussians: Gaussians
    image_scale: float
    losses: tuple[float, ...]


def fit(
    stack: ParticleStack,
    config: StochasticConfig,
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
    """
    device = torch.device(device)
    rotations = torch.from_numpy(stack.require_poses()).float()
    term = data_term(stack, boost=config.boost, device=device)
    state = _restore(checkpoint, stack, config, seed, device) if resume and checkpoint and checkpoint.exists() else None
    if state is None:
        image_scale = _image_scale(stack)
        state = {
            "epoch": 0,
            "parameters": to_parameters(_start(config, seed).to(device)),
            "optimizer": None,
            "losses": [],
            "image_scale": image_scale,
        }
    parameters = {name: p.requires_grad_() for name, p in state["parameters"].items()}
    optimizer = _optimizer(parameters, config)
    if state["optimizer"]:
        optimizer.load_state_dict(state["optimizer"])
    losses = list(state["losses"])
    for epoch in range(state["epoch"], config.n_epochs):
        description = f"{label}: epoch {epoch + 1}/{config.n_epochs}"
        losses.append(
            _epoch(
                parameters, optimizer, term, rotations, state["image_scale"], config, seed, epoch, backend, description
            )
        )
        if epoch + 1 in config.double_after_epochs:
            parameters = to_parameters(split(_gaussians(parameters, config, stack.box_size), seed=seed + epoch))
            optimizer = _optimizer(parameters, config)
        if checkpoint:
            done = {"epoch": epoch + 1, "losses": losses, "image_scale": state["image_scale"]}
            _save(checkpoint, parameters, optimizer, done, _fingerprint(stack, config, seed, device))
    edge = stack.box_size * stack.pixel_size
    scale = state["image_scale"]
    # A projection in box edges and divided images is weight / edge^2 of one in A and image units.
    model = in_angstrom(_gaussians(parameters, config, stack.box_size), edge=edge, weight_unit=scale * edge**2)
    return Fit(model.to("cpu"), scale, tuple(losses))


def _epoch(
    parameters: Parameters,
    optimizer: torch.optim.Optimizer,
    term: DataTerm,
    rotations: Tensor,
    image_scale: float,
    config: StochasticConfig,
    seed: int,
    epoch: int,
    backend: str | None,
    description: str,
) -> float:
    """Go over all particles once, in an order that (seed, epoch) decides. Return the mean loss in image units^2."""
    n, box_size = len(term.stack), term.stack.box_size
    order = np.random.default_rng((seed, epoch)).permutation(n)
    steps = math.ceil(n / config.batch_size)
    device = term.spectrum.device
    total = torch.zeros((), dtype=torch.float64, device=device)  # read now and then: each look waits for the device
    with tqdm(total=n, desc=description, unit="img", mininterval=0.5) as bar:
        for step in range(steps):
            indices = order[step * config.batch_size : (step + 1) * config.batch_size]
            set_learning_rate(optimizer, _learning_rate(config, epoch, step / steps))
            kernel, filtered, energy = term.batch(indices)
            projections = _project(parameters, to_device(rotations[indices], device), config, box_size, backend)
            loss, gradient = squared_error(projections, kernel, filtered / image_scale, energy / image_scale**2)
            optimizer.zero_grad()
            projections.backward(gradient)
            optimizer.step()
            total += loss.double() * len(indices)
            bar.update(len(indices))
            if step % 50 == 49:
                seen = step * config.batch_size + len(indices)
                bar.set_postfix_str(f"loss {float(total) / seen * image_scale**2:.5g}", refresh=False)
    if not math.isfinite(total):
        require_finite(**parameters)
    return float(total) / n * image_scale**2


def _project(
    parameters: Parameters, rotations: Tensor, config: StochasticConfig, box_size: int, backend: str | None
) -> Tensor:
    model = _gaussians(parameters, config, box_size)
    return project(
        model.means,
        model.covariances(),
        model.weights,
        rotations,
        box_size=box_size,
        pixel_size=1 / box_size,
        cutoff=config.cutoff,
        backend=backend,
    )


def _start(config: StochasticConfig, seed: int) -> Gaussians:
    return random_gaussians(
        config.n_gaussians, spread=config.initial_spread, scale=config.initial_scale, total_weight=0.5, seed=seed
    )


def _gaussians(parameters: Parameters, config: StochasticConfig, box_size: int) -> Gaussians:
    floor = config.floor_pixels / box_size
    return from_parameters(parameters, floor=floor, minimum_scale=config.minimum_scale)


def _image_scale(stack: ParticleStack) -> float:
    """What to divide images by, so that the map's integral is 1/2 in box units; refuse data whose protein is dark."""
    weight, error = total_weight(stack)
    if weight <= -3 * error:
        raise InputError(
            "protein is dark in these images (their lowest frequencies anticorrelate with a blob of density)",
            file=stack.source,
            remedy="give --sign -1 if the images are not inverted yet",
        )
    weight = max(abs(weight), error)  # below the noise its error is the best guess of its size
    return 2 * weight / (stack.box_size * stack.pixel_size) ** 2


def _optimizer(parameters: Parameters, config: StochasticConfig) -> torch.optim.Adam:
    return adam(parameters, Rates(config.rate_means, config.rate_scales, config.rate_quaternions, config.rate_weights))


def _learning_rate(config: StochasticConfig, epoch: int, done: float) -> float:
    """The common learning rate when the fraction `done` of an epoch is behind us."""
    if config.schedule == "epoch":
        return config.learning_rate * config.gamma**epoch
    return config.learning_rate * cosine((epoch + done) / config.n_epochs)


def _fingerprint(stack: ParticleStack, config: StochasticConfig, seed: int, device: torch.device) -> dict[str, Any]:
    """What a checkpoint must agree with: settings, seed, and which particles."""
    particles = np.stack([stack.file_index, stack.image_index])
    return {
        "config": to_mapping(config),
        "seed": seed,
        "particles": [len(stack), int(particles.sum()), float(np.abs(stack.shifts_angstrom).sum())],
        "threads": torch.get_num_threads(),
        "device": device.type,
    }


def _save(
    path: Path,
    parameters: Parameters,
    optimizer: torch.optim.Optimizer,
    progress: dict[str, Any],
    fingerprint: dict[str, Any],
) -> None:
    state = {
        **progress,
        "parameters": {name: p.detach() for name, p in parameters.items()},
        "optimizer": optimizer.state_dict(),
        "fingerprint": fingerprint,
    }
    with atomic_path(path) as temporary:
        torch.save(state, temporary)


def _restore(
    path: Path, stack: ParticleStack, config: StochasticConfig, seed: int, device: torch.device
) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location=device)
        saved = state["fingerprint"]
    except Exception as error:  # whatever a damaged file makes the unpickler say
        raise InputError("not a readable checkpoint", file=path, remedy="remove it to start anew") from error
    expected = _fingerprint(stack, config, seed, device)
    different = [name for name in expected if saved.get(name) != expected[name]]
    if different:
        raise InputError(
            f"the checkpoint was made with other {', '.join(different)}",
            file=path,
            remedy="repeat the first command's settings, or leave out --resume to start anew",
        )
    return state
