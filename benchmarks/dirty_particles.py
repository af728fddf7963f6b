"""Particles as the world leaves them: what each kind of fault costs each method, and what is said of it.

    python benchmarks/dirty_particles.py [KIND ...] [--methods ...] [--write]

A set of simulated particles is spoilt in one way after the other. Each row has the mean FSC to the truth, in one soft
mask made of the truth, of clean particles with ideal weights, of the spoilt ones with images as they are
(--no-normalise --no-particle-scales), and of the spoilt ones by default; then what the program says. Molecule, noise
and seeds are not those that anything was chosen on. It takes about fifteen minutes on one core.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gsworkbench.assessment.fsc import fourier_shell_correlation
from gsworkbench.assessment.masks import automatic_mask
from gsworkbench.errors import InputError
from gsworkbench.io.mrc import new_image_stack, read_map
from gsworkbench.methods.reconstruction_config import ReconstructionConfig
from gsworkbench.methods.stochastic import PRESETS
from gsworkbench.particles.stack import ParticleStack
from gsworkbench.reconstruction.run import reconstruct
from gsworkbench.simulation.simulate import simulate
from gsworkbench.simulation.simulation_config import Simulation

Images = NDArray[np.float32]
PAGE = Path(__file__).parents[1] / "docs" / "measured" / "particles.md"
SET = Simulation(molecule="spliceosome", n_particles=3000, box_size=64, pixel_size=7.5, snr=0.1, seed=77)
METHODS = ("one-pass", "voxels", "backprojection", "stochastic")
BOX = SET.box_size
AXIS = np.arange(BOX) - BOX // 2
RADIUS = np.hypot(AXIS[:, None], AXIS)
ICE = (6 * np.exp(-(RADIUS**2) / 200)).astype("f4")


@dataclass(frozen=True)
class Kind:
    """A fault: (signal, noise, generator) -> images; and, where clean particles are no fair comparison, the images
    without the fault and the factor (n,) of their CTFs that weighs them as well as is possible."""

    spoil: Callable[[Images, Images, np.random.Generator], Images]
    ideal: Callable[[Images, Images, np.random.Generator], tuple[Images, NDArray[np.float64]]] | None = None


def _some(rng: np.random.Generator, n: int, fraction: float) -> NDArray[np.int64]:
    return rng.choice(n, max(1, round(fraction * n)), replace=False)


def _at(images: Images, rows: NDArray[np.integer], change: Callable[[Images], Images]) -> Images:
    images = images.copy()
    images[rows] = change(images[rows])
    return images


def _set(images: Images, rows: NDArray[np.integer], y: Any, x: Any, value: float) -> Images:
    images = images.copy()
    images[rows, y, x] = value
    return images


def _levels(n: int, low: float, high: float, rng: np.random.Generator) -> Images:
    """(n, 1, 1) one level for every fifty particles, as for a micrograph."""
    by_micrograph = np.exp(rng.uniform(np.log(low), np.log(high), n // 50 + 1))
    return by_micrograph[np.arange(n) // 50, None, None].astype(np.float32)


def _weighted(s: Images, n: Images, rng: np.random.Generator) -> tuple[Images, NDArray[np.float64]]:
    level = _levels(len(s), 0.5, 2, rng)
    return (s + level * n) / level, 1 / level[:, 0, 0].astype(np.float64)


def _scaled(s: Images, n: Images, rng: np.random.Generator) -> tuple[Images, NDArray[np.float64]]:
    factor = np.exp(rng.uniform(np.log(0.5), np.log(2), len(s)))
    return (factor[:, None, None] * s + n).astype(np.float32), factor


def _without_junk(s: Images, n: Images, rng: np.random.Generator) -> tuple[Images, NDArray[np.float64]]:
    junk = _some(rng, len(s), 0.2)
    scale = np.ones(len(s))
    scale[junk] = 0
    return (s * scale[:, None, None] + n).astype(np.float32), scale


def _planes(n: int, sd: float, rng: np.random.Generator) -> Images:
    slope = rng.normal(0, sd, (n, 2, 1, 1))
    return (slope[:, 0] * AXIS + slope[:, 1] * AXIS[:, None]).astype(np.float32)


def _coloured(noise: Images) -> Images:
    k = np.hypot(np.fft.fftfreq(BOX)[:, None], np.fft.rfftfreq(BOX))
    made = np.fft.irfft2(np.fft.rfft2(noise) / np.sqrt(1 + (k / 0.08) ** 2), s=(BOX, BOX))
    return (made / made.std()).astype(np.float32)


KINDS: dict[str, Kind] = {
    "clean": Kind(lambda s, n, rng: s + n),
    "offset +0.5 sd": Kind(lambda s, n, rng: s + n + 0.5),
    "offset -2 sd": Kind(lambda s, n, rng: s + n - 2),
    "offset +1,000 sd": Kind(lambda s, n, rng: s + n + 1000),
    "offsets of sd 3, one an image": Kind(lambda s, n, rng: s + n + rng.normal(0, 3, (len(s), 1, 1)).astype("f4")),
    "ramps": Kind(lambda s, n, rng: s + n + _planes(len(s), 0.05, rng)),
    "hard circular mask": Kind(lambda s, n, rng: (s + n) * (RADIUS <= 30)),
    "soft circular mask": Kind(lambda s, n, rng: (s + n) * np.clip((31 - RADIUS) / 4, 0, 1).astype("f4")),
    "corners x 0.1": Kind(lambda s, n, rng: np.where(RADIUS > 30, 0.1, 1).astype("f4") * (s + n)),
    "corners x 5": Kind(lambda s, n, rng: np.where(RADIUS > 31, 5, 1).astype("f4") * (s + n)),
    "noise sd 0.5 to 2 by micrograph": Kind(lambda s, n, rng: s + _levels(len(s), 0.5, 2, rng) * n, _weighted),
    "the same, normalised": Kind(
        lambda s, n, rng: (lambda level: (s + level * n) / level)(_levels(len(s), 0.5, 2, rng)), _weighted
    ),
    "1 % of images x 30": Kind(lambda s, n, rng: _at(s + n, _some(rng, len(s), 0.01), lambda d: 30 * d)),
    "one image x 1e6": Kind(lambda s, n, rng: _at(s + n, np.array([7]), lambda d: 1e6 * d)),
    "first image x 1e6": Kind(lambda s, n, rng: _at(s + n, np.array([0]), lambda d: 1e6 * d)),
    "first image blank": Kind(lambda s, n, rng: _at(s + n, np.array([0]), lambda d: 0 * d)),
    "images x 1e-9": Kind(lambda s, n, rng: 1e-9 * (s + n)),
    "images x 1e9": Kind(lambda s, n, rng: 1e9 * (s + n)),
    "hot pixel in 0.5 % of images": Kind(lambda s, n, rng: _set(s + n, _some(rng, len(s), 0.005), 5, 7, 3e4)),
    "hot pixel of 50 sd in all": Kind(
        lambda s, n, rng: _set(s + n, np.arange(len(s)), *rng.integers(BOX, size=(2, len(s))), 50)
    ),
    "4 x 4 block of 1,000 sd in 1 %": Kind(
        lambda s, n, rng: _set(s + n, _some(rng, len(s), 0.01), slice(20, 24), slice(30, 34), 1000)
    ),
    "ice on 2 % of images": Kind(
        lambda s, n, rng: _at(s + n, _some(rng, len(s), 0.02), lambda d: d + ICE)
    ),
    "signal x 0.5 to 2 per particle": Kind(lambda s, n, rng: _scaled(s, n, rng)[0], _scaled),
    "20 % pure noise": Kind(lambda s, n, rng: _without_junk(s, n, rng)[0], _without_junk),
    "coloured noise": Kind(lambda s, n, rng: s + _coloured(n), lambda s, n, rng: (s + _coloured(n), np.ones(len(s)))),
    "no noise": Kind(lambda s, n, rng: s, lambda s, n, rng: (s, np.ones(len(s)))),
}  # fmt: skip


def parts(folder: Path) -> tuple[ParticleStack, Images, Images]:
    """A simulated set, its signal and its noise: the same seed without signal gives the noise."""
    stack = simulate(SET, folder / "set")
    noise = simulate(replace(SET, snr=0.0), folder / "noise").images()
    return stack, stack.images() - noise, noise


def with_images(
    stack: ParticleStack, images: Images, folder: Path, scale: NDArray[np.float64] | None = None
) -> ParticleStack:
    """The particles with other images, and their CTFs times a factor."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "particles.mrcs"
    with new_image_stack(path, len(stack), BOX, stack.pixel_size) as file:
        file[:] = images
    ctf = stack.ctf if scale is None else replace(stack.ctf, scale=stack.ctf.scale * np.maximum(scale, 1e-6))
    return replace(stack, files=(path,), ctf=ctf)


def score(
    stack: ParticleStack, method: str, folder: Path, truth: NDArray[np.float32], *, mended: bool
) -> tuple[float, list[str]]:
    """Mean FSC to the truth in its own soft mask, and what was said; NaN where the method refused."""
    config = ReconstructionConfig(
        method=method,
        settings=replace(PRESETS["tuned"], n_gaussians=1000) if method == "stochastic" else None,
        half_maps=method == "one-pass",
        normalise=mended,
        particle_scales=mended,
        mask="none",
    )
    mask = automatic_mask(truth, SET.pixel_size)
    try:
        made = reconstruct(stack, folder, config)
    except (InputError, ValueError) as error:
        return float("nan"), [str(error)]
    curve = fourier_shell_correlation(made.volume, truth, voxel_size=SET.pixel_size, mask=mask)
    return curve.mean(), [w for w in made.record.warnings if "never falls" not in w and not w.startswith("half ")]


def measure(names: list[str], methods: list[str]) -> tuple[list[str], list[str]]:
    """Rows of the table, and a line on each kind with what was said."""
    rows, words = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        stack, signal, noise = parts(folder)
        truth, _ = read_map(folder / "set" / "truth.mrc")
        clean = {}
        for kind_name in dict.fromkeys(["clean", *names]):
            kind = KINDS[kind_name]
            seed = list(KINDS).index(kind_name)
            spoilt = with_images(stack, kind.spoil(signal, noise, np.random.default_rng(seed)), folder / "spoilt")
            ideal = None
            if kind.ideal is not None:
                images, scale = kind.ideal(signal, noise, np.random.default_rng(seed))
                ideal = with_images(stack, images, folder / "ideal", scale)
            cells, said = [], []
            for method in methods:
                mended, heard = score(spoilt, method, folder / "out", truth, mended=True)
                if kind_name == "clean":
                    clean[method] = mended
                dirty, _ = score(spoilt, method, folder / "out", truth, mended=False)
                best = clean[method] if ideal is None else score(ideal, method, folder / "out", truth, mended=False)[0]
                cells.append(f"{_shown(best)} / {_shown(dirty)} / **{_shown(mended)}**")
                said = said or heard
            rows.append(f"| {kind_name} | {' | '.join(cells)} |")
            words.append(f"- **{kind_name}**: {'; '.join(said) if said else 'nothing'}.")
            print(rows[-1], words[-1], sep="\n", flush=True)
    return rows, words


def _shown(value: float) -> str:
    return "refused" if np.isnan(value) else f"{value:.4f}"


def write(table: str) -> None:
    """Put a table between the marks of the page."""
    begin, end = "<!-- made by benchmarks/dirty_particles.py -->\n", "<!-- end of dirty_particles -->"
    head, _, rest = PAGE.read_text().partition(begin)
    PAGE.write_text(head + begin + "\n" + table + "\n" + end + rest.partition(end)[2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", default=list(KINDS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--write", action="store_true", help="put the table into docs/measured/particles.md")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    rows, words = measure(options.kinds or list(KINDS), options.methods)
    head = f"| fault | {' | '.join(options.methods)} |\n|{'---|' * (1 + len(options.methods))}"
    text = "\n".join([head, *rows, "", *words]) + "\n"
    if options.write:
        write(text)


if __name__ == "__main__":
    main()
