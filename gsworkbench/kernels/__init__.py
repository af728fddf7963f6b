"""C++ with a plain C interface, compiled by setup.py for a wheel, else by system/compiler.py at first use.

strip.h explains the mathematics of the renderer and pack.h how images see Gaussians. project.cpp and voxelize.cpp hold
the entry points of the renderer, optimiser.cpp those of the mixture's optimiser, insertion.cpp those that add particle
images to the normal equations, and tiles.cpp those of the tile-based renderer of 3D Gaussian splatting.
"""

from pathlib import Path

KERNELS = Path(__file__).parent  # the folder of the sources
