"""Loss curves: collected step by step, saved in checkpoints, written as CSV for plots."""

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

INTERVAL = 50  # steps between checks of the loss, and between points of a written curve


class LossCurve:
    """The loss of every step.

    Losses stay on the device where they were computed until `INTERVAL` of them are fetched at once,
    so that no step waits for a transfer.

    Args:
        name: the training's name, for messages.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._fetched: list[float] = []
        self._pending: list[Tensor] = []

    def add(self, loss: Tensor) -> None:
        """Add a step's loss, a scalar.

        Raises:
            WorkError: one of the last `INTERVAL` losses is not finite; see `check`.
        """
        self._pending.append(loss.detach())
        if len(self._pending) >= INTERVAL:
            self.check()

    def check(self) -> None:
        """Check that all losses are finite.

        Raises:
            WorkError: one is not.
        """
        first = len(self._fetched)
        for step, value in enumerate(self.values[first:], start=first + 1):
            if not math.isfinite(value):
                raise WorkError(
                    f"{self.name}: the loss is {value} at step {step}; lower its learning_rate"
                )

    @property
    def values(self) -> list[float]:
        """The loss of every step so far."""
        if self._pending:
            self._fetched += torch.stack(self._pending).float().cpu().tolist()
            self._pending = []
        return self._fetched

    def means(self, interval: int = INTERVAL) -> list[tuple[int, float]]:
        """(step, mean loss of the `interval` steps up to it); the last may cover fewer steps."""
        values = torch.tensor(self.values)
        return [
            (min(first + interval, len(values)), float(values[first : first + interval].mean()))
            for first in range(0, len(values), interval)
        ]

    def last(self, count: int) -> float:
        """Mean loss of the last `count` steps."""
        return float(torch.tensor(self.values[-count:]).mean())

    def state_dict(self) -> dict[str, Tensor]:
        """For `Checkpoint`."""
        return {"values": torch.tensor(self.values)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """For `Checkpoint`."""
        self._fetched, self._pending = state["values"].tolist(), []


class CurvePoints:
    """A curve with few points, (step, value)."""

    def __init__(self) -> None:
        self.values: list[tuple[int, float]] = []

    def add(self, step: int, value: float) -> None:
        """Add a point."""
        self.values.append((step, value))

    def state_dict(self) -> dict[str, Any]:
        """For `Checkpoint`."""
        return {"values": self.values}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """For `Checkpoint`."""
        self.values = [tuple(point) for point in state["values"]]


class TimestepBins:
    """Mean loss in four equal ranges of timesteps, from little noise to much.

    Args:
        num_timesteps: of the noise schedule.
        device: where losses are computed; sums stay there, so that no step waits for a transfer.
    """

    COUNT = 4

    def __init__(self, num_timesteps: int, device: torch.device) -> None:
        self.num_timesteps = num_timesteps
        self.sums = torch.zeros(2, self.COUNT, device=device)  # of losses, and of samples

    def add(self, timesteps: Tensor, losses: Tensor) -> None:
        """Add per-sample losses; both arguments have shape (samples,)."""
        bins = timesteps.to(losses.device) * self.COUNT // self.num_timesteps
        self.sums[0].index_add_(0, bins, losses.detach().float())
        self.sums[1].index_add_(0, bins, torch.ones_like(losses, dtype=torch.float32))

    def pop(self, reduce: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Mean losses since the last call, by name; empty bins are left out.

        Args:
            reduce: sums a tensor over all ranks.
        """
        losses, counts = reduce(self.sums.clone()).tolist()
        self.sums.zero_()
        edges = [self.num_timesteps * n // self.COUNT for n in range(self.COUNT + 1)]
        return {
            f"loss_t{first:03}_{last - 1:03}": loss / count
            for (first, last), loss, count in zip(pairwise(edges), losses, counts, strict=True)
            if count
        }

    def state_dict(self) -> dict[str, Any]:
        """For `Checkpoint`."""
        return {"sums": self.sums}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """For `Checkpoint`."""
        self.sums.copy_(state["sums"])


def write_curve(path: Path, points: list[tuple[int, float]]) -> None:
    """Write (step, loss) pairs as CSV for `dvc plots`, with the columns step and loss."""
    with atomic_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["step", "loss"])
        writer.writerows([step, f"{loss:.6f}"] for step, loss in points)
