"""The files of EMPIAR entries brought here whole, checked and without asking twice.

`fetch` downloads the table of an entry first and then the images it names, as its card says (entry_card.py). Sums that
a card does not state are noted in checksums.json at the first download, and hold from then on: keep that file with your
results. Nothing here converts or reads images.

The environment variable GSWORKBENCH_MIRROR names a server that is asked in place of all others, for
MIRROR/HOST/PATH where the file is at https://HOST/PATH: a copy inside an institute, or a rehearsal without a network.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path, PurePosixPath
from urllib.parse import quote, urlsplit

from gsworkbench.errors import InputError
from gsworkbench.io.files import sha256, write_json
from gsworkbench.particles.entry_card import Card

ARCHIVE = "https://ftp.ebi.ac.uk/empiar/world_availability"
MIRROR = "GSWORKBENCH_MIRROR"  # the environment variable
LOCK = "checksums.json"


def fetch(card: Card, folder: str | Path, *, archive: str = ARCHIVE, wait: float = 1.0) -> list[Path]:
    """Download the files of an entry below `folder`, as they lie in the archive; return their paths, the table first.

    A call that was interrupted is repeated to go on. A file that is there stays if its sum is as noted. Files whose
    names leave the folder, wrong sums, and entries whose files are not known raise InputError. Of a card of one's own
    that names a folder on this machine nothing is downloaded.
    """
    folder = Path(folder)
    if card.table is None:
        remedy = f"download them from {card.page}, and fill a card of your own: fetch {card.entry} --write-card FILE"
        raise InputError(f"the files of {card.name} are not known here", remedy=remedy)
    if card.folder is not None:
        return [_inside(Path(card.folder), card.table)]
    archive = f"{archive.rstrip('/')}/{card.entry}"
    table = _fetch(f"{archive}/{quote(card.table)}", card.table, card, folder, wait)
    files = {f"{what}.pkl": url for what in ("poses", "ctf") if (url := getattr(card, what)) not in (None, "table")}
    files |= {card.save_as.get(name, name): f"{archive}/{quote(name)}" for name in _images(card, table)}
    for name in files:
        _inside(folder, name)  # of all, before the first
    return [table, *(_fetch(url, name, card, folder, wait) for name, url in files.items())]


def listed_images(table: Path) -> list[str]:
    """Image files that a STAR file names as INDEX@FILE, one for each particle, as written; layout does not matter."""
    return re.findall(r"(?<!\S)\d+@(\S+)", table.read_text(encoding="utf-8", errors="replace"))


def _images(card: Card, table: Path) -> tuple[str, ...]:
    """Names of the image files, below the entry."""
    if isinstance(card.images, str):
        return tuple(str(PurePosixPath(card.image_root) / name) for name in dict.fromkeys(listed_images(table)))
    return card.images or ()


def _fetch(url: str, name: str, card: Card, folder: Path, wait: float) -> Path:
    """Download one file and note its sum, unless the card or an earlier download states it."""
    path = _inside(folder, name)
    noted = _noted(folder)
    from gsworkbench.system.download import download  # its libraries take long to import

    download(mirrored(url), path, card.sha256.get(name, noted.get(name)), wait=wait)
    if name not in noted:
        write_json(folder / LOCK, dict(sorted({**noted, name: sha256(path)}.items())))
    return path


def mirrored(url: str) -> str:
    """Return where a file is asked for: at its address, or at the mirror that the environment names."""
    mirror, parts = os.environ.get(MIRROR), urlsplit(url)
    if not mirror or url.startswith(mirror) or parts.hostname == "127.0.0.1":
        return url
    return f"{mirror.rstrip('/')}/{parts.netloc}{parts.path}"


def _inside(folder: Path, name: str) -> Path:
    """The path of a file below `folder`; a name that leads elsewhere raises InputError."""
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"the entry names a file outside the folder, {name!r}", file=folder)
    return path


def _noted(folder: Path) -> dict[str, str]:
    file = folder / LOCK
    try:
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except ValueError as error:
        raise InputError("not a list of checksums", file=file, remedy="delete it to write it anew") from error
