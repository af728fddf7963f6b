"""The pixel size of a set of images, which several files may state: the table, ctf.pkl, the images' own headers.

What they say must agree to 1 %, else InputError names both numbers, what probably happened, and the options that settle
it. A header of exactly 1 A or none is what programs write that do not know, and is not compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gsworkbench.errors import InputError
from gsworkbench.particles.formats.columns import check_pixel_size

TOLERANCE = 0.01  # relative, between two pixel sizes that are meant to be one
DOWNSAMPLED, CROPPED = "downsampled", "cropped"
IMAGE_SCALES = (DOWNSAMPLED, CROPPED)


@dataclass(frozen=True)
class Stated:
    """A box (px) and a pixel size (A) that `name` states, None where it does not."""

    name: str
    box_size: int | float | None
    pixel_size: float | None

    def pixel_size_at(self, box_size: int) -> float | None:
        """The pixel size of the same field of view in `box_size` pixels."""
        if self.box_size is None or self.pixel_size is None:
            return self.pixel_size
        return self.pixel_size * self.box_size / box_size


def image_pixel_size(
    box_size: int,
    headers: Sequence[tuple[Path, float | None]],
    table: Stated,
    ctf: Stated | None,
    source: Path,
    image_scale: str | None = None,
) -> float:
    """Return the pixel size (A) of images of `box_size` px, or raise InputError where the files contradict each other.

    headers : image files and the pixel sizes their headers state. table : what the metadata file says. ctf : what
    ctf.pkl says, which goes before the table, and always of the same field of view. image_scale : what became of the
    images after the table was written: "downsampled" (the same field of view in fewer pixels), "cropped" (the same
    pixels, cut or padded), or None for neither.
    """
    known = [(file, size) for file, size in headers if size is not None and size != 1]
    for file, size in known:
        check_pixel_size(size, "the pixel size of the header", file)
    leading = ctf if ctf is not None else table
    if image_scale is None:
        if table.box_size not in (None, box_size):
            raise _another_box(box_size, headers[0][0], known, table, source)
        chosen = leading.pixel_size_at(box_size)
    elif image_scale == CROPPED:
        chosen = leading.pixel_size
    elif leading.box_size is None:
        chosen = known[0][1] if known else None
        if chosen is None:
            raise InputError(
                "the box that the images had is not given, nor is a pixel size in their header",
                file=source,
                remedy="give --pixel-size in A",
            )
    else:
        chosen = leading.pixel_size_at(box_size)
    if chosen is None:
        hint = f" (the header of {known[0][0].name} says {known[0][1]:.5g})" if known else ""
        raise InputError("the pixel size is not given", file=source, remedy=f"give --pixel-size in A{hint}")
    check_pixel_size(chosen, f"the pixel size of {leading.name}", source)
    if ctf is not None and image_scale is None and table.pixel_size is not None and _differ(chosen, table.pixel_size):
        raise InputError(
            f"the pixel size is {table.pixel_size:.5g} A in {table.name} and {chosen:.5g} A by {ctf.name} "
            f"({_stated(ctf)}, for images of {box_size} px)",
            file=source,
            remedy="one of the files is of other images; give --pixel-size in A to settle it",
        )
    for file, size in known:
        if _differ(chosen, size):
            raise _contradiction(box_size, chosen, file, size, leading, source, image_scale)
    return chosen


def _differ(a: float, b: float) -> bool:
    return abs(a - b) > TOLERANCE * max(a, b)


def _stated(stated: Stated) -> str:
    box = "" if stated.box_size is None else f"{stated.box_size:g} px of "
    return f"{box}{stated.pixel_size:.5g} A"


def _another_box(
    box_size: int, file: Path, known: Sequence[tuple[Path, float]], table: Stated, source: Path
) -> InputError:
    """The table is of another box than the images: which of the two likely stories the header tells, if either."""
    assert table.box_size is not None
    here = f"{table.box_size} px here but {file} has images of {box_size} px"
    same_view = table.pixel_size_at(box_size)
    header = known[0][1] if known else None
    if header is not None and same_view is not None and not _differ(header, same_view):
        return InputError(
            f"{here} of {header:.5g} A, the same field of view downsampled from {_stated(table)}",
            file=source,
            remedy="give --image-scale downsampled to read them so",
        )
    if header is not None and table.pixel_size is not None and not _differ(header, table.pixel_size):
        return InputError(
            f"{here} of the same {header:.5g} A, cropped or padded",
            file=source,
            remedy="give --image-scale cropped to read them so",
        )
    said = "" if header is None else f" of {header:.5g} A"
    return InputError(
        f"{here}{said}, and the table says {_stated(table) if table.pixel_size else 'no pixel size'}",
        file=source,
        remedy="give --image-scale downsampled if they show the same field of view in other pixels, --image-scale "
        "cropped if they were cut or padded, or the right --pixel-size in A",
    )


def _contradiction(
    box_size: int, chosen: float, file: Path, size: float, leading: Stated, source: Path, image_scale: str | None
) -> InputError:
    ratio = size / chosen
    story = "one of them is of other images"
    if not (_differ(ratio, 10) and _differ(ratio, 0.1)):
        story = "one of them looks like nanometres"
    remedy = "give the right one with --pixel-size in A"
    if image_scale is None and leading.box_size not in (None, box_size):
        if not _differ(size, leading.pixel_size or size):
            story = f"{leading.name} is of {_stated(leading)}, and the images look cropped"
        remedy += f", or --image-scale cropped if they are {leading.name}'s pixels in a smaller box"
    elif image_scale is None and leading.box_size is None and ratio > 1 and _differ(ratio, 10):
        story = f"the images look downsampled {ratio:.3g} times since {leading.name} was written"
        remedy += ", or --image-scale downsampled to take the header's and read shifts as the table means them"
    return InputError(
        f"the pixel size is {chosen:.5g} A by {leading.name} and {size:.5g} A in the header of {file}: {story}",
        file=source,
        remedy=remedy,
    )
