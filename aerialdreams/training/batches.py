"""What each training step draws: samples, noise, timesteps, caption dropout.

Everything is a function of (seed, step, position in the batch). A resumed training, or one with
another number of processes or data loader workers, draws the same values; no random state is saved.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from aerialdreams.training.checkpoint import ignore_stop_signals
from aerialdreams.util.seeding import seeded_generator

Batch = TypeVar("Batch")


def batch_indices(seed: int, step: int, batch_size: int, count: int) -> list[int]:
    """Indices of the samples of one step.

    Every epoch visits all `count` samples once, in its own order. A batch may span two epochs.
    """
    indices = []
    for position in range(step * batch_size, (step + 1) * batch_size):
        epoch, offset = divmod(position, count)
        indices.append(int(_epoch_permutation(seed, epoch, count)[offset]))
    return indices


@lru_cache(maxsize=2)  # drawing a permutation of 60,000 for every sample would take 1 ms each
def _epoch_permutation(seed: int, epoch: int, count: int) -> Tensor:
    return torch.randperm(count, generator=seeded_generator(seed, "order", epoch))


def drop_captions(captions: list[int], share: float, seed: int, step: int) -> list[int]:
    """Caption indices of a batch, a share of them replaced by -1, the empty caption.

    Classifier-free guidance needs a model that was trained with the empty caption, too (Ho and
    Salimans 2022, arXiv 2207.12598).
    """
    draws = torch.rand(len(captions), generator=seeded_generator(seed, "dropout", step)).tolist()
    return [-1 if draw < share else caption for caption, draw in zip(captions, draws, strict=True)]


def draw_crops(seed: int, step: int, count: int, size: int, crop: int) -> list[tuple[int, int]]:
    """Top and left of a crop of each sample of one step.

    Args:
        seed: the training's.
        step: the step's number.
        count: samples of a step, over all ranks.
        size: height and width of the latents.
        crop: height and width of the crops, at most `size`.
    """
    generator = seeded_generator(seed, "crops", step)
    corners = torch.randint(size - crop + 1, (count, 2), generator=generator).tolist()
    return [(top, left) for top, left in corners]


def crop_windows(
    samples: Tensor, corners: list[tuple[int, int]], crop: int, scale: int = 1
) -> Tensor:
    """A square window of each sample.

    Args:
        samples: (samples, ..., height, width).
        corners: top and left of each window, see `draw_crops`.
        crop: height and width of the windows.
        scale: pixels of `samples` per unit of `corners` and `crop`.
    """
    side = crop * scale
    windows = [
        sample[..., top * scale : top * scale + side, left * scale : left * scale + side]
        for sample, (top, left) in zip(samples, corners, strict=True)
    ]
    return torch.stack(windows)


def draw_vae_noise(seed: int, step: int, shape: tuple[int, ...], first: int = 0) -> Tensor:
    """Noise to sample latents from the VAE's posterior, mean + std * noise.

    Args:
        seed: the training's.
        step: the step's number.
        shape: (samples, channels, height, width).
        first: position in the batch of the first sample.
    """
    return torch.stack(
        [
            torch.randn(shape[1:], generator=seeded_generator(seed, "codes", step, position))
            for position in range(first, first + shape[0])
        ]
    )


def draw_noise(
    seed: int, step: int, shape: tuple[int, ...], num_timesteps: int, first: int = 0
) -> tuple[Tensor, Tensor]:
    """Diffusion noise and timesteps of a training step.

    Args:
        seed: the training's.
        step: the step's number.
        shape: (samples, channels, height, width), of the batch or of one rank's share.
        num_timesteps: of the noise schedule.
        first: position in the batch of the first sample.

    Returns:
        Noise of that shape, and timesteps in 0..num_timesteps - 1, int64, (samples,).
    """
    noise, timesteps = [], []
    for position in range(first, first + shape[0]):
        generator = seeded_generator(seed, "noise", step, position)
        noise.append(torch.randn(shape[1:], generator=generator))
        timesteps.append(torch.randint(num_timesteps, (), generator=generator))
    return torch.stack(noise), torch.stack(timesteps)


def micro_batches(batch: dict[str, Tensor], count: int) -> list[dict[str, Tensor]]:
    """A batch split into `count` parts of equal size."""
    size = len(batch["timesteps"]) // count
    return [
        {name: tensor[first : first + size] for name, tensor in batch.items()}
        for first in range(0, size * count, size)
    ]


def load_batches(
    batches: "TorchDataset[Batch]",
    first: int,
    steps: int,
    workers: int,
    pin_memory: bool = False,
) -> Iterator[Batch]:
    """The batches of steps `first` to `steps` - 1.

    Args:
        batches: gives a batch for a step's number.
        first: the first step.
        steps: number of steps in all.
        workers: processes that prepare batches ahead; 0 prepares each when it is needed.
        pin_memory: whether to copy to the GPU from pinned memory.
    """
    return iter(
        DataLoader(
            batches,
            batch_size=None,
            sampler=range(first, steps),
            num_workers=workers,
            worker_init_fn=ignore_stop_signals,
            pin_memory=pin_memory,
        )
    )
