"""Files from a web server, by HTTP alone: a transfer that breaks goes on where it broke, now or the next time.

What has come so far is FILE.part, with the server's mark of that version (ETag or date) beside it: a server whose file
has changed since, or that cannot begin in the middle, sends the whole again. `downloader` is for pooch, which checks
the sum of a finished file before it gets its name.
"""

from __future__ import annotations

import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any

from gsworkbench.errors import InputError
from gsworkbench.system.progress import progress

ATTEMPTS = 5  # in a row without a byte
TIMEOUT = 60.0  # seconds without an answer
BLOCK = 2**20


def download(url: str, path: Path, sha256: str | None = None, *, wait: float = 1.0) -> Path:
    """Download `url` to `path` and return it; a file that is there and has the sum stays as it is.

    A wrong sum, a server that refuses or falls silent, and a full disk raise InputError; nothing is then under `path`
    that was not before. `wait` is the seconds before the second attempt; it doubles with each.
    """
    pooch = _pooch()
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    known = None if sha256 is None else f"sha256:{sha256}"
    try:
        pooch.retrieve(url, known, fname=path.name, path=path.parent, downloader=downloader(part, wait=wait))
    except ValueError as error:  # pooch's word for a wrong sum; an InputError is one too
        if isinstance(error, InputError):
            raise
        problem = f"what {url} sends has not the SHA-256 {sha256}"
        raise InputError(problem, file=path, remedy="nothing was kept; correct the checksum") from error
    return path


def downloader(part: Path, *, wait: float = 1.0) -> Callable[[str, str, Any], None]:
    """Return a downloader for pooch, which calls it with the URL, the file to write, and itself."""

    def fetch(url: str, output: str, _: Any) -> None:
        failures = 0
        while True:
            before = _size(part)
            try:
                if _one_transfer(url, part):
                    break
                problem = "the connection ended early"
            except urllib.error.HTTPError as error:
                if error.code < 500:
                    raise InputError(f"{url} cannot be downloaded ({error.code} {error.reason})", file=part) from error
                problem = f"{error.code} {error.reason}"
            except (urllib.error.URLError, HTTPException, ConnectionError, TimeoutError) as error:
                problem = str(getattr(error, "reason", error)) or type(error).__name__
            failures = 0 if _size(part) > before else failures + 1
            if failures == ATTEMPTS:
                problem = f"{url} broke off {ATTEMPTS} times after {_size(part):,} bytes ({problem})"
                raise InputError(problem, file=part, remedy="repeat the command to continue from there")
            time.sleep(wait * 2**failures)
        shutil.move(part, output)
        _mark(part).unlink(missing_ok=True)

    return fetch


def _one_transfer(url: str, part: Path) -> bool:
    """Ask for what `part` lacks and append it; return whether the file is whole."""
    have, mark = _size(part), _mark(part)
    headers = {"Accept-Encoding": "identity", "User-Agent": "gsworkbench"}
    if have and mark.is_file():
        version = mark.read_text(encoding="utf-8")
        headers |= {"Range": f"bytes={have}-"} | ({"If-Range": version} if version else {})
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # nothing lies beyond what we have
            raise
        whole = error.headers.get("Content-Range", "").endswith(f"*/{have}")
        if not whole:
            part.unlink()
        return whole
    with response:
        goes_on = response.status == 206
        if goes_on and not (response.headers["Content-Range"] or "").startswith(f"bytes {have}-"):
            raise HTTPException("the server sent another range than it was asked for")
        size = _announced(response, have if goes_on else 0)
        if size is not None and size - have > shutil.disk_usage(part.parent).free:
            raise InputError(f"{size:,} bytes do not fit on this disk", file=part, remedy="make room and repeat")
        mark.write_text(_version(response), encoding="utf-8")
        _append(response, part, "ab" if goes_on else "wb", size)
    return size is None or _size(part) == size


def _append(response: HTTPResponse, part: Path, mode: str, size: int | None) -> None:
    with (
        open(part, mode) as file,
        progress(part.stem, size, unit="B", done=file.tell(), scale=True) as meter,
    ):
        while block := response.read1(BLOCK):
            file.write(block)
            meter.advance(len(block))


def _version(response: HTTPResponse) -> str:
    """The server's mark of this version, "" for none. A weak ETag (W/...) does not vouch for bytes."""
    etag = response.headers["ETag"] or ""
    return etag if etag.startswith('"') else response.headers["Last-Modified"] or ""


def _announced(response: HTTPResponse, have: int) -> int | None:
    """Size of the whole file, as the server says it; None where it does not."""
    whole = re.fullmatch(r"bytes \d+-\d+/(\d+)", response.headers["Content-Range"] or "")
    if whole:
        return int(whole[1])
    length = response.headers["Content-Length"]
    return None if length is None else have + int(length)


def _size(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0


def _mark(part: Path) -> Path:
    return part.with_name(f"{part.name}.version")


def _pooch() -> Any:
    try:
        import pooch
    except ImportError as error:
        raise InputError("downloads need the package pooch", remedy="pip install 'gsworkbench[data]'") from error
    pooch.get_logger().setLevel("WARNING")
    return pooch
