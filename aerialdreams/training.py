"""What every training loop needs: draws that are functions, exact resume, a schedule."""

import hashlib
import math
import os
import signal
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aerialdreams.errors import WorkError
from aerialdreams.processes import ALONE, Team
from aerialdreams.progress import progress

CPU = torch.device("cpu")
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
WAYS = 8  # a square's turns and mirrorings


def set_up_torch(threads: int) -> torch.device:
    """Make torch give the same numbers every time; gives the device to work on.

    Args:
        threads: CPU threads of one operation. Sums on another number of threads round otherwise.
    """
    # cuBLAS reads this when it starts (https://docs.nvidia.com/cuda/cublas/#results-reproducibility).
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(threads)
    use_exact_roots()
    # accelerate would set another number, by the machine's cores, for several processes on a CPU.
    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    # Strict mode also fills each new tensor with NaN, for code that reads what it never wrote.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def root(values: Tensor) -> Tensor:
    """Square roots as IEEE 754 rounds them, of a tensor on a CPU.

    torch has them from MKL, which on CPUs that are not Intel's begins with the CPU's own estimate
    (RSQRTPS) and does not end exactly: a schedule of noise would differ from maker to maker.
    """
    if values.dtype not in (torch.float32, torch.float64):
        return torch.sqrt(values, out=torch.empty(0, dtype=torch.result_type(values, 1.0)))
    return torch.from_numpy(np.asarray(np.sqrt(values.detach().numpy())))


def power(values: Tensor, exponent: float) -> Tensor:
    """Powers of a tensor on a CPU; the half one, which torch takes for a root too, by `root`."""
    if exponent == 0.5:
        return root(values)
    out = torch.empty(0, dtype=torch.result_type(values, exponent))
    return torch.pow(values, exponent, out=out)


@cache
def use_exact_roots() -> torch.library.Library:
    """Let torch take roots on CPUs from `root`, for as long as the process lives."""
    library = torch.library.Library("aten", "IMPL")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that these are there already is the point
        library.impl("sqrt", root, "CPU")
        library.impl("pow.Tensor_Scalar", power, "CPU")
    return library


def to_tensor(images: NDArray[np.uint8] | Tensor) -> Tensor:
    """Images as networks take them.

    Args:
        images: RGB in 0..255, uint8, shape (batch, height, width, 3), of numpy or torch.

    Returns:
        -1..1, shape (batch, 3, height, width).
    """
    return torch.as_tensor(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def generator(seed: int, *keys: int | str) -> torch.Generator:
    """A CPU generator that is a function of the seed and of what it is for."""
    digest = hashlib.sha256(repr((seed, *keys)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def draw_batch(seed: int, step: int, batch: int, count: int) -> list[int]:
    """The samples of one step: each epoch goes through all `count` in an order of its own."""
    chosen = []
    for position in range(step * batch, (step + 1) * batch):
        epoch, place = divmod(position, count)
        chosen.append(int(epoch_order(seed, epoch, count)[place]))
    return chosen


@lru_cache(maxsize=2)
def epoch_order(seed: int, epoch: int, count: int) -> Tensor:
    """The order of one epoch's samples. Kept: to draw 60,000 anew for each sample takes 1 ms."""
    return torch.randperm(count, generator=generator(seed, "order", epoch))


def drop_captions(chosen: list[int], share: float, seed: int, step: int) -> list[int]:
    """Rows of captions for a batch, a share of them replaced by -1, the empty caption's row.

    Classifier-free guidance needs a model that knows the empty caption (Ho and Salimans 2022).
    """
    dice = torch.rand(len(chosen), generator=generator(seed, "dropout", step))
    return [-1 if p < share else row for row, p in zip(chosen, dice.tolist(), strict=True)]


def draw_turns(seed: int, step: int, batch: int) -> list[int]:
    """How each sample of a step is turned, see `turned`: an aerial image has no up."""
    return torch.randint(WAYS, (batch,), generator=generator(seed, "turns", step)).tolist()


def turned(picture: NDArray[np.uint8], way: int) -> NDArray[np.uint8]:
    """A square picture or mask, (size, size, ...), in one of its eight positions.

    Args:
        picture: an image or a mask; both of a patch are turned alike.
        way: 0 leaves it; 1 to 3 are quarter turns to the left; 4 to 7 the same, then mirrored.
    """
    picture = np.rot90(picture, way % 4)
    return picture[:, ::-1] if way >= 4 else picture


def scheduled_rate(
    step: int, steps: int, peak: float, warmup: int, schedule: str = "cosine"
) -> float:
    """Learning rate: a linear rise over `warmup` steps, then half a cosine down to a hundredth.

    With schedule "constant" it stays where it rose to.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    if schedule == "constant":
        return peak
    done = (step - warmup) / max(1, steps - warmup)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all groups."""
    for group in optimizer.param_groups:
        group["lr"] = rate


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
    checkpoint: Checkpoint, steps: int, every: int, what: str, team: Team = ALONE
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


def stop_deaf(worker: int) -> None:
    """For a loader's worker: signals to stop are for its parent, which ends it when it is done."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def take_step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """Backward, clip the gradient's norm to 1, step."""
    optimizer.zero_grad()
    loss.backward()
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    torch.nn.utils.clip_grad_norm_(weights, 1.0)
    optimizer.step()
