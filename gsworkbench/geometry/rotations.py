"""Rotations: quaternions, matrices, RELION Euler angles, rotation vectors.

A matrix A left-multiplies column vectors xyz and takes the map frame to the microscope frame: x_image = A x_map, and
a projection image's Fourier transform is the volume's at A^T (kx, ky, 0).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from torch import Tensor


def quaternions_to_matrices(quaternions: Tensor) -> Tensor:
    """(..., 3, 3) rotation matrices of quaternions (..., 4) wxyz of any length but zero."""
    import torch  # seconds, which what only reads files and compares maps need not wait for

    w, x, y, z = torch.nn.functional.normalize(quaternions, dim=-1).unbind(-1)
    return torch.stack(
        [
            1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
            2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
            2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
        ],
        dim=-1,
    ).unflatten(-1, (3, 3))  # fmt: skip


def euler_to_matrices(rot: ArrayLike, tilt: ArrayLike, psi: ArrayLike) -> NDArray[np.float64]:
    """(n, 3, 3) matrices of RELION's Euler angles in degrees; equal to scipy's from_euler('ZYZ', degrees).T."""
    from scipy.spatial.transform import Rotation

    angles = np.stack(np.broadcast_arrays(rot, tilt, psi), axis=-1).astype(float)
    return np.swapaxes(Rotation.from_euler("ZYZ", angles, degrees=True).as_matrix(), -1, -2)


def matrices_to_euler(matrices: ArrayLike) -> NDArray[np.float64]:
    """(n, 3) RELION angles rot, tilt, psi in degrees of matrices (n, 3, 3); inverse of `euler_to_matrices`."""
    import warnings

    from scipy.spatial.transform import Rotation

    rotations = Rotation.from_matrix(np.swapaxes(np.asarray(matrices, float), -1, -2))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Gimbal lock")  # tilt 0 or 180: rot is then set to fit, psi to 0
        return rotations.as_euler("ZYZ", degrees=True)


def rotation_vectors_to_matrices(vectors: ArrayLike) -> NDArray[np.float64]:
    """(n, 3, 3) matrices A of cryoSPARC's poses (n, 3): the pose is the rotation vector of A^T."""
    from scipy.spatial.transform import Rotation

    return np.swapaxes(Rotation.from_rotvec(np.asarray(vectors, float)).as_matrix(), -1, -2)


def random_rotations(n: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """(n, 3, 3) rotations, uniform over SO(3)."""
    from scipy.spatial.transform import Rotation

    return Rotation.random(n, rng=rng).as_matrix()


def is_rotation(matrices: NDArray[np.floating], tolerance: float = 1e-3) -> NDArray[np.bool_]:
    """(n,) whether each matrix (n, 3, 3) is orthogonal and right-handed to within `tolerance`."""
    product = matrices @ np.swapaxes(matrices, -1, -2)
    orthogonal = np.abs(product - np.eye(3)).max(axis=(-1, -2)) < tolerance
    return orthogonal & (np.linalg.det(matrices) > 0)
