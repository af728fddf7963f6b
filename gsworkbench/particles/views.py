"""Whether particles are seen from more than one direction, without which no map can be made."""

from __future__ import annotations

import numpy as np

from gsworkbench.errors import InputError
from gsworkbench.particles.formats.metadata import Metadata
from gsworkbench.particles.stack import ParticleStack

ONE_DIRECTION = 1.5  # degrees; views closer together than this are one


def views_problem(stack: ParticleStack | Metadata) -> str | None:
    """A sentence where all particles are seen from one direction, front or back; None where they are not.

    The direction of view, in the frame of the map, is the third row of a rotation matrix.
    """
    if stack.rotations is None or len(stack) < 2:
        return None
    directions = stack.rotations[:, 2, :]
    if (np.abs(directions @ directions[0]) < np.cos(np.radians(ONE_DIRECTION))).any():
        return None
    return (
        "all particles are seen from one direction: this is a 2D classification, or its poses are not those of a 3D "
        "refinement, and no map can be made of them"
    )


def refuse_one_view(stack: ParticleStack) -> None:
    """Raise InputError where all particles are seen from one direction."""
    problem = views_problem(stack)
    if problem is not None:
        raise InputError(problem, file=stack.source, remedy="give the particles of a 3D refinement, or their --poses")
