"""Options that several commands have, and how what they name is read."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def number(text: str) -> Any:
    """Read a value of --set as YAML does, but take 1e-3 for the number it looks like."""
    import yaml

    try:
        value = yaml.safe_load(text)
        return float(value) if isinstance(value, str) else value
    except (ValueError, yaml.YAMLError):
        return text


def add_particles(command: Any, *, or_sums: bool = False) -> None:
    """Add the particles to read; or_sums : or files of sums in their place."""
    help = ".star (RELION 3.0 to 5), .cs (cryoSPARC), .mrcs or .txt (cryoDRGN)"
    if or_sums:
        help += "; or the sums of half set 1 (.npz of --keep-sums or accumulate)"
    command.add_argument("particles", type=Path, help=help)
    if or_sums:
        command.add_argument("sums2", type=Path, nargs="?", metavar="SUMS", help="the sums of half set 2 (.npz)")
    group = command.add_argument_group("where images, poses and CTF are")
    add_places(group)
    group.add_argument(
        "--strict-paths", action="store_true", help="refuse images outside the folders of the metadata and --datadir"
    )
    group.add_argument("--poses", type=Path, metavar="PKL", help="cryoDRGN poses.pkl")
    group.add_argument("--ctf", type=Path, metavar="PKL", help="cryoDRGN ctf.pkl")
    group.add_argument(
        "--no-ctf", action="store_true", help="images without contrast transfer: a CTF of 1 at every frequency"
    )
    group.add_argument("--ind", type=Path, metavar="PKL", help="cryoDRGN indices of the particles to use")
    group.add_argument(
        "--class",
        dest="class_number",
        type=int,
        metavar="N",
        help="take one class alone, by the file's numbers (RELION counts from 1, cryoSPARC from 0)",
    )
    group.add_argument(
        "--sign", type=int, choices=(1, -1), help="factor that makes protein white (inspect proposes one)"
    )
    group.add_argument(
        "--pixel-size", type=float, metavar="A", help="A per pixel, in place of what files say, whatever they say"
    )
    group.add_argument(
        "--image-scale",
        choices=("downsampled", "cropped"),
        help="the images are not those the metadata were written for: downsampled (the same field of view in fewer "
        "pixels) or cropped (the same pixels, cut or padded)",
    )


def add_places(group: Any) -> None:
    group.add_argument("--stack", type=Path, metavar="FILE", help="image stack, in place of the paths in the metadata")
    group.add_argument("--datadir", type=Path, metavar="DIR", help="folder that image paths are relative to")
    group.add_argument(
        "--passthrough", type=Path, action="append", default=[], metavar="CS", help="cryoSPARC passthrough file"
    )


def add_images(command: Any) -> None:
    command.add_argument(
        "--normalise",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="subtract the background of each image, remove hot pixels, weigh each image by its noise (default: yes)",
    )
    command.add_argument(
        "--keep-outliers", action="store_true", help="keep images whose power is absurd; without it, they are left out"
    )


def add_noise(command: Any) -> None:
    command.add_argument(
        "--noise-spectrum",
        default="white",
        metavar="WHAT",
        help="white (default), measured (outside the particles), or powers per shell, 0 to Nyquist (.npy): data are "
        "weighted by its inverse",
    )
    command.add_argument(
        "--noise-substitute-beyond",
        type=float,
        metavar="A",
        help="noise substitution: take particles whose phases are random beyond this resolution (reconstruct: besides; "
        "read the half maps with 'fsc --substituted')",
    )


def add_checkpoints(command: Any) -> None:
    command.add_argument("--resume", action="store_true", help="continue an interrupted run of the same command")
    command.add_argument(
        "--checkpoint-every",
        type=float,
        default=60.0,
        metavar="S",
        help="seconds of reading particles that a crash may cost (default 60)",
    )


def read_stack(options: argparse.Namespace) -> Any:
    from gsworkbench.particles.read import read_particles

    if options.particles.suffix == ".yaml":
        from gsworkbench.particles.entry_card import read_own_card
        from gsworkbench.particles.entry_particles import read_entry

        return read_entry(read_own_card(options.particles), options.particles.parent)
    return read_particles(
        options.particles,
        stack=options.stack,
        datadir=options.datadir,
        poses=options.poses,
        ctf=options.ctf,
        indices=options.ind,
        passthrough=options.passthrough,
        data_sign=options.sign,
        pixel_size=options.pixel_size,
        image_scale=options.image_scale,
        no_ctf=options.no_ctf,
        class_number=options.class_number,
        strict_paths=options.strict_paths,
    )


def read_table(options: argparse.Namespace) -> Any:
    """What the metadata say of the particles that the options name, without their images."""
    from gsworkbench.particles.read import read_metadata

    needs_ctf = options.ctf is None and not options.no_ctf
    named = {name: getattr(options, name) for name in ("poses", "passthrough")}
    return read_metadata(options.particles, needs_ctf=needs_ctf, **named)


def print_notes(sentences: Sequence[str]) -> None:
    for sentence in sentences:
        print(f"note: {sentence}", flush=True)
