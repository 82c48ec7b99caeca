"""What the ControlNet learns from, on disk: one file for each train shard, read row by row.

All of FLAIR's train split has tens of gigabytes of it, more than a small machine has memory.
"""

from itertools import accumulate
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from aerialdreams.errors import UserError

LATENTS = Path("data/latents")
EMPTY = "empty.safetensors"  # `text`, the empty caption's embedding, (1, tokens, width)


class Latents:
    """The train split's rows, in the dataset's order.

    Each has `mean` and `std` of the image's code, (channels, h, w); `text`, its caption's
    embedding, (tokens, width); `mask`, class ids at the models' image size, uint8, (size, size).

    Raises:
        UserError: missing, or a file is damaged.
    """

    def __init__(self, folder: Path = LATENTS) -> None:
        try:
            paths = sorted(folder.glob("train-*.safetensors"))
            self._files = [safe_open(path, "pt") for path in paths]
            self._empty = safe_open(folder / EMPTY, "pt").get_slice("text")[0]
            lengths = [file.get_slice("mean").get_shape()[0] for file in self._files]
        except (OSError, SafetensorError) as error:
            raise UserError(f"{folder}: {error}; `dvc repro encode-latents`") from None
        self._ends = list(accumulate(lengths))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def rows(self, name: str, chosen: list[int]) -> Tensor:
        """Some rows' tensors of one kind, stacked; -1 is the empty caption's `text`."""
        return torch.stack([self._row(name, row) for row in chosen])

    def _row(self, name: str, row: int) -> Tensor:
        if row < 0:
            return self._empty
        number = next(n for n, end in enumerate(self._ends) if row < end)
        first = self._ends[number - 1] if number else 0
        tensor: Tensor = self._files[number].get_slice(name)[row - first]
        return tensor
