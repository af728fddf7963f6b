"""How many particles a data set has, in which box, and how many images a fit of them reads: from settings alone."""

from __future__ import annotations

from gsworkbench.methods.reconstruction_config import ReconstructionConfig
from gsworkbench.particles.entry_card import EntryParticles, find_card, find_shipped_card
from gsworkbench.simulation.simulation_config import Simulation


def size_of(dataset: Simulation | EntryParticles) -> tuple[int, int]:
    """Return the number of particles and the box, px; 0 particles where an entry's number is not known."""
    if isinstance(dataset, Simulation) or dataset.n_particles is not None:
        return dataset.n_particles or 0, dataset.box_size
    try:
        n = find_card(dataset.entry).n_particles
    except ValueError:  # blanks
        n = find_shipped_card(dataset.entry).n_particles
    return n or 0, dataset.box_size


def images_read(config: ReconstructionConfig, n_particles: int) -> int:
    """How many images a fit looks at: one pass, or as many epochs or steps as it has."""
    settings = config.settings
    n_steps, batch_size = (getattr(settings, name, None) for name in ("n_steps", "batch_size"))
    if n_steps and batch_size:
        return n_steps * batch_size
    return n_particles * getattr(settings, "n_epochs", 1) * getattr(settings, "passes_per_epoch", 1)
