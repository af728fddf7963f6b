"""What `import gsworkbench as gs` offers, for type checkers and editors; `__init__.py` loads the same names lazily."""

from gsworkbench.assessment.assess import assess as assess
from gsworkbench.assessment.definitions import DEFINITIONS as DEFINITIONS
from gsworkbench.assessment.directional import directional_fsc as directional_fsc
from gsworkbench.assessment.fsc import fourier_shell_correlation as fourier_shell_correlation
from gsworkbench.assessment.fsc import resolution as resolution
from gsworkbench.assessment.local import local_resolution as local_resolution
from gsworkbench.assessment.masks import Mask as Mask
from gsworkbench.assessment.region_means import region_mean as region_mean
from gsworkbench.assessment.truth_estimate import estimate_truth_fsc as estimate_truth_fsc
from gsworkbench.errors import InputError as InputError
from gsworkbench.gaussians.mixture import Gaussians as Gaussians
from gsworkbench.io.mrc import read_map as read_map
from gsworkbench.io.mrc import write_map as write_map
from gsworkbench.lab.browse import browse as browse
from gsworkbench.lab.explore import explore as explore
from gsworkbench.methods.backprojection import Backprojection as Backprojection
from gsworkbench.methods.neural_field import NeuralField as NeuralField
from gsworkbench.methods.one_pass import OnePass as OnePass
from gsworkbench.methods.stochastic import PRESETS as PRESETS
from gsworkbench.methods.stochastic import Stochastic as Stochastic
from gsworkbench.methods.voxels import Voxels as Voxels
from gsworkbench.normal_equations.equations import NormalEquations as NormalEquations
from gsworkbench.normal_equations.equations import accumulate as accumulate
from gsworkbench.particles.read import read_particles as read_particles
from gsworkbench.particles.stack import CtfParameters as CtfParameters
from gsworkbench.particles.stack import ParticleStack as ParticleStack
from gsworkbench.reconstruction.from_sums import reconstruct_sums as reconstruct_sums
from gsworkbench.reconstruction.run import reconstruct as reconstruct
from gsworkbench.rendering import available_backends as available_backends
from gsworkbench.rendering import project as project
from gsworkbench.rendering import voxelize as voxelize
from gsworkbench.simulation.simulate import simulate as simulate
from gsworkbench.simulation.simulation_config import Simulation as Simulation

_PUBLIC: dict[str, str]
__version__: str
__all__ = [
    "DEFINITIONS",
    "PRESETS",
    "Backprojection",
    "CtfParameters",
    "Gaussians",
    "InputError",
    "Mask",
    "NeuralField",
    "NormalEquations",
    "OnePass",
    "ParticleStack",
    "Simulation",
    "Stochastic",
    "Voxels",
    "accumulate",
    "assess",
    "available_backends",
    "browse",
    "directional_fsc",
    "estimate_truth_fsc",
    "explore",
    "fourier_shell_correlation",
    "local_resolution",
    "project",
    "read_map",
    "read_particles",
    "reconstruct",
    "reconstruct_sums",
    "region_mean",
    "resolution",
    "simulate",
    "voxelize",
    "write_map",
]
