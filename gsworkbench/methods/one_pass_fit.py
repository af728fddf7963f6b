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
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gsworkbench.errors import InputError
from gsworkbench.gaussians.mixture import Gaussians
from gsworkbench.gaussians.optimiser import Mixture, descent
from gsworkbench.gaussians.parameters import (
    Parameterisation,
    Rates,
    cosine,
    from_parameters,
    in_angstrom,
    to_parameters,
)
from gsworkbench.methods.starts import TOTAL_WEIGHT, at_random, from_data
from gsworkbench.normal_equations.diagonal import (
    DiagonalEquations,
    added,
    diagonal,
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

if TYPE_CHECKING:
    from gsworkbench.methods.one_pass import OnePass

_LAST_RATE = 0.02  # of the first
_MOST_GAUSSIANS = 200_000
_GAIN = 0.01  # of the held-out error: what doubling the number must gain
_EVERY = 10  # steps between looks at the held-out error
_SURE = 3.0  # standard errors
_MUCH = 0.03  # of the signal: what mixtures may miss without a word

Curve = tuple[tuple[int, float, float], ...]
Ladder = tuple[tuple[int, float, float], ...]


@dataclass(frozen=True)
class FitContext:
    """How a fit is run: its seed, the renderer (None takes the fastest), the device, and what progress is called."""

    seed: int = 0
    backend: str | None = None
    device: torch.device | str = "cpu"
    label: str = "fit"

    def labelled(self, what: str) -> FitContext:
        """Return the context of a part of the fit."""
        return replace(self, label=f"{self.label}: {what}")


DEFAULT_CONTEXT = FitContext()


@dataclass(frozen=True)
class HeldOutReport:
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
class OnePassFit:
    """A fitted map and its parts, in image units and A.

    gaussians : the mixture. background : (D, D, D) map to add to it, or None. volume : their sum, (D, D, D).
    misfit : (D // 2,) per shell, power of what the mixture misses relative to its own, from held-out particles.
    held_out : what these say of the mixture, or None where none were asked.
    equations : those of all particles. trial : the map and the equations of the particles that were not held out,
    and those of the ones that were; None where none were.
    """

    gaussians: Gaussians
    background: NDArray[np.float32] | None
    volume: NDArray[np.float32]
    misfit: NDArray[np.float64] | None
    held_out: HeldOutReport | None
    equations: DiagonalEquations
    trial: tuple[NDArray[np.float32], DiagonalEquations, DiagonalEquations] | None = None


def fit_one_pass(
    train: NormalEquations,
    test: NormalEquations | None,
    config: OnePass,
    context: FitContext = DEFAULT_CONTEXT,
) -> OnePassFit:
    """Fit a mixture to `train` + `test`, the equations of two sets of particles.

    With config.background, or n_gaussians = auto, a first fit to `train` alone is tested on `test`, which is then
    needed and must hold no particle of `train`.
    """
    tested = config.background or config.n_gaussians == "auto"
    if test is None and tested:
        raise InputError("a background, and a number of Gaussians chosen by the data, need held-out particles")
    if test is None or not tested:
        whole = diagonal(train if test is None else train + test)
        gaussians, _ = fit_mixture(softened(whole), None, config, context)
        return OnePassFit(gaussians, None, sample(gaussians, whole, context.backend).numpy(), None, None, whole)
    train.require_addable(test)
    first, unseen = diagonal(train), diagonal(test)
    whole = added(first, unseen, train.n_particles, test.n_particles)
    soft_first, soft = softened(first), softened(whole)  # what is solved; `unseen` stays as it is, to test by
    ladder: Ladder = ()
    if config.n_gaussians == "auto":
        number, ladder = choose_number(soft_first, unseen, config, context)
        config = replace(config, n_gaussians=number)
    trial, curve = fit_mixture(soft_first, unseen, config, context.labelled("trial"))
    seen = to_transform(sample(trial, first, context.backend))
    power = misfit_power(unseen, seen)
    signal, missed = _found_and_missed(unseen, seen, power)
    size = [e.n_particles * e.box_size**2 for e in (train, test)]
    curve = tuple((step, a / size[0], b / size[1]) for step, a, b in curve)
    ladder = tuple((number, a / size[1], b / size[1]) for number, a, b in ladder)
    report = HeldOutReport(signal, missed, curve, ladder)
    used = power if config.background else torch.zeros_like(power)
    weighted = replace(soft, weight=soft.weight / (1 + soft.kernel * used[soft.shell] / soft.noise))
    gaussians, _ = fit_mixture(weighted, None, final_settings(config), context, start=trial)
    mixture = sample(gaussians, whole, context.backend)
    own = shell_mean(whole, seen.abs().square()).clamp_min(1e-300)
    misfit = (power / own)[: whole.box_size // 2].double().numpy()
    if not config.background:
        trial_map = from_transform(seen).numpy()
        return OnePassFit(gaussians, None, mixture.numpy(), misfit, report, whole, (trial_map, first, unseen))
    beside = wiener_background(soft_first, seen, power)
    share = proven_share(unseen, seen, beside)
    trial_map = from_transform(seen + share[first.shell] * beside).numpy()
    background = from_transform(share[whole.shell] * wiener_background(soft, to_transform(mixture), power))
    return OnePassFit(
        gaussians,
        background.numpy(),
        (mixture + background).numpy(),
        misfit,
        report,
        whole,
        (trial_map, first, unseen),
    )


def preview(
    sums: NormalEquations,
    config: OnePass,
    *,
    n_gaussians: int = 2000,
    context: FitContext = DEFAULT_CONTEXT,
) -> OnePassFit:
    """A quick fit of a mixture alone, for a map to look at while settings are being chosen (one_pass.PREVIEW)."""
    equations = softened(diagonal(sums))
    chosen = replace(config, n_gaussians=n_gaussians, background=False)
    gaussians, _ = fit_mixture(equations, None, chosen, context)
    return OnePassFit(gaussians, None, sample(gaussians, equations, context.backend).numpy(), None, None, equations)


def number_of_gaussians(config: OnePass, box_size: int) -> int:
    """As configured, or 3,000 for a box of 64, in proportion to the voxels, at most 30,000."""
    if isinstance(config.n_gaussians, int):
        return config.n_gaussians
    return min(30_000, max(100, round(3000 * (box_size / 64) ** 3)))


def choose_number(
    train: DiagonalEquations,
    test: DiagonalEquations,
    config: OnePass,
    context: FitContext,
) -> tuple[int, Ladder]:
    """The number of Gaussians beyond which held-out particles see no gain, and a row for every number tried.

    From half of the default the number is doubled, each time with a fit of a third of the steps, as long as the
    held-out error of the whole map, background included, falls by more than _GAIN of itself and by more than two
    standard errors of the difference: that of two maps V and W is 2 s |K^(1/2) (V - W)|, with s^2 the noise.
    """
    number = max(1, number_of_gaussians(replace(config, n_gaussians=None), train.box_size) // 2)
    short = replace(config, n_boosted_steps=config.n_boosted_steps // 3, n_steps=config.n_steps // 3)
    best: tuple[int, Tensor, float] | None = None
    ladder: list[tuple[int, float, float]] = []
    while number <= _MOST_GAUSSIANS:
        chosen = replace(short, n_gaussians=number)
        model, _ = fit_mixture(train, None, chosen, context.labelled(f"{number:,} Gaussians"))
        volume, error = _tested(train, test, model, config, context.backend)
        noise = 0.0 if best is None else _standard_error(test, volume - best[1])
        ladder.append((number, error, noise))
        if best is not None and error > best[2] - max(2 * noise, _GAIN * abs(best[2])):
            break
        best = number, volume, error
        number *= 2
    assert best is not None
    return best[0], tuple(ladder)


def _tested(
    train: DiagonalEquations, test: DiagonalEquations, model: Gaussians, config: OnePass, backend: str | None
) -> tuple[Tensor, float]:
    """The whole map that comes with a mixture, and its error on the held-out particles."""
    volume = sample(model, train, backend)
    if config.background:
        seen = to_transform(volume)
        background = wiener_background(train, seen, misfit_power(test, seen))
        volume = volume + from_transform(proven_share(test, seen, background)[train.shell] * background)
    return volume, error_and_gradient(objective(test), volume)[0]


def _standard_error(test: DiagonalEquations, volume: Tensor) -> float:
    """Of the error of a map, due to the noise in <b, V>: 2 s sqrt<V, K * V>."""
    square = float((volume * from_transform(test.kernel * to_transform(volume))).sum())
    return 2 * math.sqrt(max(square, 0) * test.noise / test.box_size**3)


def _found_and_missed(test: DiagonalEquations, seen: Tensor, power: Tensor) -> tuple[float, float]:
    """How much a map with transform `seen` lowers the error, in standard errors; the fraction of the signal it misses.

    The images' signal is the sum of K |V|^2, of which the sum of K S is missed.
    """
    missed = float(shell_sum(test, test.kernel * power[test.shell]).sum())
    found = float(shell_sum(test, test.kernel * seen.abs().square()).sum())
    return gain(test, from_transform(seen)), missed / max(found + missed, 1e-300)


def gain(test: DiagonalEquations, volume: Tensor) -> float:
    """By how many standard errors a map lowers the error of equations that it was not fitted to."""
    error = error_and_gradient(objective(test), volume)[0]
    return -error / max(_standard_error(test, volume), 1e-300)


def final_settings(config: OnePass) -> OnePass:
    """Settings of the second fit, which goes on from the first."""
    return replace(config, n_boosted_steps=0, n_steps=config.n_final_steps, learning_rate=config.learning_rate / 2)


def sample(gaussians: Gaussians, equations: DiagonalEquations, backend: str | None = None) -> Tensor:
    """(D, D, D) float32 map of a mixture in A on the grid of equations."""
    return gaussians.voxelize(equations.box_size, equations.pixel_size, backend=backend)


def fit_mixture(
    equations: DiagonalEquations,
    test: DiagonalEquations | None,
    config: OnePass,
    context: FitContext,
    *,
    start: Gaussians | None = None,
) -> tuple[Gaussians, Curve]:
    """Adam on all components at once, from a mixture in A or as configured. The equations are softened by the caller.

    Return the mixture in A and (step, error, error under `test`) along the way.
    """
    box_size = equations.box_size
    edge = box_size * equations.pixel_size
    signed = config.weights == "signed"
    begin = _start(equations, config, context.seed) if start is None else _in_box_edges(start, edge, signed)
    equations = equations.to(context.device)
    rates = Rates(config.rate_means, config.rate_scales, config.rate_quaternions, config.rate_weights)
    meaning = Parameterisation(config.floor_pixels / box_size, signed=signed)
    parameters = to_parameters(begin.to(context.device), meaning)
    optimizer = descent(parameters, rates, meaning)
    unit = _best_scale(equations, _sampled(optimizer.mixture(), config, box_size, context.backend).detach())
    steps = config.n_boosted_steps + config.n_steps
    aims = {True: objective(equations, config.boost), False: objective(equations)}
    tested = None if test is None else objective(test.to(context.device))
    curve = []
    for step in track(range(steps), context.label, unit="step"):
        mixture = optimizer.mixture()
        volume = _sampled(mixture, config, box_size, context.backend)
        boosted = step < config.n_boosted_steps
        error, gradient = error_and_gradient(aims[boosted], volume.detach() * unit)
        if tested is not None and not boosted and step % _EVERY == 0:
            curve.append((step, error, error_and_gradient(tested, volume.detach() * unit)[0]))
        gradients = torch.autograd.grad(volume, mixture, gradient * unit)
        optimizer.step(gradients, config.learning_rate * cosine(step / steps, last=_LAST_RATE))
    # voxelize in box edges gives weight / edge^3 of what it gives in A.
    result = from_parameters(optimizer.parameters, meaning)
    model = in_angstrom(result, edge=edge, weight_unit=unit * edge**3)
    return model.to("cpu"), tuple(curve)


def _in_box_edges(model: Gaussians, edge: float, signed: bool) -> Gaussians:
    """A mixture in A as a start of a fit: in box edges, of the usual integral; weights strictly positive or signed."""
    weights = model.weights * (TOTAL_WEIGHT / model.weights.abs().sum())
    if not signed:
        weights = weights.clamp_min(1e-6 * TOTAL_WEIGHT / len(model))  # softplus has no parameter for zero
    return replace(model, means=model.means / edge, scales=(model.scales / edge).clamp_min(1e-9), weights=weights)


def _sampled(mixture: Mixture, config: OnePass, box_size: int, backend: str | None) -> Tensor:
    return voxelize(*mixture, box_size=box_size, voxel_size=1 / box_size, cutoff=config.cutoff, backend=backend)


def _start(equations: DiagonalEquations, config: OnePass, seed: int) -> Gaussians:
    """Return the mixture in box edges that a fit begins with, as configured."""
    n, scale = number_of_gaussians(config, equations.box_size), config.initial_scale
    if config.start == "data":
        drawn = from_data(equations, n, scale=scale, seed=seed, signed=config.weights == "signed")
        if drawn is not None:
            return drawn
    return at_random(n, spread=config.initial_spread, scale=scale, seed=seed)


def _best_scale(equations: DiagonalEquations, volume: Tensor) -> float:
    """The factor that brings a map closest to the data: <b, V> / <V, K * V>, but at least a standard error of it."""
    transform = to_transform(volume)
    twice = torch.full((transform.shape[-1],), 2.0, device=volume.device)
    twice[0] = twice[-1] = 1.0
    product = float(((transform.conj() * equations.data).real * equations.weight * twice).sum())
    square = float((transform.abs().square() * equations.kernel * equations.weight * twice).sum())
    noise = math.sqrt(equations.noise * square)
    return max(product, noise) / square
