"""The arguments of the command line: every command with its options and what --help says of them. Runs nothing."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import yaml

from gsworkbench import __version__
from gsworkbench.config import PRESETS, SimulationConfig


def number(text: str) -> Any:
    """Read a value of --set as YAML does, but take 1e-3 for the number it looks like."""
    try:
        value = yaml.safe_load(text)
        return float(value) if isinstance(value, str) else value
    except (ValueError, yaml.YAMLError):
        return text


def parser() -> argparse.ArgumentParser:
    """Every command with its options; what is parsed names the command as `command`."""
    result = argparse.ArgumentParser(
        prog="gsworkbench",
        description="Cryo-EM maps as mixtures of 3D Gaussians, from particles with known poses and CTF.",
        epilog="Start with: gsworkbench inspect particles.star",
    )
    result.add_argument("--version", action="version", version=f"gsworkbench {__version__}")
    commands = result.add_subparsers(title="commands", dest="command", required=True, metavar="COMMAND")
    _add_simulate(commands)
    _add_fetch(commands)
    _add_inspect(commands)
    _add_copy(commands)
    _add_reconstruct(commands)
    _add_backproject(commands)
    _add_accumulate(commands)
    _add_combine(commands)
    _add_fsc(commands)
    _add_localres(commands)
    _add_directional(commands)
    _add_lab(commands)
    _add_explore(commands)
    commands.add_parser("doctor", help="say which backends and devices work here, and why others do not")
    return result


def _add_simulate(commands: Any) -> None:
    default = SimulationConfig()
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


def _add_fetch(commands: Any) -> None:
    from gsworkbench.particles.empiar import ARCHIVE

    command = commands.add_parser(
        "fetch",
        help="download an EMPIAR entry that the papers used",
        description="Download the particles of an EMPIAR entry, with the poses that were refined for them. A transfer "
        "that broke goes on when the command is repeated; sums are checked, and those that nobody states are noted in "
        "checksums.json.",
    )
    command.add_argument("entry", help="10028, 10049, 10076 or 10180")
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    command.add_argument("--archive", default=ARCHIVE, metavar="URL", help=f"a mirror in place of {ARCHIVE}")


def _add_inspect(commands: Any) -> None:
    command = commands.add_parser(
        "inspect",
        help="say what particles are, and whether their poses and contrast make sense",
        description="Read particle metadata, measure the images (background, noise, hot pixels, outliers), and make "
        "quick maps, by which poses, shifts, contrast and the strength of each particle's signal are judged. What "
        "reconstruct does about each finding is said beside it. Nothing is written unless --out is given.",
    )
    _add_particles(command)
    command.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder for a picture (inspect.png, inspect.svg: histograms, the mean power spectrum with the rings of "
        "the CTF, random and worst images) and a table with a row for each image that was measured (inspect.csv)",
    )


def _add_copy(commands: Any) -> None:
    command = commands.add_parser(
        "copy",
        help="gather particles in one stack, for example on a fast disk",
        description="Write the particles as one stack, in the order in which the table lists them, white protein, with "
        "a RELION 3.1 table beside it: particles.mrcs and particles.star.",
    )
    _add_particles(command)
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    command.add_argument("--half-precision", action="store_true", help="half the size: MRC mode 12, as of RELION 4")


def _add_reconstruct(commands: Any) -> None:
    from gsworkbench.methods.task import METHODS

    command = commands.add_parser(
        "reconstruct",
        help="fit a mixture of Gaussians to particles",
        description="Fit 3D Gaussians to particles with known poses and CTF: maps, half maps, mask, FSC and a record, "
        "named as RELION names them.",
    )
    _add_particles(command)
    _add_outputs(command)
    command.add_argument(
        "--n-gaussians",
        type=number,
        metavar="N",
        help="number of Gaussians, or auto: as many as held-out particles ask for (default: 3,000 for a box of 64 px, "
        "more for larger ones; stochastic: 30,000)",
    )
    command.add_argument(
        "--method",
        choices=[m for m in METHODS if m != "backprojection"],
        default="normal-equations",
        help="normal-equations: read the particles once, then fit in seconds (default); "
        "stochastic: Adam on mini-batches of images, as the papers do; "
        "voxels: a map without Gaussians, from the same sums; neural-field, 3dgs: other models, for comparison; "
        "relion, cryodrgn: these programs, where they are installed, on the same particles and half sets",
    )
    command.add_argument(
        "--preset",
        choices=list(PRESETS),
        default="tuned",
        help="recipe of --method stochastic; tuned: better and faster than any published (default); "
        "the others are in docs/explain/methods.md",
    )
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="change one setting of the method, as in boost=1",
    )
    command.add_argument(
        "--weights",
        choices=("non-negative", "signed"),
        help="of normal-equations: whether Gaussians may take density away (default: non-negative)",
    )
    command.add_argument("--backend", help="renderer to use (default: the fastest that works; see doctor)")
    command.add_argument(
        "--device",
        default="auto",
        choices=("auto", "cpu", "cuda"),
        help="where to fit (default auto: a GPU that works)",
    )


def _add_backproject(commands: Any) -> None:
    command = commands.add_parser(
        "backproject",
        help="the classical map of the same particles: CTF-weighted backprojection",
        description="CTF-weighted backprojection; the same outputs as reconstruct.",
    )
    command.add_argument(
        "--filter",
        choices=["wiener", "none", "fsc", "local"],
        default="wiener",
        help="wiener: signal over signal and noise (default); none; fsc: figure of merit of each shell; local: "
        "low-pass at the local resolution; the last two from halves of the same particles",
    )
    _add_particles(command)
    _add_outputs(command)


def _add_accumulate(commands: Any) -> None:
    command = commands.add_parser(
        "accumulate",
        help="read the particles once, into a file that maps can be made from again and again",
        description="Read every particle once and add up all that a map of fixed poses and CTF depends on: the images "
        "backprojected with their CTF, and the point spread of views and CTF. The file that results has a fixed size, "
        "however many particles went in. Large sets can be shared out over jobs by --part, and their files joined by "
        "'combine'; the result is the same to the last bit.",
    )
    _add_particles(command)
    command.add_argument("--out", type=Path, required=True, metavar="FILE", help="file to write, as half1.npz")
    command.add_argument(
        "--half-set", type=int, choices=(1, 2), help="take the particles of one half set only (default: all)"
    )
    command.add_argument(
        "--part", default="1/1", metavar="I/N", help="take the I-th of N equal parts of these particles, as in 2/5"
    )
    _add_images(command)
    _add_noise(command)
    command.add_argument(
        "--engine", default="gridding", choices=("gridding", "finufft"), help="finufft is exact and slow, for checks"
    )
    command.add_argument(
        "--seed", type=int, default=0, help="random numbers: half sets where the file has none, substituted phases"
    )
    command.add_argument("--threads", type=int, metavar="N", help="processor threads to use")
    _add_checkpoints(command)


def _add_noise(command: Any) -> None:
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


def _add_images(command: Any) -> None:
    command.add_argument(
        "--normalise",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="subtract the background of each image, remove hot pixels, weigh each image by its noise (default: yes)",
    )
    command.add_argument(
        "--keep-outliers", action="store_true", help="keep images whose power is absurd; without it, they are left out"
    )


def _add_checkpoints(command: Any) -> None:
    command.add_argument("--resume", action="store_true", help="continue an interrupted run of the same command")
    command.add_argument(
        "--checkpoint-every",
        type=float,
        default=60.0,
        metavar="S",
        help="seconds of reading particles that a crash may cost (default 60)",
    )


def _add_combine(commands: Any) -> None:
    command = commands.add_parser(
        "combine",
        help="join files of 'accumulate': half sets to the full set, parts to the whole",
        description="Add files of 'accumulate'. They must agree in box, pixel size and sign, and share no particle. "
        "Where half sets 1 and 2 share images, that is said.",
    )
    command.add_argument("sums", type=Path, nargs="+", metavar="FILE", help="files of 'accumulate' (.npz)")
    command.add_argument("--out", type=Path, required=True, metavar="FILE", help="file to write")


def _add_fsc(commands: Any) -> None:
    command = commands.add_parser(
        "fsc",
        help="Fourier shell correlation of two half maps",
        description="FSC between half maps, and of their mean to a truth or an atomic model; resolution with its "
        "definition, half-bit, errors, alarms. Of a folder that reconstruct made, its half maps, held-out errors and "
        "half maps of random phases are found by name.",
    )
    _add_judged(command, mask="none")
    command.add_argument("--out", type=Path, metavar="DIR", help="write fsc.csv, .xml, .png and .svg there")
    command = commands.add_parser(
        "postprocess",
        help="masked and corrected FSC of two half maps, with files for RELION and EMDB",
        description="FSC between half maps without a mask, inside it, with random phases, and corrected; their mean, "
        "weighted by it and sharpened as RELION does. Writes postprocess.mrc, postprocess_masked.mrc, fsc.csv, fsc.xml "
        "(EMDB), fsc.png, fsc.svg, postprocess.star (RELION) and mask.mrc.",
    )
    _add_judged(command, mask="own")
    command.add_argument(
        "--sharpen",
        default="auto",
        metavar="B",
        help="B factor in A^2, as --sharpen=-120, 0 for none; auto (default) fits it from 10 A to the resolution",
    )
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")


def _add_localres(commands: Any) -> None:
    command = commands.add_parser(
        "localres",
        help="local resolution of two half maps",
        description="FSC of two half maps in a moving window. Writes locres.mrc (A, 0 outside the mask), locres.png.",
    )
    _add_half_maps(command)
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    command.add_argument(
        "--mask", default="auto", help="where to look: auto (default), sphere, loose, tight or a mask (.mrc)"
    )
    command.add_argument("--truth", type=Path, metavar="MAP", help="a map to compare their mean with, likewise")
    command.add_argument("--window", type=float, metavar="A", help="diameter (default 40 A, at least 16 voxels)")
    command.add_argument("--step", type=float, metavar="A", help="between points (default an eighth of the window)")
    command.add_argument("--threshold", type=float, default=0.5, help="of the FSC (default 0.5)")


def _add_directional(commands: Any) -> None:
    command = commands.add_parser(
        "directional",
        help="FSC of two half maps by direction, and how evenly views sample",
        description="FSC inside cones, and the sphericity of what it resolves. Writes directional.csv and .png.",
    )
    _add_half_maps(command)
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    command.add_argument("--mask", default="auto", help="auto (default), sphere, loose, tight, none or a mask (.mrc)")
    command.add_argument("--half-angle", type=float, default=20.0, metavar="DEG", help="of the cones (default 20)")
    command.add_argument("--threshold", type=float, default=0.143, help="of the FSC (default 0.143)")
    command.add_argument(
        "--particles", type=Path, help="their metadata: views and how evenly they sample (images need not be there)"
    )
    _add_places(command.add_argument_group("of --particles, as for fsc: views need none but --passthrough"))


def _add_lab(commands: Any) -> None:
    command = commands.add_parser(
        "lab",
        help="open the notebooks in JupyterLab",
        description="Start JupyterLab on this machine alone (127.0.0.1, behind a token) and open it in the browser.",
    )
    command.add_argument(
        "path", type=Path, nargs="?", help="notebook or folder (default: the notebooks of the checkout)"
    )
    _add_server(command)


def _add_explore(commands: Any) -> None:
    command = commands.add_parser(
        "explore",
        help="look at a finished run, and fit its particles anew by moving sliders",
        description="Open the page of a run in JupyterLab: maps, Gaussians, sections, particles, FSC curves, and live "
        "fits with other settings, each with the command that reproduces it.",
    )
    command.add_argument("folder", type=Path, metavar="DIR", help="the --out folder of a reconstruct, or one above it")
    command.add_argument("--model", type=Path, metavar="FILE", help="atoms (.cif, .pdb) to lay over the map")
    command.add_argument(
        "--page", action="store_true", help="serve the page alone, by voila, without notebook and code"
    )
    _add_server(command)


def _add_server(command: Any) -> None:
    command.add_argument("--port", type=int, default=8888, metavar="N", help="or another one if it is taken (8888)")
    command.add_argument(
        "--browser", action=argparse.BooleanOptionalAction, default=True, help="open a browser (default: yes)"
    )


def _add_half_maps(command: Any) -> None:
    command.add_argument("half1", type=Path, help="half map 1 (.mrc), or the folder of a reconstruction")
    command.add_argument("half2", type=Path, nargs="?", help="half map 2 (.mrc)")
    command.add_argument(
        "--voxel-size", type=float, metavar="A", help="A per voxel of all maps, in place of what their headers say"
    )
    command.set_defaults(held_out=None, beyond=None, substituted=None)


def _add_judged(command: Any, mask: str) -> None:
    from gsworkbench.assessment.assess import MODEL_B_FACTOR
    from gsworkbench.assessment.definitions import DEFINITIONS

    command.set_defaults(default_mask=mask)
    _add_half_maps(command)
    command.add_argument(
        "--mask",
        action="append",
        help="own (the definition's), auto, sphere, loose, tight, none or a mask (.mrc); again for a further curve: "
        f"the first is the one corrected; default {mask}",
    )
    command.add_argument("--definition", default="RELION", help=f"whose FSC: {', '.join(DEFINITIONS)}; default RELION")
    command.add_argument("--truth", type=Path, metavar="MAP", help="a map to compare the mean of the halves with")
    command.add_argument(
        "--model", type=Path, metavar="FILE", help="atoms (.cif, .pdb) in the frame of half map 1, to compare likewise"
    )
    command.add_argument(
        "--b-factor", type=float, default=MODEL_B_FACTOR, metavar="A2", help="of the model's atoms (default 60)"
    )
    command.add_argument(
        "--initial", type=Path, metavar="MAP", help="the map both fits started from: how much of the FSC is its doing?"
    )
    command.add_argument(
        "--substituted",
        type=Path,
        nargs=2,
        metavar=("MAP", "MAP"),
        help="half maps of the same method from particles of random phases: noise substitution (Chen et al. 2013)",
    )
    command.add_argument("--beyond", type=float, metavar="A", help="where the phases of these particles become random")
    command.add_argument(
        "--held-out", type=Path, metavar="CSV", help="held_out.csv of the fit: does it bear out the FSC?"
    )
    command.add_argument(
        "--particles", type=Path, metavar="FILE", help="particles of both halves: do they share any? (reads all images)"
    )
    _add_places(command.add_argument_group("where the images of --particles are"))


def _add_places(group: Any) -> None:
    group.add_argument("--stack", type=Path, metavar="FILE", help="image stack, in place of the paths in the metadata")
    group.add_argument("--datadir", type=Path, metavar="DIR", help="folder that image paths are relative to")
    group.add_argument(
        "--passthrough", type=Path, action="append", default=[], metavar="CS", help="cryoSPARC passthrough file"
    )


def _add_particles(command: Any) -> None:
    command.add_argument(
        "particles", type=Path, help=".star (RELION 3.0 to 5), .cs (cryoSPARC), .mrcs or .txt (cryoDRGN)"
    )
    group = command.add_argument_group("where images, poses and CTF are")
    _add_places(group)
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


def _add_outputs(command: Any) -> None:
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    command.add_argument(
        "--half-maps",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="fit each half set too, and compare them (default: yes)",
    )
    command.add_argument(
        "--mask", default="auto", help="auto (default), sphere, none or a mask (.mrc), for the masked FSC"
    )
    command.add_argument("--truth", type=Path, metavar="MAP", help="a known truth to compare the map with")
    _add_images(command)
    command.add_argument(
        "--particle-scales",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="give each particle its own scale where the strength of their signal differs (default: yes)",
    )
    _add_noise(command)
    command.add_argument("--seed", type=int, default=0, help="random numbers: start, order of particles, half sets")
    command.add_argument("--threads", type=int, metavar="N", help="processor threads to use")
    _add_checkpoints(command)
