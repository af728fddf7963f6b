"""C++ of the CPU backend. strip.h explains the mathematics, pack.h how images see Gaussians; project.cpp and
voxelize.cpp hold the entry points, descent.cpp those of the optimiser.

A package, so that digests of what results depend on (workbench/digest.py) see the sources.
"""

from pathlib import Path

SOURCES = tuple(Path(__file__).parent / name for name in ("project.cpp", "voxelize.cpp"))
DESCENT = Path(__file__).parent / "descent.cpp"
