"""gsworkbench: cryo-EM maps as mixtures of 3D Gaussians, reproducibly and honestly.

Importing the package imports nothing heavy; take what you need from its modules, for example

    from gsworkbench.particles.read import read_particles
    from gsworkbench.reconstruction.run import reconstruct

CONVENTIONS.md states axes, signs and units once for all of them.
"""

__version__ = "0.1.0"
