"""Settings as frozen records, strict about unknown names and wrong types. Imports no torch.

The records themselves stand where they are used: those of a method in the method's own file.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from gsworkbench.errors import InputError

T = TypeVar("T")


def from_mapping(cls: type[T], mapping: Mapping[str, Any]) -> T:
    """Build the frozen dataclass `cls` from nested plain data (YAML, JSON, papermill parameters).

    Unknown names, missing required names and values of the wrong type raise InputError naming the class and the
    field. An int is accepted where a float is asked for; nothing else is converted.
    """
    if not isinstance(mapping, Mapping):
        raise InputError(f"{cls.__name__} needs named values, got {mapping!r}")
    hints = type_hints(cls)  # type: ignore[arg-type]
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(mapping) - set(fields))
    if unknown:
        raise InputError(
            f"{cls.__name__} has no parameter {', '.join(map(repr, unknown))}", remedy=f"it has {', '.join(fields)}"
        )
    values = {name: _checked(hints[name], value, f"{cls.__name__}.{name}") for name, value in mapping.items()}
    nothing = dataclasses.MISSING
    missing = [
        n for n, f in fields.items() if n not in values and f.default is nothing and f.default_factory is nothing
    ]
    if missing:
        raise InputError(f"{cls.__name__} needs a value for {', '.join(missing)}")
    return cls(**values)


@functools.cache
def type_hints(cls: type) -> dict[str, Any]:
    """Return the types of a record's fields; resolving them is slow, and a registry asks thousands of times."""
    return typing.get_type_hints(cls)


def to_mapping(config: Any) -> dict[str, Any]:
    """Return a config as nested plain data that `from_mapping` reads back."""
    return {
        f.name: to_mapping(v)
        if dataclasses.is_dataclass(v := getattr(config, f.name))
        else list(v)
        if isinstance(v, tuple)
        else v
        for f in dataclasses.fields(config)
    }


def _fits(kind: Any, value: Any) -> bool:
    """Whether a value is plainly meant as one kind of a union: a text of a Literal, or a record with these names."""
    if dataclasses.is_dataclass(kind):
        names = {f.name for f in dataclasses.fields(kind)}
        return isinstance(value, kind) or (isinstance(value, Mapping) and set(value) <= names)  # type: ignore[arg-type]
    return typing.get_origin(kind) is Literal and value in typing.get_args(kind)


def _checked(kind: Any, value: Any, name: str) -> Any:
    """Return `value` if it is of type `kind`, else raise InputError."""
    origin = typing.get_origin(kind)
    if kind is Any:  # the record checks the value itself
        return value
    if origin in (typing.Union, types.UnionType):
        options = typing.get_args(kind)
        if value is None and type(None) in options:
            return None
        kinds = [o for o in options if o is not type(None)]
        fitting = (o for o in kinds if _fits(o, value))
        return _checked(next(fitting, kinds[0]), value, name)
    if origin is Literal:
        if value in typing.get_args(kind):
            return value
        raise InputError(f"{name} must be one of {', '.join(map(str, typing.get_args(kind)))}, not {value!r}")
    if origin is tuple:
        if isinstance(value, (list, tuple)):
            return tuple(_checked(typing.get_args(kind)[0], v, name) for v in value)
    elif dataclasses.is_dataclass(kind):
        return value if isinstance(value, kind) else from_mapping(kind, value)  # type: ignore[arg-type]
    elif kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    elif type(value) is kind:
        return value
    raise InputError(f"{name} must be {getattr(kind, '__name__', kind)}, not {value!r}")
