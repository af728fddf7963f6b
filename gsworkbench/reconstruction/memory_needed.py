"""How much memory a command will take: said before it begins, compared with what there is.

Numbers are fits to measured peaks of whole processes (benchmarks/scale.py memory, docs/measured/scale.md). They
are bounds for one structure at the default settings on a CPU, Python and its libraries included.
"""

from __future__ import annotations

from gsworkbench.methods.reconstruction_config import ReconstructionConfig
from gsworkbench.particles.stack import ParticleStack
from gsworkbench.system.memory import available_memory

START = 0.6e9  # bytes of Python, torch and the rest
ACCUMULATE = 280  # bytes per voxel of the map: the grid, what waits to be added to it, the sums
GAUSSIAN = 600  # bytes for each Gaussian: parameters, moments, gradients
CACHE = 2**32  # images that a stochastic fit keeps, at most (imaging.data_term)


def accumulate_bytes(box_size: int) -> int:
    """Peak memory of the pass over any number of particles."""
    return int(START + ACCUMULATE * box_size**3)


def reconstruct_bytes(stack: ParticleStack, config: ReconstructionConfig) -> int | None:
    """Peak memory of a reconstruction; None for methods whose memory is not ours to know."""
    return bytes_of(len(stack), stack.box_size, config)


def bytes_of(n_particles: int, box_size: int, config: ReconstructionConfig) -> int | None:
    """`reconstruct_bytes` of so many particles in such a box."""
    row = config.row
    if row.bytes_per_voxel is None:
        return None
    total = START + row.bytes_per_voxel * box_size**3
    images = 4 * n_particles * box_size**2
    if row.keeps_images and images <= CACHE:
        total += images
    total += GAUSSIAN * (config.n_gaussians or 0)
    return int(total)


def error_map_words(stack: ParticleStack) -> str:
    """Say what an error map takes: reading, memory and disk."""
    from gsworkbench.methods.error_map import KEPT_BYTES, MEMORY, PARTS, WHILE_RUNNING

    voxels = stack.box_size**3
    memory = beside_what_is_free(int(START + MEMORY * voxels))
    return (
        f"error map: the particles are read once more, in {PARTS} parts; memory {memory}; on disk "
        f"{(WHILE_RUNNING + KEPT_BYTES) * voxels / 1e9:.2g} GB while it is made, of which "
        f"{KEPT_BYTES * voxels / 1e9:.2g} GB stay"
    )


def beside_what_is_free(needed: int | None) -> str:
    """Say what is needed and what there is, with a warning where that is less."""
    if needed is None:
        return "not known for this method"
    free, words = available_memory(), f"up to {needed / 1e9:.2g} GB"
    if free is None:
        return words
    warning = "; it may run out: bin the images to a smaller box, or go where there is more" * (needed > free)
    return f"{words}, of {free / 1e9:.3g} GB free{warning}"
