"""What CTF columns may hold, whatever file they come from: possible values in the units and signs used here.

A value that no microscope has is refused with the unit or the sign convention that it looks like. Defocus is judged by
the median of its column, so that single odd rows stop nobody: they are told in a note. A few rows of overfocus are
legal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gsworkbench.errors import InputError
from gsworkbench.particles.stack import CtfParameters, Float64

NEEDS_CTF = "add it, give --ctf FILE with a cryoDRGN ctf.pkl, or --no-ctf for images without contrast transfer"
SMALLEST_DEFOCUS, LARGEST_DEFOCUS = 100.0, 1e5  # A; the median of nobody's data lies outside
CLOSE_TO_FOCUS = 1000.0, 3000.0  # A; below the first a median needs a phase plate, below the second it is odd
MOST_TURNS = 720.0  # degrees, of the defocus angle and the phase shift
LARGEST_B_FACTOR, SLIGHTLY_NEGATIVE = 1e4, -30.0  # A^2; RELION's refinement of B factors ends at -30 by default


def no_ctf(n: int) -> CtfParameters:
    """The CTF of n images without contrast transfer: 1 at every frequency."""
    zeros = np.zeros(n)
    return CtfParameters(
        defocus_u=zeros,
        defocus_v=zeros,
        defocus_angle=zeros,
        voltage_kv=np.full(n, 300.0),
        spherical_aberration_mm=zeros,
        amplitude_contrast=zeros,
        phase_shift=np.full(n, 90.0),
        b_factor=zeros,
        scale=np.ones(n),
    )


def is_no_ctf(ctf: CtfParameters) -> bool:
    """Whether the CTF is 1 at every frequency, as of `no_ctf`, in every row."""
    zeros = ("defocus_u", "defocus_v", "spherical_aberration_mm", "amplitude_contrast", "b_factor")
    flat = not any(getattr(ctf, name).any() for name in zeros)
    return flat and bool((ctf.phase_shift == 90).all() and (ctf.scale == 1).all())


def check_ctf(ctf: CtfParameters, columns: Mapping[str, str], file: Path, hint: str = "") -> CtfParameters:
    """Return `ctf` if it is possible, else raise InputError naming the file's own column and what it looks like.

    columns : the file's names by ours. Angles of `ctf` are in degrees whatever the file has. hint : what else in the
    file speaks for tilt images, to be said where their negative B factors are refused.
    """
    if is_no_ctf(ctf):
        return ctf
    by_row: dict[str, tuple[NDArray[np.bool_], str, Callable[[float], str | None]]] = {
        "voltage_kv": (_within(ctf.voltage_kv, 10, 2000), "between 10 and 2000 kV", _voltage_story),
        "spherical_aberration_mm": (_possible_cs(ctf.spherical_aberration_mm), "in mm, from 0 to 20", _cs_story),
        "amplitude_contrast": (_within(ctf.amplitude_contrast, 0, 1), "a fraction from 0 to 1", _contrast_story),
        "defocus_angle": (
            _within(ctf.defocus_angle, -MOST_TURNS, MOST_TURNS), "within two turns of zero", _angle_story,
        ),
        "phase_shift": (_within(ctf.phase_shift, -MOST_TURNS, MOST_TURNS), "within two turns of zero", _angle_story),
        "scale": (_within(ctf.scale, 1e-3, 1e3), "between 0.001 and 1000", _scale_story),
    }  # fmt: skip
    for name, (good, wanted, story) in by_row.items():
        if not good.all():
            row = int(np.flatnonzero(~good)[0])
            value = float(getattr(ctf, name)[row])
            column = columns.get(name, name)
            raise InputError(f"{column} must be {wanted}, not {value:g}", file=file, row=row + 1, remedy=story(value))
    for name in ("defocus_u", "defocus_v"):
        _check_defocus(getattr(ctf, name), ctf.phase_shift, columns[name], file)
    if not ctf.defocus_v.any() and ctf.defocus_u.any():
        raise InputError(
            f"{columns['defocus_v']} is 0 in every row and {columns['defocus_u']} is not",
            file=file,
            remedy="leave the column out if there is one defocus for both axes",
        )
    _check_b_factor(ctf.b_factor, columns.get("b_factor", "the B factor"), file, hint)
    return ctf


def ctf_notes(ctf: CtfParameters, columns: Mapping[str, str]) -> tuple[str, ...]:
    """Sentences on what is legal in the CTF columns, and odd enough to be looked at."""
    if is_no_ctf(ctf):
        return ()
    notes = []
    u = columns["defocus_u"]
    middle = _middle(ctf.defocus_u)
    if not ctf.defocus_u.any():
        notes.append(f"{u} is 0 in every row: images without contrast transfer need --no-ctf")
    elif middle < CLOSE_TO_FOCUS[1] and not ctf.phase_shift.any():
        notes.append(f"{u} is {middle:,.0f} A in the median, which is little: were it nm, it would have to be times 10")
    over = ctf.defocus_u + ctf.defocus_v < 0
    if over.any():
        notes.append(
            f"the defocus is negative, which means overfocus, in {_rows(over)}: correct them if that is not so"
        )
    size = np.abs(ctf.defocus_u)
    odd = (size > LARGEST_DEFOCUS) | ((size < SMALLEST_DEFOCUS) & (size > 0))
    if odd.any():
        notes.append(f"{u} is below {SMALLEST_DEFOCUS:g} A or above {LARGEST_DEFOCUS:,.0f} A in {_rows(odd)}")
    growing = ctf.b_factor < 0
    if growing.any():
        notes.append(f"{columns['b_factor']} is slightly negative, an envelope that grows, in {_rows(growing)}")
    return tuple(notes)


def _rows(chosen: NDArray[np.bool_]) -> str:
    count = int(np.count_nonzero(chosen))
    return f"{count:,} of {len(chosen):,} rows, first row {int(np.flatnonzero(chosen)[0]) + 1}"


def _within(values: Float64, low: float, high: float) -> NDArray[np.bool_]:
    return (values >= low) & (values <= high)


def _middle(values: Float64) -> float:
    """The median size of the values that are not zero; 0 where there are none."""
    sizes = np.abs(values[values != 0])
    return float(np.median(sizes)) if len(sizes) else 0.0


def _check_defocus(values: Float64, phase_shift: Float64, column: str, file: Path) -> None:
    middle = _middle(values)
    if middle == 0:
        return
    in_focus = CLOSE_TO_FOCUS[0] if not phase_shift.any() else SMALLEST_DEFOCUS  # phase plates are used in focus
    if in_focus <= middle <= LARGEST_DEFOCUS:
        if np.median(values[values != 0]) < 0:
            row = int(np.flatnonzero(values < 0)[0])
            raise InputError(
                f"{column} is {values[row]:g}, and negative in most rows: looks like the opposite sign convention",
                file=file,
                row=row + 1,
                remedy="positive is underfocus here, multiply the column by -1",
            )
        return
    row = int(np.argmin(np.abs(np.abs(values) - middle)))
    units = (
        (1e-8, 1e-4, "metres", "multiply the column by 1e10"),
        (1e-4, 0.02, "millimetres", "multiply the column by 1e7"),
        (0.02, SMALLEST_DEFOCUS, "micrometres", "multiply the column by 10,000"),
        (SMALLEST_DEFOCUS, CLOSE_TO_FOCUS[0], "nanometres", "multiply the column by 10"),
        (3e5, 1e7, "picometres", "divide the column by 100"),
    )
    looks = next(((unit, remedy) for low, high, unit, remedy in units if low <= middle < high), None)
    story = f"looks like {looks[0]}" if looks else "no image is taken at such a defocus"
    raise InputError(
        f"{column} is {values[row]:g}, and about that in most rows: {story}",
        file=file,
        row=row + 1,
        remedy=f"defocus is in A here, {looks[1] if looks else 'check the unit of the column'}",
    )


def _check_b_factor(values: Float64, column: str, file: Path, hint: str) -> None:
    """An envelope that grows is no envelope; slightly negative values of single rows are the scatter of a fit."""
    negative = values < 0
    too_low = values < SLIGHTLY_NEGATIVE
    if too_low.any() or np.count_nonzero(negative) > len(values) / 2:
        row = int(np.flatnonzero(negative)[0])
        raise InputError(
            f"{column} is {values[row]:g} A^2, and negative in {np.count_nonzero(negative):,} of {len(values):,} rows: "
            "the CTF would grow with resolution, and the most damaged images would weigh most (Warp and M write -4 "
            f"times the dose for tilt images{hint})",
            file=file,
            row=row + 1,
            remedy="multiply the column by -1 to have damage weigh images down, or set it to 0",
        )
    if (values > LARGEST_B_FACTOR).any():
        row = int(np.flatnonzero(values > LARGEST_B_FACTOR)[0])
        raise InputError(
            f"{column} must be at most {LARGEST_B_FACTOR:,.0f} A^2, not {values[row]:g}",
            file=file,
            row=row + 1,
            remedy="check the unit of the column, which is A^2",
        )


def _voltage_story(value: float) -> str | None:
    if 1e4 <= value <= 2e6:
        return "it looks like volts: the voltage is in kV here, divide the column by 1,000"
    if 0.01 <= value <= 2:
        return "it looks like megavolts: the voltage is in kV here, multiply the column by 1,000"
    return "the voltage is in kV here"


def _possible_cs(values: Float64) -> NDArray[np.bool_]:
    """Correctors leave some micrometres, of either sign; 1.1 to 4.5 um are more likely an objective's Cs in metres."""
    return _within(values, -0.1, 20) & ~((values > 0.0011) & (values < 0.0045))


def _cs_story(value: float) -> str | None:
    units = (
        (0.0011, 0.0045, "metres", "multiply the column by 1,000"),
        (200, 2e4, "micrometres", "divide the column by 1,000"),
        (2e5, 8e6, "nanometres", "divide the column by 1e6"),
        (8e6, 2e8, "A", "divide the column by 1e7"),
    )
    looks = next(((unit, remedy) for low, high, unit, remedy in units if low <= value < high), None)
    return f"it looks like {looks[0]}: Cs is in mm here, {looks[1]}" if looks else "Cs is in mm here"


def _contrast_story(value: float) -> str | None:
    if 1 < value <= 100:
        return "it looks like percent: divide the column by 100"
    return "check the column" if value > 0 else "it is positive here, check the sign convention of the file"


def _angle_story(_: float) -> str | None:
    return "check the unit of the column: it is in degrees in STAR files and ctf.pkl, in radians in .cs files"


def _scale_story(_: float) -> str | None:
    return "set the column to 1 if the scale of the images is not known"
