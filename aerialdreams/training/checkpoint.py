"""Checkpoints: what identifies a training, saving and resuming it, and stopping it by a signal."""

import hashlib
import json
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
from aerialdreams.util.files import write_json

CPU = torch.device("cpu")


def checkpoint_path(folder: Path, name: str, identity: Mapping[str, Any]) -> Path:
    """Path of the checkpoint of a training, named after all that decides its weights.

    A training whose params, data or algorithm version differ has another path, so that it never
    resumes from weights that are not its own. If there is no checkpoint for this training but some
    for similar ones, prints what differs.

    Args:
        folder: where checkpoints are kept.
        name: the training's name.
        identity: what decides the weights, as JSON values. What only changes how the work is done
            (logging, number of processes, micro-batches) does not belong here.
    """
    text = json.dumps(identity, sort_keys=True, default=str)
    key = hashlib.sha256(text.encode()).hexdigest()[:16]
    path = folder / f"{name}-{key}.pt"
    if not path.exists():
        for other in sorted(folder.glob(f"{name}-{'[0-9a-f]' * 16}.json")):
            if other.with_suffix(".pt").exists():
                print(
                    f"{name}: not resuming from {other.with_suffix('.pt')}:"
                    f" {_differences(json.loads(other.read_text()), json.loads(text))}",
                    file=sys.stderr,
                    flush=True,
                )
    write_json(path.with_suffix(".json"), json.loads(text))
    return path


def _differences(theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    """What differs between the identities of two trainings, in words."""
    lines = []
    for key in sorted(theirs.keys() | ours.keys()):
        a, b = theirs.get(key), ours.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            lines += [
                f"{key}.{name} is {b.get(name)!r}, the checkpoint's is {a.get(name)!r}"
                for name in sorted(a.keys() | b.keys())
                if a.get(name) != b.get(name)
            ]
        elif a != b:
            lines.append(f"{key} is {b!r}, the checkpoint's is {a!r}")
    return "; ".join(lines)


class Checkpoint:
    """The state of a training on disk.

    Saving copies the state to the CPU's memory and writes it in a thread, so that the next steps do
    not wait for the disk. The last two checkpoints are kept.

    Args:
        path: the file; see `checkpoint_path`.
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
        states = {name: _to_cpu(part.state_dict()) for name, part in self.parts.items()}
        self._writer = threading.Thread(target=self._write, args=({"step": step, "parts": states},))
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

    def remove(self) -> None:
        """Delete the checkpoints: the training's output is in place."""
        self.wait()
        for path in (self.path, self.previous, self.path.with_suffix(".json")):
            path.unlink(missing_ok=True)

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
