"""Where the image stacks that a metadata file names lie on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from gsworkbench.errors import InputError, first_few


class MissingImages(InputError):
    """Image files that a metadata file names and that were not found."""


def resolve_stacks(names: Sequence[str], metadata: Path, datadir: str | Path | None = None) -> tuple[Path, ...]:
    """Find the file of each name in `names`, each name once, as absolute paths in the same order.

    Tried in turn: the name relative to the metadata file's folder, to the current folder, to `datadir`; then its last
    part alone in `datadir`. Absolute names are taken as they are. InputError when a name leads to two different
    files, when two names lead to one (their last part alone does not tell them apart), or when files are missing.
    """
    if datadir is not None and not Path(datadir).is_dir():
        raise InputError("there is no such folder", file=datadir, remedy="give --datadir FOLDER")
    found = {name: _find(name, metadata, datadir) for name in names}
    missing = [name for name, path in found.items() if path is None]
    if missing:
        raise MissingImages(
            f"{len(missing)} of {len(names)} image files are missing: {first_few(missing)}",
            file=metadata,
            remedy="give --stack FILE or --datadir FOLDER",
        )
    paths = tuple(path for path in found.values() if path is not None)
    owner: dict[Path, str] = {}
    for name, path in zip(names, paths, strict=True):
        other = owner.setdefault(path, name)
        if Path(other) != Path(name):
            raise InputError(
                f"{other} and {name} both lead to {path}",
                file=metadata,
                remedy="give the --datadir FOLDER that they are relative to",
            )
    return paths


def first_outside(paths: Sequence[Path], metadata: Path, datadir: str | Path | None = None) -> int | None:
    """The place in `paths` of the first that, links followed, lies neither beside `metadata` nor in `datadir`."""
    inside = [Path(folder).resolve() for folder in (metadata.parent, datadir) if folder is not None]
    outside = (not any(path.resolve().is_relative_to(folder) for folder in inside) for path in paths)
    return next((k for k, is_outside in enumerate(outside) if is_outside), None)


def _find(name: str, metadata: Path, datadir: str | Path | None) -> Path | None:
    """Return the one file that `name` leads to, None if there is none."""
    as_written = {path.resolve(): path for path in _candidates(name, metadata, datadir) if is_file(path)}
    if len(as_written) > 1:
        raise InputError(
            f"{name} is ambiguous: it leads to {' and to '.join(map(str, as_written.values()))}",
            file=metadata,
            remedy="give --stack FILE or work from another folder",
        )
    if not as_written and datadir is not None:
        last_part = Path(datadir).absolute() / Path(name).name
        return last_part if is_file(last_part) else None
    return next(iter(as_written.values()), None)


def _candidates(name: str, metadata: Path, datadir: str | Path | None) -> Iterator[Path]:
    for folder in (metadata.parent, Path.cwd(), datadir):
        if folder is not None:
            yield Path(folder).absolute() / name


def is_file(path: Path) -> bool:
    """Path.is_file, False for names that the system cannot have."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long for the system, or with a NUL in it
        return False
