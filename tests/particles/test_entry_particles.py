"""Cards of EMPIAR entries, blanks in them, tables with a stray word, and Fourier crops."""

from __future__ import annotations

import numpy as np
import pytest
import yaml

from gsworkbench.cli import main as cli
from gsworkbench.errors import InputError, NotRun
from gsworkbench.particles.copy import fourier_crop, write_particles
from gsworkbench.particles.entry_card import (
    BLANK,
    OWN_CARDS,
    EntryParticles,
    card_with_blanks,
    find_card,
    find_shipped_card,
    read_own_card,
)
from gsworkbench.particles.entry_particles import known_card, prepare, read_entry, without_stray
from gsworkbench.particles.read import read_particles

HEAD = "data_\nloop_\n_rlnImageName\n_rlnGroupNumber\n_rlnVoltage\n"
ROWS = ["1@a.mrcs 1 300", "2@a.mrcs 9 300", "3@a.mrcs 9 300"]


def filled(noisy_set, **changes):
    """Text of the card of 10005, filled as somebody who has its files would; here those of a simulated set."""
    card = yaml.safe_load(card_with_blanks(find_shipped_card(10005)))
    known = {
        "folder": str(noisy_set.folder), "table": "particles.star", "image_root": ".", "poses": "table", "ctf": "table",
        "n_particles": 600, "box_size": 32, "pixel_size": 12.0, "data_sign": 1,
    }  # fmt: skip
    return yaml.safe_dump(card | known | changes)


@pytest.mark.parametrize("entry", [10005, 10492])
def test_a_card_names_its_blanks_until_all_are_filled(tmp_path, entry):
    file = tmp_path / f"{entry}.yaml"
    file.write_text(card_with_blanks(find_shipped_card(entry)))
    blanks = [name for name, value in yaml.safe_load(file.read_text()).items() if value == BLANK]
    assert {"folder", "table", "poses", "ctf", "data_sign"} <= set(blanks)
    with pytest.raises(InputError) as refused:
        read_own_card(file)
    assert f"{len(blanks)} blanks are not filled: {', '.join(blanks)}" in str(refused.value)
    file.write_text(file.read_text().replace(f": {BLANK}", ": 1", len(blanks) - 1))
    with pytest.raises(InputError, match="1 blank is not filled: data_sign"):
        read_own_card(file)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data_sign": 2}, "data_sign is 1 .white protein. or -1 .dark., not 2"),
        ({"pixel_size": "small"}, "pixel_size must be float, not 'small'"),
        ({"boxsize": 3}, "no parameter 'boxsize'"),
        ({"entry": 12}, "no dataset card for '12'"),
        ({"entry": "ten"}, "one of them is the number of the entry"),
        ({"n_particles": 601}, "says 601 particles, and the files hold 600"),
        ({"box_size": 64}, "says 64 px in a box, and the files hold 32"),
    ],
)
def test_a_card_that_cannot_be_right_is_refused(noisy_set, tmp_path, changes, message):
    file = tmp_path / "10005.yaml"
    file.write_text(filled(noisy_set, **changes))
    with pytest.raises(InputError, match=message):
        read_entry(read_own_card(file), tmp_path)


def test_the_commands_write_check_and_use_a_card(noisy_set, tmp_path, monkeypatch, capsys):
    file = tmp_path / "10005.yaml"
    assert cli.main(["fetch", "10005", "--write-card", str(file)]) == 0
    assert "blanks to fill" in capsys.readouterr().out
    assert cli.main(["fetch", "10005", "--write-card", str(file)]) == 2  # what somebody may have filled stays
    assert cli.main(["inspect", str(file)]) == 2
    assert "blanks are not filled: folder, table" in capsys.readouterr().err
    monkeypatch.setenv(OWN_CARDS, str(tmp_path))
    with pytest.raises(NotRun, match=r"because of 10005\.yaml \d blanks are not filled"):
        known_card(10005)
    file.write_text(filled(noisy_set))
    assert cli.main(["inspect", str(file)]) == 0
    assert "600" in capsys.readouterr().out
    assert find_card("10005").folder == str(noisy_set.folder)
    written = prepare(EntryParticles(10005, 24, n_particles=50), tmp_path / "out", tmp_path / "nothing")
    assert (len(written), written.box_size, written.pixel_size) == (50, 24, 16.0)


def test_an_entry_without_files_is_not_run():
    with pytest.raises(NotRun, match="EMPIAR-10492 was not run, because its files are not known here"):
        known_card(10492)


@pytest.mark.parametrize("stray", ["9", "{1} 9", "9 {1}"])
def test_a_stray_word_is_left_out_and_nothing_else(tmp_path, stray):
    table = tmp_path / "x.star"
    lines = [*ROWS[:2], stray, ROWS[2]] if stray == "9" else [ROWS[0], stray.format("", ROWS[1]), ROWS[2]]
    table.write_text(HEAD + "\n".join(lines) + "\n")
    assert without_stray(table, "9").read_text() == HEAD + "\n".join(ROWS) + "\n"


def test_a_stray_word_that_cannot_be_told_is_refused(tmp_path):
    table = tmp_path / "x.star"
    table.write_text(HEAD + "\n".join(ROWS) + "\n")
    with pytest.raises(InputError, match="a stray 9 is expected in one line, and 0 lines could be meant"):
        without_stray(table, "9")
    table.write_text(HEAD + "1@a.mrcs 9 9 300\n")
    with pytest.raises(InputError, match="it cannot be told which 9 is too many"):
        without_stray(table, "9")
    table.write_text(HEAD + "1@a.mrcs 1 9 300\n")
    assert without_stray(table, "9").read_text() == HEAD + "1@a.mrcs 1 300\n"


@pytest.mark.parametrize(("old", "new"), [(48, 34), (40, 32), (320, 256)])
def test_a_cropped_wave_is_the_wave_in_fewer_pixels(old, new):
    """Closed form: a wave about the origin D // 2 that the small box can hold; a finer one leaves nothing."""

    def wave(box, ky, kx, phase):
        y, x = np.mgrid[:box, :box] - box // 2
        return np.cos(2 * np.pi * (ky * y + kx * x) / box + phase).astype(np.float32)

    coarse = [(3, -5, 0.3), (-new // 2 + 1, new // 2 - 1, 1.0)]
    fine = (0, new // 2 + 1, 0.2)
    images = np.stack([wave(old, *coarse[0]), wave(old, *coarse[1]), wave(old, *coarse[0]) + wave(old, *fine)])
    expected = [wave(new, *coarse[0]), wave(new, *coarse[1]), wave(new, *coarse[0])]
    np.testing.assert_allclose(fourier_crop(images, new), expected, atol=1e-5)


def test_a_copy_in_a_smaller_box_shows_the_same_field_of_view(clean_set, tmp_path):
    few = clean_set.stack[:5]
    write_particles(few, tmp_path, box_size=24)
    read = read_particles(tmp_path / "particles.star")
    assert (read.box_size, read.pixel_size) == (24, 16.0)
    np.testing.assert_allclose(read.shifts_angstrom, few.shifts_angstrom, atol=1e-4)
    np.testing.assert_allclose(read.images(), fourier_crop(few.images(), 24), atol=1e-6)
    for wrong in (23, 34, 0):
        with pytest.raises(InputError, match=f"cannot be cropped to {wrong} px"):
            write_particles(few, tmp_path / "no", box_size=wrong)
