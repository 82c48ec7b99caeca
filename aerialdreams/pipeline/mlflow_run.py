"""A run in MLflow that never stops or slows the work: a thread sends entries, and retries.

MLflow has asynchronous logging of its own (`log_batch(synchronous=False)`, read in 3.17.2). It is
not used because it drops a batch at its first error, so that a server's restart loses points; sends
from ten threads at once, so that after a kill the last stored step does not tell which steps are
missing; waits at exit for as long as the store takes; and cannot create or end a run, or register a
model, which have to wait for the same store. This queue does all of it in order, in one thread.
"""

import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from aerialdreams.pipeline.mlflow_store import connect, first_line, is_rejected, warn

if TYPE_CHECKING:
    from mlflow import MlflowClient

PATIENCE = 60.0  # seconds without progress after which `close` gives up
OPEN_TIMEOUT = 20.0  # seconds that the first metrics wait for the run to be opened
RETRY_DELAYS = (1.0, 2.0, 5.0, 10.0, 30.0)  # seconds; the last one repeats

Entry = Callable[["MlflowClient", str], object]


class Run:
    """A run in MLflow, opened and written to by a background thread.

    Args:
        open_run: creates or finds the run, given a client and the experiment's id; returns its id.

    Attributes:
        id: the run's id; None until the store has answered.
        last_steps: last step of each curve in a resumed run; earlier steps are not sent again.
    """

    def __init__(self, open_run: Callable[["MlflowClient", str], str]) -> None:
        self.id: str | None = None
        self.last_steps: dict[str, int] = {}
        self._open_run = open_run
        self._entries: queue.Queue[Entry | None] = queue.Queue()
        self._stored = 0
        self._failures = 0  # in a row
        self._attempted = threading.Event()  # opening the run succeeded or failed
        self._given_up = threading.Event()
        self._thread = threading.Thread(target=self._send_entries, daemon=True)
        self._thread.start()

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Log a point of each named curve.

        The first call waits for MLflow to be imported and the run to be opened. Otherwise, a kill
        soon after the start could leave a checkpoint whose points were never stored.
        """
        self._attempted.wait(OPEN_TIMEOUT)
        now = int(time.time() * 1000)

        def send(client: "MlflowClient", run_id: str) -> None:
            from mlflow.entities import Metric

            new = [
                Metric(name, value, now, step)
                for name, value in values.items()
                if step > self.last_steps.get(name, -1)
            ]
            if new:
                client.log_batch(run_id, metrics=new)

        self.add(send)

    def image(self, step: int, image: NDArray[np.uint8], key: str) -> None:
        """Log an RGB image, (height, width, 3), as the series `key`'s at this step."""
        self.add(lambda client, run_id: client.log_image(run_id, image, key=key, step=step))

    def add(self, entry: Entry) -> None:
        """Queue a call with the client and the run's id. It is repeated until it succeeds."""
        self._entries.put(entry)

    def close(self, timeout: float | None = None) -> None:
        """Wait until all entries are stored, and warn about those that are lost.

        Args:
            timeout: seconds to wait at most. By default there is no limit while entries get
                stored, or while one is under way (a large upload) that has not failed; it gives up
                after `PATIENCE` seconds of failures.
        """
        self._entries.put(None)
        stored = self._stored
        while self._thread.is_alive():
            self._thread.join(PATIENCE if timeout is None else timeout)
            stalled = self._stored == stored and self._failures > 0
            if self._thread.is_alive() and (stalled or timeout is not None):
                self._given_up.set()
                warn(f"{self._entries.qsize()} entries could not be stored and are lost")
                return
            stored = self._stored

    def _send_entries(self) -> None:
        client = None
        entry: Entry | None = lambda client, run_id: None  # noqa: E731  (opens the run)
        while entry:
            try:
                if client is None or self.id is None:
                    client, experiment_id = connect()
                    self.id = self._open_run(client, experiment_id)
                self._attempted.set()
                entry(client, self.id)
            except Exception as error:  # MLflow's, its database's or the network's
                self._attempted.set()
                if not is_rejected(error):
                    if self._wait_to_retry(error):
                        continue
                    return
                warn(f"rejected an entry: {first_line(error)}")
            if self._failures:
                warn("the store answers again")
            self._failures = 0
            self._stored += 1
            entry = self._entries.get()

    def _wait_to_retry(self, error: Exception) -> bool:
        """Wait before the next attempt; returns False if `close` has given up."""
        if not self._failures:
            warn(f"the store does not answer, the work continues: {first_line(error)}")
        self._failures += 1
        delay = RETRY_DELAYS[min(self._failures, len(RETRY_DELAYS)) - 1]
        return not self._given_up.wait(delay)
