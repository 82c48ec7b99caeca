"""An MLflow run that never blocks or stops the training: a thread sends entries and retries.

MLflow's own asynchronous logging (`log_batch(synchronous=False)`, read in 3.17.2) is not used. It
drops a batch at its first error, so points are lost if a server restarts. It sends from ten threads
at once, so after a kill the last stored step does not show which steps are missing. At exit it
waits without a limit. And it cannot create or end runs or register models, which need the same
store. This queue does all of that in order, in one thread.
"""

import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from aerialdreams.pipeline.mlflow_store import (
    StoreStateError,
    connect,
    first_line,
    is_rejected,
    warn,
)

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
        id: the run's id; None until the store has responded.
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
        """Log an RGB image, (height, width, 3), to the series `key`."""
        self.add(lambda client, run_id: client.log_image(run_id, image, key=key, step=step))

    def add(self, entry: Entry) -> None:
        """Queue a call with the client and the run's id. It is repeated until it succeeds."""
        self._entries.put(entry)

    def close(self, timeout: float | None = None) -> None:
        """Wait until all entries are stored; warn about entries that are lost.

        Args:
            timeout: longest wait, seconds. None waits as long as entries are being stored or
                sent, and gives up after `PATIENCE` seconds of failures.
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
                if isinstance(error, StoreStateError) or (self.id is None and is_rejected(error)):
                    warn(f"nothing is recorded: {first_line(error)}")
                    while self._entries.get() is not None:
                        pass
                    return
                if not is_rejected(error):
                    if self._wait_to_retry(error):
                        continue
                    return
                warn(f"rejected an entry: {first_line(error)}")
            if self._failures:
                warn("the store responds again")
            self._failures = 0
            self._stored += 1
            entry = self._entries.get()

    def _wait_to_retry(self, error: Exception) -> bool:
        """Wait before the next attempt; returns False if `close` has given up."""
        if not self._failures:
            warn(f"the store does not respond, the training continues: {first_line(error)}")
        self._failures += 1
        delay = RETRY_DELAYS[min(self._failures, len(RETRY_DELAYS)) - 1]
        return not self._given_up.wait(delay)
