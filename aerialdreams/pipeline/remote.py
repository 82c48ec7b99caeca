"""Look through DVC's remote: is all there that dvc.lock names, and is it whole?"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dvc.exceptions import DvcException
from dvc.repo import Repo

from aerialdreams.errors import UserError, WorkError
from aerialdreams.util.progress import progress

CHUNK = 1 << 20


def check_remote(targets: list[str]) -> str:
    """Read the objects of outputs in the remote and compare them with their hashes.

    DVC itself never takes a damaged object (`verify` in .dvc/config), but does not say which one
    it was.

    Args:
        targets: outputs, such as data/dataset; none are all that are pushed.

    Returns:
        What is there, in numbers.

    Raises:
        UserError: there is no such output or no remote.
        WorkError: objects are missing or damaged; each is named with its file.
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
        raise UserError(f"{', '.join(sorted(unknown))}: no output that is pushed; see dvc.yaml")
    objects = [pair for path, md5 in outs for pair in _files(remote, path, md5)]
    wrong, total = [], 0
    for path, md5 in progress(objects, "remote checked", "objects", len(objects)):
        found, size = _hash(remote, md5)
        total += size
        if found != md5.removesuffix(".dir"):
            state = f"is damaged (MD5 {found})" if found else "is missing"
            wrong.append(f"{path}: its object {remote.oid_to_path(md5)} {state}")
    if wrong:
        advice = "push it again from a clone that has it: remove it there, then `dvc push`"
        raise WorkError("\n".join([*wrong, advice]))
    return f"{len(objects)} objects of {len(outs)} outputs are whole, {total / 1e6:.1f} MB"


def _files(remote: Any, path: Path, md5: str) -> Iterator[tuple[Path, str]]:
    """The files of an output with their hashes; of a folder, its list first."""
    yield path, md5
    if md5.endswith(".dir"):
        try:
            rows = json.loads(remote.fs.cat_file(remote.oid_to_path(md5)))
        except (OSError, ValueError):
            return  # said of the list itself
        for row in rows:
            yield path / row["relpath"], row["md5"]


def _hash(remote: Any, md5: str) -> tuple[str, int]:
    """MD5 and bytes of an object; "" where there is none."""
    digest, size = hashlib.md5(), 0
    try:
        with remote.fs.open(remote.oid_to_path(md5), "rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
                size += len(chunk)
    except FileNotFoundError:
        return "", 0
    return digest.hexdigest(), size
