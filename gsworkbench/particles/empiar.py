"""EMPIAR entries: dataset cards, and their files brought here whole, checked and without asking twice.

Cards are data (empiar.yaml): what an entry is, where its files lie, box, pixel size, sign, and where poses come from.
`fetch` downloads the table first and then the images it names. Sums that a card does not state are noted in
checksums.json at the first download, and hold from then on: keep that file with your results. Nothing here converts
or reads images.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal
from urllib.parse import quote

import yaml

from gsworkbench.config import from_mapping
from gsworkbench.errors import InputError
from gsworkbench.io.files import sha256, write_json

ARCHIVE = "https://ftp.ebi.ac.uk/empiar/world_availability"
CARDS = Path(__file__).with_name("empiar.yaml")
LOCK = "checksums.json"


@dataclass(frozen=True)
class Card:
    """What is known of an entry; None is "not known here". empiar.yaml says what the fields mean.

    box_size in px, pixel_size in A, as deposited. data_sign : the factor that makes protein white.
    """

    entry: int
    title: str
    n_particles: int | None
    box_size: int | None
    pixel_size: float | None
    data_sign: int | None
    table: str | None
    images: tuple[str, ...] | Literal["named in the table"] | None
    poses: str | None
    ctf: str | None
    note: str
    image_root: str = ""
    save_as: dict = field(default_factory=dict)
    sha256: dict = field(default_factory=dict)
    licence: str = "not stated in what is at hand: see the entry's page"

    @property
    def name(self) -> str:
        return f"EMPIAR-{self.entry}"

    @property
    def page(self) -> str:
        return f"https://www.ebi.ac.uk/empiar/EMPIAR-{self.entry}/"

    def report(self) -> list[str]:
        """Say what the card says."""
        count = "a number not known here of" if self.n_particles is None else f"{self.n_particles:,}"
        size = f"{self.box_size or '?'} px, {self.pixel_size or '?'} A/px"
        sign = {1: "white", -1: "dark", None: "of unknown sign"}[self.data_sign]
        return [
            f"{self.name}: {self.title}; {self.page}",
            f"  {count} particles, {size}; protein is {sign}",
            f"  poses: {self.poses or 'not known here'}; licence: {self.licence}",
            *([f"  {self.note}"] if self.note else []),
        ]

    def options(self, folder: Path) -> str:
        """The arguments by which `gsworkbench inspect` and `reconstruct` read the entry, once fetched to `folder`."""
        if isinstance(self.images, tuple):
            particles = str(folder / self.save_as.get(self.images[0], self.images[0]))
        else:
            particles = f"{folder / str(self.table)} --datadir {folder / self.image_root}"
        given = "".join(f" --{w} {folder / w}.pkl" for w in ("poses", "ctf") if getattr(self, w) != "table")
        return f"{particles}{given}{' --sign -1' * (self.data_sign == -1)}"


def read_cards(path: str | Path = CARDS) -> dict[int, Card]:
    """Read dataset cards, strictly, by entry."""
    cards = [from_mapping(Card, row) for row in yaml.safe_load(Path(path).read_text(encoding="utf-8"))]
    return {card.entry: card for card in cards}


def find_card(name: str, path: str | Path = CARDS) -> Card:
    """Return the card of "10028" or "EMPIAR-10028"."""
    cards = read_cards(path)
    number = name.upper().removeprefix("EMPIAR-")
    if not number.isdecimal() or int(number) not in cards:
        known = ", ".join(map(str, cards))
        raise InputError(f"there is no dataset card for {name!r}", remedy=f"there are cards of {known}")
    return cards[int(number)]


def fetch(card: Card, folder: str | Path, *, archive: str = ARCHIVE, wait: float = 1.0) -> list[Path]:
    """Download the files of an entry below `folder`, as they lie in the archive; return their paths, the table first.

    A call that was interrupted is repeated to go on. A file that is there stays if its sum is as noted. Files whose
    names leave the folder, wrong sums, and entries whose files are not known raise InputError.
    """
    folder = Path(folder)
    if card.table is None:
        raise InputError(f"the files of {card.name} are not known here", remedy=f"download them from {card.page}")
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

    download(url, path, card.sha256.get(name, noted.get(name)), wait=wait)
    if name not in noted:
        write_json(folder / LOCK, dict(sorted({**noted, name: sha256(path)}.items())))
    return path


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
