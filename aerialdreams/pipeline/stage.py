"""What every stage does around its work: help, params, lock, summary line and exit code."""

import argparse
import errno
import fcntl
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import psutil

from aerialdreams.errors import DONE, FAILED, INTERRUPTED, USER_ERROR, UserError, WorkError
from aerialdreams.params import Params, load_params
from aerialdreams.pipeline import lock_file
from aerialdreams.pipeline.launch import is_launched

GRACE = 6.0  # seconds that a stage whose `dvc` is gone has to save what it has


LOCK_PATIENCE = GRACE + 4.0


def scratch_dir() -> Path:
    """Folder for locks and checkpoints, in neither git nor DVC.

    `dvc exp run --temp` and `--queue` run in a copy that is thrown away; DVC_ROOT is then still
    the place where the user works, and what is kept there serves the next try.
    """
    folder = Path(os.environ.get("DVC_ROOT", ".")) / "scratch"
    folder.mkdir(exist_ok=True)
    return folder


def run_stage(name: str, doc: str | None, main: Callable[[Params], str]) -> None:
    """Run a stage as `python -m stages.NAME` and exit with its code.

    Args:
        name: the stage's name in dvc.yaml.
        doc: the stage module's docstring: what it reads and writes, shown by --help.
        main: does the work and returns the summary line, in numbers.
    """
    argparse.ArgumentParser(
        prog=f"python -m stages.{name.replace('-', '_')}",
        description=doc,
        epilog="Values come from params.yaml. Exit codes: 0 done, 1 the work failed, 2 params or"
        " files are wrong, 3 interrupted (what was saved is used by the next run).",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()
    _end_with_dvc()
    signal.signal(signal.SIGTERM, _interrupt)
    sys.exit(_run(name, main))


def _run(name: str, main: Callable[[Params], str]) -> int:
    began = time.monotonic()
    try:
        params = load_params()
        if is_launched():  # of several; who started them holds the lock
            summary = main(params)
        else:
            with _only_one(name):
                lock_file.keep(scratch_dir())
                summary = main(params)
    except UserError as error:
        return _fail(name, str(error), USER_ERROR)
    except WorkError as error:
        return _fail(name, str(error), FAILED)
    except BrokenProcessPool:
        advice = "was it out of memory? lower runtime.workers"
        return _fail(name, f"a worker process was killed; {advice}, then `dvc repro`", FAILED)
    except KeyboardInterrupt:
        return _fail(name, "interrupted; `dvc repro` goes on from what is saved", INTERRUPTED)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            traceback.print_exc()
            return FAILED
        place = f"{error.filename}: " if error.filename else ""
        advice = (
            "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "see its rights"
        )
        return _fail(name, f"{place}{error.strerror}; {advice}, then `dvc repro` again", FAILED)
    except Exception:
        traceback.print_exc()  # a mistake of ours: the whole of it is what helps
        return FAILED
    if os.environ.get("RANK", "0") == "0":
        print(f"{name}: {summary} ({time.monotonic() - began:.1f} s)", flush=True)
    return DONE


def _fail(name: str, message: str, code: int) -> int:
    print(f"{name}: error: {message}", file=sys.stderr, flush=True)
    return code


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextmanager
def _only_one(name: str) -> Iterator[None]:
    """Hold the stage's lock, so that no two processes write the same outputs.

    It lies beside the outputs, not in `scratch()`: experiments in folders of their own may run
    the same stage at the same time.
    """
    place = Path("scratch")
    place.mkdir(exist_ok=True)
    with (place / f"{name}.lock").open("w") as file:
        deadline = time.monotonic() + LOCK_PATIENCE
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise WorkError(f"{file.name}: another run of this stage holds it") from None
                time.sleep(0.2)
        yield


def _end_with_dvc() -> None:
    """End this process when the `dvc` that started it is gone, or the stage that it is a part of.

    A killed `dvc` leaves its stage running, and the next `dvc repro` would start a second writer
    beside it. DVC runs a stage through a shell, so the parent's death alone does not tell: look
    for `dvc` among the ancestors. Started by hand there is none, and nothing to do.
    """
    for ancestor in psutil.Process().parents():
        try:
            command = ancestor.cmdline()
        except psutil.Error:
            continue
        stage = is_launched() and any(word.startswith("stages.") for word in command)
        if stage or any(Path(word).name == "dvc" for word in command[:3]):
            threading.Thread(target=_watch, args=(ancestor,), daemon=True).start()
            return


def _watch(dvc: psutil.Process) -> None:
    # is_running() compares start times too, so a reused process id does not fool it. A zombie
    # (dead, not yet collected by its own parent) has to be asked for.
    try:
        while dvc.is_running() and dvc.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.3)
    except psutil.NoSuchProcess:
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os.kill(os.getpid(), signal.SIGKILL)
