"""Which byte order an MRC header is written in, with its machine stamp or without.

Programs of the field do not ask for the map ID and the machine stamp (bytes 208 to 215), and some leave them zero.
Then the order is the one in which sizes and mode are possible and, where the file's length is known, fit it.
"""

from __future__ import annotations

import struct

ITEM_BYTES = {0: 1, 1: 2, 2: 4, 6: 2, 12: 2}  # of the modes we read
LARGEST_SIDE = 2**24  # of images, and of their number, where only a guess tells a header from other bytes
STAMPS = {b"DA": "<", b"DD": "<", b"\x11\x11": ">"}


def byte_order(header: bytes, length: int | None) -> str | None:
    """Return "<" or ">" for the first 1024 bytes of a file of `length` bytes, or None if they are no MRC header.

    length : None where it is not known, as of compressed files.
    """
    stamped = STAMPS.get(header[212:214]) if header[208:211] == b"MAP" else None
    possible = [order for order in "<>" if _is_possible(header, order)]
    if stamped is not None and (stamped in possible or not possible):
        return stamped  # with an ID and a stamp it is an MRC file, though perhaps one that we do not read
    if not possible:
        return None
    return min(possible, key=lambda order: (not _fits(header, order, length), _n_bytes(header, order)))


def _is_possible(header: bytes, order: str) -> bool:
    """Whether sizes, mode, start, intervals and length of the extended header are such as files have."""
    sides, mode = struct.unpack(f"{order}3i", header[:12]), struct.unpack(f"{order}i", header[12:16])[0]
    (extended,) = struct.unpack(f"{order}i", header[92:96])
    return mode in ITEM_BYTES and all(1 <= side <= LARGEST_SIDE for side in sides) and extended >= 0


def _n_bytes(header: bytes, order: str) -> int:
    """The bytes that a file with this header has in all."""
    columns, rows, sections, mode = struct.unpack(f"{order}4i", header[:16])
    (extended,) = struct.unpack(f"{order}i", header[92:96])
    return 1024 + int(extended) + int(columns) * int(rows) * int(sections) * ITEM_BYTES[mode]


def _fits(header: bytes, order: str, length: int | None) -> bool:
    return length is None or _n_bytes(header, order) <= length
