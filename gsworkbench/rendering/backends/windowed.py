"""A vectorised backend in plain torch: each Gaussian is evaluated in a window around it, not at every pixel.

In a window's own coordinates u (integers about its centre times the spacing) the exponent of a Gaussian is a
polynomial of degree two, so that exponents are one matrix product, coefficients times monomials, and their gradient
is the transposed one: moments of the incoming gradient. What maps means and covariances to coefficients is small and
left to torch's autograd, whose graph is kept from forward to backward.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from gsworkbench.rendering.autograd import Grid
from gsworkbench.rendering.footprints import image_footprints, volume_footprints

_WINDOWS = (4, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1024)  # sizes offered
_BLOCK = 2**19  # window samples evaluated at a time: a few MB, which stay in cache


def unavailable_because() -> str | None:
    return None


def supports(tensor: Tensor) -> bool:
    return tensor.is_floating_point()


def forward(inputs: Sequence[Tensor], grid: Grid) -> tuple[Tensor, Sequence[Tensor]]:
    """See rendering/autograd.py. Kept are the exponentials, a block at a time, and the graph of the coefficients."""
    size, d = grid.box_size, _dimensions(inputs)
    n_grids = len(inputs[3]) if d == 2 else 1
    middle, corner, widths, windows = _windows(inputs, grid)
    leaves = [t.detach().requires_grad_() for t in inputs]
    with torch.enable_grad():
        made = _polynomial(middle, leaves)
    coefficients, amplitudes = (t.detach() for t in made)
    blocks = list(_blocks(widths, windows, d))
    # Lanes beyond a footprint may fall beyond the last sample: they add zero, and the room for them is dropped.
    room = max((int(_offsets(window, size, d, corner.device)[-1]) for window, _ in blocks), default=0)
    total = coefficients.new_zeros(n_grids * size**d + room)
    values = []
    for window, members in blocks:
        value = (coefficients[members] @ _monomials(window, d, grid.spacing, coefficients.dtype, corner.device)).exp_()
        _clip(value, widths[members], window)
        index = corner[members, None] + _offsets(window, size, d, corner.device)
        total.scatter_add_(0, index.flatten(), (value * amplitudes[members, None]).flatten())
        values.append(value)
    samples = total[: n_grids * size**d].reshape([n_grids, size, size] if d == 2 else [size] * 3)
    return samples, (*leaves, *made, corner, *(members for _, members in blocks), *values)


def backward(
    inputs: Sequence[Tensor], kept: Sequence[Tensor], grid: Grid, gradient: Tensor, needs: Sequence[bool]
) -> Sequence[Tensor | None]:
    """See rendering/autograd.py."""
    d = _dimensions(inputs)
    leaves, (coefficients, graph_of_amplitudes, corner, *of_blocks) = kept[: len(inputs)], kept[len(inputs) :]
    amplitudes = graph_of_amplitudes.detach()
    n_blocks = len(of_blocks) // 2
    moments = amplitudes.new_zeros(len(amplitudes), 1 + d + len(_pairs(d)))
    windows = [round(value.shape[1] ** (1 / d)) for value in of_blocks[n_blocks:]]
    offsets = [_offsets(window, grid.box_size, d, corner.device) for window in windows]
    gradient = torch.nn.functional.pad(gradient.flatten(), (0, max((int(o[-1]) for o in offsets), default=0)))
    for window, offset, members, value in zip(
        windows, offsets, of_blocks[:n_blocks], of_blocks[n_blocks:], strict=True
    ):
        index = corner[members, None] + offset
        weighted = gradient.index_select(0, index.flatten()).reshape(value.shape).mul_(value)
        moments[members] = weighted @ _monomials(window, d, grid.spacing, value.dtype, corner.device).mT
    wanted = [t for t, needed in zip(leaves, needs, strict=True) if needed]
    incoming = moments * amplitudes[:, None], moments[:, 0]
    found = iter(torch.autograd.grad((coefficients, graph_of_amplitudes), wanted, incoming, retain_graph=True))
    return [next(found) if needed else None for needed in needs]


def _dimensions(inputs: Sequence[Tensor]) -> int:
    return 2 if len(inputs) == 4 else 3


def _windows(inputs: Sequence[Tensor], grid: Grid) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Windows of m Gaussians, or of m = b n Gaussians in images.

    The middle (m, d) in A, in the dtype of the inputs, the flat index (m,) of the first sample, the widths (m, d) of
    the footprint, and the size (m,) of the window, which is at least the greatest width.
    """
    means, covariances, _, *rotations = inputs
    size, d = grid.box_size, _dimensions(inputs)
    if rotations:
        bounds = image_footprints(means, covariances, rotations[0], size, grid.spacing, grid.cutoff).flatten(0, 1)
        start = torch.arange(len(rotations[0]), device=means.device).repeat_interleave(len(means)) * size**2
    else:
        bounds = volume_footprints(means, covariances, size, grid.spacing, grid.cutoff)
        start = torch.zeros(len(means), dtype=torch.int64, device=means.device)
    first, widths = bounds[..., 0], bounds[..., 1] - bounds[..., 0]  # (m, d)
    sizes = torch.tensor([min(w, size) for w in _WINDOWS], device=widths.device)
    windows = sizes[torch.bucketize(widths.amax(-1), sizes)]
    middle = (first - size // 2 + (windows[:, None] - 1).double() / 2) * grid.spacing
    corner = start + (first * size ** torch.arange(d, device=start.device)).sum(-1)
    return middle.to(means.dtype), corner, widths, windows


def _polynomial(middle: Tensor, inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The exponents' coefficients about the middles of windows, and the amplitudes; torch can differentiate both."""
    means, covariances, weights, *rotations = inputs
    if not rotations:
        return _coefficients(middle - means, covariances, weights)
    rows = rotations[0][:, :2, :]  # (b, 2, 3)
    centres = (rows @ means.mT).mT  # (b, n, 2)
    # A S A^T is linear in S: one matrix product with the outer products of the rows of A.
    outer = rows[:, [0, 0, 1], :, None] * rows[:, [0, 1, 1], None, :]  # (b, 3, 3, 3)
    xx, xy, yy = (outer.flatten(2) @ covariances.flatten(1).mT).unbind(1)  # (b, n) each
    variances = torch.stack([xx, xy, xy, yy], -1).unflatten(-1, (2, 2))
    return _coefficients(middle - centres.flatten(0, 1), variances.flatten(0, 1), weights.repeat(len(rows)))


def _coefficients(offset: Tensor, variances: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Coefficients (m, 1 + d + d (d + 1) / 2) of -(u + offset)^T S^-1 (u + offset) / 2 and amplitudes (m,)."""
    d = offset.shape[-1]
    inverse, determinant = _inverse(variances)
    linear = (inverse * offset[:, None, :]).sum(-1)
    constant = -0.5 * (linear * offset).sum(-1, keepdim=True)
    pairs = [inverse[:, i, j] * (-0.5 if i == j else -1.0) for i, j in _pairs(d)]
    return torch.cat([constant, -linear, torch.stack(pairs, -1)], -1), weights / torch.sqrt(
        (2 * math.pi) ** d * determinant
    )


def _inverse(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Inverse and determinant of symmetric 2 x 2 or 3 x 3 matrices (m, d, d), written out (LAPACK is slow on these)."""
    if matrices.shape[-1] == 2:
        a, b, c = matrices[:, 0, 0], matrices[:, 0, 1], matrices[:, 1, 1]
        determinant = a * c - b * b
        adjugate = torch.stack([c, -b, -b, a], -1)
    else:
        rows = matrices.unbind(-2)
        crossed = [
            torch.linalg.cross(rows[1], rows[2]),
            torch.linalg.cross(rows[2], rows[0]),
            torch.linalg.cross(rows[0], rows[1]),
        ]
        determinant = (rows[0] * crossed[0]).sum(-1)
        adjugate = torch.cat(crossed, -1)
    return (adjugate / determinant[:, None]).unflatten(-1, matrices.shape[-2:]), determinant


def _pairs(d: int) -> list[tuple[int, int]]:
    return list(itertools.combinations_with_replacement(range(d), 2))


def _blocks(widths: Tensor, windows: Tensor, d: int) -> Iterator[tuple[int, Tensor]]:
    """Yield (window size, indices of Gaussians) over all that reach a sample, in blocks that stay in cache."""
    for window in torch.unique(windows).tolist():
        members = ((windows == window) & (widths[:, 0] > 0)).nonzero()[:, 0]
        yield from ((window, part) for part in members.split(max(1, _BLOCK // window**d)) if len(part))


def _clip(values: Tensor, widths: Tensor, window: int) -> None:
    """Set values (m, window^d) outside footprints of `widths` (m, d) to zero, in place."""
    d = widths.shape[-1]
    cube = values.view(len(values), *[window] * d)
    lane = torch.arange(window, device=widths.device)
    for axis in range(d):  # array axis; widths come in x, y(, z) order
        inside = (lane < widths[:, d - 1 - axis, None]).to(values.dtype)
        cube *= inside.view(len(inside), *[window if a == axis else 1 for a in range(d)])


@functools.lru_cache(maxsize=64)
def _offsets(window: int, box_size: int, d: int, device: torch.device) -> Tensor:
    """(window^d,) flat grid offsets of the samples of a window from its first corner."""
    lane = torch.arange(window, device=device)
    offsets = torch.zeros(1, dtype=torch.int64, device=device)
    for _ in range(d):
        offsets = (box_size * offsets[:, None] + lane).flatten()
    return offsets


@functools.lru_cache(maxsize=64)
def _monomials(window: int, d: int, spacing: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(1 + d + d (d + 1) / 2, window^d): 1, u_i, u_i u_j at the samples of a window, last array axis x."""
    axis = (torch.arange(window, dtype=torch.float64, device=device) - (window - 1) / 2) * spacing
    u = torch.stack(torch.meshgrid(*[axis] * d, indexing="ij")).flatten(1).flip(0)
    return torch.stack([torch.ones_like(u[0]), *u, *(u[i] * u[j] for i, j in _pairs(d))]).to(dtype)
