"""Mends a dvc.lock that a kill cut: `python -m aerialdreams.lock_file`, as scripts/run does.

DVC 3 empties dvc.lock and writes it anew after each stage. Killed in that tenth of a second, it
refuses its own file from then on ("dvc.lock validation failed"). Each stage therefore keeps a copy
when it starts, and what it lacks the next run finds in DVC's run cache.
"""

import shutil
from pathlib import Path

import yaml

from aerialdreams.util.files import atomic_file

LOCK = Path("dvc.lock")


MERGING = b"<<<<<<< "  # a conflict that git left is for its user to settle


def keep(scratch: Path) -> None:
    """Copy dvc.lock to the scratch folder. To be called in a stage: DVC then does not write it."""
    if LOCK.exists():
        with atomic_file(scratch / LOCK.name) as partial:
            shutil.copyfile(LOCK, partial)


def mend(scratch: Path) -> str | None:
    """Put the copy in place of a dvc.lock that DVC would refuse; gives what was done, if anything.

    Where there is no copy that is whole, it is removed: then DVC looks in its run cache for all.
    """
    if not LOCK.exists() or _whole(LOCK) or MERGING in LOCK.read_bytes():
        return None
    copy = scratch / LOCK.name
    if copy.exists() and _whole(copy):
        with atomic_file(LOCK) as partial:
            shutil.copyfile(copy, partial)
        return f"{LOCK} was cut when dvc was killed; put back from {copy}"
    LOCK.unlink()
    return f"{LOCK} was cut when dvc was killed; removed, dvc makes it anew"


def _whole(path: Path) -> bool:
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA
    from voluptuous import Invalid

    try:
        text = path.read_text(encoding="utf-8")
        COMPILED_LOCKFILE_SCHEMA(yaml.safe_load(text))
    except (yaml.YAMLError, Invalid, UnicodeDecodeError):
        return False
    return text.endswith("\n")


if __name__ == "__main__":
    done = mend(Path("scratch"))
    if done:
        print(done)
