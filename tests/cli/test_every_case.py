"""Every kind of bad input at every command that reads it: a result or one sentence, and never a traceback."""

import dataclasses
import pickle

import numpy as np
import pytest

from gsworkbench.cli.main import main
from gsworkbench.io.mrc import new_image_stack, read_map, write_map
from gsworkbench.particles.formats.cryodrgn import write_cryodrgn_pickles
from gsworkbench.particles.formats.relion import write_star

BOX = 32
AXIS = np.arange(BOX) - BOX // 2
RADIUS = np.hypot(AXIS[:, None], AXIS)
FEW = 120  # particles
QUICK = ["--n-gaussians", "32", "--set", "n_boosted_steps=2", "--set", "n_steps=3", "--set", "n_final_steps=2"]
COMMANDS = {
    "inspect": [],
    "reconstruct": QUICK,
    "reconstruct --method voxels": [],
    "reconstruct --method stochastic": ["--n-gaussians", "16", "--set", "n_epochs=1"],
    "backproject": [],
    "accumulate": [],
    "copy": [],
}


def _changed(change):
    """A maker of inputs whose images are changed."""

    def make(stack, folder):
        images = change(stack.images().astype(np.float64))
        with new_image_stack(folder / "particles.mrcs", len(stack), BOX, stack.pixel_size) as file:
            file[:] = 0
        with np.errstate(all="ignore"):  # a header has no place for what follows
            np.memmap(folder / "particles.mrcs", np.float32, "r+", 1024)[:] = images.astype(np.float32).ravel()
        stack = dataclasses.replace(
            stack,
            files=(folder / "particles.mrcs",),
            file_index=0 * stack.file_index,
            image_index=np.arange(len(stack)),
        )
        write_star(folder / "particles.star", stack)
        return [str(folder / "particles.star")]

    return make


def _table(**columns):
    """A maker of inputs whose CTF, poses or half sets are changed: name -> function of the column."""

    def make(stack, folder):
        ctf = {k: f(getattr(stack.ctf, k)) for k, f in columns.items() if hasattr(stack.ctf, k)}
        other = {k: f(getattr(stack, k)) for k, f in columns.items() if not hasattr(stack.ctf, k)}
        stack = dataclasses.replace(stack, ctf=dataclasses.replace(stack.ctf, **ctf), **other)
        write_star(folder / "particles.star", stack)
        return [str(folder / "particles.star")]

    return make


def _first(value):
    def change(images):
        images[0] = value
        return images

    return change


def _at(rows, value):
    def change(images):
        images[rows, 4, 9] = value
        return images

    return change


def _pickles(stack, folder):
    """Noise-free pictures of a blob, cryoDRGN's files, no CTF."""
    blob = np.exp(-(RADIUS**2) / 20)
    with new_image_stack(folder / "p.mrcs", len(stack), BOX, 1.0) as file:
        file[:] = blob
    write_cryodrgn_pickles(folder / "poses.pkl", folder / "ctf.pkl", dataclasses.replace(stack, pixel_size=1.0))
    return [str(folder / "p.mrcs"), "--poses", str(folder / "poses.pkl"), "--no-ctf"]


def _odd_pickle(stack, folder):
    words = _pickles(stack, folder)
    with open(folder / "poses.pkl", "wb") as file:
        pickle.dump(np.full((len(stack), 3, 3), np.nan), file)
    return words


def _same_row_twice(stack, folder):
    rows = np.repeat(np.arange(len(stack)), 2)
    write_star(folder / "particles.star", dataclasses.replace(stack[rows], half_set=np.zeros(len(rows), np.int8)))
    return [str(folder / "particles.star")]


def _few(n):
    def make(stack, folder):
        write_star(folder / "particles.star", dataclasses.replace(stack[:n], half_set=np.zeros(n, np.int8)))
        return [str(folder / "particles.star")]

    return make


INPUTS = {
    "offset": _changed(lambda d: d + 5),
    "large offset": _changed(lambda d: d + 1e6),
    "ramps": _changed(lambda d: d + 3 * AXIS),
    "masked corners": _changed(lambda d: d * (RADIUS < 14)),
    "tight mask": _changed(lambda d: d * (RADIUS < 5)),
    "no noise": _changed(lambda d: np.repeat(np.exp(-(RADIUS**2) / 20)[None], len(d), 0)),
    "all blank": _changed(lambda d: 0 * d),
    "all the same value": _changed(lambda d: 0 * d + 7),
    "first blank": _changed(_first(0)),
    "first absurd": _changed(_first(1e20)),
    "first infinite": _changed(_first(np.inf)),
    "not a number": _changed(_at(slice(3, 4), np.nan)),
    "hot pixels": _changed(_at(slice(None, None, 9), 3e4)),
    "hot pixels in all": _changed(_at(slice(None), 3e4)),
    "enormous pixels": _changed(_at(slice(None, None, 9), 3e38)),
    "one point": _changed(lambda d: np.where(RADIUS < 1, 1.0, 0.0) + 0 * d),
    "a billionth": _changed(lambda d: 1e-9 * d),
    "a billion": _changed(lambda d: 1e9 * d),
    "beyond single precision": _changed(lambda d: 1e30 * d),
    "below single precision": _changed(lambda d: 1e-42 * d),
    "dark protein": _changed(lambda d: -d),
    "pure noise": _changed(lambda d: np.random.default_rng(0).standard_normal(d.shape)),
    "half of them blank": _changed(lambda d: d * (np.arange(len(d)) % 2)[:, None, None]),
    "a checkerboard": _changed(lambda d: d + 50 * (-1.0) ** (AXIS + AXIS[:, None])),
    "two values": _changed(lambda d: np.sign(d)),
    "defocus in um": _table(defocus_u=lambda v: v / 1e4, defocus_v=lambda v: v / 1e4),
    "negative defocus": _table(defocus_u=lambda v: -v, defocus_v=lambda v: -v),
    "no defocus": _table(defocus_u=lambda v: 0 * v, defocus_v=lambda v: 0 * v),
    "Cs in A": _table(spherical_aberration_mm=lambda v: v * 1e7),
    "no contrast at all": _table(
        amplitude_contrast=lambda v: 0 * v, defocus_u=lambda v: 0 * v, defocus_v=lambda v: 0 * v
    ),
    "growing envelope": _table(b_factor=lambda v: v - 200),
    "enormous B factor": _table(b_factor=lambda v: v + 1e9),
    "scale of zero": _table(scale=lambda v: 0 * v),
    "scale of a million": _table(scale=lambda v: 1e6 * v),
    "one direction": _table(rotations=lambda v: np.repeat(np.eye(3)[None], len(v), 0)),
    "one half set": _table(half_set=lambda v: 0 * v + 1),
    "no half sets": _table(half_set=lambda v: 0 * v),
    "shifts of a box": _table(shifts_angstrom=lambda v: v + 380.0),
    "pictures of a blob": _pickles,
    "poses that are none": _odd_pickle,
    "the same row twice": _same_row_twice,
    "one particle": _few(1),
    "two particles": _few(2),
    "three particles": _few(3),
    "ten particles": _few(10),
}


def tried(command, words, folder, capfd):
    """Run a command; nothing but a result, or a sentence of ours, may come out."""
    name, *options = command.split()
    out = [] if name == "inspect" else ["--out", str(folder / "out")]
    code = main([name, *words, *options, *out, *COMMANDS.get(command, [])])
    said = capfd.readouterr()
    assert code in (0, 2), said.err[-2000:]
    assert "Traceback" not in said.err + said.out and "Warning" not in said.err + said.out
    assert code == 0 or "gsworkbench: " in said.err
    return code, said


# Methods that share what is done to images before them need not see all of it.
NUMERICAL = ("no noise", "tight mask", "first absurd", "enormous pixels", "one point", "two values", "one particle")
TRIED = [(c, k) for c in COMMANDS for k in INPUTS if "--method" not in c or k in (*NUMERICAL, "two particles")]


@pytest.mark.parametrize("command, kind", TRIED)
def test_particles_give_a_result_or_a_sentence(noisy_set, tmp_path, capfd, kind, command):
    words = INPUTS[kind](noisy_set.stack[np.arange(FEW)], tmp_path)
    tried(command, words, tmp_path, capfd)


MAPS = {
    "as they are": lambda a, b: (a, b),
    "the same": lambda a, b: (a, a),
    "inverted": lambda a, b: (a, -b),
    "mirrored": lambda a, b: (a, b[::-1].copy()),
    "shifted": lambda a, b: (a, np.roll(b, 3, 1)),
    "offset": lambda a, b: (a + 1000, b - 1000),
    "one empty": lambda a, b: (a, 0 * b),
    "constant": lambda a, b: (0 * a + 3, 0 * b + 3),
    "one voxel": lambda a, b: ((np.arange(a.size) == 7).reshape(a.shape) * 1.0, b),
    "tiny": lambda a, b: (1e-30 * a, 1e-30 * b),
    "large": lambda a, b: (1e18 * a, 1e18 * b),
    "noise": lambda a, b: tuple(np.random.default_rng(k).standard_normal(a.shape) for k in (0, 1)),
    "a plane wave": lambda a, b: (a + 1e3 * np.cos(2 * np.pi * np.arange(len(a)) * 7 / len(a)), b),
    "masked to nothing": lambda a, b: (a * (a > a.max() * 0.99), b * (b > b.max() * 0.99)),
}


@pytest.fixture(scope="module")
def half_maps(noisy_set, tmp_path_factory):
    folder = tmp_path_factory.mktemp("halves")
    assert main(["backproject", str(noisy_set.star), "--out", str(folder), "--filter", "none"]) == 0
    return [read_map(path)[0] for path in sorted(folder.glob("run_half?_*.mrc"))]


@pytest.mark.parametrize("kind", MAPS)
@pytest.mark.parametrize("command", ["fsc", "postprocess", "localres", "directional"])
def test_half_maps_give_a_result_or_a_sentence(half_maps, tmp_path, capfd, kind, command):
    paths = [tmp_path / "a.mrc", tmp_path / "b.mrc"]
    for path, volume in zip(paths, MAPS[kind](*(m.astype(float) for m in half_maps)), strict=True):
        write_map(path, volume.astype(np.float32), 12.0)
    tried(command, [str(p) for p in paths], tmp_path, capfd)
