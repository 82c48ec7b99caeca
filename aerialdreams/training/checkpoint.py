"""Checkpoints and resuming."""

import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from aerialdreams.errors import WorkError
from aerialdreams.training.distributed import SINGLE_PROCESS, Distributed
from aerialdreams.util.progress import progress
from aerialdreams.util.torch_setup import CPU


@dataclass
class Checkpoint:
    """A training's state on disk, whole or not there.

    Attributes:
        path: the file; its name must carry the fingerprint of params, code and inputs.
        parts: what has `state_dict` and `load_state_dict`, by name.
        device: where the parts lie.
    """

    path: Path
    parts: dict[str, Any]
    device: torch.device = CPU

    def restore(self) -> int:
        """Put the saved state in place, if there is one; gives the number of steps done."""
        if not self.path.exists():
            return 0
        saved = torch.load(self.path, map_location=self.device, weights_only=True)
        for name, part in self.parts.items():
            part.load_state_dict(saved["parts"][name])
        return int(saved["step"])

    def save(self, step: int) -> None:
        """Write the state after `step` steps beside the old one, then replace it.

        Raises:
            WorkError: it cannot be written; the old one is as it was.
        """
        states = {name: part.state_dict() for name, part in self.parts.items()}
        partial = self.path.with_suffix(".partial")
        try:
            with partial.open("wb") as file:
                torch.save({"step": step, "parts": states}, file)
                # On disk before it takes the old one's name: a machine that is taken away loses
                # what its system still holds in memory.
                file.flush()
                os.fsync(file.fileno())
        except RuntimeError as error:  # what torch makes of a full disk
            partial.unlink(missing_ok=True)
            reason = str(error).splitlines()[0]
            raise WorkError(f"{self.path}: cannot be written ({reason}); free some space") from None
        partial.replace(self.path)

    def remove(self) -> None:
        """Forget the state: the output that it was for is in place."""
        self.path.unlink(missing_ok=True)


def training_steps(
    checkpoint: Checkpoint, steps: int, every: int, what: str, team: Distributed = SINGLE_PROCESS
) -> Iterator[int]:
    """The steps that are left, from the checkpoint's on, saved every `every` and at the end.

    Args:
        checkpoint: the state; all processes read it, the first one writes it.
        steps: how many there are in all.
        every: steps between checkpoints.
        what: the training's name.
        team: the processes that train together.

    Raises:
        KeyboardInterrupt: SIGTERM or SIGINT came to one of the processes, as where a machine is
            taken away; the step that it fell in is done and saved.
    """
    start = checkpoint.restore()
    with _told_to_stop() as told:
        left: Iterable[int] = range(start, steps)
        for step in progress(left, what, "steps", steps, start) if team.first else left:
            yield step
            stop = team.any(bool(told))
            if team.first and (stop or (step + 1) % every == 0 or step + 1 == steps):
                checkpoint.save(step + 1)
            if stop:
                team.any(stop)  # nobody leaves before the first one has saved
                raise KeyboardInterrupt


@contextmanager
def _told_to_stop() -> Iterator[list[int]]:
    """A list that is empty until a signal to stop comes; a second one is heard at once."""
    told: list[int] = []

    def hear(signum: int, frame: FrameType | None) -> None:
        if told:
            raise KeyboardInterrupt
        told.append(signum)

    before = {number: signal.signal(number, hear) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def ignore_stop_signals(worker: int) -> None:
    """For a loader's worker: signals to stop are for its parent, which ends it when it is done."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
