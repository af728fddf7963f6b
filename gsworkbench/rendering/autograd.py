"""The one place where backends meet torch's autograd: a differentiable sum of Gaussians on a grid of samples.

A backend only computes. It is a module of rendering/backends/ with the four functions of `Backend`; it never sees a
graph. The readable reference is no such backend: torch differentiates it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from torch import Tensor
from torch.autograd.function import Function, once_differentiable


class Grid(NamedTuple):
    """The samples of images or of a volume, and how far a Gaussian reaches.

    box_size : samples along each axis. spacing : A between them.
    cutoff : half width of a footprint in standard deviations; None reaches every sample.
    """

    box_size: int
    spacing: float
    cutoff: float | None


class Backend(Protocol):
    """What a module of rendering/backends/ offers.

    `inputs` are means (n, 3), covariances (n, 3, 3), weights (n,) and, for images but not for a volume, rotations
    (b, 3, 3). They are contiguous, of one dtype and device.
    """

    def unavailable_because(self) -> str | None:
        """Return None if the backend works on this machine, else the reason why it does not."""

    def supports(self, tensor: Tensor) -> bool:
        """Whether the backend knows the dtype and the device of `tensor`."""

    def forward(self, inputs: Sequence[Tensor], grid: Grid) -> tuple[Tensor, Sequence[Tensor]]:
        """Return the samples, (b, D, D) or (D, D, D), and the tensors that `backward` wants to have kept for it."""

    def backward(
        self, inputs: Sequence[Tensor], kept: Sequence[Tensor], grid: Grid, gradient: Tensor, needs: Sequence[bool]
    ) -> Sequence[Tensor | None]:
        """Return the gradient of each input; those that `needs` does not ask for may be None."""


def splat(backend: Backend, inputs: Sequence[Tensor], grid: Grid) -> Tensor:
    """Images (b, D, D) of four inputs or a volume (D, D, D) of three, by `backend`; differentiable once."""
    return _Splat.apply(backend, grid, *inputs)


class _Splat(Function):
    @staticmethod
    def forward(ctx: Any, backend: Backend, grid: Grid, *inputs: Tensor) -> Tensor:
        inputs = tuple(t.contiguous() for t in inputs)
        samples, kept = backend.forward(inputs, grid)
        ctx.save_for_backward(*inputs, *kept)
        ctx.backend, ctx.grid, ctx.n_inputs = backend, grid, len(inputs)
        return samples

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs, kept = ctx.saved_tensors[: ctx.n_inputs], ctx.saved_tensors[ctx.n_inputs :]
        needs = ctx.needs_input_grad[2:]
        return None, None, *ctx.backend.backward(inputs, kept, ctx.grid, gradient.contiguous(), needs)
