"""NaN and infinity, named by the row that holds them."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def require_finite(**tensors: Tensor) -> None:
    """Raise ValueError naming the first row of a tensor that holds NaN or infinity; row means Gaussian or rotation."""
    for name, tensor in tensors.items():
        if not math.isfinite(tensor.detach().sum()):  # or a sum of large numbers overflowed: look at each
            finite = torch.isfinite(tensor.detach()).reshape(len(tensor), -1).all(1)
            if not finite.all():
                kind = "rotation" if name == "rotations" else "Gaussian"
                raise ValueError(f"{kind} {int((~finite).nonzero()[0])} is not finite: its {name} hold NaN or infinity")
