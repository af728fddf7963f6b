"""Fit Gaussians to normal equations: the fit that never touches the particles again.

With poses and CTF known, the squared error of a map V over all particles is <V, K * V> - 2 <b, V> + constant, and b and
K are made in one pass (normal_equations/equations.py). Here V is the sampled mixture, and a step costs one transform
forth and one back, whatever the number of particles. K is taken as periodic in the box, so that the error is a sum over
Fourier components k,

    sum_k K(k) |V(k)|^2 - 2 Re b(k)* V(k),    and b(k) = K(k) V(k) + noise of variance s^2 K(k).

No mixture of positive Gaussians holds all of a real map (solvent, detergent), and what it misses, both half maps miss
alike: they agree with each other more than with the truth. So the map is the mixture plus a background, of which only
the power S in each shell is assumed. S is measured on particles held out of a first fit, where the residual r = b - K V
has the expectation E|r|^2 = K^2 S + s^2 K. Given S, the best background of any mixture is a Wiener filter,

    B = S r / (K S + s^2),

and the mixture fitted together with it is fitted with each component weighted by 1 / (1 + K S / s^2): where a
background explains the data as well, the Gaussians need not. Where the mixture suffices, S is small and B is nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gsworkbench.config import NormalEquationsConfig
from gsworkbench.errors import InputError
from gsworkbench.gaussians.mixture import Gaussians, random_gaussians
from gsworkbench.gaussians.optimiser import Mixture, descent
from gsworkbench.gaussians.parameters import Meaning, Rates, cosine, from_parameters, in_angstrom, to_parameters
from gsworkbench.normal_equations.diagonal import (
    Problem,
    added,
    as_problem,
    error_and_gradient,
    from_transform,
    misfit_power,
    objective,
    proven_share,
    shell_mean,
    shell_sum,
    softened,
    to_transform,
    wiener_background,
)
from gsworkbench.normal_equations.equations import NormalEquations
from gsworkbench.rendering import voxelize
from gsworkbench.system.progress import track

_INITIAL_WEIGHT = 0.5  # integral of the mixture inside the fit, as in the papers' start A = 1/(2N)
_LAST_RATE = 0.02  # of the first
_MOST_GAUSSIANS = 200_000
_GAIN = 0.01  # of the held-out error: what doubling the number must gain
_EVERY = 10  # steps between looks at the held-out error
_PREVIEW = NormalEquationsConfig(n_boosted_steps=15, n_steps=30, background=False)
_SURE = 3.0  # standard errors
_START_VOXELS = 0.0076  # of all voxels: 2,000 of a box of 64
_MUCH = 0.03  # of the signal: what mixtures may miss without a word

Curve = tuple[tuple[int, float, float], ...]
Ladder = tuple[tuple[int, float, float], ...]


@dataclass(frozen=True)
class HeldOut:
    """What held-out particles say of the first fit, which never saw them.

    signal : how far its mixture lowers their error, in standard errors of that: noise gives 0 +- 1 or less.
    missed : of the power of the signal in their images, the fraction that the mixture misses. Noise that is not white
    counts as missed too.
    curve : (step, error on the fitted particles, error on the held-out ones); errors are per particle and pixel,
    without the constant |y|^2.
    ladder : with n_gaussians = auto, (number of Gaussians, error of the whole map on the held-out ones, standard error
    of the difference from the number before).
    """

    signal: float
    missed: float
    curve: Curve
    ladder: Ladder = ()

    def warnings(self) -> list[str]:
        """Sentences about what the mixture does not explain."""
        if self.signal < _SURE:
            return ["the held-out particles hold no signal of this map: noise, or far too few particles"]
        if self.missed < _MUCH:
            return []
        return [
            f"the Gaussians alone miss {100 * self.missed:.0f} % of the signal in held-out particles (solvent, "
            "detergent, too few Gaussians, or coloured noise); the background holds what of it is above the noise"
        ]


@dataclass(frozen=True)
class NormalFit:
    """A fitted map and its parts, in image units and A.

    gaussians : the mixture. background : (D, D, D) map to add to it, or None. volume : their sum, (D, D, D).
    misfit : (D // 2,) per shell, power of what the mixture misses relative to its own, from held-out particles.
    held_out : what these say of the mixture, or None where none were asked.
    problem : the equations of all particles. trial : the map and the equations of the particles that were not held out,
    and those of the ones that were; None where none were.
    """

    gaussians: Gaussians
    background: NDArray[np.float32] | None
    volume: NDArray[np.float32]
    misfit: NDArray[np.float64] | None
    held_out: HeldOut | None
    problem: Problem
    trial: tuple[NDArray[np.float32], Problem, Problem] | None = None


def fit_normal_equations(
    fitted: NormalEquations,
    held_out: NormalEquations | None,
    config: NormalEquationsConfig,
    *,
    seed: int = 0,
    backend: str | None = None,
    device: torch.device | str = "cpu",
    label: str = "fit",
) -> NormalFit:
    """Fit a mixture to `fitted` + `held_out`.

    With config.background, or n_gaussians = auto, a first fit to `fitted` alone is judged on `held_out`, which is then
    needed and must hold no particle of `fitted`.
    """
    judged = config.background or config.n_gaussians == "auto"
    if held_out is None and judged:
        raise InputError("a background, and a number of Gaussians chosen by the data, need held-out particles")
    if held_out is None or not judged:
        whole = as_problem(fitted if held_out is None else fitted + held_out)
        gaussians, _ = _descend(softened(whole), None, config, seed, backend, device, label)
        return NormalFit(gaussians, None, sample(gaussians, whole, backend).numpy(), None, None, whole)
    fitted.require_addable(held_out)
    first, judge = as_problem(fitted), as_problem(held_out)
    whole = added(first, judge, fitted.n_particles, held_out.n_particles)
    soft_first, soft = softened(first), softened(whole)  # what is solved; `judge` stays as it is, to judge by
    ladder: Ladder = ()
    if config.n_gaussians == "auto":
        number, ladder = choose_number(soft_first, judge, config, seed, backend, device, label)
        config = replace(config, n_gaussians=number)
    trial, curve = _descend(soft_first, judge, config, seed, backend, device, f"{label}: trial")
    seen = to_transform(sample(trial, first, backend))
    power = misfit_power(judge, seen)
    signal, missed = _verdict(judge, seen, power)
    size = [e.n_particles * e.box_size**2 for e in (fitted, held_out)]
    curve = tuple((step, a / size[0], b / size[1]) for step, a, b in curve)
    ladder = tuple((number, a / size[1], b / size[1]) for number, a, b in ladder)
    verdict = HeldOut(signal, missed, curve, ladder)
    used = power if config.background else torch.zeros_like(power)
    weighted = replace(soft, weight=soft.weight / (1 + soft.kernel * used[soft.shell] / soft.noise))
    gaussians, _ = _descend(weighted, None, _final(config), seed, backend, device, label, start=trial)
    mixture = sample(gaussians, whole, backend)
    own = shell_mean(whole, seen.abs().square()).clamp_min(1e-300)
    misfit = (power / own)[: whole.box_size // 2].double().numpy()
    if not config.background:
        trial_map = from_transform(seen).numpy()
        return NormalFit(gaussians, None, mixture.numpy(), misfit, verdict, whole, (trial_map, first, judge))
    beside = wiener_background(soft_first, seen, power)
    share = proven_share(judge, seen, beside)
    trial_map = from_transform(seen + share[first.shell] * beside).numpy()
    background = from_transform(share[whole.shell] * wiener_background(soft, to_transform(mixture), power))
    return NormalFit(
        gaussians,
        background.numpy(),
        (mixture + background).numpy(),
        misfit,
        verdict,
        whole,
        (trial_map, first, judge),
    )


def preview(
    sums: NormalEquations,
    *,
    n_gaussians: int = 2000,
    config: NormalEquationsConfig = _PREVIEW,
    seed: int = 0,
    backend: str | None = None,
    device: torch.device | str = "cpu",
) -> NormalFit:
    """A quick fit of a mixture alone, for a map to look at while settings are being chosen."""
    problem = softened(as_problem(sums))
    chosen = replace(config, n_gaussians=n_gaussians, background=False)
    gaussians, _ = _descend(problem, None, chosen, seed, backend, device, "preview")
    return NormalFit(gaussians, None, sample(gaussians, problem, backend).numpy(), None, None, problem)


def start_from_data(problem: Problem, config: NormalEquationsConfig, seed: int) -> Gaussians:
    """Isotropic Gaussians in box edges, centres drawn in proportion to the density of a low-passed least-squares map.

    Only density counts that exceeds 6 robust standard deviations of the map's surroundings, inside .48 of the box, or
    that is among the largest _START_VOXELS of the voxels there: where the molecule hardly rises above the noise, the
    former are a handful, and all Gaussians would start there. With signed weights, what lies as far below zero counts
    as well, and gives Gaussians of negative weight.
    """
    generator = torch.Generator().manual_seed(seed)
    box_size, n = problem.box_size, number_of_gaussians(config, problem.box_size)
    inside = problem.shell < box_size // 2
    lowpass = max(8.0, 2.5 * problem.pixel_size)  # A
    frequency = problem.shell / (box_size * problem.pixel_size)
    smooth = torch.exp(-((frequency * lowpass) ** 2) * math.log(2.0))
    density = from_transform(problem.data / (problem.kernel + 0.1 * problem.kernel[inside].median()) * smooth * inside)
    density = density - density.median()
    axis = torch.arange(box_size) - box_size // 2
    radius = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).sqrt()
    noise = 1.4826 * density[radius > 0.48 * box_size].abs().median()
    inside_sphere = radius < 0.48 * box_size
    size = density.abs() if config.weights == "signed" else density
    rank = max(1, round(_START_VOXELS * box_size**3))
    least = torch.topk(size[inside_sphere], rank).values[-1].clamp_min(0)
    density = torch.where((size > torch.minimum(6 * noise, least)) & inside_sphere, density, 0.0).flatten().double()
    sign = density.sign().float()
    density = density.abs()
    if not density.any():  # nothing stands out: pure noise, most likely
        return _start_at_random(config, box_size, seed)
    cumulative = density.cumsum(0)
    ticks = (torch.arange(n).double() + torch.rand(1, generator=generator).double()) / n * cumulative[-1]
    voxel = torch.searchsorted(cumulative, ticks).clamp_max(box_size**3 - 1)
    place = torch.stack([voxel % box_size, voxel // box_size % box_size, voxel // box_size**2], -1)
    jitter = torch.rand(n, 3, generator=generator) - 0.5
    return Gaussians(
        means=(place - box_size // 2 + jitter) / box_size,
        scales=torch.full((n, 3), config.initial_scale),
        quaternions=torch.tensor([1.0, 0, 0, 0]).repeat(n, 1),
        weights=sign[voxel] * (_INITIAL_WEIGHT / n),
    )


def number_of_gaussians(config: NormalEquationsConfig, box_size: int) -> int:
    """As configured, or 3,000 for a box of 64, in proportion to the voxels, at most 30,000."""
    if isinstance(config.n_gaussians, int):
        return config.n_gaussians
    return min(30_000, max(100, round(3000 * (box_size / 64) ** 3)))


def choose_number(
    fitted: Problem,
    judge: Problem,
    config: NormalEquationsConfig,
    seed: int,
    backend: str | None,
    device: torch.device | str,
    label: str,
) -> tuple[int, Ladder]:
    """The number of Gaussians beyond which held-out particles see no gain, and a row for every number tried.

    From half of the default the number is doubled, each time with a fit of a third of the steps, as long as the
    held-out error of the whole map, background included, falls by more than _GAIN of itself and by more than two
    standard errors of the difference: that of two maps V and W is 2 s |K^(1/2) (V - W)|, with s^2 the noise.
    """
    number = max(1, number_of_gaussians(replace(config, n_gaussians=None), fitted.box_size) // 2)
    short = replace(config, n_boosted_steps=config.n_boosted_steps // 3, n_steps=config.n_steps // 3)
    best: tuple[int, Tensor, float] | None = None
    ladder: list[tuple[int, float, float]] = []
    while number <= _MOST_GAUSSIANS:
        chosen = replace(short, n_gaussians=number)
        model, _ = _descend(fitted, None, chosen, seed, backend, device, f"{label}: {number:,} Gaussians")
        volume, error = _judged(fitted, judge, model, config, backend)
        noise = 0.0 if best is None else _standard_error(judge, volume - best[1])
        ladder.append((number, error, noise))
        if best is not None and error > best[2] - max(2 * noise, _GAIN * abs(best[2])):
            break
        best = number, volume, error
        number *= 2
    assert best is not None
    return best[0], tuple(ladder)


def _judged(
    fitted: Problem, judge: Problem, model: Gaussians, config: NormalEquationsConfig, backend: str | None
) -> tuple[Tensor, float]:
    """The whole map that comes with a mixture, and its error on the held-out particles."""
    volume = sample(model, fitted, backend)
    if config.background:
        seen = to_transform(volume)
        background = wiener_background(fitted, seen, misfit_power(judge, seen))
        volume = volume + from_transform(proven_share(judge, seen, background)[fitted.shell] * background)
    return volume, error_and_gradient(objective(judge), volume)[0]


def _standard_error(judge: Problem, volume: Tensor) -> float:
    """Of the error of a map, due to the noise in <b, V>: 2 s sqrt<V, K * V>."""
    square = float((volume * from_transform(judge.kernel * to_transform(volume))).sum())
    return 2 * math.sqrt(max(square, 0) * judge.noise / judge.box_size**3)


def _verdict(judge: Problem, seen: Tensor, power: Tensor) -> tuple[float, float]:
    """How much a map with transform `seen` lowers the error, in standard errors; the fraction of the signal it misses.

    The images' signal is the sum of K |V|^2, of which the sum of K S is missed.
    """
    volume = from_transform(seen)
    error = error_and_gradient(objective(judge), volume)[0]
    missed = float(shell_sum(judge, judge.kernel * power[judge.shell]).sum())
    found = float(shell_sum(judge, judge.kernel * seen.abs().square()).sum())
    return -error / max(_standard_error(judge, volume), 1e-300), missed / max(found + missed, 1e-300)


def _final(config: NormalEquationsConfig) -> NormalEquationsConfig:
    """Settings of the second fit, which goes on from the first."""
    return replace(config, n_boosted_steps=0, n_steps=config.n_final_steps, learning_rate=config.learning_rate / 2)


def sample(gaussians: Gaussians, problem: Problem, backend: str | None = None) -> Tensor:
    """(D, D, D) float32 map of a mixture in A on the grid of the problem."""
    return gaussians.voxelize(problem.box_size, problem.pixel_size, backend=backend)


def _descend(
    problem: Problem,
    judge: Problem | None,
    config: NormalEquationsConfig,
    seed: int,
    backend: str | None,
    device: torch.device | str,
    label: str,
    *,
    start: Gaussians | None = None,
) -> tuple[Gaussians, Curve]:
    """Adam on all particles at once, from a mixture in A or as configured. The problem is softened by the caller.

    Return the mixture in A and (step, error, error under `judge`) along the way.
    """
    box_size = problem.box_size
    edge = box_size * problem.pixel_size
    signed = config.weights == "signed"
    if start is not None:
        begin = _in_box_edges(start, edge, signed)
    elif config.start == "data":
        begin = start_from_data(problem, config, seed)
    else:
        begin = _start_at_random(config, box_size, seed)
    problem = problem.to(device)
    rates = Rates(config.rate_means, config.rate_scales, config.rate_quaternions, config.rate_weights)
    meaning = Meaning(config.floor_pixels / box_size, signed=signed)
    parameters = to_parameters(begin.to(device), meaning)
    optimizer = descent(parameters, rates, meaning)
    unit = _best_scale(problem, _sampled(optimizer.mixture(), config, box_size, backend).detach())
    steps = config.n_boosted_steps + config.n_steps
    aims = {True: objective(problem, config.boost), False: objective(problem)}
    held_out = None if judge is None else objective(judge.to(device))
    curve = []
    for step in track(range(steps), label, unit="step"):
        mixture = optimizer.mixture()
        volume = _sampled(mixture, config, box_size, backend)
        boosted = step < config.n_boosted_steps
        error, gradient = error_and_gradient(aims[boosted], volume.detach() * unit)
        if held_out is not None and not boosted and step % _EVERY == 0:
            curve.append((step, error, error_and_gradient(held_out, volume.detach() * unit)[0]))
        gradients = torch.autograd.grad(volume, mixture, gradient * unit)
        optimizer.step(gradients, config.learning_rate * cosine(step / steps, last=_LAST_RATE))
    # voxelize in box edges gives weight / edge^3 of what it gives in A.
    fitted = from_parameters(optimizer.parameters, meaning)
    model = in_angstrom(fitted, edge=edge, weight_unit=unit * edge**3)
    return model.to("cpu"), tuple(curve)


def _in_box_edges(model: Gaussians, edge: float, signed: bool) -> Gaussians:
    """A mixture in A as a start of a fit: in box edges, of the usual integral; weights strictly positive or signed."""
    weights = model.weights * (_INITIAL_WEIGHT / model.weights.abs().sum())
    if not signed:
        weights = weights.clamp_min(1e-6 * _INITIAL_WEIGHT / len(model))  # softplus has no parameter for zero
    return replace(model, means=model.means / edge, scales=(model.scales / edge).clamp_min(1e-9), weights=weights)


def _sampled(mixture: Mixture, config: NormalEquationsConfig, box_size: int, backend: str | None) -> Tensor:
    return voxelize(*mixture, box_size=box_size, voxel_size=1 / box_size, cutoff=config.cutoff, backend=backend)


def _start_at_random(config: NormalEquationsConfig, box_size: int, seed: int) -> Gaussians:
    return random_gaussians(
        number_of_gaussians(config, box_size),
        spread=config.initial_spread,
        scale=config.initial_scale,
        total_weight=_INITIAL_WEIGHT,
        seed=seed,
    )


def _best_scale(problem: Problem, volume: Tensor) -> float:
    """The factor that brings a map closest to the data: <b, V> / <V, K * V>, but at least a standard error of it."""
    transform = to_transform(volume)
    twice = torch.full((transform.shape[-1],), 2.0, device=volume.device)
    twice[0] = twice[-1] = 1.0
    product = float(((transform.conj() * problem.data).real * problem.weight * twice).sum())
    square = float((transform.abs().square() * problem.kernel * problem.weight * twice).sum())
    noise = math.sqrt(problem.noise * square)
    return max(product, noise) / square
