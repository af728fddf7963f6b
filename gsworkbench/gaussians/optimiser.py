"""Descent: Adam on the parameters of a mixture (gaussians/parameters.py), given the gradients that a renderer returns.

A renderer sees means, covariances and weights; `mixture` makes them and `step` takes their gradients. On the CPU, in
float32, both are one sweep of compiled code (kernels/optimiser.cpp); elsewhere torch differentiates and updates.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from gsworkbench.gaussians.mixture import Gaussians
from gsworkbench.gaussians.parameters import (
    Parameterisation,
    Parameters,
    Rates,
    adam,
    from_parameters,
    set_learning_rate,
)
from gsworkbench.kernels import KERNELS
from gsworkbench.system.compiler import BuildError, library

BETAS, EPSILON = (0.9, 0.999), 1e-15
_BLOCK = 16  # Gaussians whose parameters lie together, as optimiser.cpp has it
_PEAK, _SIGNED, _ISOTROPIC = 1, 2, 4  # its kinds of parameters
_COLUMNS = {"means": 3, "scales": 3, "quaternions": 4, "weights": 1}


class Mixture(NamedTuple):
    """What renderers see, in box edges: leaves that require gradients."""

    means: Tensor
    covariances: Tensor
    weights: Tensor


class Descent(Protocol):
    """`mixture()` as the parameters stand; `step(gradients, learning_rate)` with gradients of its three tensors."""

    @property
    def parameters(self) -> Parameters: ...
    def mixture(self) -> Mixture: ...
    def step(self, gradients: tuple[Tensor, ...], learning_rate: float) -> None: ...
    def state(self) -> dict[str, Any]: ...
    def restore(self, state: dict[str, Any]) -> None: ...


def mixture_of(model: Gaussians) -> Mixture:
    """What renderers see of a mixture in box edges."""
    return Mixture(model.means, model.covariances(), model.weights)


def descent(parameters: Parameters, rates: Rates, meaning: Parameterisation) -> Descent:
    """Adam from these parameters. Copies them."""
    return (FusedDescent if is_fused(parameters) else TorchDescent)(parameters, rates, meaning)


def is_fused(parameters: Parameters) -> bool:
    """Whether compiled code serves these parameters: float32, on the CPU."""
    single = all(p.device.type == "cpu" and p.dtype == torch.float32 for p in parameters.values())
    return single and _library() is not None


class TorchDescent:
    """By torch's autograd and torch's Adam."""

    def __init__(self, parameters: Parameters, rates: Rates, meaning: Parameterisation) -> None:
        self.parameters = {name: p.detach().clone().requires_grad_() for name, p in parameters.items()}
        self._meaning = meaning
        self._adam = adam(self.parameters, rates)

    def mixture(self) -> Mixture:
        self._made = mixture_of(from_parameters(self.parameters, self._meaning))
        return Mixture(*(t.detach().requires_grad_() for t in self._made))

    def step(self, gradients: tuple[Tensor, ...], learning_rate: float) -> None:
        set_learning_rate(self._adam, learning_rate)
        self._adam.zero_grad()
        torch.autograd.backward(self._made, gradients)
        self._adam.step()

    def state(self) -> dict[str, Any]:
        return self._adam.state_dict()

    def restore(self, state: dict[str, Any]) -> None:
        self._adam.load_state_dict(state)


class FusedDescent:
    """By optimiser.cpp: parameters are kept in its blocks, as Adam's moments are; read, they are copies."""

    def __init__(self, parameters: Parameters, rates: Rates, meaning: Parameterisation) -> None:
        self.n = len(parameters["means"])
        self._n_scales = parameters["scales"].shape[1]
        threefold = {**parameters, "scales": parameters["scales"].expand(-1, 3)}
        self._parameters = _blocks(torch.cat([threefold[name].detach().reshape(self.n, -1).T for name in _COLUMNS]))
        self._moments = [torch.zeros_like(self._parameters) for _ in range(2)]
        self.rates = torch.cat([torch.full((c,), getattr(rates, name)) for name, c in _COLUMNS.items()])
        kind = _PEAK * meaning.peak + _SIGNED * meaning.signed + _ISOTROPIC * (self._n_scales == 1)
        self.meaning, self._steps = (meaning.floor**2, meaning.minimum_scale, kind), 0

    @property
    def steps(self) -> int:
        """How many steps of Adam there were."""
        return self._steps

    @property
    def memory(self) -> tuple[Tensor, Tensor, Tensor]:
        """Parameters and Adam's two moments as optimiser.cpp keeps them; other compiled code steps them in place."""
        first, second = self._moments
        return self._parameters, first, second

    def advance(self, steps: int) -> None:
        """Count steps of Adam that other compiled code made in `memory`."""
        self._steps += steps

    @property
    def parameters(self) -> Parameters:
        parts = self._rows(self._parameters).split(list(_COLUMNS.values()))
        named = dict(zip(_COLUMNS, (part.T for part in parts), strict=True))
        return {**named, "scales": named["scales"][:, : self._n_scales], "weights": named["weights"][:, 0]}

    def mixture(self) -> Mixture:
        made = Mixture(torch.empty(self.n, 3), torch.empty(self.n, 3, 3), torch.empty(self.n))
        given, threads = self._parameters.data_ptr(), torch.get_num_threads()
        compiled("mixture")(given, self.n, *self.meaning, threads, *_pointers(made))
        return Mixture(*(t.requires_grad_() for t in made))

    def step(self, gradients: tuple[Tensor, ...], learning_rate: float) -> None:
        self._steps += 1
        beta1, beta2 = BETAS
        rates = self.rates * (learning_rate / (1 - beta1**self._steps))
        given = [g.contiguous() for g in gradients]
        compiled("adam_step")(
            *_pointers([self._parameters, *self._moments]), self.n, *self.meaning, torch.get_num_threads(),
            *_pointers([*given, rates]), beta1, beta2, 1 / (1 - beta2**self._steps), EPSILON,
        )  # fmt: skip

    def state(self) -> dict[str, Any]:
        return {"steps": self._steps, "moments": [self._rows(m) for m in self._moments]}

    def restore(self, state: dict[str, Any]) -> None:
        self._steps = state["steps"]
        self._moments = [_blocks(m[:, : self.n]) for m in state["moments"]]

    def _rows(self, blocks: Tensor) -> Tensor:
        return blocks.transpose(0, 1).reshape(len(self.rates), -1)[:, : self.n]


def _blocks(rows: Tensor) -> Tensor:
    """(11, n) to (n / 16, 11, 16), filled up with ones: a quaternion of zeros has no direction."""
    missing = -rows.shape[1] % _BLOCK
    filled = torch.nn.functional.pad(rows, (0, missing), value=1.0)
    return filled.reshape(len(rows), -1, _BLOCK).transpose(0, 1).contiguous()


@functools.cache
def _library() -> ctypes.CDLL | None:
    try:
        return library(KERNELS / "optimiser.cpp")
    except BuildError:
        return None


@functools.cache
def compiled(name: str) -> Any:
    """Return a function of optimiser.cpp: "mixture" or "adam_step"."""
    pointer, number, count, integer = ctypes.c_void_p, ctypes.c_float, ctypes.c_int64, ctypes.c_int
    function = getattr(_library(), name)
    function.restype = None
    function.argtypes = {
        "mixture": [pointer, count, number, number, integer, integer] + [pointer] * 3,
        "adam_step": [pointer] * 3 + [count, number, number, integer, integer] + [pointer] * 4 + [number] * 4,
    }[name]
    return function


def _pointers(tensors: Iterable[Tensor]) -> list[int]:
    return [t.data_ptr() for t in tensors]
