"""3D Gaussian splatting off the shelf: its settings and how a task is solved.

The mathematics are in splatting_3dgs_fit.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gsworkbench.methods.part import Part
    from gsworkbench.methods.task import Solution, Task


@dataclass(frozen=True)
class Splatting3dgs:
    """3D Gaussian splatting off the shelf: alpha compositing, half-pixel grid, rates of Kerbl et al. 2023.

    Lengths are in box edges. Rates are those of log scales, logit opacities and so on; that of means falls a
    hundredfold over the fit.
    """

    n_gaussians: int = 2048
    n_steps: int = 10_000  # of one image each
    rate_means: float = 1.6e-4
    rate_scales: float = 5e-3
    rate_quaternions: float = 1e-3
    rate_opacities: float = 5e-2
    rate_colours: float = 2.5e-3
    initial_spread: float = 0.12
    initial_opacity: float = 0.1
    blur: float = 0.3  # px^2 added to the projected covariances: gsplat's default


DEFAULT = Splatting3dgs()


def halved(settings: Splatting3dgs) -> Splatting3dgs:
    """The same with half the steps."""
    return replace(settings, n_steps=settings.n_steps // 2)


def solve(task: Task) -> Iterator[tuple[Part, Solution]]:
    """Fit blended Gaussians to each part and sample their density."""
    from gsworkbench.methods.splatting_3dgs_fit import fit_splatting_3dgs
    from gsworkbench.methods.task import Solution

    for part, stack in task.parts.items():
        with task.stage(part):
            result = fit_splatting_3dgs(stack, task.config.settings, seed=task.seed(part), label=part.label)
        report = {"losses": list(result.losses), "rendered_by": result.rendered_by}
        yield part, Solution(result.volume, result.gaussians, report=report)
