"""A neural field of the map: its settings and how a task is solved. The mathematics are in neural_field_fit.py."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from gsworkbench.methods.part import Part
    from gsworkbench.methods.task import Solution, Task


@dataclass(frozen=True)
class NeuralField:
    """Settings of a neural field of the map's transform (methods/neural_field.py), sized for a laptop.

    As published (Zhong et al. 2021): width 1024, 20 epochs, learning rate 1e-4, constant, all components. The preset
    "cryodrgn" has 50 epochs, as the papers ran it.

    Examples
    --------
    >>> import gsworkbench as gs
    >>> gs.NeuralField(width=128).n_layers
    3
    """

    width: int = 256
    n_layers: int = 3  # hidden, residual
    domain: Literal["hartley", "fourier"] = "hartley"
    n_epochs: int = 2
    batch_size: int = 8
    learning_rate: float = 1e-3
    schedule: Literal["cosine", "constant"] = "cosine"
    n_components: int | None = 512  # Fourier components compared of each image, drawn anew each time; None: all


DEFAULT = NeuralField()

PRESETS: dict[str, NeuralField] = {
    # As the papers' baselines were run: three hidden layers 1024 wide, 50 epochs, all components, one rate.
    "cryodrgn": NeuralField(width=1024, n_epochs=50, learning_rate=1e-4, schedule="constant", n_components=None),
}


def halved(settings: NeuralField) -> NeuralField | None:
    """The same with half the epochs; None where there is one alone."""
    return replace(settings, n_epochs=settings.n_epochs // 2) if settings.n_epochs > 1 else None


def solve(task: Task) -> Iterator[tuple[Part, Solution]]:
    """Fit a network to each part and sample its map."""
    from gsworkbench.methods.neural_field_fit import fit_neural_field
    from gsworkbench.methods.task import Solution

    for part, stack in task.parts.items():
        with task.stage(part):
            result = fit_neural_field(
                stack, task.config.settings, seed=task.seed(part), device=task.device, label=part.label
            )
        report = {"losses": list(result.losses), "n_parameters": result.n_parameters}
        yield part, Solution(result.volume, report=report)
