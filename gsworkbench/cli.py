"""The command line, `gsworkbench COMMAND`: reads arguments, calls the core, prints what came out.

Exit codes: 0 done, 2 input that cannot be used (one sentence says why, nothing was written), 130 interrupted.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from gsworkbench import __version__, distributed
from gsworkbench.config import (
    PRESETS,
    SETTINGS,
    ReconstructionConfig,
    SimulationConfig,
    from_mapping,
    to_mapping,
)
from gsworkbench.errors import InputError
from gsworkbench.memory import keep_freed_memory


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    keep_freed_memory()
    options = _parser().parse_args(arguments)
    try:
        if getattr(options, "threads", None):
            import torch

            torch.set_num_threads(options.threads)
        with distributed.processes():
            options.run(options)
    except InputError as error:
        print(f"gsworkbench: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"gsworkbench: {error.filename or 'a file'}: {error.strerror or error}.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("gsworkbench: interrupted; the same command with --resume goes on where it can.", file=sys.stderr)
        return 130
    return 0


def _simulate(options: argparse.Namespace) -> None:
    from gsworkbench.simulate import simulate

    names = {f.name for f in dataclasses.fields(SimulationConfig)}
    config = from_mapping(SimulationConfig, {k: v for k, v in vars(options).items() if k in names})
    stack = simulate(config, options.out)
    out = options.out
    print(f"{len(stack):,} particles of {stack.box_size} px at {stack.pixel_size:g} A/px, and their truth, in {out}")
    print(f"next: gsworkbench reconstruct {out}/particles.star --out {out}/fit --truth {out}/truth.mrc")


def _inspect(options: argparse.Namespace) -> None:
    from gsworkbench.inspection import COMPARED, check_poses, contrast, memory_estimate, particle_alarms

    stack = _stack(options)
    for line in _description(stack):
        print(line)
    guess = contrast(stack)
    difference = f"{guess.centre_minus_border:+.4g} +- {guess.standard_error:.2g}"
    print(f"contrast       centre minus border {difference} (image units)")
    if guess.suggested_sign is None:
        print("               too weak to tell whether protein is white or dark")
    elif guess.suggested_sign == 1:
        print("               protein is white, as it should be")
    else:
        print(f"               protein is dark: use --sign {-int(stack.data_sign[0])}")
    sizes = ", ".join(f"{name} {size / 2**20:,.0f} MB" for name, size in memory_estimate(stack).items())
    print(f"memory         {sizes}")
    shared = particle_alarms(stack, most_images=COMPARED)
    where = "entries, places on micrographs" if stack.picks is not None else "entries (the file has no coordinates)"
    compared = f"copies among {min(len(stack), COMPARED):,} images" if len(stack) > 1 else "no copies"
    print(f"duplicates     {where}, {compared}: {'none in both half sets' if not shared else ''}".rstrip())
    for sentence in shared:
        print(f"               alarm: {sentence}")
    if stack.rotations is None:
        print("poses          none in this file: reconstruction needs poses from a refinement")
        return
    check = check_poses(stack)
    print(f"poses          mean half-map FSC to half Nyquist of a quick map of {check.n_particles:,} particles:")
    for name, value in {"as given": check.as_given, **check.alternatives, "chance": check.chance}.items():
        print(f"               {value:6.3f}  {name}")
    print(f"               {check.verdict()}")


def _reconstruct(options: argparse.Namespace) -> None:
    field = SETTINGS.get(options.method)
    defaults = to_mapping(ReconstructionConfig(stochastic=PRESETS[options.preset]))
    settings = {} if field is None else defaults[field]
    own = {name: getattr(options, name) for name in ("n_gaussians", "weights")}
    changed = {name: value for name, value in own.items() if value is not None}
    changed |= dict(_assignment(text) for text in options.set)
    if unknown := sorted(set(changed) - set(settings)):
        has = f"it has {', '.join(settings)}" if settings else "it has none"
        raise InputError(f"--method {options.method} has no setting {unknown[0]!r}", remedy=has)
    chosen = {} if field is None else {field: settings | changed}
    _run_reconstruction(options, {name: getattr(options, name) for name in ("method", "backend", "device")} | chosen)


def _assignment(text: str) -> tuple[str, Any]:
    name, separator, value = text.partition("=")
    if not separator:
        raise InputError(f"--set needs NAME=VALUE, not {text!r}")
    return name, _number(value)


def _backproject(options: argparse.Namespace) -> None:
    _run_reconstruction(options, {"method": "backprojection", "backprojection": {"filter": options.filter}})


def _accumulate(options: argparse.Namespace) -> None:
    import time

    from gsworkbench.files import remove
    from gsworkbench.noise import chosen_noise
    from gsworkbench.normal_equations import accumulate

    stack = _share(_stack(options), options)
    if options.noise_substitute_beyond is not None:
        stack = stack.with_random_phases(options.noise_substitute_beyond, options.seed)
    checkpoint = options.out.with_name(f".{options.out.name}.unfinished")
    wall, cpu = time.perf_counter(), time.process_time()
    sums = accumulate(
        stack,
        engine=options.engine,
        noise_spectrum=chosen_noise(options.noise_spectrum, stack),
        threads=options.threads,
        checkpoint=checkpoint,
        checkpoint_seconds=options.checkpoint_every,
        resume=options.resume,
    )
    if not distributed.is_first():
        return
    sums.save(options.out)
    remove(checkpoint)
    print(f"{_sums(sums)} in {options.out}")
    print(f"  {time.perf_counter() - wall:.1f} s, {time.process_time() - cpu:.1f} CPU s")


def _combine(options: argparse.Namespace) -> None:
    from gsworkbench.normal_equations import NormalEquations

    total = NormalEquations.load(options.sums[0])
    for path in options.sums[1:]:
        try:
            total = total + NormalEquations.load(path)
        except InputError as error:
            raise error if error.file else InputError(error.problem, file=path, remedy=error.remedy) from error
    total.save(options.out)
    print(f"{_sums(total)} in {options.out}")


def _sums(sums: Any) -> str:
    half = f" of half set {sums.half_set}" if sums.half_set else ""
    return f"sums of {sums.n_particles:,} particles{half}, {sums.box_size} px of {sums.pixel_size:.4g} A,"


def _share(stack: Any, options: argparse.Namespace) -> Any:
    """The particles of the half set and the part that are asked for."""
    import numpy as np

    if options.half_set:
        stack = stack.with_half_sets(options.seed)
        stack = stack[stack.half_set == options.half_set]
    part, _, parts = options.part.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts) <= len(stack)):
        raise InputError(
            f"--part {options.part} is not a part of {len(stack):,} particles",
            remedy="give --part 2/5 for the second of 5",
        )
    order = np.lexsort((stack.image_index, stack.file_index))  # so that each part reads few files
    return stack[np.array_split(order, int(parts))[int(part) - 1]]


def _run_reconstruction(options: argparse.Namespace, settings: dict[str, Any]) -> None:
    from gsworkbench.reconstruct import assist, reconstruct

    names = ("half_maps", "mask", "seed", "noise_spectrum", "noise_substitute_beyond")
    config = from_mapping(ReconstructionConfig, settings | {name: getattr(options, name) for name in names})
    if not distributed.is_first():
        return assist(_stack(options), options.out, config, resume=options.resume)
    result = reconstruct(
        _stack(options),
        options.out,
        config,
        truth=options.truth,
        resume=options.resume,
        checkpoint_seconds=options.checkpoint_every,
    )
    print(f"{len(result.volume)}^3 map of {result.record.n_particles['all']:,} particles in {result.output_dir}")
    for r in result.resolutions:
        print(f"  {r}")
    for name, seconds in result.record.seconds.items():
        print(f"  {name}: {seconds:.1f} s, {result.record.cpu_seconds[name]:.1f} CPU s")
    substituted = result.record.results.get("noise_substitution")
    if substituted is not None:
        mean = substituted["mean_fsc_of_random_phases"]
        print(f"  random phases beyond {substituted['beyond_angstrom']:g} A: half maps agree there by {mean:.3f}")
    for warning in result.record.warnings:
        print(f"  note: {warning}")


def _fsc(options: argparse.Namespace) -> None:
    from gsworkbench.judging import write_assessment

    halves = _found(options)
    assessment = _assessment(options, halves)
    if options.particles is not None:
        assessment = assessment.raising(*_particle_alarms(options.particles))
    sharpened = _sharpened(options, halves, assessment) if hasattr(options, "sharpen") else None
    if options.out is not None:
        names = (halves[0].name, halves[1].name)
        write_assessment(options.out, assessment, " and ".join(names), names, sharpened)
    print("\n".join(assessment.lines()))
    if sharpened is not None:
        print(f"sharpened by a B factor of {sharpened.b_factor:.1f} A^2{'; ' * bool(sharpened.note)}{sharpened.note}")


def _found(options: argparse.Namespace) -> tuple[Path, Path]:
    """The two half maps; of the folder of a reconstruction, its substituted maps and held-out errors too."""
    from gsworkbench.judging import run_folder

    if options.half1.is_dir() and options.half2 is None:
        folder = run_folder(options.half1)
        options.held_out = options.held_out or folder.held_out
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
    from gsworkbench.judging import judge_maps, judge_substituted, with_substitution

    if (options.substituted is None) != (options.beyond is None):
        raise InputError("--substituted and --beyond go together")
    masks = options.mask or [options.default_mask]
    named = {k: getattr(options, k) for k in ("definition", "truth", "model", "b_factor", "initial", "held_out")}
    found = judge_maps(*halves, masks=masks, **named)
    if options.substituted is None:
        return found
    mask = "auto" if masks[0] == "own" else masks[0]
    return with_substitution(found, judge_substituted(halves, options.substituted, beyond=options.beyond, mask=mask))


def _sharpened(options: argparse.Namespace, halves: tuple[Path, Path], assessment: Any) -> Any:
    from gsworkbench.judging import postprocess

    b_factor = None if options.sharpen == "auto" else _number(options.sharpen)
    if b_factor is not None and not (isinstance(b_factor, int | float) and abs(b_factor) < 1e4):
        raise InputError(f"--sharpen needs auto or a B factor in A^2, not {options.sharpen!r}")
    return postprocess(*halves, assessment.judgement, b_factor)


def _particle_alarms(path: Path) -> list[str]:
    from gsworkbench.inspection import particle_alarms
    from gsworkbench.readers import read_particles

    return particle_alarms(read_particles(path))


def _localres(options: argparse.Namespace) -> None:
    from gsworkbench.judging import localise

    named = {k: getattr(options, k) for k in ("out", "mask", "window", "step", "threshold", "truth")}
    labels = ("half maps", "their mean and the truth")
    for label, found in zip(labels, localise(*_found(options), **named), strict=False):
        print(f"{label}: {found}")


def _directional(options: argparse.Namespace) -> None:
    from gsworkbench.judging import direct, views
    from gsworkbench.readers import read_particles

    rotations = None if options.particles is None else read_particles(options.particles).require_poses()
    named = {k: getattr(options, k) for k in ("out", "mask", "half_angle", "threshold")}
    print(direct(*_found(options), **named))
    if rotations is not None:
        print(views(rotations, options.out))


def _lab(options: argparse.Namespace) -> None:
    from gsworkbench.lab.serve import start_lab

    start_lab(options.path, port=options.port, browser=options.browser)


def _explore(options: argparse.Namespace) -> None:
    from gsworkbench.lab.serve import start_explore

    named = {k: getattr(options, k) for k in ("model", "page", "port", "browser")}
    start_explore(options.folder, **named)


def _doctor(options: argparse.Namespace) -> None:
    from gsworkbench.doctor import report

    print("\n".join(report()))


def _stack(options: argparse.Namespace) -> Any:
    from gsworkbench.readers import read_particles

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
    )


def _description(stack: Any) -> list[str]:
    """What a stack is, line by line."""
    import numpy as np

    def spread(values: Any, unit: str) -> str:
        low, middle, high = np.percentile(values, [5, 50, 95])
        return f"{middle:,.4g} {unit} (5 to 95 %: {low:,.4g} to {high:,.4g})"

    ctf = stack.ctf
    halves = np.bincount(stack.half_set, minlength=3)
    half_sets = (
        f"{halves[1]:,} and {halves[2]:,}" if halves[1:].any() else "none in the file: dealt at random when needed"
    )
    return [
        f"particles      {len(stack):,} in {len(stack.files)} file(s), first {stack.files[0]}",
        f"box            {stack.box_size} px of {stack.pixel_size:.4g} A = {stack.box_size * stack.pixel_size:.4g} A; "
        f"Nyquist {2 * stack.pixel_size:.4g} A",
        f"defocus        {spread((ctf.defocus_u + ctf.defocus_v) / 2e4, 'um')}, astigmatism "
        f"{spread(np.abs(ctf.defocus_u - ctf.defocus_v), 'A')}",
        f"microscope     {np.median(ctf.voltage_kv):g} kV, Cs {np.median(ctf.spherical_aberration_mm):g} mm, "
        f"amplitude contrast {np.median(ctf.amplitude_contrast):g}",
        f"shifts         {spread(np.hypot(*stack.shifts_angstrom.T), 'A')}, that is "
        f"{spread(np.hypot(*stack.shifts_angstrom.T) / stack.pixel_size, 'px')}",
        f"half sets      {half_sets}",
        f"data sign      {', '.join(f'{s:+d}' for s in np.unique(stack.data_sign))} (multiplies the images)",
    ]


def _number(text: str) -> Any:
    """Read a value of --set as YAML does, but take 1e-3 for the number it looks like."""
    try:
        value = yaml.safe_load(text)
        return float(value) if isinstance(value, str) else value
    except (ValueError, yaml.YAMLError):
        return text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gsworkbench",
        description="Cryo-EM maps as mixtures of 3D Gaussians, from particles with known poses and CTF.",
        epilog="Start with: gsworkbench inspect particles.star",
    )
    parser.add_argument("--version", action="version", version=f"gsworkbench {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_simulate(commands)
    _add_inspect(commands)
    _add_reconstruct(commands)
    _add_backproject(commands)
    _add_accumulate(commands)
    _add_combine(commands)
    _add_fsc(commands)
    _add_localres(commands)
    _add_directional(commands)
    _add_lab(commands)
    _add_explore(commands)
    doctor = commands.add_parser("doctor", help="say which backends and devices work here, and why others do not")
    doctor.set_defaults(run=_doctor)
    return parser


def _add_simulate(commands: Any) -> None:
    default = SimulationConfig()
    command = commands.add_parser(
        "simulate",
        help="make particles whose truth is known",
        description="Simulate particles of a molecule: exact central slices of its electron scattering potential, CTF, "
        "shifts, noise. Writes particles.mrcs, particles.star (RELION 3.1), truth.mrc and run.json.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    command.set_defaults(run=_simulate)
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    command.add_argument(
        "--molecule", default=default.molecule, help="ribosome, spliceosome, chaperonin, or a .cif/.pdb"
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
    command.add_argument("--poses", default=default.poses, help="uniform, or a .star, .cs or .pkl to draw poses from")
    command.add_argument("--shift-sd", type=float, default=default.shift_sd, help="of in-plane shifts, in boxes")
    command.add_argument("--noise", default=default.noise, help="white, or a radial power spectrum (.npy)")
    command.add_argument("--seed", type=int, default=default.seed, help="same seed, same particles")


def _add_inspect(commands: Any) -> None:
    command = commands.add_parser(
        "inspect",
        help="say what particles are, and whether their poses and contrast make sense",
        description="Read particle metadata, look at the images and make a quick map, without writing anything.",
    )
    command.set_defaults(run=_inspect)
    _add_particles(command)


def _add_reconstruct(commands: Any) -> None:
    from gsworkbench.methods import METHODS

    command = commands.add_parser(
        "reconstruct",
        help="fit a mixture of Gaussians to particles",
        description="Fit 3D Gaussians to particles with known poses and CTF: maps, half maps, mask, FSC and a record, "
        "named as RELION names them.",
    )
    command.set_defaults(run=_reconstruct)
    _add_particles(command)
    _add_outputs(command)
    command.add_argument(
        "--n-gaussians",
        type=_number,
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
        "the others are in docs/methods.md",
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
    command.set_defaults(run=_backproject)
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
    command.set_defaults(run=_accumulate)
    _add_particles(command)
    command.add_argument("--out", type=Path, required=True, metavar="FILE", help="file to write, as half1.npz")
    command.add_argument(
        "--half-set", type=int, choices=(1, 2), help="take the particles of one half set only (default: all)"
    )
    command.add_argument(
        "--part", default="1/1", metavar="I/N", help="take the I-th of N equal parts of these particles, as in 2/5"
    )
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
        description="Add files of 'accumulate'. They must agree in box, pixel size and sign, and share no particle.",
    )
    command.set_defaults(run=_combine)
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
        help="B factor in A^2, as --sharpen=-120, 0 for none; auto (default) fits it from 10 A to Nyquist",
    )
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")


def _add_localres(commands: Any) -> None:
    command = commands.add_parser(
        "localres",
        help="local resolution of two half maps",
        description="FSC of two half maps in a moving window. Writes locres.mrc (A, 0 outside the mask), locres.png.",
    )
    command.set_defaults(run=_localres)
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
    command.set_defaults(run=_directional)
    _add_half_maps(command)
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    command.add_argument("--mask", default="auto", help="auto (default), sphere, loose, tight, none or a mask (.mrc)")
    command.add_argument("--half-angle", type=float, default=20.0, metavar="DEG", help="of the cones (default 20)")
    command.add_argument("--threshold", type=float, default=0.143, help="of the FSC (default 0.143)")
    command.add_argument("--particles", type=Path, help="their metadata: views and how evenly they sample")


def _add_lab(commands: Any) -> None:
    command = commands.add_parser(
        "lab",
        help="open the notebooks in JupyterLab",
        description="Start JupyterLab on this machine alone (127.0.0.1, behind a token) and open it in the browser.",
    )
    command.set_defaults(run=_lab)
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
    command.set_defaults(run=_explore)
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
    command.set_defaults(held_out=None, beyond=None, substituted=None)


def _add_judged(command: Any, mask: str) -> None:
    from gsworkbench.assessment.definitions import DEFINITIONS
    from gsworkbench.judging import MODEL_B_FACTOR

    command.set_defaults(run=_fsc, default_mask=mask)
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


def _add_particles(command: Any) -> None:
    command.add_argument(
        "particles", type=Path, help=".star (RELION 3.0 to 5), .cs (cryoSPARC), .mrcs or .txt (cryoDRGN)"
    )
    group = command.add_argument_group("where images, poses and CTF are")
    group.add_argument("--stack", type=Path, metavar="FILE", help="image stack, in place of the paths in the metadata")
    group.add_argument("--datadir", type=Path, metavar="DIR", help="folder that image paths are relative to")
    group.add_argument("--poses", type=Path, metavar="PKL", help="cryoDRGN poses.pkl")
    group.add_argument("--ctf", type=Path, metavar="PKL", help="cryoDRGN ctf.pkl")
    group.add_argument("--ind", type=Path, metavar="PKL", help="cryoDRGN indices of the particles to use")
    group.add_argument(
        "--passthrough", type=Path, action="append", default=[], metavar="CS", help="cryoSPARC passthrough file"
    )
    group.add_argument(
        "--sign", type=int, choices=(1, -1), help="factor that makes protein white (inspect proposes one)"
    )
    group.add_argument("--pixel-size", type=float, metavar="A", help="A per pixel, in place of the file's")


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
    _add_noise(command)
    command.add_argument("--seed", type=int, default=0, help="random numbers: start, order of particles, half sets")
    command.add_argument("--threads", type=int, metavar="N", help="processor threads to use")
    _add_checkpoints(command)


if __name__ == "__main__":
    sys.exit(main())
