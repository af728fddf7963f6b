"""Many steps of the papers' trainer in one call of compiled code: what kernels/training.cpp needs, and gives.

The loop in stochastic_fit.py does the same a step at a time and is the reference; a test compares them. This one serves
wherever compiled code steps the parameters (optimiser.FusedDescent): float32, on the CPU, in one process.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gsworkbench.gaussians import optimiser
from gsworkbench.gaussians.optimiser import BETAS, EPSILON, Descent, FusedDescent, is_fused
from gsworkbench.gaussians.parameters import Parameters
from gsworkbench.imaging.ctf import phase_factors
from gsworkbench.imaging.residual import DataTerm, filter_images
from gsworkbench.kernels import KERNELS
from gsworkbench.particles.stack import ParticleStack
from gsworkbench.rendering import tiles
from gsworkbench.rendering.backends import cpu
from gsworkbench.rendering.finite import require_finite
from gsworkbench.system import distributed
from gsworkbench.system.compiler import BuildError, library

if TYPE_CHECKING:
    from gsworkbench.methods.stochastic import Stochastic

_STEPS = 100  # in one call: between two of them the progress is shown, and an interruption heard
_BYTES = 2**26  # of images that are read from their files for one call
_NO_MEMORY, _NOT_FINITE = 1, 2

_POINTER, _FLOAT, _DOUBLE, _INT = ctypes.c_void_p, ctypes.c_float, ctypes.c_double, ctypes.c_int32


class _Functions(ctypes.Structure):
    _fields_ = [
        (n, _POINTER) for n in ("mixture", "forward", "backward", "adam_step", "tiled_forward", "tiled_backward")
    ]


class _Settings(ctypes.Structure):
    _fields_ = [
        ("n", ctypes.c_int64),
        *((name, _INT) for name in ("box", "threads", "kind", "same_height")),
        *((name, _FLOAT) for name in ("floor_squared", "minimum", "skip_below", "blur")),
        *((name, _FLOAT) for name in ("image_scale", "beta1", "beta2", "epsilon")),
        ("rates", _FLOAT * 11),
        ("cutoff", _DOUBLE),
        ("squared_cutoff", _DOUBLE),
    ]


class _Particles(ctypes.Structure):
    _fields_ = [(name, _POINTER) for name in ("images", "energy", "spectrum", "rotations", "phase", "scale", "decay")]


@dataclass(frozen=True)
class CompiledSteps:
    """Steps of one optimiser on the particles of a data term.

    rotations : (n, 3, 3) float32. phase : (n, 5) CTF phase in turns, factors of kx^2, kx ky, ky^2, k^4 and 1, in cycles
    per box. scale, decay : (n,) CTF *= scale exp(-decay k^2).
    """

    optimizer: FusedDescent
    term: DataTerm
    rotations: Tensor
    config: Stochastic
    image_scale: float
    phase: NDArray[np.float64]
    scale: NDArray[np.float64]
    decay: NDArray[np.float64]

    @property
    def at_once(self) -> int:
        """How many particles to give to `run` at a time: whole batches."""
        batch, box_size = self.config.batch_size, self.term.stack.box_size
        held = _STEPS * batch if self.term.filtered is not None else _BYTES // (4 * box_size**2)
        return max(1, min(_STEPS, held // batch)) * batch

    def run(self, particles: NDArray[np.integer], learning_rates: Sequence[float]) -> float:
        """Make the steps on some particles, in batches; return the sum of losses, each times the particles of its step.

        learning_rates : one for each batch. Numbers that are not finite raise ValueError.
        """
        images, energy, rows = self._images(particles)
        chosen = np.ascontiguousarray(particles, np.int64)
        rates = np.ascontiguousarray(learning_rates, np.float64)
        total = ctypes.c_double()
        given = _Particles(
            images.data_ptr(), energy.data_ptr(), self.term.spectrum.data_ptr(), self.rotations.data_ptr(),
            *(array.ctypes.data for array in (self.phase, self.scale, self.decay)),
        )  # fmt: skip
        outcome = _train()(
            ctypes.byref(_functions()), ctypes.byref(self._settings()), ctypes.byref(given),
            *(t.data_ptr() for t in self.optimizer.memory), rows.ctypes.data, chosen.ctypes.data, len(chosen),
            self.config.batch_size, rates.ctypes.data, self.optimizer.steps, ctypes.byref(total),
        )  # fmt: skip
        if outcome == _NO_MEMORY:
            raise MemoryError("not enough memory for a step of the fit")
        if outcome == _NOT_FINITE:
            require_finite(**self.optimizer.parameters)
            raise ValueError("the loss is not finite")
        self.optimizer.advance(len(rates))
        return total.value

    def _images(self, particles: NDArray[np.integer]) -> tuple[Tensor, Tensor, NDArray[np.int64]]:
        """Return b and |y|^2, and the rows of them that belong to some particles."""
        if self.term.filtered is not None and self.term.energy is not None:
            return self.term.filtered, self.term.energy, np.ascontiguousarray(particles, np.int64)
        part = self.term.stack[particles]
        images, energy = filter_images(part, part.images(), self.term.spectrum)
        return images.contiguous(), energy.float().contiguous(), np.arange(len(particles))

    def _settings(self) -> _Settings:
        config = self.config
        floor_squared, minimum, kind = self.optimizer.meaning
        return _Settings(
            n=self.optimizer.n, box=self.term.stack.box_size, threads=torch.get_num_threads(), kind=kind,
            same_height=not config.view_normalisation, floor_squared=floor_squared, minimum=minimum,
            skip_below=config.skip_below, blur=config.blur_y, image_scale=self.image_scale, beta1=BETAS[0],
            beta2=BETAS[1], epsilon=EPSILON, rates=(_FLOAT * 11)(*self.optimizer.rates.tolist()), cutoff=config.cutoff,
            squared_cutoff=config.cutoff**2,
        )  # fmt: skip


def serves(parameters: Parameters, stack: ParticleStack, backend: str | None) -> bool:
    """Whether compiled code can make the steps of a fit of some parameters."""
    if not is_fused(parameters) or backend not in (None, "cpu") or distributed.size() > 1:
        return False
    return stack.box_size % 2 == 0 and _available()


def compiled_steps(
    optimizer: Descent, term: DataTerm, rotations: Tensor, config: Stochastic, image_scale: float
) -> CompiledSteps:
    """Prepare the steps of an optimiser that `serves` accepts."""
    assert isinstance(optimizer, FusedDescent)
    ctf = term.stack.ctf
    edge = term.stack.box_size * term.stack.pixel_size
    return CompiledSteps(
        optimizer, term, rotations.contiguous(), config, image_scale,
        phase_factors(ctf, edge), np.ascontiguousarray(ctf.scale, np.float64),
        np.ascontiguousarray(ctf.b_factor / (4 * edge**2), np.float64),
    )  # fmt: skip


@functools.cache
def _available() -> bool:
    try:
        _train()
        _functions()
    except BuildError:
        return False
    return True


@functools.cache
def _functions() -> _Functions:
    forward, backward = (cpu.compiled(f"project_{way}", torch.float32) for way in ("forward", "backward"))
    mixture, adam_step = (optimiser.compiled(name) for name in ("mixture", "adam_step"))
    listed = tiles.compiled()
    made = (mixture, forward, backward, adam_step, listed.tiled_forward, listed.tiled_backward)
    return _Functions(*(ctypes.cast(function, _POINTER).value for function in made))


@functools.cache
def _train() -> Any:
    function = library(KERNELS / "training.cpp").train
    count = ctypes.c_int64
    function.restype = ctypes.c_int
    function.argtypes = [_POINTER] * 8 + [count, count, _POINTER, count, _POINTER]
    return function
