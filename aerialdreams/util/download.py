"""Downloads over flaky networks: they go on where they were cut, and are whole or not there."""

import hashlib
import random
import re
import shutil
import time
from pathlib import Path

import requests

from aerialdreams.errors import UserError, WorkError
from aerialdreams.util.progress import progress

CHUNK = 1_000_000  # bytes between looks at the progress


ATTEMPTS = 8  # in a row that bring nothing before we give up


WAIT = 1.0  # seconds before the second attempt; doubled with each that brings nothing


LONGEST_WAIT = 120.0


TIMEOUT = (20.0, 60.0)  # seconds to connect, and between two reads


AGAIN = (408, 425, 429, 500, 502, 503, 504)  # answers that may be others a little later


def fetch(url: str, path: Path, size: int | None = None, sha256: str | None = None) -> str:
    """Have the file of an address at `path`, from as many attempts and runs as it takes.

    What came so far lies beside it as `NAME.part`; `NAME.sha256` is written when the file is whole
    and says that nobody need read it again.

    Args:
        url: its address, http or https.
        path: where it is to lie. A file that is there already is checked and kept.
        size: its bytes, where they are published.
        sha256: its hash, where it is published.

    Returns:
        The file's sha256.

    Raises:
        UserError: the server refuses the address, or a file that lies at `path` is another one.
        WorkError: the server cannot be reached, or what it sent is not what is published.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    known = path.with_name(f"{path.name}.sha256")
    if path.exists() and known.exists():
        found = known.read_text().split()[0]
    elif path.exists():
        found = file_sha256(path)
    else:
        partial = path.with_name(f"{path.name}.part")
        _receive(url, partial, size)
        found = file_sha256(partial)
        if sha256 and found != sha256:
            partial.unlink()
            raise WorkError(
                f"{url}: what came has sha256 {found}, published is {sha256}; it was thrown away,"
                " `dvc repro` fetches it anew"
            )
        partial.replace(path)
    if (sha256 and found != sha256) or (size and path.stat().st_size != size):
        raise UserError(
            f"{path}: is not the file that {url} names (sha256 {found}, {path.stat().st_size}"
            f" bytes; published: {sha256 or 'no sha256'}, {size or '?'} bytes); move it away"
        )
    known.write_text(f"{found}  {path.name}\n")
    return found


def have_file(place: str, downloads: Path, sha256: str) -> Path:
    """A published file, by its path or its address, with its hash checked.

    Args:
        place: a path, or an address (http or https), from which it is fetched once.
        downloads: where a fetched file is kept.
        sha256: its hash.

    Raises:
        UserError: there is no such file, or it is another one.
        WorkError: it cannot be fetched.
    """
    if re.match("https?://", place):
        path = downloads / place.rpartition("/")[2]
        fetch(place, path, sha256=sha256)
        return path
    path = Path(place)
    if not path.is_file():
        raise UserError(f"{path}: not found; put the file there, or give its address")
    found = file_sha256(path)
    if found != sha256:
        raise UserError(
            f"{path}: sha256 is {found}, params ask for {sha256}; put the right file there"
        )
    return path


def size_of(url: str) -> int | None:
    """How many bytes a server says that a file has, if it says it.

    Raises:
        UserError: the server refuses the address.
        WorkError: it cannot be reached.
    """
    headers = {"Accept-Encoding": "identity"}
    for attempt in range(ATTEMPTS):
        try:
            with requests.head(url, headers=headers, timeout=TIMEOUT, allow_redirects=True) as head:
                _refused(head)
                if head.ok:
                    length = head.headers.get("Content-Length")
                    return int(length) if length else None
                reason = f"{head.status_code} {head.reason}"
        except requests.RequestException as error:
            reason = _cause(error)
        if attempt + 1 < ATTEMPTS:
            _wait(attempt)
    raise WorkError(f"{url}: {reason}, {ATTEMPTS} times; see the network, then `dvc repro`")


def need_space(folder: Path, needed: int, what: str) -> None:
    """Stop before the work where it cannot end.

    Raises:
        WorkError: the folder's disk has less than `needed` bytes free.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise WorkError(
            f"{folder}: {what} needs {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; free some"
            " space or link the folder to a larger disk"
        )


def _receive(url: str, partial: Path, size: int | None) -> None:
    """Fill `partial` from where it ends, again and again until it has all of the file."""
    failures = 0
    while failures < ATTEMPTS:
        had = partial.stat().st_size if partial.exists() else 0
        if size and had > size:
            partial.unlink()  # of a larger file that was there before
            continue
        try:
            reason = _attempt(url, partial, had, size)
        except requests.RequestException as error:
            reason = _cause(error)
        if not reason:
            return
        have = partial.stat().st_size if partial.exists() else 0
        failures = 0 if have > had else failures + 1
        if failures < ATTEMPTS:
            _wait(failures)
    raise WorkError(
        f"{url}: {reason}, {ATTEMPTS} times in a row; what came is kept, `dvc repro` goes on from"
        " there"
    )


def _attempt(url: str, partial: Path, had: int, size: int | None) -> str | None:
    """One request; gives None when the file is whole, else what went wrong."""
    mark = partial.with_name(f"{partial.name}.etag")
    headers = {"Accept-Encoding": "identity"}
    if had:
        headers["Range"] = f"bytes={had}-"
        if mark.exists():  # and the file is still the one whose beginning we have; else all of it
            headers["If-Range"] = mark.read_text()
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
        if answer.status_code == 416:  # nothing behind what we have: whole, or of another file
            if answer.headers.get("Content-Range") == f"bytes */{had}" and size in (None, had):
                return None
            partial.unlink()
            return "the server's file is shorter than what came of it"
        _refused(answer)
        if answer.status_code not in (200, 206):
            return f"{answer.status_code} {answer.reason}"
        goes_on = answer.status_code == 206
        start, total = (had if goes_on else 0), _total(answer)
        if goes_on and not answer.headers.get("Content-Range", "").startswith(f"bytes {had}-"):
            partial.unlink()
            return "the server sent another range than was asked for"
        if size and total and total != size:
            raise WorkError(f"{url}: the server's file has {total} bytes, published are {size}")
        if answer.headers.get("ETag"):
            mark.write_text(answer.headers["ETag"])
        count = -(-total // CHUNK) if total else 0
        with partial.open("ab" if goes_on else "wb") as file:
            chunks = answer.iter_content(CHUNK)
            name = partial.name.removesuffix(".part")
            for chunk in progress(chunks, name, "MB", count, start // CHUNK):
                file.write(chunk)
    have = partial.stat().st_size
    if total and have != total:
        return f"the answer ended after {have} of {total} bytes"
    mark.unlink(missing_ok=True)
    return None


def _total(answer: requests.Response) -> int | None:
    """The whole file's bytes, by an answer with all of it or with a part."""
    if answer.status_code == 206:
        total = answer.headers.get("Content-Range", "").rpartition("/")[2]
        return int(total) if total.isdigit() else None
    length = answer.headers.get("Content-Length")
    return int(length) if length else None


def _refused(answer: requests.Response) -> None:
    if 400 <= answer.status_code < 500 and answer.status_code not in (*AGAIN, 416):
        raise UserError(
            f"{answer.url}: the server answers {answer.status_code} {answer.reason}; see the"
            " address and the names in params.yaml"
        )


def _wait(failures: int) -> None:
    """Wait before another attempt, longer after each that brought nothing, never in step."""
    time.sleep(min(LONGEST_WAIT, WAIT * 2**failures) * random.uniform(0.5, 1))


def _cause(error: BaseException) -> str:
    """The innermost cause: requests wraps the network's words many times."""
    while error.__context__ is not None:
        error = error.__context__
    return str(error) or type(error).__name__


def file_sha256(path: Path) -> str:
    """Hash a file, with progress: it may have 50 GB."""
    digest, size = hashlib.sha256(), path.stat().st_size
    with path.open("rb") as file:
        chunks = iter(lambda: file.read(16 * CHUNK), b"")
        for chunk in progress(chunks, f"{path.name} checked", "parts", -(-size // (16 * CHUNK))):
            digest.update(chunk)
    return digest.hexdigest()
