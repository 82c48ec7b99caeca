"""Checkpoints: saving and resuming a training, and stopping it by a signal."""

import os
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import torch

from aerialdreams.errors import WorkError
from aerialdreams.util.saving import saving

CPU = torch.device("cpu")


class Checkpoint:
    """The state of a training on disk.

    Saving copies the state to the CPU's memory and writes it in a thread, so that the next steps do
    not wait for the disk. The last two checkpoints are kept.

    Args:
        path: the file, in a folder of its own training; see `util.scratch.work_folder`.
        parts: objects with `state_dict` and `load_state_dict`, by name.
        device: where the parts are restored to.
    """

    def __init__(self, path: Path, parts: dict[str, Any], device: torch.device = CPU) -> None:
        self.path, self.parts, self.device = path, parts, device
        self._writer: threading.Thread | None = None
        self._error: Exception | None = None

    @property
    def previous(self) -> Path:
        """The checkpoint before the last one."""
        return self.path.with_suffix(".previous.pt")

    def restore(self) -> int:
        """Load the last checkpoint, or the one before if the last is damaged.

        Returns:
            The number of steps done; 0 if there is no checkpoint.
        """
        for path in (self.path, self.previous):
            try:
                saved = torch.load(path, map_location=self.device, weights_only=True)
            except FileNotFoundError:
                continue
            except Exception as error:  # of zipfile, pickle or torch: the file is damaged
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                print(f"warning: {path}: damaged checkpoint ({reason})", file=sys.stderr)
                continue
            for name, part in self.parts.items():
                part.load_state_dict(saved["parts"][name])
            return int(saved["step"])
        return 0

    def save(self, step: int) -> None:
        """Write the state after `step` steps, in the background.

        Raises:
            WorkError: the checkpoint before this one could not be written.
        """
        self.wait()
        with saving():
            states = {name: _to_cpu(part.state_dict()) for name, part in self.parts.items()}
            state = {"step": step, "parts": states}
            self._writer = threading.Thread(target=self._write, args=(state,))
            self._writer.start()

    def wait(self) -> None:
        """Wait until the last checkpoint is on disk.

        Raises:
            WorkError: it could not be written; those before it are intact.
        """
        if self._writer:
            self._writer.join()
            self._writer = None
        if self._error:
            reason = (str(self._error).splitlines() or [type(self._error).__name__])[0]
            self._error = None
            raise WorkError(f"{self.path}: cannot be written ({reason}); free some space") from None

    @saving()
    def _write(self, state: dict[str, Any]) -> None:
        partial = self.path.with_suffix(".partial")
        try:
            with partial.open("wb") as file:
                torch.save(state, file)
                # A machine that is taken away loses what its system has not yet written to disk.
                file.flush()
                os.fsync(file.fileno())
            if self.path.exists():
                self.path.replace(self.previous)
            partial.replace(self.path)
        except (OSError, RuntimeError) as error:  # torch raises RuntimeError when a disk is full
            partial.unlink(missing_ok=True)
            self._error = error


def _to_cpu(state: Any) -> Any:
    """A copy of a state dict with all tensors copied to the CPU."""
    if isinstance(state, torch.Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, Mapping):
        return {key: _to_cpu(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(_to_cpu(value) for value in state)
    return state


class StopSignal:
    """Notes SIGTERM and SIGINT while its block runs, so that a loop can save its step and stop.

    Further SIGTERMs change nothing: a scheduler and a parent process may both send one. A second
    SIGINT (Ctrl-C) raises KeyboardInterrupt at once.

    Attributes:
        received: whether a signal has come.
    """

    def __init__(self) -> None:
        self.received = False
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._handlers[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = True


def ignore_stop_signals(worker: int = 0) -> None:
    """Ignore SIGTERM and SIGINT in a data loader's worker: its parent ends it when it stops."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
