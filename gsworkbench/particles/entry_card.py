"""Cards of EMPIAR entries: what was deposited, where it lies, how it is read. empiar.yaml has those we know.

A card of one's own is a YAML file ENTRY.yaml with some of these fields; the others are those of the card that we have.
Cards of one's own are found in the folder that GSWORKBENCH_CARDS names. Of an entry whose files we do not know,
`card_with_blanks` writes one in which everything that is not known is BLANK, for somebody who has the files.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import yaml

from gsworkbench.config import from_mapping, to_mapping
from gsworkbench.errors import InputError

CARDS = Path(__file__).with_name("empiar.yaml")
OWN_CARDS = "GSWORKBENCH_CARDS"  # the environment variable
BLANK = "___"


@dataclass(frozen=True)
class Card:
    """What is known of an entry; None is "not known here". empiar.yaml says what the fields mean.

    box_size in px, pixel_size in A, as deposited. data_sign : the factor that makes protein white. folder : where its
    files lie on this machine, of a card of one's own. stray : text that is in the table by mistake.
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
    stray: str = ""
    folder: str | None = None

    @property
    def name(self) -> str:
        return f"EMPIAR-{self.entry}"

    @property
    def page(self) -> str:
        return f"https://www.ebi.ac.uk/empiar/EMPIAR-{self.entry}/"

    @property
    def image_bytes(self) -> int | None:
        """What its images take, in four bytes a pixel."""
        known = self.n_particles is not None and self.box_size is not None
        return 4 * self.n_particles * self.box_size**2 if known else None  # type: ignore[operator]

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


@dataclass(frozen=True)
class EntryParticles:
    """Particles of an EMPIAR entry, as a paper used them (entry_particles.py makes them).

    box_size : px, that images are Fourier-cropped to. pixel_size : A, of the deposited images, in place of the card's.
    n_particles : the first so many alone; None takes all.
    """

    entry: int
    box_size: int
    pixel_size: float | None = None
    n_particles: int | None = None


def read_cards(path: str | Path = CARDS) -> dict[int, Card]:
    """Read the cards that we have, strictly, by entry."""
    cards = [from_mapping(Card, row) for row in yaml.safe_load(Path(path).read_text(encoding="utf-8"))]
    return {card.entry: card for card in cards}


def find_card(name: str | int) -> Card:
    """Return the card of "10028" or "EMPIAR-10028": that of one's own where there is one, else ours.

    A card of one's own with blanks raises InputError, which names them.
    """
    card = find_shipped_card(name)
    own = own_card(card.entry)
    return card if own is None else read_own_card(own)


def find_shipped_card(name: str | int) -> Card:
    """Return the card that we have of "10028" or "EMPIAR-10028"; InputError where there is none."""
    cards = read_cards()
    number = str(name).upper().removeprefix("EMPIAR-")
    if not number.isdecimal() or int(number) not in cards:
        known = ", ".join(map(str, cards))
        raise InputError(f"there is no dataset card for {str(name)!r}", remedy=f"there are cards of {known}")
    return cards[int(number)]


def own_card(entry: int) -> Path | None:
    """Return the file of a card of one's own, None where there is none."""
    folder = os.environ.get(OWN_CARDS)
    file = Path(folder) / f"{entry}.yaml" if folder else None
    return file if file is not None and file.is_file() else None


def read_own_card(path: str | Path) -> Card:
    """Read a card of one's own; blanks, fields that no card has and an entry without a card raise InputError."""
    try:
        given = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"not readable as YAML ({' '.join(str(error).split())})", file=path) from error
    if not isinstance(given, Mapping) or type(given.get("entry")) is not int:
        raise InputError("a card has named fields, and one of them is the number of the entry", file=path)
    if blanks := [name for name, value in given.items() if value == BLANK or value is None]:
        problem = f"{len(blanks)} blank{'s are' if len(blanks) > 1 else ' is'} not filled: {', '.join(blanks)}"
        raise InputError(problem, file=path, remedy=f"write what you know of EMPIAR-{given['entry']} there")
    try:
        card = from_mapping(Card, to_mapping(find_shipped_card(given["entry"])) | dict(given))
    except InputError as error:
        raise InputError(error.problem, file=path, remedy=error.remedy) from error
    if card.data_sign not in (1, -1):
        raise InputError(f"data_sign is 1 (white protein) or -1 (dark), not {card.data_sign!r}", file=path)
    return replace(card, images="named in the table") if card.images is None else card


_ASKED = {
    "folder": "The folder on this machine that holds the entry's files; all paths below are relative to it.",
    "table": "The table of the particles, a RELION .star.",
    "image_root": 'The folder that the names of images in the table are relative to; "." for the folder above.',
    "poses": '"table" where the table has refined angles and shifts, else a poses.pkl of cryoDRGN.',
    "ctf": '"table" where the table has the CTF, else a ctf.pkl of cryoDRGN.',
    "n_particles": "How many particles the table lists.",
    "box_size": "px, of the images.",
    "pixel_size": "A, of the images.",
    "data_sign": "1 where protein is white in the images, -1 where it is dark.",
}


def card_with_blanks(card: Card) -> str:
    """Return a card of one's own as text: what is known of the entry, and BLANK for what is not."""
    lines = [f"# {card.name}: {card.title}; {card.page}", *([f"# {card.note}"] if card.note else [])]
    lines += [f"# Write what you know in place of every {BLANK}. Then: gsworkbench inspect {card.entry}.yaml", ""]
    lines += [f"entry: {card.entry}"]
    for name, says in _ASKED.items():
        value = getattr(card, name) or None
        lines += [f"# {says}", f"{name}: {BLANK if value is None else value}"]
    return "\n".join(lines) + "\n"
