"""The commands that add up particles once, and join the files of such sums."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path
from typing import Any

from gsworkbench.cli.shared_options import (
    add_checkpoints,
    add_images,
    add_noise,
    add_particles,
    print_notes,
    read_stack,
)
from gsworkbench.errors import InputError
from gsworkbench.system import distributed


def add(commands: Any) -> None:
    """Add accumulate and combine."""
    _add_accumulate(commands)
    _add_combine(commands)


def _add_accumulate(commands: Any) -> None:
    command = commands.add_parser(
        "accumulate",
        help="read the particles once, into a file that maps can be made from again and again",
        description="Read every particle once and add up all that a map of fixed poses and CTF depends on: the images "
        "backprojected with their CTF, and the point spread of views and CTF. The file that results has a fixed size, "
        "however many particles went in. Large sets can be shared out over jobs by --part, and their files joined by "
        "'combine'; the result is the same to the last bit.",
    )
    add_particles(command)
    command.add_argument("--out", type=Path, required=True, metavar="FILE", help="file to write, as half1.npz")
    command.add_argument(
        "--half-set", type=int, choices=(1, 2), help="take the particles of one half set only (default: all)"
    )
    command.add_argument(
        "--part", default="1/1", metavar="I/N", help="take the I-th of N equal parts of these particles, as in 2/5"
    )
    command.add_argument(
        "--hold-out",
        action="store_true",
        help="keep the sums over every tenth particle apart, in the same file: a fit is tested on them",
    )
    add_images(command)
    add_noise(command)
    command.add_argument(
        "--engine", default="gridding", choices=("gridding", "finufft"), help="finufft is exact and slow, for checks"
    )
    command.add_argument(
        "--seed", type=int, default=0, help="random numbers: half sets where the file has none, substituted phases"
    )
    command.add_argument("--threads", type=int, metavar="N", help="processor threads to use")
    add_checkpoints(command)
    command.set_defaults(run=_accumulate)


def _accumulate(options: argparse.Namespace) -> None:
    import time

    import numpy as np

    from gsworkbench.imaging.residual import require_white_protein
    from gsworkbench.inspection.findings import particle_alarms
    from gsworkbench.io.files import remove
    from gsworkbench.io.locks import lock_file
    from gsworkbench.methods.sums_of_parts import HELD_OUT
    from gsworkbench.normal_equations.equations import accumulate
    from gsworkbench.particles.half_sets import every_nth
    from gsworkbench.particles.noise_spectrum import chosen_noise
    from gsworkbench.particles.views import refuse_one_view
    from gsworkbench.reconstruction.memory_needed import accumulate_bytes, beside_what_is_free

    whole = read_stack(options)
    refuse_one_view(whole)
    shared = particle_alarms(whole, most_images=0) if options.half_set else []
    if distributed.is_first():
        print_notes([*whole.notes, *shared])
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
    wall, cpu = time.perf_counter(), time.process_time()
    held = every_nth(stack.specimens(), HELD_OUT) if options.hold_out else np.zeros(len(stack), bool)
    if held.all():
        raise InputError("too few particles to hold a tenth out", file=options.particles, remedy="leave out --hold-out")
    spectrum = chosen_noise(options.noise_spectrum, stack)
    checkpoints = [options.out.with_name(f".{options.out.name}{what}.unfinished") for what in ("", ".heldout")]

    def pass_over(rows: Any, checkpoint: Path) -> Any:
        return accumulate(
            stack[rows],
            engine=options.engine,
            noise_spectrum=spectrum[rows] if spectrum is not None and spectrum.ndim == 2 else spectrum,
            threads=options.threads,
            checkpoint=checkpoint,
            checkpoint_seconds=options.checkpoint_every,
            resume=options.resume,
        )

    with lock_file(options.out) if distributed.is_first() else contextlib.nullcontext():
        sums = pass_over(~held, checkpoints[0])
        if held.any() and distributed.is_first():
            sums.save(checkpoints[0])
        held_out = pass_over(held, checkpoints[1]) if held.any() else None
        if not distributed.is_first():
            return
        sums.save(options.out, held_out=held_out)
        for checkpoint in checkpoints:
            remove(checkpoint)
    print(f"{_sums(sums)} in {options.out}")
    if held_out is not None:
        print(f"  and, apart, of {held_out.n_particles:,} held-out particles")
    print(f"  {time.perf_counter() - wall:.1f} s, {time.process_time() - cpu:.1f} CPU s")


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


def _normalised(whole: Any, stack: Any, options: argparse.Namespace) -> Any:
    """Particles with normalised images, and those that are absurd left out, beside all particles of the table."""
    from gsworkbench.particles.image_statistics import kept, make_plan, measure_images, sentences

    found = measure_images(stack, make_plan(whole))
    if distributed.is_first():
        print_notes(sentences(found, stack, kept=options.keep_outliers))
    return kept(stack, found, keep_outliers=options.keep_outliers)


def _add_combine(commands: Any) -> None:
    command = commands.add_parser(
        "combine",
        help="join files of 'accumulate': half sets to the full set, parts to the whole",
        description="Add files of 'accumulate'. They must agree in box, pixel size and sign, and share no particle. "
        "Where half sets 1 and 2 share images, that is said. One file can be given, to write it in another form.",
    )
    command.add_argument("sums", type=Path, nargs="+", metavar="FILE", help="files of 'accumulate' (.npz)")
    command.add_argument("--out", type=Path, required=True, metavar="FILE", help="file to write")
    command.add_argument(
        "--without-identities",
        action="store_true",
        help="leave out which particles went in; whether a particle is in two files can then not be told",
    )
    command.add_argument("--single", action="store_true", help="round to 32 bits: half the size, no longer exact")
    command.set_defaults(run=_combine)


def _combine(options: argparse.Namespace) -> None:
    from gsworkbench.normal_equations.equations import NormalEquations, sample_of
    from gsworkbench.particles.image_sample import shared_by_halves

    total, held_out = NormalEquations.load_pair(options.sums[0])
    for path in options.sums[1:]:
        train, test = NormalEquations.load_pair(path)
        if (test is None) != (held_out is None):
            raise InputError("some of these files hold held-out particles apart, and others do not", file=path)
        total = total.plus(train, path)
        held_out = None if held_out is None or test is None else held_out.plus(test, path)
    alarm = shared_by_halves(sample_of(path) for path in options.sums)
    print_notes([alarm] if alarm else [])
    if total.unnamed and len(options.sums) > 1:
        print_notes(["not all files name their particles: whether one is counted twice was not checked"])
    total.save(options.out, held_out=held_out, identities=not options.without_identities, single=options.single)
    print(f"{_sums(total)} in {options.out}")
    if held_out is not None:
        print(f"  and, apart, of {held_out.n_particles:,} held-out particles")


def _sums(sums: Any) -> str:
    half = f" of half set {sums.half_set}" if sums.half_set else ""
    return f"sums of {sums.n_particles:,} particles{half}, {sums.box_size} px of {sums.pixel_size:.4g} A,"
