"""Where tensors live: the choice of a device, and copies to it that nothing waits for."""

from __future__ import annotations

import torch
from torch import Tensor

from gsworkbench.errors import InputError


def find_device(name: str) -> torch.device:
    """The device of this name; auto is a GPU if torch finds one, else the CPU.

    A GPU that is asked for and not there raises InputError.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError("torch finds no CUDA device here", remedy="give --device cpu; doctor says what works")
    return device


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy on a device of a tensor of the CPU, in the order of its stream; the tensor itself where it is there."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
