"""The commands that make, fetch, look at and gather particles."""

from __future__ import annotations

import argparse
import dataclasses
import functools
from pathlib import Path
from typing import Any

from gsworkbench.cli.shared_options import add_particles, print_notes, read_stack, read_table
from gsworkbench.config import from_mapping
from gsworkbench.errors import InputError
from gsworkbench.methods.reconstruction_config import ReconstructionConfig
from gsworkbench.particles.empiar import ARCHIVE
from gsworkbench.simulation.simulation_config import Simulation


def add(commands: Any) -> None:
    """Add simulate, fetch, inspect and copy."""
    _add_simulate(commands)
    _add_fetch(commands)
    _add_inspect(commands)
    _add_copy(commands)


def _add_simulate(commands: Any) -> None:
    default = Simulation()
    command = commands.add_parser(
        "simulate",
        help="make particles whose truth is known",
        description="Simulate particles of a molecule: exact central slices of its electron scattering potential, CTF, "
        "shifts, noise. Writes particles.mrcs, particles.star (RELION 3.1), truth.mrc and run.json.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    command.add_argument(
        "--molecule", default=default.molecule, help="ribosome, large_subunit, spliceosome, chaperonin, or a .cif/.pdb"
    )
    command.add_argument("--n-particles", type=int, default=default.n_particles, metavar="N", help="number of images")
    command.add_argument("--box-size", type=int, default=default.box_size, metavar="PX", help="image side, even")
    command.add_argument("--pixel-size", type=float, default=default.pixel_size, metavar="A", help="A per pixel")
    command.add_argument(
        "--snr", type=float, default=default.snr, help="signal variance / noise variance; inf: no noise"
    )
    command.add_argument(
        "--b-factor", type=float, default=default.b_factor, metavar="A2", help="B factor of every atom"
    )
    command.add_argument("--optics", default=default.optics, help="microscope and defocus distribution, by data set")
    command.add_argument(
        "--poses", default=default.poses, help="uniform; deposited, with shifts and CTF; or a .star, .cs or .pkl"
    )
    command.add_argument("--shift-sd", type=float, default=default.shift_sd, help="of in-plane shifts, in boxes")
    command.add_argument("--noise", default=default.noise, help="white, or a radial power spectrum (.npy)")
    command.add_argument("--seed", type=int, default=default.seed, help="same seed, same particles")
    command.set_defaults(run=_simulate)


def _simulate(options: argparse.Namespace) -> None:
    from gsworkbench.simulation.simulate import simulate

    names = {f.name for f in dataclasses.fields(Simulation)}
    config = from_mapping(Simulation, {k: v for k, v in vars(options).items() if k in names})
    stack = simulate(config, options.out)
    out = options.out
    print(f"{len(stack):,} particles of {stack.box_size} px at {stack.pixel_size:g} A/px, and their truth, in {out}")
    print(f"next: gsworkbench reconstruct {out}/particles.star --out {out}/fit --truth {out}/truth.mrc")


def _add_fetch(commands: Any) -> None:
    command = commands.add_parser(
        "fetch",
        help="download an EMPIAR entry that the papers used",
        description="Download the particles of an EMPIAR entry, with the poses that were refined for them. A transfer "
        "that broke goes on when the command is repeated; sums are checked, and those that nobody states are noted in "
        "checksums.json. The environment variable GSWORKBENCH_MIRROR names a server to ask in place of all others.",
    )
    command.add_argument("entry", help="10028, 10049, 10076 or 10180; with --write-card also 10005 or 10492")
    what = command.add_mutually_exclusive_group(required=True)
    what.add_argument("--out", type=Path, metavar="DIR", help="folder to write")
    what.add_argument(
        "--write-card",
        type=Path,
        metavar="YAML",
        help="download nothing: write a card of your own, with a blank for all that is not known of the entry; inspect "
        "checks it",
    )
    command.add_argument("--archive", default=ARCHIVE, metavar="URL", help=f"a mirror in place of {ARCHIVE}")
    command.set_defaults(run=_fetch)


def _fetch(options: argparse.Namespace) -> None:
    from gsworkbench.particles.empiar import fetch, listed_images
    from gsworkbench.particles.entry_card import find_card

    if options.write_card is not None:
        _write_card(options.entry, options.write_card)
        return
    card = find_card(options.entry)
    print("\n".join(card.report()), flush=True)
    table, *others = fetch(card, options.out, archive=options.archive)
    n = len(listed_images(table))
    print(f"{1 + len(others)} files in {options.out}; the table lists {n:,} particles")
    if n != card.n_particles:
        print(f"  note: the card says {card.n_particles:,}")
    print(f"next: gsworkbench inspect {card.options(options.out)}")


def _write_card(entry: str, path: Path) -> None:
    from gsworkbench.io.files import write_text
    from gsworkbench.particles.entry_card import BLANK, OWN_CARDS, card_with_blanks, find_shipped_card

    if path.exists():
        raise InputError("a file of this name exists already", file=path, remedy="name another")
    text = card_with_blanks(find_shipped_card(entry))
    write_text(path, text)
    n = sum(line.endswith(f": {BLANK}") for line in text.split("\n"))
    print(f"{path}: {n} blanks to fill; then gsworkbench inspect {path}")
    print(f"the workflow takes the cards of the folder that {OWN_CARDS} names")


def _add_inspect(commands: Any) -> None:
    command = commands.add_parser(
        "inspect",
        help="say what particles are, and whether their poses and contrast make sense",
        description="Read particle metadata, measure the images (background, noise, hot pixels, outliers), and make "
        "quick maps, by which poses, shifts, contrast and the strength of each particle's signal are judged. What "
        "reconstruct does about each finding is said beside it. Nothing is written unless --out is given. In place of "
        "particles, a card of an EMPIAR entry (.yaml, of fetch --write-card) is checked, and then what it names.",
    )
    add_particles(command)
    command.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder for a picture (inspect.png, inspect.svg: histograms, the mean power spectrum with the rings of "
        "the CTF, random and worst images) and a table with a row for each image that was measured (inspect.csv)",
    )
    command.set_defaults(run=_inspect)


def _inspect(options: argparse.Namespace) -> None:
    from gsworkbench.inspection.findings import inspect_particles
    from gsworkbench.inspection.map_summaries import write_inspection, write_table_figure
    from gsworkbench.particles.description import describe
    from gsworkbench.particles.formats.paths import MissingImages
    from gsworkbench.particles.views import views_problem
    from gsworkbench.reconstruction.memory_needed import beside_what_is_free, reconstruct_bytes

    try:
        stack = read_stack(options)
    except MissingImages:  # say and draw what the table holds before what it lacks
        table = read_table(options)
        print("\n".join(describe(table)))
        if problem := views_problem(table):
            print(f"poses          {problem}")
        if options.out is not None:
            print(f"picture        {write_table_figure(options.out, table)}, of the table alone", flush=True)
        raise
    print("\n".join(describe(stack)), flush=True)
    for method in ("one-pass", "stochastic"):
        needed = reconstruct_bytes(stack, ReconstructionConfig(method))
        print(f"memory         reconstruct --method {method}: {beside_what_is_free(needed)}")
    found = inspect_particles(stack, say=functools.partial(print, flush=True))
    if options.out is not None:
        picture, table = write_inspection(options.out, found)
        print(f"picture        {picture}; a row for each image measured: {table}")


def _add_copy(commands: Any) -> None:
    command = commands.add_parser(
        "copy",
        help="gather particles in one stack, for example on a fast disk",
        description="Write the particles as one stack, in the order in which the table lists them, white protein, with "
        "a RELION 3.1 table beside it: particles.mrcs and particles.star.",
    )
    add_particles(command)
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    command.add_argument("--half-precision", action="store_true", help="half the size: MRC mode 12, as of RELION 4")
    command.add_argument(
        "--box-size", type=int, metavar="PX", help="the same field of view in fewer pixels, by Fourier cropping"
    )
    command.set_defaults(run=_copy)


def _copy(options: argparse.Namespace) -> None:
    from gsworkbench.io.locks import outputs
    from gsworkbench.particles.copy import IMAGES, PARTICLES, write_particles

    stack, out = read_stack(options), options.out
    for name in (IMAGES, PARTICLES):
        if (out / name).exists():
            raise InputError("a file of this name exists already", file=out / name, remedy="name another folder")
    with outputs(out):
        written = write_particles(stack, out, half_precision=options.half_precision, box_size=options.box_size)
    print_notes(stack.notes)
    size = (out / IMAGES).stat().st_size / 1e9
    print(f"{len(stack):,} particles of {written.box_size} px, {size:.3g} GB, in {out}")
