"""Jobs that run one at a time in the order they came, with progress and cancellation."""

import itertools
import queue
import secrets
import shutil
import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from aerialdreams.errors import UserError

MAX_WAITING = 20  # jobs
KEPT = 50  # finished jobs

Status = Literal["waiting", "running", "done", "failed", "cancelled"]


class CancelledError(Exception):
    """The job was cancelled."""


class FullError(Exception):
    """So many jobs wait that no further one is taken."""


@dataclass
class Job:
    """A request and what became of it.

    Attributes:
        id: unguessable.
        folder: where its files are.
        work: does it, and reports progress to the job.
        number: of the job, in the order they came.
        status: waiting, running, done, failed or cancelled.
        done: steps done.
        steps: number of steps; 0 until it is known.
        error: why it failed.
        seconds: that it took.
    """

    id: str
    folder: Path
    work: Callable[["Job"], None]
    number: int
    status: Status = "waiting"
    done: int = 0
    steps: int = 0
    error: str = ""
    seconds: float = 0.0
    result: dict[str, object] = field(default_factory=dict)
    cancelled: threading.Event = field(default_factory=threading.Event)

    @property
    def is_over(self) -> bool:
        """Whether nothing will change any more."""
        return self.status in ("done", "failed", "cancelled")

    def on_step(self, done: int, steps: int) -> None:
        """Note progress.

        Raises:
            CancelledError: the job was cancelled.
        """
        self.done, self.steps = done, steps
        if self.cancelled.is_set():
            raise CancelledError


class JobQueue:
    """Runs jobs in one thread.

    Args:
        folder: for the jobs' files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._waiting: queue.Queue[Job | None] = queue.Queue()
        self._lock, self._numbers = threading.Lock(), itertools.count()
        self._thread = threading.Thread(target=self._run, daemon=True, name="jobs")
        self._thread.start()

    def submit(self, work: Callable[[Job], None]) -> Job:
        """Add a job.

        Raises:
            FullError: `MAX_WAITING` jobs are waiting.
        """
        with self._lock:
            if sum(job.status == "waiting" for job in self._jobs.values()) >= MAX_WAITING:
                raise FullError
            job_id = secrets.token_urlsafe(12)
            job = Job(job_id, self._folder / job_id, work, next(self._numbers))
            job.folder.mkdir()
            self._jobs[job_id] = job
            self._forget_oldest()
        self._waiting.put(job)
        return job

    def get(self, job_id: str) -> Job | None:
        """A job that is waiting, running or among the last finished; None for others."""
        return self._jobs.get(job_id)

    def ahead_of(self, job: Job) -> int:
        """Number of jobs that will run before a waiting one ends its wait."""
        with self._lock:
            return sum(not one.is_over and one.number < job.number for one in self._jobs.values())

    def cancel(self, job: Job) -> None:
        """Cancel a job; a running one ends after its current step."""
        job.cancelled.set()
        with self._lock:
            if job.status == "waiting":
                job.status = "cancelled"

    def close(self) -> None:
        """Cancel everything and wait for the running job's current step."""
        for job in list(self._jobs.values()):
            self.cancel(job)
        self._waiting.put(None)
        self._thread.join(60)

    def _forget_oldest(self) -> None:
        over = [job for job in self._jobs.values() if job.is_over]
        for job in over[: max(0, len(over) - KEPT)]:
            del self._jobs[job.id]
            shutil.rmtree(job.folder, ignore_errors=True)

    def _run(self) -> None:
        while job := self._waiting.get():
            with self._lock:
                if job.status == "cancelled":
                    continue
                job.status = "running"
            start, status = time.monotonic(), "done"
            try:
                job.work(job)
            except CancelledError:
                status = "cancelled"
            except UserError as error:
                status, job.error = "failed", str(error)
            except Exception as error:
                status, job.error = "failed", f"{type(error).__name__}: {error}".splitlines()[0]
                traceback.print_exception(error)
            job.seconds = time.monotonic() - start
            job.status = status  # type: ignore[assignment]
