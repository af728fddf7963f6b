"""What works on this machine, and why the rest does not."""

from __future__ import annotations

import platform
import shutil
from importlib import util

import torch

from gsworkbench import __version__
from gsworkbench.rendering import available_backends
from gsworkbench.system.device import find_device
from gsworkbench.system.provenance import machine

# What each optional package is for; none of them is imported here, only looked for.
OPTIONAL = {
    "jupyterlab": "notebooks",
    "papermill": "notebooks in the workflow",
    "snakemake": "the workflow",
    "nglview": "3D views in notebooks",
    "ipywidgets": "widgets in notebooks",
    "gsplat": "oracle of tests, exports",
}


def report() -> list[str]:
    """Lines for a terminal: versions, machine, devices, backends, optional packages."""
    lines = [
        f"gsworkbench    {__version__}, Python {platform.python_version()}, torch {torch.__version__}",
        f"machine        {machine()}; torch uses {torch.get_num_threads()} threads",
        f"GPU            {_gpu()}",
    ]
    for name, reason in available_backends().items():
        lines.append(f"backend        {name}: {'works' if reason is None else reason}")
    for name, purpose in OPTIONAL.items():
        state = (
            "installed" if util.find_spec(name) else "not installed (pip install 'gsworkbench[notebooks,workflow,gpu]')"
        )
        lines.append(f"optional       {name} ({purpose}): {state}")
    return lines


def _gpu() -> str:
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}; --device auto takes {find_device('auto')}"
    if torch.version.cuda is None:
        driver = " although this machine has an NVIDIA driver" if shutil.which("nvidia-smi") else ""
        return f"none: this torch was built without CUDA{driver}; everything runs on the CPU"
    return "none: torch has CUDA but finds no device or driver; everything runs on the CPU"
