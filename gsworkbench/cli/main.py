"""The command line, `gsworkbench COMMAND`: reads arguments, calls the core, prints what came out.

Exit codes: 0 done, 2 input that cannot be used (one sentence says why, nothing was written), 70 something unexpected
(one sentence, and a log that names the place in the program), 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gsworkbench.cli.crash_log import UNEXPECTED, unexpected
from gsworkbench.cli.options import number, parser
from gsworkbench.config import (
    PRESETS,
    SETTINGS,
    ReconstructionConfig,
    SimulationConfig,
    from_mapping,
    to_mapping,
)
from gsworkbench.errors import InputError, Note
from gsworkbench.system import distributed
from gsworkbench.system.memory import is_out_of_memory, keep_freed_memory

NOT_ENOUGH = (
    "bin the images to a smaller box, or go where there is more (docs/use/scale.md says what a box takes); "
    "the same command with --resume goes on where it can"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    keep_freed_memory()
    options = parser().parse_args(arguments)
    with _notes():
        return _run(options)


@contextlib.contextmanager
def _notes() -> Iterator[None]:
    """Print what is noted on the way as one line each, once, without the place in the program that Python adds."""
    with warnings.catch_warnings():
        warnings.filterwarnings("always", category=Note)
        shown, otherwise = set[str](), warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if not issubclass(category, Note):
                otherwise(message, category, *where, **more)
            elif str(message) not in shown:
                shown.add(str(message))
                print(f"gsworkbench: note: {message}", file=sys.stderr, flush=True)

        warnings.showwarning = show
        yield


def _run(options: argparse.Namespace) -> int:
    try:
        if getattr(options, "threads", None):
            import torch

            torch.set_num_threads(options.threads)
        with distributed.processes():
            COMMANDS[options.command](options)
    except InputError as error:
        print(f"gsworkbench: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"gsworkbench: {error.filename or 'a file'}: {error.strerror or error}.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("gsworkbench: interrupted; the same command with --resume goes on where it can.", file=sys.stderr)
        return 130
    except Exception as error:  # whatever it is, a user gets one sentence
        if is_out_of_memory(error):
            print(f"gsworkbench: there is not enough memory: {NOT_ENOUGH}.", file=sys.stderr)
            return 2
        print(f"gsworkbench: {unexpected(error, options.command, getattr(options, 'out', None))}.", file=sys.stderr)
        return UNEXPECTED
    return 0


def _simulate(options: argparse.Namespace) -> None:
    from gsworkbench.simulation.simulate import simulate

    names = {f.name for f in dataclasses.fields(SimulationConfig)}
    config = from_mapping(SimulationConfig, {k: v for k, v in vars(options).items() if k in names})
    stack = simulate(config, options.out)
    out = options.out
    print(f"{len(stack):,} particles of {stack.box_size} px at {stack.pixel_size:g} A/px, and their truth, in {out}")
    print(f"next: gsworkbench reconstruct {out}/particles.star --out {out}/fit --truth {out}/truth.mrc")


def _fetch(options: argparse.Namespace) -> None:
    from gsworkbench.particles.empiar import fetch, find_card, listed_images

    card = find_card(options.entry)
    print("\n".join(card.lines()), flush=True)
    table, *others = fetch(card, options.out, archive=options.archive)
    n = len(listed_images(table))
    print(f"{1 + len(others)} files in {options.out}; the table lists {n:,} particles")
    if n != card.n_particles:
        print(f"  note: the card says {card.n_particles:,}")
    print(f"next: gsworkbench inspect {card.options(options.out)}")


def _inspect(options: argparse.Namespace) -> None:
    from gsworkbench.inspection.findings import inspect_particles
    from gsworkbench.inspection.map_summaries import write_inspection, write_table_figure
    from gsworkbench.particles.description import describe
    from gsworkbench.particles.formats.paths import MissingImages
    from gsworkbench.particles.views import views_problem
    from gsworkbench.reconstruction.memory_needed import beside_what_is_free, reconstruct_bytes

    try:
        stack = _stack(options)
    except MissingImages:  # say and draw what the table holds before what it lacks
        table = _table(options)
        print("\n".join(describe(table)))
        if problem := views_problem(table):
            print(f"poses          {problem}")
        if options.out is not None:
            print(f"picture        {write_table_figure(options.out, table)}, of the table alone", flush=True)
        raise
    print("\n".join(describe(stack)), flush=True)
    for method in ("normal-equations", "stochastic"):
        needed = reconstruct_bytes(stack, ReconstructionConfig(method=method, stochastic=PRESETS["tuned"]))
        print(f"memory         reconstruct --method {method}: {beside_what_is_free(needed)}")
    found = inspect_particles(stack, say=functools.partial(print, flush=True))
    if options.out is not None:
        picture, table = write_inspection(options.out, found)
        print(f"picture        {picture}; a row for each image measured: {table}")


def _copy(options: argparse.Namespace) -> None:
    from gsworkbench.io.locks import outputs
    from gsworkbench.particles.copy import IMAGES, PARTICLES, write_particles

    stack, out = _stack(options), options.out
    for name in (IMAGES, PARTICLES):
        if (out / name).exists():
            raise InputError("there is such a file already", file=out / name, remedy="name another folder")
    with outputs(out):
        write_particles(stack, out, half_precision=options.half_precision)
    _print_notes(stack.notes)
    size = (out / IMAGES).stat().st_size / 1e9
    print(f"{len(stack):,} particles of {stack.box_size} px, {size:.3g} GB, in {out}")


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
    return name, number(value)


def _backproject(options: argparse.Namespace) -> None:
    _run_reconstruction(options, {"method": "backprojection", "backprojection": {"filter": options.filter}})


def _accumulate(options: argparse.Namespace) -> None:
    import time

    from gsworkbench.imaging.residual import require_white_protein
    from gsworkbench.inspection.findings import particle_alarms
    from gsworkbench.io.files import remove
    from gsworkbench.io.locks import own_file
    from gsworkbench.normal_equations.equations import accumulate
    from gsworkbench.particles.noise_spectrum import chosen_noise
    from gsworkbench.particles.views import refuse_one_view
    from gsworkbench.reconstruction.memory_needed import accumulate_bytes, beside_what_is_free

    whole = _stack(options)
    refuse_one_view(whole)
    shared = particle_alarms(whole, most_images=0) if options.half_set else []
    if distributed.is_first():
        _print_notes([*whole.notes, *shared])
    stack = _share(whole, options)
    if options.noise_spectrum not in ("white", "measured"):
        chosen_noise(options.noise_spectrum, stack)  # a file that is none is refused before anything is read
    if options.normalise:
        stack = _normalised(whole, stack, options)
    require_white_protein(stack)
    if options.noise_substitute_beyond is not None:
        stack = stack.with_random_phases(options.noise_substitute_beyond, options.seed)
    if distributed.is_first():
        print(f"memory: {beside_what_is_free(accumulate_bytes(stack.box_size))}", flush=True)
    checkpoint = options.out.with_name(f".{options.out.name}.unfinished")
    wall, cpu = time.perf_counter(), time.process_time()
    with own_file(options.out) if distributed.is_first() else contextlib.nullcontext():
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


def _normalised(whole: Any, stack: Any, options: argparse.Namespace) -> Any:
    """Particles with normalised images, and those that are absurd left out, beside all particles of the table."""
    from gsworkbench.particles.image_statistics import kept, make_plan, measure_images, sentences

    found = measure_images(stack, make_plan(whole))
    if distributed.is_first():
        _print_notes(sentences(found, stack, kept=options.keep_outliers))
    return kept(stack, found, keep_outliers=options.keep_outliers)


def _print_notes(sentences: Sequence[str]) -> None:
    for sentence in sentences:
        print(f"note: {sentence}", flush=True)


def _combine(options: argparse.Namespace) -> None:
    from gsworkbench.normal_equations.equations import NormalEquations, sample_of
    from gsworkbench.particles.image_sample import shared_by_halves

    total = NormalEquations.load_all(options.sums)
    alarm = shared_by_halves(sample_of(path) for path in options.sums)
    _print_notes([alarm] if alarm else [])
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
    from gsworkbench.reconstruction.memory_needed import beside_what_is_free, reconstruct_bytes
    from gsworkbench.reconstruction.run import assist, reconstruct

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
    config = from_mapping(ReconstructionConfig, settings | {name: getattr(options, name) for name in names})
    if not distributed.is_first():
        return assist(_stack(options), options.out, config, resume=options.resume)
    stack = _stack(options)
    print(f"memory: {beside_what_is_free(reconstruct_bytes(stack, config))}", flush=True)
    result = reconstruct(
        stack,
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
    from gsworkbench.assessment.assess import write_assessment
    from gsworkbench.io.locks import outputs

    halves = _found(options)
    assessment = _assessment(options, halves)
    if options.particles is not None:
        assessment = assessment.raising(*_particle_alarms(options))
    sharpened = _sharpened(options, halves, assessment) if hasattr(options, "sharpen") else None
    if options.out is not None:
        names = (halves[0].name, halves[1].name)
        with outputs(options.out):
            write_assessment(options.out, assessment, " and ".join(names), names, sharpened)
    print("\n".join(assessment.lines()))
    if sharpened is not None:
        print(f"sharpened by a B factor of {sharpened.b_factor:.1f} A^2{'; ' * bool(sharpened.note)}{sharpened.note}")


def _found(options: argparse.Namespace) -> tuple[Path, Path]:
    """The two half maps; of the folder of a reconstruction, its substituted maps and held-out errors too."""
    from gsworkbench.assessment.assess import run_folder

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
    from gsworkbench.assessment.assess import judge_maps, judge_substituted, with_substitution

    if (options.substituted is None) != (options.beyond is None):
        raise InputError("--substituted and --beyond go together")
    masks = options.mask or [options.default_mask]
    names = ("definition", "truth", "model", "b_factor", "initial", "held_out", "voxel_size")
    named = {k: getattr(options, k) for k in names}
    found = judge_maps(*halves, masks=masks, **named)
    if options.substituted is None:
        return found
    mask = "auto" if masks[0] == "own" else masks[0]
    named = {"beyond": options.beyond, "mask": mask, "voxel_size": options.voxel_size}
    return with_substitution(found, judge_substituted(halves, options.substituted, **named))


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
    print("\n".join(localise(*_found(options), **named).lines()))


def _directional(options: argparse.Namespace) -> None:
    from gsworkbench.assessment.local_judging import direct
    from gsworkbench.particles.read import read_metadata

    # Views need no images, which may lie on another machine.
    table = None if options.particles is None else read_metadata(options.particles, passthrough=options.passthrough)
    rotations = None if table is None else table.require_poses()
    named = {k: getattr(options, k) for k in ("out", "mask", "half_angle", "threshold", "voxel_size")}
    print("\n".join(direct(*_found(options), **named, rotations=rotations).lines()))


def _lab(options: argparse.Namespace) -> None:
    from gsworkbench.lab.serve import start_lab

    start_lab(options.path, port=options.port, browser=options.browser)


def _explore(options: argparse.Namespace) -> None:
    from gsworkbench.lab.serve import start_explore

    named = {k: getattr(options, k) for k in ("model", "page", "port", "browser")}
    start_explore(options.folder, **named)


def _doctor(options: argparse.Namespace) -> None:
    from gsworkbench.cli.doctor import report

    print("\n".join(report()))


def _stack(options: argparse.Namespace) -> Any:
    from gsworkbench.particles.read import read_particles

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


def _table(options: argparse.Namespace) -> Any:
    """What the metadata say of the particles that the options name, without their images."""
    from gsworkbench.particles.read import read_metadata

    needs_ctf = options.ctf is None and not options.no_ctf
    named = {name: getattr(options, name) for name in ("poses", "passthrough")}
    return read_metadata(options.particles, needs_ctf=needs_ctf, **named)


COMMANDS = {
    "simulate": _simulate,
    "fetch": _fetch,
    "inspect": _inspect,
    "copy": _copy,
    "reconstruct": _reconstruct,
    "backproject": _backproject,
    "accumulate": _accumulate,
    "combine": _combine,
    "fsc": _fsc,
    "postprocess": _fsc,
    "localres": _localres,
    "directional": _directional,
    "lab": _lab,
    "explore": _explore,
    "doctor": _doctor,
}


if __name__ == "__main__":
    sys.exit(main())
