"""What UNet and ControlNet are trained on: latents read row by row, or images encoded on the fly.

The latents of FLAIR's whole train split take tens of gigabytes, so they are never all in memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass
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
from aerialdreams.data.dataset import decode_bands, decode_png, open_split
from aerialdreams.data.images import resize_image, resize_mask
from aerialdreams.errors import UserError
from aerialdreams.models.latent_diffusion import tokenize_all
from aerialdreams.models.tensors import image_windows
from aerialdreams.paths import EMPTY_CAPTION, LATENTS
from aerialdreams.training.batches import (
    batch_indices,
    crop_windows,
    draw_crops,
    draw_noise,
    draw_vae_noise,
    drop_captions,
)
from aerialdreams.util.seeding import seeded_generator


class Sample(NamedTuple):
    """Which image, orientation and caption a sample uses."""

    row: int  # of the split
    orientation: int  # see data.augmentation.orient
    caption: int  # which of the patch's captions; -1 is the empty caption


class TrainingSource(Protocol):
    """Rows of a split, as latents or as the images that latents are made from."""

    num_captions: int  # captions of each patch

    def __len__(self) -> int: ...

    def rows(self, samples: list[Sample]) -> dict[str, Tensor]:
        """Tensors of some samples, stacked, by name; `mask` is always among them."""


class LatentSource:
    """A split's cached latents, in the order of the dataset, as encode-latents writes them.

    `rows` gives `mean` and `std` of the VAE's posterior, (samples, channels, h, w), unscaled;
    `text`, the caption's embedding, (samples, tokens, width), and what else the base model's
    `encode_tokens` gives; `mask`, class ids, uint8, (samples, size, size).

    Raises:
        UserError: a file is missing or damaged.
    """

    def __init__(self, split: str = "train", folder: Path = LATENTS) -> None:
        try:
            paths = sorted(folder.glob(f"{split}-*.safetensors"))
            self._files = [safe_open(path, "pt") for path in paths]
            empty = safe_open(folder / EMPTY_CAPTION, "pt")
            self._empty = {name: empty.get_tensor(name)[0] for name in empty.keys()}  # noqa: SIM118
            shapes = [file.get_slice("mean").get_shape() for file in self._files]
            texts = [file.get_slice("text").get_shape() for file in self._files]
        except (OSError, SafetensorError) as error:
            raise UserError(f"{folder}: {error}; run `dvc repro encode-latents`") from None
        if not paths:
            raise UserError(f"{folder}: no {split} shards; run `dvc repro encode-latents`")
        self._ends = list(accumulate(shape[0] for shape in shapes))
        self.num_orientations = shapes[0][1]  # 1, or 8 with encode_latents.all_orientations
        self.num_captions = texts[0][1]

    def __len__(self) -> int:
        return self._ends[-1]

    def rows(self, samples: list[Sample]) -> dict[str, Tensor]:
        """Tensors of some samples; see the class."""
        names = ("mean", "std", *self._empty, "mask")
        columns: dict[str, list[Tensor]] = {name: [] for name in names}
        for row, orientation, caption in samples:
            shard = next(n for n, end in enumerate(self._ends) if row < end)
            offset = row - (self._ends[shard - 1] if shard else 0)
            file = self._files[shard]
            columns["mean"].append(file.get_slice("mean")[offset, orientation])
            columns["std"].append(file.get_slice("std")[offset, orientation])
            for name, empty in self._empty.items():
                encoded = empty if caption < 0 else file.get_slice(name)[offset, caption]
                columns[name].append(encoded)
            mask = orient(file.get_slice("mask")[offset].numpy(), orientation)
            columns["mask"].append(torch.from_numpy(mask.copy()))
        return {name: torch.stack(tensors) for name, tensors in columns.items()}


class ImageSource:
    """A split's images and captions, not yet encoded: each step encodes its own.

    `rows` gives `image`, 0..255, uint8, (samples, size, size, bands); `tokens`, the caption's
    token ids by each tokenizer, (samples, tokenizers, tokens); `mask` as `LatentSource` does.
    """

    def __init__(self, split: str, size: int, tokenizers: Sequence[CLIPTokenizer]) -> None:
        self._dataset = open_split(split)
        self._size, self._tokenizers = size, tokenizers
        self.num_captions = len(self._dataset[0]["captions"])

    def __len__(self) -> int:
        return len(self._dataset)

    def rows(self, samples: list[Sample]) -> dict[str, Tensor]:
        """Tensors of some samples; see the class."""
        images, masks, captions = [], [], []
        for row, orientation, caption in samples:
            patch = self._dataset[row]
            images.append(orient(resize_image(decode_bands(patch), self._size), orientation))
            masks.append(
                orient(resize_mask(decode_png(patch["mask"]["bytes"]), self._size), orientation)
            )
            captions.append("" if caption < 0 else patch["captions"][caption])
        return {
            "image": torch.from_numpy(np.stack(images)),
            "tokens": tokenize_all(self._tokenizers, captions),
            "mask": torch.from_numpy(np.stack(masks)),
        }


@dataclass(frozen=True)
class Draws:
    """What decides the samples of each step.

    Attributes:
        seed: the training's.
        batch_size: samples of a step, over all ranks.
        caption_dropout: share of samples trained with the empty caption.
        augment: whether samples are rotated and mirrored.
        crop: height and width of random crops of the latents; 0 for whole images.
    """

    seed: int
    batch_size: int
    caption_dropout: float
    augment: bool
    crop: int = 0


class TrainingBatches(TorchDataset[dict[str, Tensor]]):
    """The batches of a training by step; on one rank, its share of each.

    A batch holds what `source.rows` gives, and

    - `vae_noise`, to sample latents from mean and std, (samples, channels, h, w);
    - `noise`, the diffusion noise, of the same shape; `timesteps`, int64, (samples,);
    - `window`, which part of its image each sample is, (samples, 6), see `image_windows`.

    Args:
        source: the train split.
        draws: what decides the samples.
        latent_shape: of whole images, (channels, h, w).
        num_timesteps: of the noise schedule.
        rank: this process's.
        world_size: number of processes.
    """

    def __init__(
        self,
        source: TrainingSource,
        draws: Draws,
        latent_shape: tuple[int, ...],
        num_timesteps: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.source, self.draws = source, draws
        self.latent_shape, self.num_timesteps = latent_shape, num_timesteps
        self.share = draws.batch_size // world_size
        self.first = rank * self.share

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        seed, crop = self.draws.seed, self.draws.crop
        own = slice(self.first, self.first + self.share)
        channels, size, _ = self.latent_shape
        samples = draw_samples(self.source, self.draws, step)[own]
        rows = self.source.rows(samples)
        corners = [(0, 0)] * self.share
        pixels = rows["mask"].shape[-1]
        scale = pixels // size  # pixels of a position
        if crop:
            corners = draw_crops(seed, step, self.draws.batch_size, size, crop)[own]
            rows = crop_rows(rows, corners, crop, size)
        shown = [(top * scale, left * scale) for top, left in corners]
        shape = (self.share, channels, crop or size, crop or size)
        noise, timesteps = draw_noise(seed, step, shape, self.num_timesteps, self.first)
        return rows | {
            "vae_noise": draw_vae_noise(seed, step, shape, self.first),
            "noise": noise,
            "timesteps": timesteps,
            "window": image_windows(pixels, shown, rows["mask"].shape[-1]),
        }


def crop_rows(
    rows: dict[str, Tensor], corners: list[tuple[int, int]], crop: int, size: int
) -> dict[str, Tensor]:
    """Crop latents, or images, and masks of some samples alike.

    Args:
        rows: see `LatentSource` and `ImageSource`.
        corners: top and left of each sample's crop, in positions of the latents.
        crop: height and width of the crops, likewise.
        size: height and width of the whole latents.
    """
    scale = rows["mask"].shape[-1] // size  # pixels of a position
    cropped = {"mask": crop_windows(rows["mask"], corners, crop, scale)}
    if "image" in rows:
        colours_first = crop_windows(rows["image"].movedim(-1, 1), corners, crop, scale)
        cropped["image"] = colours_first.movedim(1, -1)
    else:
        cropped |= {name: crop_windows(rows[name], corners, crop) for name in ("mean", "std")}
    return rows | cropped


def draw_samples(source: TrainingSource, draws: Draws, step: int) -> list[Sample]:
    """The samples of a step, over all ranks."""
    seed, size = draws.seed, draws.batch_size
    rows = batch_indices(seed, step, size, len(source))
    orientations = draw_orientations(seed, step, size) if draws.augment else [0] * size
    generator = seeded_generator(seed, "captions", step)
    captions = torch.randint(source.num_captions, (size,), generator=generator).tolist()
    captions = drop_captions(captions, draws.caption_dropout, seed, step)
    return [Sample(*sample) for sample in zip(rows, orientations, captions, strict=True)]
