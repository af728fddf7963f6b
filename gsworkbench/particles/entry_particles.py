"""The particles of an EMPIAR entry as a paper used them: read by the entry's card, Fourier-cropped, protein white.

What was deposited stays as it is. A table with stray text in it is read from a copy without it.
"""

from __future__ import annotations

from pathlib import Path

from gsworkbench.config import to_mapping
from gsworkbench.errors import InputError, NotRun
from gsworkbench.io.files import appear_together, write_text
from gsworkbench.io.locks import lock_folder
from gsworkbench.particles.copy import PARTICLES, write_particles
from gsworkbench.particles.entry_card import Card, EntryParticles, find_card
from gsworkbench.particles.read import read_particles
from gsworkbench.particles.stack import ParticleStack
from gsworkbench.system.provenance import RunRecord

MENDED = ".mended.star"


def prepare(config: EntryParticles, output_dir: Path, downloads: Path) -> ParticleStack:
    """Write particles.mrcs, particles.star and run.json of an entry whose files lie in `downloads`.

    An entry whose files are not known, and a card with blanks, raise NotRun.
    """
    card = known_card(config.entry)
    stack = read_entry(card, downloads, pixel_size=config.pixel_size)
    stack = stack if config.n_particles is None else stack[: config.n_particles]
    record = RunRecord.start(to_mapping(config), [path for path in (stack.source, *stack.also_read) if path])
    with lock_folder(output_dir), appear_together(instead_of=[output_dir / PARTICLES]), record.stage("copy"):
        written = write_particles(stack, output_dir, box_size=config.box_size)
        record.n_particles = {"all": len(written)}
        record.particles = {"data_sign": 1, "pixel_size": written.pixel_size, "box_size": written.box_size}
        record.warnings += list(stack.notes)
        record.results = {"card": to_mapping(card), "deposited_box_size": stack.box_size}
        record.finish(output_dir / "run.json")
    return written


def known_card(entry: int) -> Card:
    """Return the card of an entry that can be read; NotRun where nobody has filled its blanks."""
    what = f"EMPIAR-{entry}"
    try:
        card = find_card(entry)
    except InputError as blanks:
        name = "its card" if blanks.file is None else f"of {Path(blanks.file).name}"
        raise NotRun(what, f"{name} {blanks.problem}") from blanks
    if card.table is None:
        raise NotRun(what, f"its files are not known here; gsworkbench fetch {entry} --write-card {entry}.yaml")
    return card


def read_entry(card: Card, folder: str | Path, *, pixel_size: float | None = None) -> ParticleStack:
    """Read an entry as it was deposited, from `folder` or from the folder that a card of one's own names.

    pixel_size : A, in place of the card's. What the files hold and the card says must agree, else InputError.
    """
    folder = Path(folder if card.folder is None else card.folder)
    poses, ctf = (_pickle(card, which, folder) for which in ("poses", "ctf"))
    if isinstance(card.images, tuple):
        path = folder / card.save_as.get(card.images[0], card.images[0])
    else:
        path = without_stray(folder / str(card.table), card.stray) if card.stray else folder / str(card.table)
    stack = read_particles(
        path,
        datadir=folder / card.image_root,
        poses=poses,
        ctf=ctf,
        data_sign=card.data_sign,
        pixel_size=card.pixel_size if pixel_size is None else pixel_size,
    )
    for what, said, found in (
        ("particles", card.n_particles, len(stack)),
        ("px in a box", card.box_size, stack.box_size),
    ):
        if said is not None and said != found:
            raise InputError(f"the card of {card.name} says {said:,} {what}, and the files hold {found:,}", file=path)
    return stack


def _pickle(card: Card, which: str, folder: Path) -> Path | None:
    """The file of poses or CTF, None where the table has them."""
    place = getattr(card, which)
    if place == "table":
        return None
    return folder / (f"{which}.pkl" if card.folder is None else place)


def without_stray(table: Path, stray: str) -> Path:
    """Write a copy of a STAR file without a word that is in it once by mistake, beside it, and return its path.

    The word stands on a line of its own, or makes a row one value too long. Where it cannot be told which one is too
    many, and where no row is wrong, InputError.
    """
    lines = table.read_text(encoding="utf-8").split("\n")
    labels = sum(line.startswith("_") for line in lines)
    wrong = []
    for number, line in enumerate(lines):
        words = line.split()
        if words == [stray] or (len(words) == labels + 1 and stray in words):
            wrong.append(number)
    if len(wrong) != 1:
        problem = f"a stray {stray} is expected in one line, and {len(wrong)} lines could be meant"
        raise InputError(problem, file=table, remedy="delete it, and say stray: '' in a card of your own")
    words = lines[wrong[0]].split()
    if words == [stray]:
        del lines[wrong[0]]
    elif stray in (words[0], words[-1]):  # at an end: the others are then where they belong
        lines[wrong[0]] = " ".join(words[1:] if words[0] == stray else words[:-1])
    elif words.count(stray) == 1:
        words.remove(stray)
        lines[wrong[0]] = " ".join(words)
    else:
        raise InputError(f"it cannot be told which {stray} is too many", file=table, row=wrong[0] + 1)
    mended = table.with_name(table.name.removesuffix(".star") + MENDED)
    write_text(mended, "\n".join(lines))
    return mended
