"""The papers' trainer on mini-batches: its settings, the papers' recipes, and how a task is solved.

Papers are rows of PRESETS, not flags: to add a recipe, add a row. The mathematics are in stochastic_fit.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from gsworkbench.methods.part import Part
    from gsworkbench.methods.task import Solution, Task


@dataclass(frozen=True)
class Stochastic:
    """Settings of the papers' trainer: Adam on mini-batches of images (methods/stochastic.py).

    Lengths are fractions of the box side unless said otherwise. Published recipes are the rows of `PRESETS`.

    Examples
    --------
    >>> import dataclasses
    >>> import gsworkbench as gs
    >>> gs.Stochastic(n_gaussians=1000).batch_size
    1
    >>> dataclasses.replace(gs.PRESETS["tuned"], n_gaussians=1000).batch_size
    16
    """

    n_gaussians: int = 30_000  # CryoSplat's headline
    n_epochs: int = 5
    passes_per_epoch: int = 1  # over the particles: a small set has to be seen more often for as many steps at a rate
    n_steps: int | None = None  # if given, the fit ends after so many batches, whatever the number of epochs
    batch_size: int = 1
    learning_rate: float = 1e-3
    rate_means: float = 1.0  # multipliers of the learning rate, per parameter type
    rate_scales: float = 1.0
    rate_quaternions: float = 1.0
    rate_weights: float = 1.0
    # The rate is multiplied by gamma after each epoch, or falls by gamma over the fit, or along one cosine to zero.
    schedule: Literal["epoch", "exponential", "cosine"] = "epoch"
    gamma: float = 0.1
    start: Literal["normal", "uniform", "data"] = "normal"  # data: centres drawn from a low-passed backprojection
    initial_spread: float = 0.075  # of the initial means: standard deviation, or half the edge of a uniform cube
    initial_scale: float | Literal["nearest"] = 0.0075  # nearest: the distance to the nearest other mean
    shape: Literal["anisotropic", "isotropic"] = "anisotropic"  # isotropic: one width per Gaussian
    amplitude: Literal["integral", "peak"] = "integral"  # what is learned of each Gaussian: its integral or its height
    floor_pixels: float = 0.5  # additive floor of the covariances; see CONVENTIONS.md
    minimum_scale: float = 0.0  # hard clamp of the scales, as the CryoSplat release has it
    double_after_epochs: tuple[int, ...] = ()  # split every Gaussian in two after these epochs (1 = the first)
    boost: float = 0.0  # weight Fourier components of the residual by exp(boost k^2 / k_nyquist^2)
    cutoff: float = 3.5  # footprint half width in standard deviations while training
    # What the papers' releases or ablations do to the forward model; at these values, nothing.
    skip_below: float = (
        0.0  # a Gaussian's contributions to pixels below this are skipped; unit: map integral 1/2, box 1
    )
    band: Literal["disc", "square"] = "disc"  # Fourier components compared: |k| < D/2, or the whole image
    blur_y: float = 0.0  # px^2 added to the y variance of projections, unknown to the gradient
    grid_offset: float = 0.0  # px by which the pixel grid is off the origin of the Fourier transform, in x and y
    view_normalisation: bool = True  # False: a Gaussian is as high in every view, however long it is along z


# fmt: off
PRESETS: dict[str, Stochastic] = {
    # CryoSplat (arXiv 2508.04929), section 4 and its release: batch 1, one rate, 5 epochs, clamp 1e-3 box, no floor,
    # footprint 3 sigma. gamma 0.1 as printed (the release's default is 0.2).
    "cryosplat": Stochastic(floor_pixels=0.0, minimum_scale=1e-3, cutoff=3.0),
    # Its release as it runs: gamma 0.2, all Fourier components, and the y-blur of forward that backward does not know.
    "cryosplat_as_released": Stochastic(
        gamma=0.2, floor_pixels=0.0, minimum_scale=1e-3, cutoff=3.0, band="square", blur_y=0.3,
    ),
    # The same with 3DGS's rates for each type of parameter (Kerbl et al. 2023: 1.6e-4 of the extent, 5e-3, 1e-3, 5e-2).
    "cryosplat_3dgs_rates": Stochastic(
        learning_rate=1.6e-4, rate_scales=31.25, rate_quaternions=6.25, rate_weights=312.5, schedule="exponential",
        gamma=0.01, floor_pixels=0.0, minimum_scale=1e-3, cutoff=3.0,
    ),
    # GEM (arXiv 2509.25075) and its release: peak density, uniform start, nearest-neighbour scales, 30,000 steps, rates
    # 2e-4 (of half a box), 5e-3, 1e-3, 1e-2, each falling tenfold; 3 sigma and contributions below 1e-5 skipped.
    "gem": Stochastic(
        n_gaussians=50_000, n_steps=30_000, learning_rate=1e-4, rate_scales=50.0, rate_quaternions=10.0,
        rate_weights=100.0, schedule="exponential", gamma=0.1, start="uniform", initial_spread=0.5,
        initial_scale="nearest", amplitude="peak", floor_pixels=0.0, cutoff=3.0, skip_below=1e-5,
    ),
    # CryoGS (preprints rs-6178664, rs-8451958): recipe not stated, code not released. A stand-in of ours, not theirs.
    "cryogs": Stochastic(
        n_epochs=3, batch_size=8, rate_scales=5.0, rate_quaternions=5.0, rate_weights=5.0, schedule="cosine",
        learning_rate=2e-3, start="data", initial_scale="nearest",
    ),
    # Chosen on the laptop ribosome (5,000 x 64^2, SNR 0.1): per-type rates, a wider start, whitened residuals.
    "tuned": Stochastic(
        n_epochs=2, batch_size=16, learning_rate=4e-3, rate_scales=10.0, rate_quaternions=10.0, rate_weights=10.0,
        schedule="cosine", initial_spread=0.12, boost=2.0,
    ),
    # The same with one width per Gaussian.
    "isotropic": Stochastic(
        n_epochs=2, batch_size=16, learning_rate=4e-3, rate_scales=10.0, rate_quaternions=0.0, rate_weights=10.0,
        schedule="cosine", initial_spread=0.12, boost=2.0, shape="isotropic",
    ),
}
# fmt: on

DEFAULT = PRESETS["tuned"]


def halved(settings: Stochastic) -> Stochastic | None:
    """The same with half the steps at every rate; None where an epoch cannot be halved."""
    if settings.n_steps is not None:
        return replace(settings, n_steps=max(1, settings.n_steps // 2))
    if settings.passes_per_epoch > 1:
        return replace(settings, passes_per_epoch=settings.passes_per_epoch // 2)
    return replace(settings, n_epochs=settings.n_epochs // 2) if settings.schedule != "epoch" else None


def solve(task: Task) -> Iterator[tuple[Part, Solution]]:
    """Fit Gaussians to the images of each part and sample their map."""
    from gsworkbench.methods.part import HALVES
    from gsworkbench.methods.stochastic_fit import error_on_others, fit
    from gsworkbench.methods.task import Solution

    config = task.config
    for part, stack in task.parts.items():
        with task.stage(part):
            result = fit(
                stack,
                config.settings,
                seed=task.seed(part),
                checkpoint=task.checkpoint(part),
                resume=task.resume,
                backend=config.backend,
                device=task.device,
                label=part.label,
            )
            g = result.gaussians
            volume = g.voxelize(stack.box_size, stack.pixel_size, backend=config.backend)
            report = {"losses": list(result.losses), "image_scale": result.image_scale, "n_gaussians": len(g)}
            report["steps"] = result.steps
            other = next((p for p in task.parts if p in HALVES and part in HALVES and p != part), None)
            if other is not None:
                others = task.parts[other]
                report["held_out_error"] = error_on_others(result, others, config.settings, backend=config.backend)
        yield part, Solution(volume.numpy(), g, report=report)
