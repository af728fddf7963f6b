"""The commands that make a map and half maps of particles, and judge them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gsworkbench.assessment.mask_names import mask_choices
from gsworkbench.cli.shared_options import add_checkpoints, add_images, add_noise, add_particles, number, read_stack
from gsworkbench.config import from_mapping, to_mapping
from gsworkbench.errors import InputError
from gsworkbench.methods.reconstruction_config import ReconstructionConfig
from gsworkbench.methods.registry import METHODS, Method, find_method
from gsworkbench.system import distributed


def add(commands: Any) -> None:
    """Add reconstruct and backproject."""
    _add_reconstruct(commands)
    _add_backproject(commands)


def _add_reconstruct(commands: Any) -> None:
    offered = [row for row in METHODS.values() if row.command == "reconstruct"]
    command = commands.add_parser(
        "reconstruct",
        help="fit a mixture of Gaussians to particles",
        description="Fit 3D Gaussians to particles with known poses and CTF: maps, half maps, mask, FSC and a record, "
        "named as RELION names them.",
    )
    add_particles(command, or_sums=True)
    add_outputs(command)
    command.add_argument(
        "--n-gaussians",
        type=number,
        metavar="N",
        help="number of Gaussians, or auto: as many as held-out particles ask for (default: 3,000 for a box of 64 px, "
        "more for larger ones; stochastic: 30,000)",
    )
    command.add_argument(
        "--method",
        type=_method_name,
        choices=[row.name for row in offered],
        default=ReconstructionConfig.method,
        help="; ".join(f"{row.name}: {row.says}" for row in offered),
    )
    command.add_argument(
        "--preset",
        choices=list(METHODS["stochastic"].presets),
        default="tuned",
        help="recipe of --method stochastic; tuned: better and faster than any published (default); "
        "the others are in docs/explain/methods.md",
    )
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="change one setting of the method, as in boost=1. " + _settings_of(offered),
    )
    command.add_argument(
        "--weights",
        choices=("non-negative", "signed"),
        help="of one-pass: whether Gaussians may take density away (default: non-negative)",
    )
    command.add_argument("--backend", help="renderer to use (default: the fastest that works; see doctor)")
    command.add_argument(
        "--device",
        default="auto",
        choices=("auto", "cpu", "cuda"),
        help="where to fit (default auto: a GPU that works)",
    )
    command.set_defaults(run=_reconstruct)


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
    add_particles(command, or_sums=True)
    add_outputs(command)
    command.set_defaults(run=_backproject)


def add_outputs(command: Any) -> None:
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    command.add_argument(
        "--half-maps",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="fit each half set too, and compare them (default: yes)",
    )
    command.add_argument("--mask", default="auto", help=f"mask of the masked FSC: {mask_choices('own')}; default auto")
    command.add_argument("--truth", type=Path, metavar="MAP", help="a known truth to compare the map with")
    add_images(command)
    command.add_argument(
        "--particle-scales",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="give each particle its own scale where the strength of their signal differs (default: yes)",
    )
    add_noise(command)
    command.add_argument(
        "--keep-sums",
        action="store_true",
        help="leave the sums over the particles of each half set in the folder (sums_half1.npz, sums_half2.npz): maps "
        "can be made, masked and judged again from these files alone",
    )
    command.add_argument(
        "--error-map",
        action="store_true",
        help="measure the noise of the linear map between 32 parts of the particles (read once more): error_map.mrc, "
        "and intervals for the mean density of any region by 'region'",
    )
    command.add_argument("--seed", type=int, default=0, help="random numbers: start, order of particles, half sets")
    command.add_argument("--threads", type=int, metavar="N", help="processor threads to use")
    add_checkpoints(command)


def _method_name(text: str) -> str:
    """Return today's name of a method; argparse refuses one that no method has."""
    try:
        return find_method(text).name
    except InputError:
        return text


def _settings_of(methods: Sequence[Method]) -> str:
    listed = (f"{row.name}: {', '.join(row.setting_names)}" for row in methods if row.setting_names)
    return f"Settings are, of {'; of '.join(listed)}"


def _reconstruct(options: argparse.Namespace) -> None:
    row = METHODS[options.method]
    settings = to_mapping(row.presets[options.preset] if row.name == "stochastic" else row.default)
    own = {name: getattr(options, name) for name in ("n_gaussians", "weights")}
    changed = {name: value for name, value in own.items() if value is not None}
    changed |= dict(_assignment(text) for text in options.set)
    if unknown := sorted(set(changed) - set(settings)):
        has = f"it has {', '.join(settings)}" if settings else "it has none"
        raise InputError(f"--method {row.name} has no setting {unknown[0]!r}", remedy=has)
    named = {name: getattr(options, name) for name in ("method", "backend", "device")}
    _run_reconstruction(options, named | {"settings": settings | changed})


def _assignment(text: str) -> tuple[str, Any]:
    name, separator, value = text.partition("=")
    if not separator:
        raise InputError(f"--set needs NAME=VALUE, not {text!r}")
    return name, number(value)


def _backproject(options: argparse.Namespace) -> None:
    _run_reconstruction(options, {"method": "backprojection", "settings": {"filter": options.filter}})


def _run_reconstruction(options: argparse.Namespace, values: dict[str, Any]) -> None:
    from gsworkbench.reconstruction.memory_needed import beside_what_is_free, error_map_words, reconstruct_bytes
    from gsworkbench.reconstruction.run import reconstruct, run_worker

    names = (
        "half_maps",
        "normalise",
        "particle_scales",
        "keep_outliers",
        "mask",
        "seed",
        "noise_spectrum",
        "noise_substitute_beyond",
    )
    config = from_mapping(ReconstructionConfig, values | {name: getattr(options, name) for name in names})
    if options.particles.suffix == ".npz" or options.sums2 is not None:
        return _of_sums(options, config)
    if not distributed.is_first():
        return run_worker(read_stack(options), options.out, config, keep_sums=options.keep_sums, resume=options.resume)
    stack = read_stack(options)
    print(f"memory: {beside_what_is_free(reconstruct_bytes(stack, config))}", flush=True)
    if options.error_map:
        print(error_map_words(stack), flush=True)
    result = reconstruct(
        stack,
        options.out,
        config,
        truth=options.truth,
        keep_sums=options.keep_sums,
        error_map=options.error_map,
        resume=options.resume,
        checkpoint_seconds=options.checkpoint_every,
    )
    _print_result(result)


# Options that say how particles are read and treated: sums are what was made of them.
_OF_PARTICLES = {
    **dict.fromkeys(("stack", "datadir", "poses", "ctf", "ind", "class_number", "sign", "pixel_size", "image_scale")),
    **dict.fromkeys(("strict_paths", "no_ctf", "keep_outliers", "keep_sums", "error_map", "resume"), False),
    **{"passthrough": [], "normalise": True, "particle_scales": True},
}


def _of_sums(options: argparse.Namespace, config: ReconstructionConfig) -> None:
    from gsworkbench.methods.deposited_sums import read_deposit
    from gsworkbench.reconstruction.from_sums import reconstruct_sums
    from gsworkbench.reconstruction.memory_needed import beside_what_is_free, reconstruct_bytes

    if given := [name for name, usual in _OF_PARTICLES.items() if getattr(options, name) != usual]:
        flag = "--class" if given[0] == "class_number" else f"--{given[0].replace('_', '-')}"
        raise InputError(f"{flag} is an option for particles, and these are sums", file=options.particles)
    if not distributed.is_first():
        return
    files = [options.particles, *([options.sums2] if options.sums2 is not None else [])]
    if len(files) == 1 and config.half_maps:
        remedy = "give the files of half sets 1 and 2, or --no-half-maps"
        raise InputError("one file of sums makes no half maps", file=files[0], remedy=remedy)
    stack = read_deposit(files).stack
    print(f"memory: {beside_what_is_free(reconstruct_bytes(stack, config))}", flush=True)
    _print_result(reconstruct_sums(files, options.out, config, truth=options.truth))


def _print_result(result: Any) -> None:
    print(f"{len(result.volume)}^3 map of {result.record.n_particles['all']:,} particles in {result.output_dir}")
    estimated = {estimate.half.name for estimate in result.estimates}
    for r in result.resolutions:
        if r.curve not in estimated:
            print(f"  {r}")
    for line in (line for estimate in result.estimates for line in estimate.report()):
        print(f"  {line}")
    for name, seconds in result.record.seconds.items():
        print(f"  {name}: {seconds:.1f} s, {result.record.cpu_seconds[name]:.1f} CPU s")
    substituted = result.record.results.get("noise_substitution")
    if substituted is not None:
        mean = substituted["mean_fsc_of_random_phases"]
        print(f"  random phases beyond {substituted['beyond_angstrom']:g} A: half maps agree there by {mean:.3f}")
    for warning in result.record.warnings:
        print(f"  note: {warning}")
