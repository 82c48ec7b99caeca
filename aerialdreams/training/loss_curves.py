"""Losses of a training, step by step, kept with its checkpoints; and as a table for plots."""

import csv
import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aerialdreams.errors import WorkError
from aerialdreams.util.files import atomic_file

CHECK_EVERY = 50  # steps between looks at the loss


class LossCurve:
    """The loss of each step, kept where it was computed, so that no step waits for it."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.values: list[Tensor] = []

    def add(self, loss: Tensor) -> None:
        """Keep a step's loss; stop now and then if it is no longer a number.

        Raises:
            WorkError: the loss is not finite.
        """
        self.values.append(loss.detach())
        if len(self.values) % CHECK_EVERY == 0 and not math.isfinite(self.values[-1].item()):
            raise WorkError(
                f"{self.what}: the loss is {self.values[-1].item()} at step {len(self.values)};"
                " lower its learning_rate"
            )

    def means(self, every: int = CHECK_EVERY) -> list[tuple[int, float]]:
        """(step, mean loss of the `every` steps before it), the last steps included."""
        values = torch.stack(self.values).float().cpu() if self.values else torch.empty(0)
        return [
            (min(first + every, len(values)), float(values[first : first + every].mean()))
            for first in range(0, len(values), every)
        ]

    def last(self, count: int) -> float:
        """Mean of the last `count` steps."""
        return float(torch.stack(self.values[-count:]).mean())

    def state_dict(self) -> dict[str, Tensor]:
        """For `Checkpoint`."""
        return {"values": torch.stack(self.values).float().cpu() if self.values else torch.empty(0)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """For `Checkpoint`."""
        self.values = list(state["values"])


class CurvePoints:
    """A curve of a few points, (step, value)."""

    def __init__(self) -> None:
        self.values: list[tuple[int, float]] = []

    def add(self, step: int, value: float) -> None:
        """The next point."""
        self.values.append((step, value))

    def state_dict(self) -> dict[str, Any]:
        """For `Checkpoint`."""
        return {"values": self.values}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """For `Checkpoint`."""
        self.values = [tuple(pair) for pair in state["values"]]


class TimestepBins:
    """Mean squared error by band of timesteps: of little noise, of much, and between.

    Args:
        timesteps: of the noise schedule.
        device: where errors are computed; sums stay there, so that no step waits for them.
    """

    COUNT = 4

    def __init__(self, timesteps: int, device: torch.device) -> None:
        self.timesteps = timesteps
        self.sums = torch.zeros(2, self.COUNT, device=device)  # of errors, and of samples

    def add(self, times: Tensor, errors: Tensor) -> None:
        """A part of a batch: timesteps and errors of its samples, each (samples,)."""
        band = times.to(errors.device) * self.COUNT // self.timesteps
        self.sums[0].index_add_(0, band, errors.detach().float())
        self.sums[1].index_add_(0, band, torch.ones_like(errors, dtype=torch.float32))

    def take(self, reduce: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """The means since they were last taken, by name; a band without samples is left out.

        Args:
            reduce: sums a tensor over all processes.
        """
        errors, counts = reduce(self.sums.clone()).tolist()
        self.sums.zero_()
        edges = [self.timesteps * n // self.COUNT for n in range(self.COUNT + 1)]
        return {
            f"loss_t{first:03}_{last - 1:03}": error / count
            for (first, last), error, count in zip(pairwise(edges), errors, counts, strict=True)
            if count
        }

    def state_dict(self) -> dict[str, Any]:
        """For `Checkpoint`."""
        return {"sums": self.sums}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """For `Checkpoint`."""
        self.sums.copy_(state["sums"])


def write_curve(path: Path, points: list[tuple[int, float]]) -> None:
    """Write (step, loss) pairs as CSV for `dvc plots`: columns step, loss."""
    with atomic_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["step", "loss"])
        writer.writerows([step, f"{loss:.6f}"] for step, loss in points)
