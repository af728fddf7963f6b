"""Small particle files for the readers' tests: the same handful of particles in every format."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from gsworkbench.geometry.rotations import random_rotations
from gsworkbench.io.mrc import new_image_stack
from gsworkbench.particles.stack import CtfParameters, ParticleStack

DATA = Path(__file__).parents[2] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the real particles beside the repository are absent")
TRPV1 = DATA / "real_trpv1_empiar10059" / "trpv1_small_stack.star"
SEVEN = DATA / "real_empiar10076_7" / "empiar_10076_7.star"

N, BOX, PIXEL_SIZE = 6, 8, 2.5

OPTICS = """
data_optics

loop_
_rlnOpticsGroup #1
_rlnOpticsGroupName #2
_rlnVoltage #3
_rlnSphericalAberration #4
_rlnAmplitudeContrast #5
_rlnImagePixelSize #6
_rlnImageSize #7
1 001 300.0 2.7 0.1 2.5 8
"""


def write_images(path: Path, n: int = N, box: int = BOX, seed: int = 0, pixel_size: float = PIXEL_SIZE) -> np.ndarray:
    images = np.random.default_rng(seed).normal(size=(n, box, box)).astype(np.float32)
    with new_image_stack(path, n, box, pixel_size) as writable:
        writable[:] = images
    return images


def make_stack(folder: Path, n: int = N) -> ParticleStack:
    """A stack in memory with images on disk and every field different from its default."""
    rng = np.random.default_rng(1)
    write_images(folder / "particles.mrcs", n)
    return ParticleStack(
        files=(folder / "particles.mrcs",),
        file_index=np.zeros(n, np.int64),
        image_index=np.arange(n),
        box_size=BOX,
        pixel_size=PIXEL_SIZE,
        ctf=CtfParameters(
            defocus_u=rng.uniform(8e3, 2e4, n),
            defocus_v=rng.uniform(8e3, 2e4, n),
            defocus_angle=rng.uniform(-90, 90, n),
            voltage_kv=np.full(n, 300.0),
            spherical_aberration_mm=np.full(n, 2.7),
            amplitude_contrast=np.full(n, 0.07),
            phase_shift=rng.uniform(0, 90, n),
            b_factor=np.zeros(n),
            scale=np.ones(n),
        ),
        rotations=random_rotations(n, rng),
        shifts_angstrom=rng.normal(0, 3, (n, 2)),
        half_set=np.zeros(n, np.int8),
        data_sign=np.ones(n, np.int8),
        source=None,
        source_row=np.arange(n),
    )


def star_text(columns: dict[str, list], optics: str = OPTICS, block: str = "particles") -> str:
    labels = "".join(f"_{label} #{k}\n" for k, label in enumerate(columns, 1))
    rows = "".join(" ".join(map(str, row)) + "\n" for row in zip(*columns.values(), strict=True))
    return f"{optics}\ndata_{block}\n\nloop_\n{labels}{rows}\n"


def star_columns(n: int = N, name: str = "particles.mrcs") -> dict[str, list]:
    """The columns of a sound RELION 3.1 particle table over `optics` above."""
    return {
        "rlnImageName": [f"{k + 1:06d}@{name}" for k in range(n)],
        "rlnDefocusU": [15000 + k for k in range(n)],
        "rlnDefocusV": [14000 + k for k in range(n)],
        "rlnDefocusAngle": [30.0] * n,
        "rlnAngleRot": [30.0] * n,
        "rlnAngleTilt": [40.0] * n,
        "rlnAnglePsi": [50.0] * n,
        "rlnOriginXAngst": [1.5] * n,
        "rlnOriginYAngst": [-2.5] * n,
        "rlnOpticsGroup": [1] * n,
        "rlnRandomSubset": [k % 2 + 1 for k in range(n)],
    }


def write_pickle(path: Path, value: object, protocol: int = pickle.DEFAULT_PROTOCOL) -> Path:
    path.write_bytes(pickle.dumps(value, protocol))
    return path


def assert_same_particles(a: ParticleStack, b: ParticleStack) -> None:
    """Equal poses (1e-6 degree), CTF (0.01 A) and images."""
    np.testing.assert_allclose(a.rotations, b.rotations, atol=np.radians(1e-6))
    np.testing.assert_allclose(a.shifts_angstrom, b.shifts_angstrom, atol=1e-5)
    for name in CtfParameters.__dataclass_fields__:
        np.testing.assert_allclose(getattr(a.ctf, name), getattr(b.ctf, name), rtol=1e-6, atol=5e-3, err_msg=name)
    np.testing.assert_array_equal(a.images(), b.images())
    assert (a.box_size, len(a)) == (b.box_size, len(b))
    assert a.pixel_size == pytest.approx(b.pixel_size, rel=1e-6)
