"""EMPIAR entries from a local server that breaks off and lies: whole files or none, and no byte twice."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from gsworkbench.cli import main as cli
from gsworkbench.errors import InputError
from gsworkbench.experiments.plan import ROOT
from gsworkbench.particles import entry_card
from gsworkbench.particles.empiar import LOCK, MIRROR, fetch
from gsworkbench.particles.entry_card import Card, find_card, read_cards

pytest.importorskip("pooch", reason="downloads need pooch, of the extra `data`")

STACK = np.random.default_rng(3).integers(0, 256, 300_000, dtype=np.uint8).tobytes()
TABLE = b"data_\nloop_\n_rlnImageName\n" + b"".join(b"%06d@Particles/a.mrcs\n" % k for k in range(1, 4))
CARD = Card(
    entry=99999, title="fake", n_particles=3, box_size=8, pixel_size=1.0, data_sign=1, table="data/x.star",
    images="named in the table", image_root="data", poses="table", ctf="table", note="",
)  # fmt: skip
IMAGES = "data/Particles/a.mrcs"


class Archive:
    """An entry on 127.0.0.1, and what to do to the transfers of its stack.

    breaks : after how many bytes to cut the next transfers off, one each. ranges : whether to begin in the middle.
    sent : bytes of bodies sent, by path. status : in place of 200, per path.
    """

    def __init__(self) -> None:
        self.files = {"/99999/data/x.star": TABLE, f"/99999/{IMAGES}": STACK}
        self.breaks: list[int] = []
        self.ranges, self.version = True, '"v1"'
        self.sent: dict[str, int] = {}
        self.status: dict[str, int] = {}
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Handler, self))
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


class _Handler(BaseHTTPRequestHandler):
    def __init__(self, archive: Archive, *rest) -> None:
        self.archive = archive
        super().__init__(*rest)

    def do_GET(self) -> None:
        archive, body = self.archive, self.archive.files.get(self.path)
        status = archive.status.get(self.path, 200 if body is not None else 404)
        if status >= 400:
            self.send_error(status)
            return
        begin = self._begin(len(body))
        if begin >= len(body):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(body)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(body) - 1}/{len(body)}")
        if archive.version:
            self.send_header("ETag", archive.version)
        self.send_header("Content-Length", str(len(body) - begin))
        self.end_headers()
        cut = archive.breaks.pop(0) if archive.breaks and self.path.endswith(".mrcs") else len(body)
        part = body[begin:][:cut]
        self.wfile.write(part)
        archive.sent[self.path] = archive.sent.get(self.path, 0) + len(part)
        self.close_connection = True

    def _begin(self, size: int) -> int:
        wanted, version = self.headers["Range"], self.headers["If-Range"]
        if not wanted or not self.archive.ranges or version not in (None, self.archive.version):
            return 0
        return int(wanted.removeprefix("bytes=").removesuffix("-"))

    def log_message(self, *_) -> None:
        pass


@pytest.fixture
def archive():
    archive = Archive()
    yield archive
    archive.server.shutdown()
    archive.server.server_close()


@pytest.fixture
def get(archive, tmp_path):
    return functools.partial(fetch, archive=archive.url, wait=0.0)


def files_in(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def sent(archive):
    return archive.sent.get(f"/99999/{IMAGES}", 0)


def test_a_whole_entry_lies_as_in_the_archive_and_its_sums_are_noted(archive, get, tmp_path):
    table, stack = get(CARD, tmp_path)
    assert table.read_bytes() == TABLE and stack.read_bytes() == STACK
    assert files_in(tmp_path) == [LOCK, IMAGES, "data/x.star"]
    noted = json.loads((tmp_path / LOCK).read_text())
    assert noted == {n: hashlib.sha256(d).hexdigest() for n, d in ((IMAGES, STACK), ("data/x.star", TABLE))}
    get(CARD, tmp_path)
    assert sent(archive) == len(STACK)  # the second call asks for nothing


def test_a_transfer_that_breaks_goes_on_and_no_byte_is_sent_twice(archive, get, tmp_path):
    archive.breaks = [100_000, 0, 50_000]
    _, stack = get(CARD, tmp_path)
    assert stack.read_bytes() == STACK and sent(archive) == len(STACK)
    assert files_in(tmp_path) == [LOCK, IMAGES, "data/x.star"]


def test_one_that_gives_up_goes_on_in_the_next_call(archive, get, tmp_path):
    archive.breaks = [100_000, 0, 0, 0, 0, 0]
    with pytest.raises(InputError, match=r"broke off 5 times after 100,000 bytes .*repeat the command to continue"):
        get(CARD, tmp_path)
    assert not (tmp_path / IMAGES).exists()
    _, stack = get(CARD, tmp_path)
    assert stack.read_bytes() == STACK and sent(archive) == len(STACK)


def test_a_killed_call_goes_on_from_what_is_on_the_disk(archive, get, tmp_path):
    part = tmp_path / f"{IMAGES}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(STACK[:120_000])
    part.with_name(part.name + ".version").write_text('"v1"')
    _, stack = get(CARD, tmp_path)
    assert stack.read_bytes() == STACK and sent(archive) == len(STACK) - 120_000


def test_what_is_whole_but_unnamed_is_not_sent_again(archive, get, tmp_path):
    part = tmp_path / f"{IMAGES}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(STACK)
    part.with_name(part.name + ".version").write_text('"v1"')
    _, stack = get(CARD, tmp_path)
    assert stack.read_bytes() == STACK and sent(archive) == 0


@pytest.mark.parametrize("way", ["no ranges", "a new version", "no mark of the version"])
def test_the_whole_is_sent_again_where_the_middle_cannot_be_trusted(archive, get, tmp_path, way):
    part = tmp_path / f"{IMAGES}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * 120_000)
    archive.ranges = way != "no ranges"
    if way != "no mark of the version":
        part.with_name(part.name + ".version").write_text('"v0"')
    _, stack = get(CARD, tmp_path)
    assert stack.read_bytes() == STACK and sent(archive) == len(STACK)


def test_a_server_without_ranges_that_breaks_starts_over(archive, get, tmp_path):
    archive.ranges, archive.version, archive.breaks = False, "", [100_000]
    _, stack = get(CARD, tmp_path)
    assert stack.read_bytes() == STACK and sent(archive) == len(STACK) + 100_000


def test_a_wrong_sum_leaves_nothing(archive, get, tmp_path):
    card = replace(CARD, sha256={IMAGES: "0" * 64})
    with pytest.raises(InputError, match=r"a\.mrcs: what http.* sends has not the SHA-256 0{64}; nothing was kept"):
        get(card, tmp_path)
    assert files_in(tmp_path) == [LOCK, "data/x.star"]


def test_sums_noted_at_the_first_download_hold(archive, get, tmp_path):
    get(CARD, tmp_path)
    (tmp_path / IMAGES).write_bytes(STACK[:-1])
    get(CARD, tmp_path)
    assert (tmp_path / IMAGES).read_bytes() == STACK  # what was damaged here is brought anew
    archive.files[f"/99999/{IMAGES}"] = STACK[::-1]
    (tmp_path / IMAGES).unlink()
    with pytest.raises(InputError, match="has not the SHA-256"):
        get(CARD, tmp_path)
    assert not (tmp_path / IMAGES).exists()


@pytest.mark.parametrize("name", ["../../../etc/x.mrcs", "/etc/x.mrcs"])
def test_a_table_cannot_write_outside_the_folder(archive, get, tmp_path, name):
    archive.files["/99999/data/x.star"] = TABLE + f"000004@{name}\n".encode()
    folder = tmp_path / "in"
    with pytest.raises(InputError, match="names a file outside the folder"):
        get(CARD, folder)
    assert files_in(tmp_path) == [f"in/{LOCK}", "in/data/x.star"] and sent(archive) == 0


def test_a_link_in_the_folder_leads_nowhere_else(archive, get, tmp_path):
    (tmp_path / "in" / "data").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "in" / "data" / "Particles").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="outside the folder"):
        get(CARD, tmp_path / "in")
    assert files_in(tmp_path / "elsewhere") == []


def test_what_the_server_refuses_is_said_at_once(archive, get, tmp_path):
    archive.status[f"/99999/{IMAGES}"] = 403
    with pytest.raises(InputError, match=r"a\.mrcs cannot be downloaded \(403 Forbidden\)"):
        get(CARD, tmp_path)
    archive.status[f"/99999/{IMAGES}"] = 503
    with pytest.raises(InputError, match=r"broke off 5 times after 0 bytes .*503"):
        get(CARD, tmp_path)
    assert files_in(tmp_path) == [LOCK, "data/x.star"]


def test_files_get_the_names_that_the_card_gives_and_poses_come_from_elsewhere(archive, get, tmp_path):
    archive.files |= {"/99999/data/y.mrc": STACK[:99], "/other/poses.pkl": b"poses"}
    card = replace(
        CARD, images=("data/y.mrc",), save_as={"data/y.mrc": "data/y.mrcs"}, poses=f"{archive.url}/other/poses.pkl"
    )
    _, poses, stack = get(card, tmp_path)
    assert poses == tmp_path / "poses.pkl" and poses.read_bytes() == b"poses"
    assert stack == tmp_path / "data/y.mrcs" and stack.read_bytes() == STACK[:99]


def test_a_mirror_is_asked_in_place_of_every_server(archive, tmp_path, monkeypatch):
    moved = {f"/ftp.ebi.ac.uk/empiar/world_availability{path}": body for path, body in archive.files.items()}
    archive.files = moved | {"/example.org/a/poses.pkl": b"poses"}
    monkeypatch.setenv(MIRROR, archive.url)
    table, poses, stack = fetch(replace(CARD, poses="https://example.org/a/poses.pkl"), tmp_path, wait=0.0)
    assert table.read_bytes() == TABLE and poses.read_bytes() == b"poses" and stack.read_bytes() == STACK


def test_a_file_that_does_not_fit_is_not_begun(archive, get, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 100_000})())
    with pytest.raises(InputError, match="300,000 bytes do not fit on this disk"):
        get(CARD, tmp_path)
    assert not (tmp_path / f"{IMAGES}.part").exists()


def test_the_command_says_what_it_fetched_and_what_nobody_knows(archive, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(entry_card, "read_cards", lambda *_: {99999: CARD, 10005: read_cards()[10005]})
    assert cli.main(["fetch", "EMPIAR-99999", "--out", str(tmp_path), "--archive", archive.url]) == 0
    assert "2 files in" in (said := capsys.readouterr().out) and "lists 3 particles" in said and "note:" not in said
    assert said.endswith(f"inspect {tmp_path}/data/x.star --datadir {tmp_path}/data\n")
    assert cli.main(["fetch", "10005", "--out", str(tmp_path)]) == 2
    assert "files of EMPIAR-10005 are not known here; download them from https" in capsys.readouterr().err
    assert cli.main(["fetch", "12", "--out", str(tmp_path)]) == 2
    assert "there is no dataset card for '12'" in capsys.readouterr().err


def test_cards_state_what_the_papers_state():
    """Particles, box, A/px and sign of the four sets of CryoSplat's table."""
    stated = {
        10028: (105247, 360, 1.34, 1),
        10049: (108544, 192, 1.23, 1),
        10076: (131899, 320, 1.31, -1),
        10180: (327490, 320, 1.69, 1),
    }
    for entry, facts in stated.items():
        card = find_card(str(entry))
        assert (card.n_particles, card.box_size, card.pixel_size, card.data_sign) == facts
        assert card.table and card.images and card.poses and card.ctf
    assert {10005, 10492} < set(read_cards())


def test_the_command_that_follows_reads_the_pickles_and_knows_the_sign():
    stack = "in/data/L17Combine_weight_local.mrcs"
    expected = f"{stack} --poses in/poses.pkl --ctf in/ctf.pkl --sign -1"
    assert find_card("10076").options(Path("in")) == expected


def test_the_workflow_fetches_an_entry_by_name_and_goes_on_after_a_failure(archive, tmp_path):
    """EMPIAR-10180's table names a stack that is not there at the first call, and is at the second."""
    archive.files["/10180/data/Example/consensus_data.star"] = TABLE
    for name in ("env", "notebooks"):  # the Snakefile names them by their place
        (tmp_path / name).symlink_to(ROOT / name)
    command = [sys.executable, "-m", "snakemake", "empiar_10180", "-s", ROOT / "Snakefile", "-d", tmp_path]
    command += ["--cores", "1", "--config", "scale=smoke", f"archive={archive.url}"]
    here = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    run = functools.partial(subprocess.run, [*map(str, command)], capture_output=True, text=True, check=False, env=here)
    failed, done = run(), tmp_path / "results/empiar/10180/complete"
    assert failed.returncode != 0 and not done.exists()
    assert "a.mrcs cannot be downloaded (404 Not Found)" in failed.stderr
    archive.files["/10180/data/Particles/a.mrcs"] = STACK
    assert run().returncode == 0 and done.exists()
    assert (done.parent / "data/Particles/a.mrcs").read_bytes() == STACK
    assert archive.sent["/10180/data/Example/consensus_data.star"] == len(TABLE)
