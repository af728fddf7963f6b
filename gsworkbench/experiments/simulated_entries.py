"""EMPIAR entries made up for a rehearsal: simulated images under the names, in the formats and with the defects of the
real ones, as far as these are known (particles/empiar.yaml).

Alike: names of tables and folders, RELION 1 and 3 tables, cryoDRGN's pickles beside the archive, which are of the
cropped images; the sign of the contrast; the stack of 10076 as .mrc; a stray 9 in the table of 10028; the field of view
in A. Different: a few hundred images, boxes of 32 to 48 px with pixels as much larger, simulated molecules (a
chaperonin for RAG1-RAG2), more signal than real images have; names of image stacks and columns that no card states.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from gsworkbench.geometry.rotations import matrices_to_euler
from gsworkbench.io.files import write_text
from gsworkbench.io.mrc import new_image_stack
from gsworkbench.particles.empiar import ARCHIVE
from gsworkbench.particles.entry_card import Card, card_with_blanks, find_shipped_card
from gsworkbench.particles.formats.cryodrgn import write_cryodrgn_pickles
from gsworkbench.particles.read import read_particles
from gsworkbench.particles.stack import ParticleStack
from gsworkbench.simulation.simulate import PARTICLES, simulate
from gsworkbench.simulation.simulation_config import Simulation

N_PARTICLES = 240
SNR = 0.5
DETECTOR_UM = 14.0  # size of a detector's pixel, that RELION's old tables give beside the magnification


@dataclass(frozen=True)
class MadeUp:
    """What stands in for an entry: a molecule in a smaller box, and the box that its pickles are of."""

    molecule: Mapping[str, object]
    box_size: int
    cropped_to: int
    stacks: tuple[str, ...]  # as the table names them


MADE_UP = {
    10028: MadeUp(
        {"molecule": "ribosome", "optics": "empiar_10028"}, 48, 34,
        tuple(f"Particles/MRC_0601/{k:03d}_particles_shiny_nb50_new.mrcs" for k in (1, 2)),
    ),
    10049: MadeUp({"molecule": "chaperonin", "optics": "empiar_10049"}, 32, 32, ("particles/allimg.mrcs",)),
    10076: MadeUp(
        {
            "molecule": "large_subunit", "optics": "empiar_10076", "shift_sd": 0.039, "absent_fraction": 0.6,
            "absent_chains": ("L70 LD0 LJ0", "L70 LD0 LJ0 LF0 LI0 LS0 LT0", "LG0 LCC LU0 LW0 LZ0"),
        },
        40, 32, (),
    ),
    10180: MadeUp({"molecule": "spliceosome", "optics": "empiar_10180"}, 40, 32, ("Particles/consensus.mrcs",)),
}  # fmt: skip
BLANKS = (10005,)  # entries whose card stays as it is written, with blanks


def write_entries(server: Path, cards: Path, scratch: Path, *, n_particles: int = N_PARTICLES) -> None:
    """Write what a server serves, SERVER/HOST/PATH, and the cards of the entries as they are there."""
    for entry, made_up in MADE_UP.items():
        card = find_shipped_card(entry)
        assert card.box_size is not None and card.pixel_size is not None
        pixel_size = round(card.box_size * card.pixel_size / made_up.box_size, 6)
        config = Simulation(
            n_particles=n_particles, box_size=made_up.box_size, pixel_size=pixel_size, snr=SNR, seed=entry,
            **made_up.molecule,  # type: ignore[arg-type]
        )  # fmt: skip
        simulate(config, scratch / str(entry))
        stack = read_particles(scratch / str(entry) / PARTICLES)
        _write_entry(card, made_up, stack, server)
        lines = [f"entry: {entry}", f"n_particles: {len(stack)}", f"box_size: {made_up.box_size}"]
        write_text(cards / f"{entry}.yaml", "\n".join([*lines, f"pixel_size: {pixel_size}"]) + "\n")
    for entry in BLANKS:
        write_text(cards / f"{entry}.yaml", card_with_blanks(find_shipped_card(entry)))


def _write_entry(card: Card, made_up: MadeUp, stack: ParticleStack, server: Path) -> None:
    archive = _place(server, f"{ARCHIVE}/{card.entry}")
    stacks = made_up.stacks or tuple(Path(name).name for name in card.images or ())
    root = archive / (card.image_root if made_up.stacks else "data")
    images = stack.images() * np.float32(card.data_sign or 1)
    parts = np.array_split(np.arange(len(stack)), len(stacks))
    names = []
    for name, rows in zip(stacks, parts, strict=True):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        with new_image_stack(root / name, len(rows), stack.box_size, stack.pixel_size) as written:
            written[:] = images[rows]
        names += [f"{k:06d}@{name}" for k in range(1, len(rows) + 1)]
    columns = _columns(stack, names)
    if card.poses == "table":
        columns |= _pose_columns(stack)
    else:
        small = stack.box_size * stack.pixel_size / made_up.cropped_to
        of_crops = dataclasses.replace(stack, box_size=made_up.cropped_to, pixel_size=small)
        poses, ctf = (_place(server, str(url)) for url in (card.poses, card.ctf))
        for file in (poses, ctf):
            file.parent.mkdir(parents=True, exist_ok=True)
        write_cryodrgn_pickles(poses, ctf, of_crops)
    lines = [" ".join(row) for row in zip(*columns.values(), strict=True)]
    if card.stray:
        lines.insert(len(lines) // 2, card.stray)
    labels = [f"_{label} #{k}" for k, label in enumerate(columns, 1)]
    write_text(archive / str(card.table), "\n".join(["", "data_", "", "loop_", *labels, *lines, ""]))


def _place(server: Path, url: str) -> Path:
    parts = urlsplit(url)
    return server / parts.netloc / parts.path.lstrip("/")


def _columns(stack: ParticleStack, names: Sequence[str]) -> dict[str, list[str]]:
    """Columns of a table of RELION before optics groups: names, CTF, magnification."""
    n, ctf = len(stack), stack.ctf
    numbers = {
        "rlnDefocusU": ctf.defocus_u,
        "rlnDefocusV": ctf.defocus_v,
        "rlnDefocusAngle": ctf.defocus_angle,
        "rlnVoltage": ctf.voltage_kv,
        "rlnSphericalAberration": ctf.spherical_aberration_mm,
        "rlnAmplitudeContrast": ctf.amplitude_contrast,
        "rlnMagnification": np.full(n, 1e4 * DETECTOR_UM / stack.pixel_size),
        "rlnDetectorPixelSize": np.full(n, DETECTOR_UM),
    }
    micrographs = [f"MRC_0601/{1 + k // 20:03d}.mrc" for k in range(n)]
    written = {label: [f"{value:.6f}" for value in values] for label, values in numbers.items()}
    return {"rlnMicrographName": micrographs, "rlnImageName": list(names), **written}


def _pose_columns(stack: ParticleStack) -> dict[str, list[str]]:
    """Columns of refined poses: angles in degrees, origins in pixels."""
    angles = matrices_to_euler(stack.require_poses())
    numbers = {f"rlnAngle{name}": angles[:, k] for k, name in enumerate(("Rot", "Tilt", "Psi"))}
    numbers |= {f"rlnOrigin{axis}": stack.shifts_angstrom[:, k] / stack.pixel_size for k, axis in enumerate("XY")}
    return {label: [f"{value:.6f}" for value in values] for label, values in numbers.items()}
