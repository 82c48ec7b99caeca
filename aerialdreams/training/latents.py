"""What the ControlNet learns from: codes made beforehand, read row by row from disk, or pictures.

All of FLAIR's train split has tens of gigabytes of codes, more than a small machine has memory.
"""

from itertools import accumulate
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset
from transformers import CLIPTokenizer

from aerialdreams.data.augmentation import draw_orientations, orient
from aerialdreams.data.dataset import decode_png, open_split
from aerialdreams.data.images import resize_image, resize_mask
from aerialdreams.errors import UserError
from aerialdreams.models.stable_diffusion import tokenize
from aerialdreams.params import TrainControlnet
from aerialdreams.paths import LATENTS
from aerialdreams.training.batches import (
    batch_indices,
    draw_latent_noise,
    draw_noise,
    drop_captions,
)
from aerialdreams.util.seeding import seeded_generator

EMPTY = "empty.safetensors"  # `text`, the empty caption's embedding, (1, tokens, width)


class Sample(NamedTuple):
    """What of a patch is learnt from."""

    row: int  # of the split
    way: int  # how it is turned, see training.turned
    variant: int  # which of its captions; -1 is the empty one


class TrainingSource(Protocol):
    """Rows of a split, with their codes or with what codes are made from."""

    variants: int  # captions of each patch

    def __len__(self) -> int: ...

    def rows(self, chosen: list[Sample]) -> dict[str, Tensor]:
        """Tensors of some samples, by name, stacked; `mask` is always among them."""


class LatentSource:
    """A split's rows, in the dataset's order, as encode-latents wrote them.

    `rows` gives `mean` and `std` of the image's code, (samples, channels, h, w); `text`, the
    caption's embedding, (samples, tokens, width); `mask`, class ids, uint8, (samples, size, size).

    Raises:
        UserError: missing, or a file is damaged.
    """

    def __init__(self, split: str = "train", folder: Path = LATENTS) -> None:
        try:
            paths = sorted(folder.glob(f"{split}-*.safetensors"))
            self._files = [safe_open(path, "pt") for path in paths]
            self._empty = safe_open(folder / EMPTY, "pt").get_slice("text")[0]
            shapes = [file.get_slice("mean").get_shape() for file in self._files]
            texts = [file.get_slice("text").get_shape() for file in self._files]
        except (OSError, SafetensorError) as error:
            raise UserError(f"{folder}: {error}; `dvc repro encode-latents`") from None
        if not paths:
            raise UserError(f"{folder}: no {split} shards; `dvc repro encode-latents`")
        self._ends = list(accumulate(shape[0] for shape in shapes))
        self.ways = shapes[0][1]  # 1, or 8 where each image is coded in all its positions
        self.variants = texts[0][1]

    def __len__(self) -> int:
        return self._ends[-1]

    def rows(self, chosen: list[Sample]) -> dict[str, Tensor]:
        """Tensors of some samples, see the class."""
        parts: dict[str, list[Tensor]] = {"mean": [], "std": [], "text": [], "mask": []}
        for row, way, variant in chosen:
            number = next(n for n, end in enumerate(self._ends) if row < end)
            place = row - (self._ends[number - 1] if number else 0)
            file = self._files[number]
            parts["mean"].append(file.get_slice("mean")[place, way])
            parts["std"].append(file.get_slice("std")[place, way])
            text = self._empty if variant < 0 else file.get_slice("text")[place, variant]
            parts["text"].append(text)
            mask = orient(file.get_slice("mask")[place].numpy(), way)
            parts["mask"].append(torch.from_numpy(mask.copy()))
        return {name: torch.stack(tensors) for name, tensors in parts.items()}


class ImageSource:
    """A split's rows with neither code nor embedding: what `latent_cache: false` learns from.

    `rows` gives `image`, RGB in 0..255, uint8, (samples, size, size, 3); `tokens`, the caption's
    token ids; `mask` as `Latents` does.
    """

    def __init__(self, split: str, size: int, tokenizer: CLIPTokenizer) -> None:
        self._dataset = open_split(split)
        self._size, self._tokenizer = size, tokenizer
        self.variants = len(self._dataset[0]["captions"])

    def __len__(self) -> int:
        return len(self._dataset)

    def rows(self, chosen: list[Sample]) -> dict[str, Tensor]:
        """Tensors of some samples, see the class."""
        images, masks, captions = [], [], []
        for row, way, variant in chosen:
            patch = self._dataset[row]
            images.append(orient(resize_image(decode_png(patch["image"]), self._size), way))
            masks.append(orient(resize_mask(decode_png(patch["mask"]), self._size), way))
            captions.append("" if variant < 0 else patch["captions"][variant])
        return {
            "image": torch.from_numpy(np.stack(images)),
            "tokens": tokenize(self._tokenizer, captions),
            "mask": torch.from_numpy(np.stack(masks)),
        }


class StepBatches(TorchDataset[dict[str, Tensor]]):
    """The batches of a training, by number of the step; for one process, its share of each.

    All that is drawn is a function of (seed, step, place in the batch): it is the same whoever
    draws it, in a loader's worker or not, and whatever the number of processes. An item holds
    what `source.rows` gives, and

    - `epsilon`, which draws the code from mean and deviation, (samples, channels, h, w);
    - `noise`, of that shape, and `times`, int64, (samples,).

    Args:
        source: the train split.
        settings: seed, batch, caption_dropout and augment count.
        shape: of an image's code, (channels, h, w).
        timesteps: of the noise schedule.
        rank: this process's number.
        processes: how many there are.
    """

    def __init__(
        self,
        source: TrainingSource,
        settings: TrainControlnet,
        shape: tuple[int, ...],
        timesteps: int,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        self.source, self.settings = source, settings
        self.shape, self.timesteps = shape, timesteps
        self.share = settings.batch // processes
        self.begin = rank * self.share

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        settings, share = self.settings, (self.share, *self.shape)
        samples = draw_samples(self.source, settings, step)[self.begin : self.begin + self.share]
        noise, times = draw_noise(settings.seed, step, share, self.timesteps, self.begin)
        epsilon = draw_latent_noise(settings.seed, step, share, self.begin)
        return self.source.rows(samples) | {"epsilon": epsilon, "noise": noise, "times": times}


def draw_samples(source: TrainingSource, settings: TrainControlnet, step: int) -> list[Sample]:
    """The samples of a step, over all processes."""
    seed, batch = settings.seed, settings.batch
    rows = batch_indices(seed, step, batch, len(source))
    ways = draw_orientations(seed, step, batch) if settings.augment else [0] * batch
    draw = seeded_generator(seed, "captions", step)
    variants = torch.randint(source.variants, (batch,), generator=draw).tolist()
    variants = drop_captions(variants, settings.caption_dropout, seed, step)
    return [Sample(*sample) for sample in zip(rows, ways, variants, strict=True)]
