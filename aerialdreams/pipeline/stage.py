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
from aerialdreams.paths import BASE, EVALUATION, RAW
from aerialdreams.pipeline import portable_arithmetic
from aerialdreams.pipeline.environment import hide_loading_bars, resume_collection
from aerialdreams.pipeline.launch import is_launched
from aerialdreams.util.saving import is_saving

LOCK_MARGIN = 4.0  # seconds to wait for a stage's lock, beside the grace of an orphaned one
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
NO_PERMISSION = (errno.EACCES, errno.EROFS)


def scratch_dir() -> Path:
    """Folder for checkpoints and other unfinished work, in neither git nor DVC.

    `dvc exp run --temp` and `--queue` run in a temporary copy of the project. DVC_ROOT then names
    the project itself, so that the next run finds the checkpoints.
    """
    folder = Path(os.environ.get("DVC_ROOT", ".")) / "scratch"
    folder.mkdir(exist_ok=True)
    return folder


def run_stage(name: str, doc: str | None, main: Callable[[Params], str]) -> None:
    """Run a stage as `python -m stages.NAME` and exit with its code.

    `stages/__init__.py` has set the environment by then (see `pipeline.environment`).

    Args:
        name: the stage's name in dvc.yaml.
        doc: the stage module's docstring, shown by --help: what it reads and writes.
        main: does the work and returns the summary line, in numbers.
    """
    argparse.ArgumentParser(
        prog=f"python -m stages.{name.replace('-', '_')}",
        description=doc,
        epilog="Values come from params.yaml. Exit codes: 0 done, 1 the work failed, 2 params or"
        " files are wrong, 3 interrupted (the next run resumes from what was saved).",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()
    resume_collection()
    signal.signal(signal.SIGTERM, _interrupt)
    hide_loading_bars()
    sys.exit(_run(name, main))


def _run(name: str, main: Callable[[Params], str]) -> int:
    began = time.monotonic()
    try:
        _refuse_linked_folders()
        params = load_params()
        _end_with_parent(params.runtime.grace)
        if params.compute.portable and "torch" in sys.modules:
            portable_arithmetic.use_portable_kernels()
        if is_launched():  # the process that launched this rank holds the lock
            summary = main(params)
        else:
            with _lock(name, params.runtime.grace + LOCK_MARGIN):
                summary = main(params)
    except UserError as error:
        return _fail(name, str(error), USER_ERROR)
    except WorkError as error:
        return _fail(name, str(error), FAILED)
    except KeyboardInterrupt:
        return _fail(name, "interrupted; `dvc repro` resumes from what was saved", INTERRUPTED)
    except BrokenProcessPool:
        advice = "it may have run out of memory; lower runtime.workers and run `dvc repro` again"
        return _fail(name, f"a worker process was killed; {advice}", FAILED)
    except OSError as error:
        if error.errno in DISK_FULL:
            advice = "free some space and run `dvc repro` again"
        elif error.errno in NO_PERMISSION:
            advice = "check the permissions and run `dvc repro` again"
        else:
            return _fail_unforeseen(name, error)
        file = f"{error.filename}: " if error.filename else ""
        return _fail(name, f"{file}{error.strerror}; {advice}", FAILED)
    except Exception as error:
        return _fail_unforeseen(name, error)
    if not is_launched() or os.environ["RANK"] == "0":
        print(f"{name}: {summary} ({time.monotonic() - began:.1f} s)", flush=True)
    return DONE


def _fail(name: str, message: str, code: int) -> int:
    print(f"{name}: error: {message}", file=sys.stderr, flush=True)
    return code


def _fail_unforeseen(name: str, error: Exception) -> int:
    """Report a bug in one line; its traceback goes to a file."""
    rank = f"-rank-{os.environ['RANK']}" if is_launched() else ""
    path = Path("scratch") / f"{name}{rank}-traceback.txt"
    try:
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    except OSError:
        traceback.print_exc()
        return FAILED
    reason = (str(error).strip().splitlines() or ["no message"])[0]
    message = f"{type(error).__name__}: {reason}; the traceback is in {path}, please report it"
    return _fail(name, message, FAILED)


def _refuse_linked_folders() -> None:
    """Check, before any work, that DVC will be able to handle the outputs.

    Raises:
        UserError: a folder of the outputs is a link, which DVC does not accept.
    """
    if "DVC_ROOT" not in os.environ:  # run by hand
        return
    for folder in (RAW.parent, RAW, BASE.parent, EVALUATION.parent):
        if folder.is_symlink():
            raise UserError(
                f"{folder}: is a link, which DVC does not accept for outputs; remove the link. For"
                " more space put the whole project, or DVC's cache (`dvc cache dir`), on a larger"
                " disk, or make `scratch` or `downloads` a link"
            )


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextmanager
def _lock(name: str, timeout: float) -> Iterator[None]:
    """Hold the stage's lock, so that no two processes write the same outputs.

    The lock file lies beside the outputs, not in `scratch_dir()`, because experiments in folders of
    their own may run the same stage at the same time.

    Raises:
        WorkError: another process holds the lock.
    """
    folder = Path("scratch")
    folder.mkdir(exist_ok=True)
    with (folder / f"{name}.lock").open("w") as file:
        deadline = time.monotonic() + timeout
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise WorkError(
                        f"{file.name}: another process is running this stage; wait for it or end it"
                    ) from None
                time.sleep(0.2)
        yield


def _end_with_parent(grace: float) -> None:
    """End this process when the `dvc`, or the launching stage, that it descends from has ended.

    A killed `dvc` leaves its stage running, and the next `dvc repro` would start a second process
    that writes the same files. DVC runs a stage through a shell, so the death of the parent says
    nothing: the ancestors are searched for `dvc`. A stage started by hand has none.
    """
    for ancestor in psutil.Process().parents():
        try:
            command = ancestor.cmdline()
        except psutil.Error:
            continue
        launcher = is_launched() and any(word.startswith("stages.") for word in command)
        if launcher or any(Path(word).name == "dvc" for word in command[:3]):
            threading.Thread(target=_end_after, args=(ancestor, grace), daemon=True).start()
            return


def _end_after(ancestor: psutil.Process, grace: float) -> None:
    """Interrupt this process when another has ended, and kill it `grace` seconds later.

    Seconds in which it saves its state do not count.
    """
    # is_running() also compares start times, in case the process id has been reused. It counts a
    # zombie, which its own parent has not waited for yet, as running.
    try:
        while ancestor.is_running() and ancestor.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.3)
    except psutil.NoSuchProcess:
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    while grace > 0:
        time.sleep(0.2)
        if not is_saving():
            grace -= 0.2
    os.kill(os.getpid(), signal.SIGKILL)
