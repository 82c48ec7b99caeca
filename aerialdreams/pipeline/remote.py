"""Checks that DVC's remote has every object that dvc.lock names, undamaged."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dvc.exceptions import DvcException
from dvc.repo import Repo

from aerialdreams.errors import UserError, WorkError
from aerialdreams.util.progress import progress

CHUNK = 1 << 20  # bytes


def check_remote(targets: list[str]) -> str:
    """Read the objects of outputs in the remote and compare them with their hashes.

    DVC rejects damaged objects when it pulls (`verify` in .dvc/config), but does not name them.

    Args:
        targets: outputs, such as data/dataset; if empty, all outputs that are pushed.

    Returns:
        A summary in numbers.

    Raises:
        UserError: an output is unknown, or there is no remote.
        WorkError: objects are missing or damaged. The message names each with its file.
    """
    try:
        repo = Repo()
        remote = repo.cloud.get_remote_odb(None, "check-remote", hash_name="md5")
    except DvcException as error:
        raise UserError(str(error)) from None
    outs = [
        (Path(str(out)), out.hash_info.value)
        for out in repo.index.outs
        if out.use_cache and out.can_push and out.hash_info and (not targets or str(out) in targets)
    ]
    unknown = set(targets) - {str(path) for path, _ in outs}
    if unknown:
        raise UserError(f"{', '.join(sorted(unknown))}: not an output that is pushed; see dvc.yaml")
    objects = [pair for path, md5 in outs for pair in _files(remote, path, md5)]
    problems, total = [], 0
    for path, md5 in progress(objects, "remote checked", "objects", len(objects)):
        actual, size = _hash(remote, md5)
        total += size
        if actual != md5.removesuffix(".dir"):
            state = f"is damaged (MD5 {actual})" if actual else "is missing"
            problems.append(f"{path}: its object {remote.oid_to_path(md5)} {state}")
    if problems:
        advice = (
            "delete damaged objects from the remote and run `dvc push` in a clone that has them"
        )
        raise WorkError("\n".join([*problems, advice]))
    return f"{len(objects)} objects of {len(outs)} outputs are intact, {total / 1e6:.1f} MB"


def _files(remote: Any, path: Path, md5: str) -> Iterator[tuple[Path, str]]:
    """The objects of an output: path and MD5 of a file, or of a folder's list and its files."""
    yield path, md5
    if md5.endswith(".dir"):
        try:
            rows = json.loads(remote.fs.cat_file(remote.oid_to_path(md5)))
        except (OSError, ValueError):
            return  # the list itself is reported as missing or damaged
        for row in rows:
            yield path / row["relpath"], row["md5"]


def _hash(remote: Any, md5: str) -> tuple[str, int]:
    """MD5 and size in bytes of an object; "" and 0 if it is missing."""
    digest, size = hashlib.md5(), 0
    try:
        with remote.fs.open(remote.oid_to_path(md5), "rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
                size += len(chunk)
    except FileNotFoundError:
        return "", 0
    return digest.hexdigest(), size
