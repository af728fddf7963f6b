"""Scale empiar rehearsed without a network, from download to table: python -m gsworkbench.experiments.rehearse OUT.

A server on 127.0.0.1 serves entries that simulated_entries.py makes up; one transfer breaks off on the way. Then the
workflow runs at scale rehearsal, with the same rules as at scale empiar, in OUT. What must have come out is checked:
every cell of the papers' tables has a number of ours or a reason, the four entries have numbers, images are deleted.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from gsworkbench.errors import InputError
from gsworkbench.experiments.paper_tables import PAGE, Cell, cells_of, reasons_of
from gsworkbench.experiments.plan import ROOT, read_registry
from gsworkbench.experiments.results import read_results
from gsworkbench.experiments.simulated_entries import MADE_UP, write_entries
from gsworkbench.particles.copy import IMAGES
from gsworkbench.particles.empiar import MIRROR
from gsworkbench.particles.entry_card import OWN_CARDS

SCALE = "rehearsal"
BROKEN = ".mrcs"  # the first transfer of such a file ends half way


def rehearse(out: Path, *, cores: int = 2) -> list[str]:
    """Run everything in `out`, a new folder; return what is wrong, one sentence each."""
    if out.exists() and any(out.iterdir()):
        raise InputError("the folder is not empty", file=out, remedy="name a new one")
    server, cards = out / "server", out / "cards"
    write_entries(server, cards, out / "simulated")
    for name in ("env", "notebooks"):  # the Snakefile names them by their place
        (out / name).symlink_to(ROOT / name)
    with serving(server) as address:
        print(f"entries at {address}", flush=True)
        code = _workflow(out, cores, {MIRROR: address, OWN_CARDS: str(cards.resolve())})
    if code:
        return [f"the workflow ended with code {code}"]
    return problems(out)


def _workflow(out: Path, cores: int, variables: dict[str, str]) -> int:
    command = [sys.executable, "-m", "snakemake", "all", "-s", str(ROOT / "Snakefile"), "-d", str(out)]
    command += ["--cores", str(cores), "--quiet", "rules", "--config", f"scale={SCALE}"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return subprocess.run(command, env=os.environ | variables | {"PATH": path}, check=False).returncode


def problems(out: Path) -> list[str]:
    """Say what is missing of what a rehearsal must leave behind in its folder."""
    results, output = out / "results" / SCALE, out / "paper_figures" / "output" / SCALE
    registry = read_registry(SCALE)
    cells = cells_of(registry, read_results(results / "results.csv"), reasons_of(registry, results))
    said = [f"{_spelt(cell)} is empty" for cell in cells if not cell.ours.strip()]
    said += [f"{_spelt(cell)} has no number of ours: {cell.ours}" for cell in cells if _must_run(cell) and not cell.ran]
    said += [f"{file} was not deleted" for file in sorted((results / "datasets").glob(f"*/{IMAGES}"))]
    page = output / PAGE
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    said += [f"{page} lacks {_spelt(cell)}" for cell in cells if f"{cell.printed} / {cell.ours}" not in text]
    ran = sum(cell.ran for cell in cells)
    print(f"{len(cells)} cells, {ran} with a number of ours, {len(cells) - ran} not run; {page}")
    return said


def _must_run(cell: Cell) -> bool:
    """Whether a cell can have a number here: of an entry that is served, of our methods, not of a GPU's memory."""
    entries = [f"EMPIAR-{entry}" for entry in MADE_UP]
    rows = ("CryoSplat", "GEM", "backprojection", "cryoDRGN's architecture, our code", "full", "one width")
    return (
        cell.table.endswith(("resolution", "speed", "local", "ablation"))
        and cell.column in entries
        and cell.row in rows
    )


def _spelt(cell: Cell) -> str:
    return f"{cell.table}, {cell.row}, {cell.column}"


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serve the files of a folder on a free port of 127.0.0.1, and yield the address."""
    broken: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Handler, folder.resolve(), broken))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    """Files, from the middle too where a transfer is continued; the first transfer of a stack breaks off."""

    def __init__(self, folder: Path, broken: list[str], *rest) -> None:  # type: ignore[no-untyped-def]
        self.folder, self.broken = folder, broken
        super().__init__(*rest)

    def do_GET(self) -> None:
        file = (self.folder / self.path.lstrip("/")).resolve()
        if not file.is_relative_to(self.folder) or not file.is_file():
            self.send_error(404)
            return
        body = file.read_bytes()
        wanted = self.headers["Range"]
        begin = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(body) - 1}/{len(body)}")
        self.send_header("ETag", f'"{len(body)}"')
        self.send_header("Content-Length", str(len(body) - begin))
        self.end_headers()
        breaks = self.path.endswith(BROKEN) and not self.broken
        if breaks:
            self.broken.append(self.path)
        self.wfile.write(body[begin : begin + len(body) // 2] if breaks else body[begin:])
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns 1 where something is wrong."""
    parser = argparse.ArgumentParser(description="rehearse scale empiar without a network, on made-up images")
    parser.add_argument("out", type=Path, help="a new folder for everything")
    parser.add_argument("--cores", type=int, default=2)
    given = parser.parse_args(arguments)
    try:
        said = rehearse(given.out, cores=given.cores)
    except InputError as error:
        print(f"rehearse: {error}", file=sys.stderr)
        return 2
    print("\n".join(said) or "the rehearsal came through")
    return 1 if said else 0


if __name__ == "__main__":
    sys.exit(main())
