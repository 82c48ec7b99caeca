"""Downloads over HTTP that resume where they were cut; a file is complete or absent."""

import hashlib
import re
import shutil
import sys
from pathlib import Path

import requests
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from aerialdreams.errors import UserError, WorkError
from aerialdreams.util.progress import progress
from aerialdreams.util.retries import report_retry

CHUNK = 1_000_000  # bytes between updates of the progress
ATTEMPTS = 8  # in a row that bring nothing
WAIT, LONGEST_WAIT = 1.0, 120.0  # seconds before the second attempt, doubled with each; at most
TIMEOUT = (20.0, 60.0)  # seconds to connect, and between two reads
RETRIED = (408, 425, 429, 500, 502, 503, 504)  # HTTP statuses that may change a little later


class _TransientError(Exception):
    """A response that another attempt may improve on."""


def fetch(url: str, path: Path, size: int | None = None, sha256: str | None = None) -> str:
    """Download a file to `path`, in as many attempts and runs as it takes.

    Until it is complete, what has arrived is in `NAME.part`. `NAME.sha256` is written with the
    complete file and saves reading it again.

    Args:
        url: http or https.
        path: where to write it. A file that is there already is checked and kept.
        size: its size in bytes, where published.
        sha256: its hash, where published.

    Returns:
        The file's sha256.

    Raises:
        UserError: the server refuses the URL, or a different file is at `path`.
        WorkError: the server cannot be reached, or the file is not the published one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    recorded = path.with_name(f"{path.name}.sha256")
    if path.exists() and recorded.exists():
        actual = recorded.read_text().split()[0]
    elif path.exists():
        actual = file_sha256(path)
    else:
        partial = path.with_name(f"{path.name}.part")
        _receive(url, partial, size)
        actual = file_sha256(partial)
        if sha256 and actual != sha256:
            partial.unlink()
            raise WorkError(
                f"{url}: the download has sha256 {actual}, published is {sha256}; it was deleted,"
                " `dvc repro` downloads it again"
            )
        partial.replace(path)
    if (sha256 and actual != sha256) or (size and path.stat().st_size != size):
        raise UserError(
            f"{path}: is not the file at {url} (sha256 {actual}, {path.stat().st_size} bytes;"
            f" published: {sha256 or 'no sha256'}, {size or '?'} bytes); move it away"
        )
    recorded.write_text(f"{actual}  {path.name}\n")
    return actual


def local_or_downloaded(source: str, downloads: Path, sha256: str) -> Path:
    """A published file by its path or URL, its hash checked.

    Args:
        source: a path, or a URL (http or https) that is downloaded once.
        downloads: folder for downloaded files.
        sha256: the file's hash.

    Raises:
        UserError: the file is missing or has another hash.
        WorkError: it cannot be downloaded.
    """
    if re.match("https?://", source):
        path = downloads / source.rpartition("/")[2]
        fetch(source, path, sha256=sha256)
        return path
    path = Path(source)
    check_sha256(path, sha256)
    return path


def check_sha256(path: Path, sha256: str) -> None:
    """Check a file's hash.

    Raises:
        UserError: the file is missing or has another hash.
    """
    if not path.is_file():
        raise UserError(f"{path}: not found; put the file there, or name its URL")
    actual = file_sha256(path)
    if actual != sha256:
        raise UserError(
            f"{path}: sha256 is {actual}, params.yaml has {sha256}; put the right file there"
        )


def size_of(url: str) -> int | None:
    """Size of a file in bytes, if the server says it.

    Raises:
        UserError: the server refuses the URL.
        WorkError: it cannot be reached.
    """

    def head() -> int | None:
        headers = {"Accept-Encoding": "identity"}
        with requests.head(url, headers=headers, timeout=TIMEOUT, allow_redirects=True) as response:
            _raise_if_refused(response)
            if not response.ok:
                raise _TransientError(f"{response.status_code} {response.reason}")
            length = response.headers.get("Content-Length")
            return int(length) if length else None

    try:
        return _retrying(url)(head)
    except (requests.RequestException, _TransientError) as error:
        raise WorkError(
            f"{url}: {_cause(error)}, {ATTEMPTS} times; check the network and run `dvc repro` again"
        ) from None


def need_space(folder: Path, needed: int, task: str) -> None:
    """Fail early if a disk is too small.

    Raises:
        WorkError: the folder's disk has less than `needed` bytes free.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise WorkError(
            f"{folder}: {task} needs {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; free some"
            " space or name a folder on a larger disk"
        )


def _receive(url: str, partial: Path, size: int | None) -> None:
    """Append to `partial` until it is complete, in as many requests as that takes."""
    while True:
        try:
            # Attempts are counted anew after each request that brought some bytes.
            if _retrying(url)(_attempt, url, partial, size):
                return
        except (requests.RequestException, _TransientError) as error:
            raise WorkError(
                f"{url}: {_cause(error)}, {ATTEMPTS} times in a row; what has arrived is kept, and"
                " `dvc repro` continues from there"
            ) from None


def _retrying(subject: str) -> Retrying:
    """Up to ATTEMPTS attempts, longer and longer apart, with a line for each."""
    return Retrying(
        retry=retry_if_exception_type((requests.RequestException, _TransientError)),
        stop=stop_after_attempt(ATTEMPTS),
        wait=wait_random_exponential(WAIT, LONGEST_WAIT),
        before_sleep=report_retry(subject),
        reraise=True,
    )


def _attempt(url: str, partial: Path, size: int | None) -> bool:
    """Make one request and append its body to `partial`.

    Returns:
        True if the file is complete, False if the connection was cut after some bytes.

    Raises:
        _TransientError, requests.RequestException: nothing arrived.
    """
    have = partial.stat().st_size if partial.exists() else 0
    if size and have > size:  # of a larger file that was at this URL before
        partial.unlink()
        have = 0
    try:
        return _request(url, partial, have, size)
    except requests.RequestException as error:
        if partial.exists() and partial.stat().st_size > have:
            print(f"{url}: {_cause(error)}; continuing", file=sys.stderr, flush=True)
            return False
        raise


def _request(url: str, partial: Path, have: int, size: int | None) -> bool:
    """See `_attempt`; `have` is the number of bytes in `partial`."""
    etag = partial.with_name(f"{partial.name}.etag")
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if etag.exists():  # a file that has changed since is sent whole
            headers["If-Range"] = etag.read_text()
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        if response.status_code == 416:  # no bytes after ours: complete, or of another file
            if response.headers.get("Content-Range") == f"bytes */{have}" and size in (None, have):
                return True
            partial.unlink()
            raise _TransientError("the server's file is shorter than what had arrived of it")
        _raise_if_refused(response)
        if response.status_code not in (200, 206):
            raise _TransientError(f"{response.status_code} {response.reason}")
        resumes = response.status_code == 206
        start, total = (have if resumes else 0), _total(response)
        if resumes and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            partial.unlink()
            raise _TransientError("the server sent another range than requested")
        if size and total and total != size:
            raise WorkError(f"{url}: the server's file has {total} bytes, published are {size}")
        if response.headers.get("ETag"):
            etag.write_text(response.headers["ETag"])
        count = -(-total // CHUNK) if total else 0
        with partial.open("ab" if resumes else "wb") as file:
            chunks = response.iter_content(CHUNK)
            name = partial.name.removesuffix(".part")
            for chunk in progress(chunks, name, "MB", count, start // CHUNK):
                file.write(chunk)
    if total and partial.stat().st_size != total:
        raise requests.ConnectionError(f"cut after {partial.stat().st_size} of {total} bytes")
    etag.unlink(missing_ok=True)
    return True


def _total(response: requests.Response) -> int | None:
    """Size of the whole file in bytes, by a whole or a partial response."""
    if response.status_code == 206:
        total = response.headers.get("Content-Range", "").rpartition("/")[2]
        return int(total) if total.isdigit() else None
    length = response.headers.get("Content-Length")
    return int(length) if length else None


def _raise_if_refused(response: requests.Response) -> None:
    status = response.status_code
    if 400 <= status < 500 and status not in (*RETRIED, 416):
        raise UserError(
            f"{response.url}: the server answers {status} {response.reason}; check the URL and the"
            " names in params.yaml"
        )


def _cause(error: BaseException) -> str:
    """The innermost cause: requests wraps the network's words many times."""
    while error.__context__ is not None:
        error = error.__context__
    return str(error) or type(error).__name__


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, with progress: archives have up to 50 GB."""
    digest, size = hashlib.sha256(), path.stat().st_size
    with path.open("rb") as file:
        chunks = iter(lambda: file.read(16 * CHUNK), b"")
        for chunk in progress(chunks, f"{path.name} checked", "parts", -(-size // (16 * CHUNK))):
            digest.update(chunk)
    return digest.hexdigest()
