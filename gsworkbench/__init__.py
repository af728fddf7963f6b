"""gsworkbench: cryo-EM maps as mixtures of 3D Gaussians, reproducibly and honestly.

    import gsworkbench as gs

    particles = gs.read_particles("particles.star")
    made = gs.reconstruct(particles, "my_map")
    print(*made.resolutions, sep="\\n")

The names below are the public ones; each is loaded when it is first used, so that the import itself loads neither
torch nor pandas. Type checkers and editors read them from `__init__.pyi`. CONVENTIONS.md states axes, signs and units.
"""

__version__ = "0.1.0"

# Public name -> where it is, "module:attribute".
_PUBLIC = {
    # files
    "read_particles": "gsworkbench.particles.read:read_particles",
    "read_map": "gsworkbench.io.mrc:read_map",
    "write_map": "gsworkbench.io.mrc:write_map",
    "ParticleStack": "gsworkbench.particles.stack:ParticleStack",
    "CtfParameters": "gsworkbench.particles.stack:CtfParameters",
    "InputError": "gsworkbench.errors:InputError",
    # simulate and reconstruct
    "simulate": "gsworkbench.simulation.simulate:simulate",
    "Simulation": "gsworkbench.simulation.simulation_config:Simulation",
    "reconstruct": "gsworkbench.reconstruction.run:reconstruct",
    "reconstruct_sums": "gsworkbench.reconstruction.from_sums:reconstruct_sums",
    "accumulate": "gsworkbench.normal_equations.equations:accumulate",
    "NormalEquations": "gsworkbench.normal_equations.equations:NormalEquations",
    # settings of the methods
    "OnePass": "gsworkbench.methods.one_pass:OnePass",
    "Stochastic": "gsworkbench.methods.stochastic:Stochastic",
    "Voxels": "gsworkbench.methods.voxels:Voxels",
    "Backprojection": "gsworkbench.methods.backprojection:Backprojection",
    "NeuralField": "gsworkbench.methods.neural_field:NeuralField",
    "PRESETS": "gsworkbench.methods.stochastic:PRESETS",
    # the model and its renderer
    "Gaussians": "gsworkbench.gaussians.mixture:Gaussians",
    "project": "gsworkbench.rendering:project",
    "voxelize": "gsworkbench.rendering:voxelize",
    "available_backends": "gsworkbench.rendering:available_backends",
    # judge maps
    "Mask": "gsworkbench.assessment.masks:Mask",
    "fourier_shell_correlation": "gsworkbench.assessment.fsc:fourier_shell_correlation",
    "resolution": "gsworkbench.assessment.fsc:resolution",
    "assess": "gsworkbench.assessment.assess:assess",
    "estimate_truth_fsc": "gsworkbench.assessment.truth_estimate:estimate_truth_fsc",
    "region_mean": "gsworkbench.assessment.region_means:region_mean",
    "local_resolution": "gsworkbench.assessment.local:local_resolution",
    "directional_fsc": "gsworkbench.assessment.directional:directional_fsc",
    "DEFINITIONS": "gsworkbench.assessment.definitions:DEFINITIONS",
    # look at runs, in a notebook
    "explore": "gsworkbench.lab.explore:explore",
    "browse": "gsworkbench.lab.browse:browse",
}

__all__ = list(_PUBLIC)


def __getattr__(name: str) -> object:
    """Load a public name when it is first used (PEP 562)."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    module, _, attribute = _PUBLIC[name].partition(":")
    globals()[name] = value = getattr(import_module(module), attribute)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
