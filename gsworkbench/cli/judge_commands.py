"""The commands that judge half maps."""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from gsworkbench.assessment.judge_defaults import MODEL_B_FACTOR, PROGRAMS
from gsworkbench.assessment.mask_names import mask_choices
from gsworkbench.cli.shared_options import add_places, number, print_notes
from gsworkbench.errors import InputError


def add(commands: Any) -> None:
    """Add fsc, postprocess, localres, directional and region."""
    _add_fsc(commands)
    _add_localres(commands)
    _add_directional(commands)
    _add_region(commands)


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
    command.set_defaults(run=_fsc)
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
    command.set_defaults(run=_fsc)


def _add_localres(commands: Any) -> None:
    command = commands.add_parser(
        "localres",
        help="local resolution of two half maps",
        description="FSC of two half maps in a moving window. Writes locres.mrc (A, 0 outside the mask), locres.png; "
        "with linear maps also locres_estimate.mrc, by the estimated FSC to the unknown truth.",
    )
    _add_half_maps(command)
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    command.add_argument("--mask", default="auto", help=f"where to look: {mask_choices('own', 'none')}; default auto")
    command.add_argument("--truth", type=Path, metavar="MAP", help="a map to compare their mean with, likewise")
    command.add_argument("--window", type=float, metavar="A", help="diameter (default 40 A, at least 16 voxels)")
    command.add_argument("--step", type=float, metavar="A", help="between points (default an eighth of the window)")
    command.add_argument("--threshold", type=float, default=0.5, help="of the FSC (default 0.5)")
    command.set_defaults(run=_localres)


def _add_directional(commands: Any) -> None:
    command = commands.add_parser(
        "directional",
        help="FSC of two half maps by direction, and how evenly views sample",
        description="FSC inside cones, and the sphericity of what it resolves. Writes directional.csv and .png.",
    )
    _add_half_maps(command)
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    command.add_argument("--mask", default="auto", help=f"{mask_choices('own')}; default auto")
    command.add_argument("--half-angle", type=float, default=20.0, metavar="DEG", help="of the cones (default 20)")
    command.add_argument("--threshold", type=float, default=0.143, help="of the FSC (default 0.143)")
    command.add_argument(
        "--particles", type=Path, help="their metadata: views and how evenly they sample (images need not be there)"
    )
    add_places(command.add_argument_group("of --particles, as for fsc: views need none but --passthrough"))
    command.set_defaults(run=_directional)


def _add_region(commands: Any) -> None:
    command = commands.add_parser(
        "region",
        help="the mean density of a region, with an interval for its noise",
        description="Mean density inside masks, above the mean of the box, of a run that was made with --error-map: of "
        "its linear map with a standard error and an interval, and of its map.",
    )
    command.add_argument("folder", type=Path, help="folder of reconstruct or backproject with --error-map")
    command.add_argument(
        "--mask", action="append", required=True, help=f"{mask_choices('own', 'none')}; can be given again"
    )
    command.add_argument("--level", type=float, default=0.95, help="of the interval (default 0.95)")
    command.set_defaults(run=_region)


def _add_half_maps(command: Any) -> None:
    command.add_argument("half1", type=Path, help="half map 1 (.mrc), or the folder of a reconstruction")
    command.add_argument("half2", type=Path, nargs="?", help="half map 2 (.mrc)")
    command.add_argument(
        "--voxel-size", type=float, metavar="A", help="A per voxel of all maps, in place of what their headers say"
    )
    command.add_argument(
        "--linear",
        type=Path,
        nargs=2,
        metavar=("MAP", "MAP"),
        help="unfiltered backprojections of half sets 1 and 2, or files of sums (.npz) to make these from: the FSC "
        "to the unknown truth is estimated with them",
    )
    command.set_defaults(held_out=None, beyond=None, substituted=None)


def _add_judged(command: Any, mask: str) -> None:
    command.set_defaults(default_mask=mask)
    _add_half_maps(command)
    command.add_argument(
        "--mask",
        action="append",
        help=f"{mask_choices()}; own is that of the definition; give --mask again for a further curve: "
        f"the first is the one corrected; default {mask}",
    )
    command.add_argument("--definition", default="RELION", help=f"whose FSC: {', '.join(PROGRAMS)}; default RELION")
    command.add_argument("--truth", type=Path, metavar="MAP", help="a map to compare the mean of the halves with")
    command.add_argument(
        "--model", type=Path, metavar="FILE", help="atoms (.cif, .pdb) in the frame of half map 1, to compare likewise"
    )
    command.add_argument(
        "--b-factor", type=float, default=MODEL_B_FACTOR, metavar="A2", help="of the model's atoms (default 60)"
    )
    command.add_argument(
        "--initial",
        type=Path,
        metavar="MAP",
        help="starting map of both fits; raises an alarm if the half maps agree only where they agree with it",
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
        "--held-out",
        type=Path,
        metavar="CSV",
        help="held_out.csv written by reconstruct; raises an alarm if the fit does not predict held-out particles",
    )
    command.add_argument(
        "--particles",
        type=Path,
        metavar="FILE",
        help="particles of both half sets; raises an alarm if these share any, and makes --linear (reads all images)",
    )
    add_places(command.add_argument_group("where the images of --particles are"))


def _fsc(options: argparse.Namespace) -> None:
    from gsworkbench.assessment.assess import write_assessment
    from gsworkbench.io.locks import outputs

    halves = _found(options)
    with _linear_of_sums(options, halves[0]) as notes:
        assessment = _assessment(options, halves)
    assessment = replace(assessment, notes=(*assessment.notes, *notes))
    if options.particles is not None:
        assessment = assessment.with_alarms(*_particle_alarms(options))
    sharpened = _sharpened(options, halves, assessment) if hasattr(options, "sharpen") else None
    if options.out is not None:
        names = (halves[0].name, halves[1].name)
        with outputs(options.out):
            write_assessment(options.out, assessment, " and ".join(names), names, sharpened)
    print("\n".join(assessment.report()))
    if sharpened is not None:
        print(f"sharpened by a B factor of {sharpened.b_factor:.1f} A^2{'; ' * bool(sharpened.note)}{sharpened.note}")


@contextlib.contextmanager
def _linear_of_sums(options: argparse.Namespace, half: Path) -> Iterator[tuple[str, ...]]:
    """Where --linear names files of sums, make their maps, which it names meanwhile; yield what is to be said."""
    if not any(path.suffix == ".npz" for path in options.linear or ()):
        yield ()
        return
    from gsworkbench.assessment.map_names import LINEAR
    from gsworkbench.io.mrc import map_voxel_size, stack_shape, write_map
    from gsworkbench.methods.deposited_sums import linear_maps_of_sums

    deposit, maps = linear_maps_of_sums(*options.linear)
    stack = deposit.stack
    box, size = stack_shape(half)[1], options.voxel_size or map_voxel_size(half) or stack.pixel_size
    if stack.box_size != box or abs(size / stack.pixel_size - 1) > 1e-2:
        sums = f"{stack.box_size} px of {stack.pixel_size:.4g} A"
        raise InputError(f"the sums have {sums}, the half maps {box} voxels of {size:.4g} A", file=options.linear[0])
    with tempfile.TemporaryDirectory() as folder:
        options.linear = Path(folder) / LINEAR[0], Path(folder) / LINEAR[1]
        for file, volume in zip(options.linear, maps, strict=True):
            write_map(file, volume, stack.pixel_size, "least-squares backprojection, no filter")
        yield deposit.notes


def _found(options: argparse.Namespace) -> tuple[Path, Path]:
    """The two half maps; of the folder of a reconstruction, its substituted maps and held-out errors too."""
    from gsworkbench.assessment.assess import run_folder

    if options.half1.is_dir() and options.half2 is None:
        folder = run_folder(options.half1)
        options.held_out = options.held_out or folder.held_out
        options.linear = options.linear or folder.linear
        options.beyond = options.beyond or folder.beyond
        if options.beyond is not None:
            options.substituted = options.substituted or folder.substituted
        return folder.halves
    if options.half2 is None and not options.half1.exists():
        raise InputError("there is no such file or folder", file=options.half1)
    if options.half2 is None:
        raise InputError("there is one half map", file=options.half1, remedy="give two, or a reconstruction's folder")
    if options.half1.exists() and options.half2.exists() and options.half1.samefile(options.half2):
        raise InputError("both half maps are this file", file=options.half1, remedy="give two half maps")
    return options.half1, options.half2


def _assessment(options: argparse.Namespace, halves: tuple[Path, Path]) -> Any:
    from gsworkbench.assessment.assess import judge_maps, judge_substituted, with_substitution

    if (options.substituted is None) != (options.beyond is None):
        raise InputError("--substituted and --beyond go together")
    masks = options.mask or [options.default_mask]
    names = ("definition", "truth", "model", "b_factor", "linear", "initial", "held_out", "voxel_size")
    named = {k: getattr(options, k) for k in names}
    with tempfile.TemporaryDirectory() as folder:
        notes: list[str] = []
        if options.particles is not None and options.linear is None:
            named["linear"], notes = _linear_maps(options, halves[0], Path(folder))
        found = judge_maps(*halves, masks=masks, **named)
    found = replace(found, notes=(*found.notes, *notes))
    if options.substituted is None:
        return found
    mask = "auto" if masks[0] == "own" else masks[0]
    named = {"beyond": options.beyond, "mask": mask, "voxel_size": options.voxel_size}
    return with_substitution(found, judge_substituted(halves, options.substituted, **named))


def _linear_maps(options: argparse.Namespace, half: Path, folder: Path) -> tuple[tuple[Path, Path] | None, list[str]]:
    """Backproject both half sets of --particles; without poses, CTF or half sets, or where the particles
    are of another box or pixel size than the half maps, there is a note instead.
    """
    from gsworkbench.assessment.map_names import LINEAR
    from gsworkbench.io.mrc import map_voxel_size, stack_shape, write_map
    from gsworkbench.methods.linear_half_maps import linear_maps_of
    from gsworkbench.particles.read import read_particles

    places = {name: getattr(options, name) for name in ("stack", "datadir", "passthrough")}
    try:
        stack = read_particles(options.particles, **places)
        box, size = stack_shape(half)[1], options.voxel_size or map_voxel_size(half) or stack.pixel_size
        if stack.box_size != box or abs(size / stack.pixel_size - 1) > 1e-3:
            images = f"{stack.box_size} px of {stack.pixel_size:.4g} A"
            raise InputError(f"the images have {images}, the half maps {box} voxels of {size:.4g} A")
        maps = linear_maps_of(stack, folder)
    except InputError as error:
        return None, [f"no estimate of the FSC to the truth: {error}"]
    files = folder / LINEAR[0], folder / LINEAR[1]
    for file, volume in zip(files, maps, strict=True):
        write_map(file, volume, stack.pixel_size, "least-squares backprojection, no filter")
    return files, []


def _sharpened(options: argparse.Namespace, halves: tuple[Path, Path], assessment: Any) -> Any:
    from gsworkbench.assessment.assess import postprocess

    b_factor = None if options.sharpen == "auto" else number(options.sharpen)
    if b_factor is not None and not (isinstance(b_factor, int | float) and abs(b_factor) < 1e4):
        raise InputError(f"--sharpen needs auto or a B factor in A^2, not {options.sharpen!r}")
    return postprocess(*halves, assessment.judgement, b_factor)


def _particle_alarms(options: argparse.Namespace) -> list[str]:
    from gsworkbench.inspection.findings import particle_alarms
    from gsworkbench.particles.read import read_identities

    named = {name: getattr(options, name) for name in ("stack", "datadir", "passthrough")}
    return particle_alarms(read_identities(options.particles, **named))


def _localres(options: argparse.Namespace) -> None:
    from gsworkbench.assessment.local_judging import localise

    named = {k: getattr(options, k) for k in ("out", "mask", "window", "step", "threshold", "truth", "voxel_size")}
    halves = _found(options)  # in a folder it finds the linear maps too
    with _linear_of_sums(options, halves[0]) as notes:
        print("\n".join(localise(*halves, **named, linear=options.linear).report()))
    print_notes(notes)


def _directional(options: argparse.Namespace) -> None:
    from gsworkbench.assessment.local_judging import direct
    from gsworkbench.particles.read import read_metadata

    # Views need no images, which may lie on another machine.
    table = None if options.particles is None else read_metadata(options.particles, passthrough=options.passthrough)
    rotations = None if table is None else table.require_poses()
    named = {k: getattr(options, k) for k in ("out", "mask", "half_angle", "threshold", "voxel_size")}
    halves = _found(options)
    with _linear_of_sums(options, halves[0]) as notes:
        print("\n".join(direct(*halves, **named, linear=options.linear, rotations=rotations).report()))
    print_notes(notes)


def _region(options: argparse.Namespace) -> None:
    from gsworkbench.assessment.region_means import regions_of_run

    for found in regions_of_run(options.folder, options.mask, level=options.level):
        print(found)
