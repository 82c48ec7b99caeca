"""Unfinished work in scratch/: kept when a run is killed, and used by one process at a time.

Experiments that run side by side share one scratch/ folder. Each piece of work has a folder named
after all that decides its result, locked while a process uses it, so that experiments neither see
nor delete each other's.
"""

import fcntl
import hashlib
import json
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain, count
from pathlib import Path
from typing import Any

from aerialdreams.util.files import write_json

IDENTITY = "identity.json"
KEY_LENGTH = 16
MAX_AGE = 7 * 24 * 3600.0  # seconds after which unfinished work of other params is deleted


@contextmanager
def work_folder(scratch: Path, name: str, identity: Mapping[str, Any]) -> Iterator[Path]:
    """A folder for work that may take several runs, deleted when the block ends without an error.

    A killed run leaves the folder, and the next run with the same identity gets it back. If there
    is none for this identity but some for others of the same name, prints what differs.

    Args:
        scratch: where work folders are kept.
        name: the work's name.
        identity: what decides the result, as JSON values.

    Yields:
        The folder. If another process is working on the same, it is another, empty one.
    """
    values = json.loads(json.dumps(identity, sort_keys=True, default=str))
    key = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:KEY_LENGTH]
    with claim(scratch, f"{name}-{key}") as folder:
        if not folder.exists():
            _report_others(scratch, name, values)
            folder.mkdir()
            write_json(folder / IDENTITY, values)
        _delete_abandoned(scratch, name)
        yield folder
        shutil.rmtree(folder)


@contextmanager
def resumable_folder(path: Path, scratch: Path, key: str) -> Iterator[Path]:
    """Fill an output folder over several runs, and move it into place when the block ends.

    Args:
        path: the output.
        scratch: where it is kept until it is complete.
        key: hash of all that decides the content, so that no run continues another's work.

    Yields:
        The folder, with the files that a killed run has completed.
    """
    with claim(scratch, f"{path.name}-{key}") as folder:
        folder.mkdir(exist_ok=True)
        _delete_abandoned(scratch, path.name)
        yield folder
        for partial in folder.rglob("*.partial"):
            partial.unlink()
        if path.exists():
            shutil.rmtree(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(folder, path)


@contextmanager
def claim(scratch: Path, name: str) -> Iterator[Path]:
    """A path in a folder that no other process has claimed: NAME, or NAME.2, NAME.3 and so on.

    One that a killed run left is preferred. The claim ends with the block, or with the process.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    left = sorted(path for path in scratch.glob(f"{name}*") if path.is_dir())
    new = (scratch / (name if number == 1 else f"{name}.{number}") for number in count(1))
    with ExitStack() as stack:
        for path in chain(left, new):
            if _lock(stack, path):
                yield path
                return


def _lock(stack: ExitStack, path: Path) -> bool:
    """Lock a path for as long as the stack lives; False if another process has it."""
    file = stack.enter_context(path.with_name(f"{path.name}.lock").open("w"))
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return False
    return True


def _delete_abandoned(scratch: Path, name: str) -> None:
    """Delete unfinished work of this name that nobody has touched for `MAX_AGE`."""
    pattern = f"{name}-{'[0-9a-f]' * KEY_LENGTH}*"
    for path in scratch.glob(pattern):
        if not path.is_dir() or time.time() - _last_change(path) < MAX_AGE:
            continue
        with ExitStack() as stack:
            if _lock(stack, path):
                shutil.rmtree(path)
                path.with_name(f"{path.name}.lock").unlink(missing_ok=True)


def _last_change(folder: Path) -> float:
    """When a file of a folder was last changed, seconds since the epoch."""
    times = [folder.stat().st_mtime]
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            times.append(path.stat().st_mtime)
    return max(times)


def _report_others(scratch: Path, name: str, ours: dict[str, Any]) -> None:
    """Say why work of the same name is not continued."""
    for file in sorted(scratch.glob(f"{name}-{'[0-9a-f]' * KEY_LENGTH}*/{IDENTITY}")):
        theirs = json.loads(file.read_text(encoding="utf-8"))
        print(
            f"{name}: not resuming from {file.parent}: {_differences(theirs, ours)}",
            file=sys.stderr,
            flush=True,
        )


def _differences(theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    """What differs between two identities, in words."""
    lines = []
    for key in sorted(theirs.keys() | ours.keys()):
        a, b = theirs.get(key), ours.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            lines += [
                f"{key}.{name} is {b.get(name)!r}, there {a.get(name)!r}"
                for name in sorted(a.keys() | b.keys())
                if a.get(name) != b.get(name)
            ]
        elif a != b:
            lines.append(f"{key} is {b!r}, there {a!r}")
    return "; ".join(lines)
