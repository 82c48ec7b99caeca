"""Atomic writing of files and folders, JSON, and hashes."""

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aerialdreams.errors import UserError

PACKAGE = Path(__file__).parent.parent


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Write a file under a temporary name beside `path`, and rename it when the block ends.

    If the block raises, the temporary file is deleted and `path` is unchanged.

    Yields:
        The temporary path to write to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # A random name, because a worker that was given up may still be writing the same file.
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Fill a folder under a temporary name beside `path`, and replace `path` when the block ends.

    If the block raises, the temporary folder is deleted and `path` is unchanged.

    Yields:
        The temporary folder, empty.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    # A killed run may have left one; nothing says which of its files are complete.
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        if path.exists():
            shutil.rmtree(path)
        shutil.move(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name, by a hard link or, where that is impossible, a copy."""
    try:
        os.link(source.resolve(), target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)


def refuse_overlap(key: str, path: Path, output: Path) -> None:
    """Make sure that replacing an output deletes none of the user's files.

    Args:
        key: the params key that names `path`, for the message.
        path: what a stage reads.
        output: folder that the stage replaces.

    Raises:
        UserError: one is, holds or lies in the other, links resolved.
    """
    source, target = path.resolve(), output.resolve()
    if source.is_relative_to(target) or target.is_relative_to(source):
        raise UserError(
            f"{key}: {path} is, holds or lies in {output}, which this stage replaces; move your"
            " files to a folder outside of it, such as data/external, and name that"
        )


def write_json(path: Path, value: object) -> None:
    """Write indented JSON in UTF-8; equal values give equal bytes.

    Raises:
        ValueError: a number is infinite or not a number.
    """
    with atomic_file(path) as partial:
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
        partial.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that a stage wrote.

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: not found; run `dvc repro`") from None
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: cannot be read ({error}); remove it and run `dvc repro`"
        ) from None
    return values


def file_md5(path: Path) -> str:
    """MD5 of a file's bytes, which is also DVC's hash of it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def dvc_md5(path: Path) -> str:
    """DVC's hash of a file or a folder, as in dvc.lock.

    A folder's hash is the MD5 of the JSON list of its files (md5, relpath), sorted by path, with
    the suffix `.dir` (dvc_data.hashfile.tree.Tree.as_bytes).
    """
    if path.is_file():
        return file_md5(path)
    files = sorted(f.relative_to(path).as_posix() for f in path.rglob("*") if f.is_file())
    with ThreadPoolExecutor() as pool:  # hashlib releases the GIL
        hashes = pool.map(file_md5, [path / name for name in files])
    entries = [{"md5": md5, "relpath": name} for md5, name in zip(hashes, files, strict=True)]
    return hashlib.md5(json.dumps(entries, sort_keys=True).encode()).hexdigest() + ".dir"


def fingerprint(params: Iterable[object], script: str, inputs: Iterable[Path]) -> str:
    """Hash of everything that decides a stage's output: params, code and inputs.

    Args:
        params: values with a `repr` that shows all of their content, such as pydantic models.
        script: the stage's `__file__`. All code of `aerialdreams` is hashed as well.
        inputs: files and folders that the stage reads.

    Returns:
        16 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for value in params:
        digest.update(repr(value).encode())
    for file in [Path(script), *sorted(PACKAGE.rglob("*.py"))]:
        digest.update(file.read_bytes())
    for path in inputs:
        digest.update(dvc_md5(path).encode())
    return digest.hexdigest()[:16]
