"""Files that are whole or not there, and their hashes."""

import hashlib
import json
import secrets
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aerialdreams.errors import UserError


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Write a file beside its place and move it there when it is whole.

    Yields:
        The path to write to. If the block raises, it is removed and `path` is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own: a worker that was given up may still be writing the same file.
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Fill a folder beside its place and move it there when it is whole; else as `whole_file`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    # What a killed run left here is of no use: nothing says which of its files are whole.
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        _put(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _put(folder: Path, path: Path) -> None:
    """Move a folder that is whole to its place, which may be on another disk."""
    if path.exists():
        shutil.rmtree(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(folder, path)


def write_json(path: Path, value: object) -> None:
    """Write JSON that reads well and has the same bytes every time."""
    with atomic_file(path) as partial:
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
        partial.write_text(text + "\n", encoding="utf-8")


def file_md5(path: Path) -> str:
    """MD5 of a file's bytes, which is also DVC's hash of it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def dvc_md5(path: Path) -> str:
    """DVC's hash of a file or a folder, so that it can be found in dvc.lock.

    A folder's is the MD5 of the JSON list of its files (md5, relpath), in order of path, with
    `.dir` behind it (dvc_data.hashfile.tree.Tree.as_bytes).
    """
    if path.is_file():
        return file_md5(path)
    files = sorted(f.relative_to(path).as_posix() for f in path.rglob("*") if f.is_file())
    with ThreadPoolExecutor() as pool:  # hashing lets other threads work
        hashes = pool.map(file_md5, [path / name for name in files])
    entries = [{"md5": md5, "relpath": name} for md5, name in zip(hashes, files, strict=True)]
    return hashlib.md5(json.dumps(entries, sort_keys=True).encode()).hexdigest() + ".dir"


def fingerprint(params: Iterable[object], script: str, inputs: Iterable[Path]) -> str:
    """Key of a stage's work: hash of its params, its code and its inputs.

    Args:
        params: what `repr` tells apart, such as pydantic models.
        script: the stage's `__file__`; the code of all of `aerialdreams` counts too.
        inputs: files and folders that the stage reads.
    """
    digest = hashlib.sha256()
    for value in params:
        digest.update(repr(value).encode())
    for file in [Path(script), *sorted(Path(__file__).parent.rglob("*.py"))]:
        digest.update(file.read_bytes())
    for path in inputs:
        digest.update(dvc_md5(path).encode())
    return digest.hexdigest()[:16]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that another stage wrote.

    Raises:
        UserError: it is missing or damaged.
    """
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {error}; `dvc repro` makes it") from None
    return values
