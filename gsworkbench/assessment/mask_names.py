"""The names of masks that every command and setting takes. Imports nothing, so that --help stays quick."""

from __future__ import annotations

# own is the mask of the FSC definition; the others are made by assess.named_mask.
MASKS = ("own", "auto", "sphere", "loose", "tight", "none")


def mask_choices(*without: str) -> str:
    """Return the names in words for a --help, but for those in `without`, and that a file may be given."""
    return ", ".join(name for name in MASKS if name not in without) + " or a mask (.mrc)"
