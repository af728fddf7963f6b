"""Pickles of numbers, read without running anything in them.

A pickle is a program. This reader admits plain numeric NumPy arrays and scalars, numbers, strings, and tuples or lists
of them, and hands the program no callable but its own: small stand-ins take the place of the few names that array
pickles mention (numpy.core and numpy._core alike), so that neither a foreign function nor a forged array can be made.
Object and structured arrays are refused, and so are dictionaries and sets: arrays need none, and what one asks of its
keys, or sets on an object, takes time and memory that a short program can multiply.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gsworkbench.errors import InputError
from gsworkbench.io.files import require_plain_file


def load_arrays(path: str | Path) -> Any:
    """Return the pickled value: an array, a number, or a tuple or list of these, one level deep.

    Raises InputError for anything else, for a damaged file, and for lengths beyond the file's own.
    """
    require_plain_file(path)
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"the file cannot be read ({error.strerror})", file=path) from error
    try:
        value = _NumbersOnly(io.BytesIO(_checked(data)), encoding="latin1").load()
        values, room = [], len(data)
        for part in value if type(value) in (tuple, list) else [value]:
            values.append(_unwrap(part))
            room -= getattr(values[-1], "nbytes", 0)
            if room < 0:  # one array, many times over
                raise _Refused("asks for more memory than its size explains")
        return type(value)(values) if type(value) in (tuple, list) else values[0]
    except _Refused as error:
        problem = f"the pickle {error}, and only plain NumPy arrays are read; nothing in it was run"
        raise InputError(problem, file=path) from error
    except Exception as error:  # a damaged pickle can fail in any way
        raise InputError(f"not a readable pickle ({type(error).__name__}: {error})", file=path) from error


_DIMENSIONS = 64  # of an array, NumPy's own limit
_FRAME_BYTES = 9  # the opcode and the eight bytes of its length
_COLLECTIONS = {"EMPTY_DICT", "DICT", "SETITEM", "SETITEMS", "EMPTY_SET", "ADDITEMS", "FROZENSET"}


class _Refused(Exception):
    """What the pickle does that we do not admit."""


def _checked(data: bytes) -> bytes:
    """Return the program without its frames, its opcodes read but not run: lengths and memo places must lie within it.

    Frames only group reads. Where they overlap, the C unpickler drops what is left of the outer one and runs other
    opcodes than those read here; without frames it runs these.
    """
    pieces, start = [], 0
    for opcode, argument, place in pickletools.genops(data):
        assert place is not None  # bytes have places
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > len(data):
            raise _Refused("asks for more memory than its size explains")
        if opcode.name in _COLLECTIONS:
            raise _Refused("holds a dictionary, a set, or an array of records")
        if opcode.name == "FRAME":
            pieces.append(data[start:place])
            start = place + _FRAME_BYTES
    return b"".join([*pieces, data[start:]])


def _said(value: Any) -> str:
    """For a message: a string in quotes, or a type's name, as tuples of tuples of one tuple would be long to spell."""
    return repr(value) if isinstance(value, str) else type(value).__name__


class _Dtype:
    """Stands in for numpy.dtype: one plain kind of number."""

    def __init__(self, code: str, *_: Any) -> None:
        if not (isinstance(code, str) and re.fullmatch(r"[<>=|]?(b1|[iu][1248]|f[248])", code)):
            raise _Refused(f"holds values of type {_said(code)}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.dtype = self.dtype.newbyteorder(">" if state[1] == ">" else "<" if state[1] == "<" else "=")


class _Array:
    """Stands in for numpy.ndarray; what it is made of, as a program may have many made that it does not keep."""

    parts: tuple[Any, Any, Any, Any]  # data, kind, shape, order

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, fortran, data = state
        self.parts = data, kind, shape, "F" if fortran else "C"


def _array(data: Any, kind: Any, shape: Any, order: Any) -> NDArray[Any]:
    """Make an array over `data`, which must be as long as shape and type say."""
    if type(kind) is not _Dtype or isinstance(data, list):
        raise _Refused("holds an array of Python objects")
    data = data.encode("latin1") if isinstance(data, str) else data
    if not isinstance(data, bytes | bytearray):  # bytes(n) of a number would be n zeros
        raise _Refused(f"holds a {type(data).__name__} where the bytes of an array belong")
    counts = type(shape) is tuple and len(shape) <= _DIMENSIONS and all(type(n) is int for n in shape)
    if not (counts and all(0 <= n < 2**63 for n in shape)):
        raise _Refused("holds an array whose shape is not one")
    if math.prod(shape) * kind.dtype.itemsize != len(data):
        raise _Refused(f"holds {len(data)} bytes for an array of shape {shape}")
    return np.ndarray(shape, kind.dtype, data, order=order)


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _frombuffer(data: Any, kind: Any, shape: Any, order: Any) -> _Array:
    array = _Array()
    array.parts = data, kind, shape, order
    return array


def _scalar(kind: Any, data: Any) -> _Array:
    return _frombuffer(data, kind, (), "C")


def _encode(text: str, encoding: str) -> str:
    """Stands in for _codecs.encode, with which protocol 2 writes bytes; `_array` encodes what is kept."""
    if encoding != "latin1":
        raise _Refused(f"asks for the codec {_said(encoding)}")
    return text


def _no_bytes() -> bytes:
    """Stands in for bytes, with which protocols 0 to 2 write an empty one; with an argument it would take memory."""
    return b""


_STAND_INS: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _no_bytes,
    ("builtins", "bytes"): _no_bytes,
    **{
        (f"numpy.{core}.{module}", name): stand_in
        for core in ("core", "_core")
        for module, name, stand_in in (
            ("multiarray", "_reconstruct", _reconstruct),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _frombuffer),
        )
    },
}


class _NumbersOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _STAND_INS:
            raise _Refused(f"asks for {module}.{name}")
        return _STAND_INS[module, name]


def _unwrap(value: Any) -> Any:
    """Return the array behind a stand-in; numbers pass, anything else is refused."""
    if type(value) is _Array:
        return _array(*value.parts)[()]
    if type(value) in (int, float, bool):
        return value
    raise _Refused(f"holds a {type(value).__name__} where an array belongs")
