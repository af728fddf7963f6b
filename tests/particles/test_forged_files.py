"""Files that lie about themselves or are none: archives, headers and fields that no program writes; pipes, devices."""

from __future__ import annotations

import io
import os
import struct
import tracemalloc

import numpy as np
import pytest
from test_cryosparc import npy

from gsworkbench.errors import InputError
from gsworkbench.gaussians.mixture import Gaussians, random_gaussians
from gsworkbench.io.mrc import read_map
from gsworkbench.normal_equations.equations import NormalEquations
from gsworkbench.particles.formats import columns
from gsworkbench.particles.formats.cryodrgn import read_poses, read_stack_list
from gsworkbench.particles.noise_spectrum import chosen_noise
from gsworkbench.particles.read import read_particles


def npz(**arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


SOUND = {
    "means": np.zeros((2, 3), "f4"), "scales": np.ones((2, 3), "f4"), "quaternions": np.ones((2, 4), "f4"),
    "weights": np.ones(2, "f4"), "floor_angstrom": 0.0, "box_size": 8, "pixel_size": 1.0, "format_version": 1,
}  # fmt: skip


def listed_again(archive, times):
    """The directory at its end names each member so many times: the same bytes, to be read as often."""
    n, length, start = struct.unpack("<HII", archive[-12:-2])
    directory = archive[start : start + length] * times
    return (
        archive[:start]
        + directory
        + archive[-22:-14]
        + struct.pack("<HHIIH", n * times, n * times, length * times, start, 0)
    )


BAD_ARCHIVES = {
    "members listed again": listed_again(npz(**SOUND | {"more": np.zeros(10_000)}), 50),
    "text": b"PK, but no archive",
    "cut": npz(**SOUND)[:-30],
    "objects": npz(**SOUND | {"means": np.array([{}], object)}),
    "other lengths": npz(**SOUND | {"weights": np.ones(5, "f4")}),
    "names missing": npz(means=np.zeros((2, 3))),
    "forged shape": npz(**SOUND).replace(b"(2, 3), }        ", b"(99999999, 3), } "),
}


@pytest.mark.parametrize("what", BAD_ARCHIVES)
def test_archives_of_other_origin(tmp_path, what):
    (tmp_path / "x.npz").write_bytes(BAD_ARCHIVES[what])
    tracemalloc.start()
    for load in (Gaussians.load, NormalEquations.load, lambda path: chosen_noise(str(path), None)):
        with pytest.raises(InputError, match=r"x\.npz: "):
            load(tmp_path / "x.npz")
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()
    (tmp_path / "x.npz").write_bytes(npz(**SOUND))
    assert len(Gaussians.load(tmp_path / "x.npz")) == 2


def test_gaussians_of_our_own_still_load(tmp_path):
    mixture = random_gaussians(5, spread=1.0, scale=1.0, total_weight=1.0, seed=0)
    mixture.save(tmp_path / "g.npz", box_size=8, pixel_size=1.0)
    assert (Gaussians.load(tmp_path / "g.npz").means == mixture.means).all()


READERS = {
    ".star": read_particles, ".cs": read_particles, ".txt": read_stack_list, ".mrcs": read_stack_list,
    ".mrc": read_map,
    ".pkl": read_poses, ".npy": lambda path: chosen_noise(str(path), None), ".npz": Gaussians.load,
}  # fmt: skip


@pytest.mark.parametrize("kind", ["pipe", "device"])
@pytest.mark.parametrize(("suffix", "read"), READERS.items(), ids=READERS)
def test_pipes_and_devices_are_refused(tmp_path, suffix, read, kind):
    """A pipe that no one writes to would be waited for; a device may give bytes without end."""
    path = tmp_path / f"x{suffix}"
    os.mkfifo(path) if kind == "pipe" else path.symlink_to("/dev/zero")
    with pytest.raises(InputError, match=r"not a plain file|files are missing|not a noise spectrum"):
        read(path)


def test_fields_of_odd_types(tmp_path):
    array = np.zeros(3, [("uid", "<u8"), ("blob/path", "U4"), ("ctf/df2_A", "<c8"), ("ctf/tilt_A", [("x", "<f4")])])
    data = npy(array)
    start = len(data) - array.nbytes + 8  # of blob/path in the first row
    (tmp_path / "x.cs").write_bytes(data[:start] + b"\xff" * 16 + data[start + 16 :])
    with pytest.raises(InputError, match="blob/path holds bytes that are no text"):
        read_particles(tmp_path / "x.cs")
    for name, kind in (("ctf/df2_A", "complex64"), ("ctf/tilt_A", "x")):
        with pytest.raises(InputError, match=rf"values of type .*{kind}.*, not numbers"):
            columns.numbers(array[name], name, tmp_path / "x.cs")


def test_a_header_of_numbers_alone(tmp_path):
    header = b"{'descr': (" + b"1," * 50_000 + b"),}\n"
    (tmp_path / "x.cs").write_bytes(b"\x93NUMPY\x02\0" + struct.pack("<I", len(header)) + header)
    tracemalloc.start()
    with pytest.raises(InputError, match="truncated or damaged"):
        read_particles(tmp_path / "x.cs")
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()
