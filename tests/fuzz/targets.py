"""What is fuzzed, and what counts as a finding.

A target writes the bytes it is given to a file and reads it as the program does. Allowed are success, with particles
that make sense, and InputError, in one line. Findings: any other exception (`crash`), more than SECONDS (`hang`),
memory beyond a multiple of the file's size (`memory`), and doing anything but reading files and writing to the
folder of the fuzzer (`executed`).
"""

from __future__ import annotations

import contextlib
import gzip
import os
import shutil
import signal
import sys
import tempfile
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType

import numpy as np
from particle_files import star_columns, star_text

from gsworkbench.errors import InputError
from gsworkbench.gaussians.mixture import Gaussians
from gsworkbench.io.mrc import map_origin, new_image_stack, read_images, read_map, stack_shape
from gsworkbench.io.pickles import load_arrays
from gsworkbench.normal_equations.equations import NormalEquations
from gsworkbench.particles.formats.cryodrgn import read_ctf, read_indices, read_poses
from gsworkbench.particles.formats.relion import write_with_half_sets
from gsworkbench.particles.noise_spectrum import chosen_noise
from gsworkbench.particles.read import read_particles
from gsworkbench.particles.stack import CtfParameters, ParticleStack

N, BOX = 6, 8  # images of the sound stack that metadata may name
SECONDS = 10.0  # of processor time
FREE_BYTES, BYTES_PER_BYTE = 4 * 2**20, 200  # a value of STAR text, two bytes, becomes a string object or several
FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.", "ctypes.dlopen",
             "pickle.find_class", "exec", "shutil.", "os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.chmod",
             "os.putenv", "os.symlink", "os.link", "os.truncate", "tempfile.")  # fmt: skip
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Finding(AssertionError):
    """An input that does what none may do; `kind` is crash, hang, memory or executed."""

    def __init__(self, kind: str, words: str) -> None:
        self.kind = kind
        super().__init__(f"{kind}: {words}")


class Bench:
    """A folder with a sound stack of images, in which inputs are written under a name and read."""

    def __init__(self) -> None:
        memory = Path("/dev/shm")
        self.folder = Path(tempfile.mkdtemp(prefix="gsworkbench-fuzz-", dir=memory if memory.is_dir() else None))
        images = np.random.default_rng(0).normal(size=(N, BOX, BOX))
        for name in ("particles.mrcs", "J1/particles.mrcs"):
            with new_image_stack(self.folder / name, N, BOX, 2.5) as stack:
                stack[:] = images
        # Modules imported late are no finding, but what they run as they are imported would look like one.
        star(self, star_text(star_columns()).encode())
        mrc(self, (self.folder / "particles.mrcs").read_bytes())

    def file(self, name: str, data: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(data)
        return path

    def remove(self) -> None:
        shutil.rmtree(self.folder)


def star(bench: Bench, data: bytes) -> None:
    """Particles of a STAR file; what is read can be written with half sets and reads the same."""
    path = bench.file("x.star", data)
    stack = read_particles(path)
    _check_particles(stack)
    if len(stack) < 2 or (stack.half_set == 0).any():
        stack = stack if len(stack) < 2 or stack.half_set.any() else stack.with_half_sets()
    with watching_nothing():
        write_with_half_sets(path, bench.folder / "again.star", stack)
    again = read_particles(bench.folder / "again.star")
    for name in ("image_index", "half_set", "rotations", "shifts_angstrom"):
        mine, other = getattr(stack, name), getattr(again, name)
        if (mine is None) != (other is None) or (mine is not None and not np.allclose(mine, other, atol=1e-4)):
            raise Finding("crash", f"{name} differs after a round trip")


def cs(bench: Bench, data: bytes) -> None:
    """Particles of a .cs file, with itself as its passthrough."""
    path = bench.file("x.cs", data)
    _check_particles(read_particles(path))
    _check_particles(read_particles(path, passthrough=[path]))


def pickled(bench: Bench, data: bytes) -> None:
    """cryoDRGN's three pickles."""
    path = bench.file("x.pkl", data)
    for read in (load_arrays, read_poses, read_ctf, lambda path: read_indices(path, N)):
        with contextlib.suppress(InputError):
            read(path)
    load_arrays(path)


def mrc(bench: Bench, data: bytes) -> None:
    """Images and maps, as the bytes stand and compressed."""
    for content in (data, gzip.compress(data, 1, mtime=0)):
        path = bench.file("x.mrc", content)
        for read in (stack_shape, read_map, map_origin):
            with contextlib.suppress(InputError):
                read(path)
        with contextlib.suppress(InputError):
            n, _, _ = stack_shape(path)
            images = read_images(path, np.array([0, n - 1]))
            if not np.isfinite(images).all():
                raise Finding("crash", "images that are not finite")


def arrays(bench: Bench, data: bytes) -> None:
    """Our own .npz files, noise spectra, and lists of stacks."""
    path = bench.file("x.npz", data)
    for read in (NormalEquations.load, Gaussians.load, lambda path: chosen_noise(str(path), None)):  # type: ignore[arg-type]
        with contextlib.suppress(InputError):
            read(path)
    read_particles(bench.file("x.txt", data), poses="gone.pkl", ctf="gone.pkl")


TARGETS: dict[str, Callable[[Bench, bytes], None]] = {
    "star": star, "cs": cs, "pickle": pickled, "mrc": mrc, "arrays": arrays,
}  # fmt: skip


def judge(target: str, bench: Bench, data: bytes) -> None:
    """Give `data` to a target; raise Finding for what it must not do."""
    with warnings.catch_warnings(), watched(bench, len(data)), time_limit(SECONDS):
        warnings.simplefilter("ignore")
        try:
            TARGETS[target](bench, data)
        except InputError as error:
            if "\n" in str(error):
                raise Finding("crash", f"an error of several lines: {error}") from error
        except (Finding, KeyboardInterrupt):
            raise
        except BaseException as error:
            raise Finding("crash", f"{type(error).__name__}: {error}") from error


def _check_particles(stack: ParticleStack) -> None:
    """What later stages take for granted of whatever was read."""
    n = len(stack)
    columns = [getattr(stack.ctf, name) for name in CtfParameters.__dataclass_fields__]
    columns += [stack.shifts_angstrom, stack.file_index, stack.image_index, stack.half_set, stack.data_sign]
    columns += [] if stack.rotations is None else [stack.rotations]
    if any(len(column) != n for column in columns) or stack.shifts_angstrom.shape != (n, 2):
        raise Finding("crash", "columns of different lengths")
    if not all(np.isfinite(column).all() for column in columns):
        raise Finding("crash", "columns that are not finite")
    if stack.rotations is not None and np.abs(np.linalg.det(stack.rotations) - 1).max() > 1e-2:
        raise Finding("crash", "rotations that are none")
    if not 0 < stack.pixel_size < np.inf or (stack.image_index < 0).any():
        raise Finding("crash", "an impossible pixel size or image number")
    stack.images(np.array([0, n - 1]))


_watching: list[tuple[Path, list[str]]] = []


def _is_import(code: CodeType) -> bool:
    return code.co_name == "<module>" and (code.co_filename.startswith("<frozen") or Path(code.co_filename).is_file())


def _audit(event: str, arguments: tuple) -> None:
    if not _watching:
        return
    folder, seen = _watching[-1]
    if event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING:
        if isinstance(arguments[0], str | bytes | os.PathLike) and Path(os.fsdecode(arguments[0])).parent != folder:
            seen.append(f"opened {arguments[0]!r} for writing")
    elif event.startswith(FORBIDDEN) and not (event == "exec" and _is_import(arguments[0])):
        seen.append(f"{event} {arguments!r}"[:200])


sys.dont_write_bytecode = True  # by modules that are imported late
sys.addaudithook(_audit)


@contextlib.contextmanager
def watched(bench: Bench, size: int) -> Iterator[None]:
    """Raise Finding if the block allocates too much for a file of `size` bytes, or does what is FORBIDDEN."""
    seen: list[str] = []
    if not tracemalloc.is_tracing():
        tracemalloc.start(1)
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    _watching.append((bench.folder, seen))
    try:
        yield
    finally:
        _watching.clear()
    if seen:
        raise Finding("executed", seen[0])
    grown = tracemalloc.get_traced_memory()[1] - before
    if grown > FREE_BYTES + BYTES_PER_BYTE * size:
        raise Finding("memory", f"{grown:,} bytes for a file of {size:,}")


@contextlib.contextmanager
def watching_nothing() -> Iterator[None]:
    """Our own writers make, rename and remove files: that is no finding."""
    held = _watching.copy()
    _watching.clear()
    try:
        yield
    finally:
        _watching.extend(held)


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise Finding in the block after so many seconds of processor time, that a busy machine makes no hang."""

    def stop(*_: object) -> None:
        raise Finding("hang", f"more than {seconds:g} s")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before or signal.SIG_DFL)
