"""What the trainings of diffusion models share: accelerate, averaged weights, speed and memory."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import psutil
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import GradientAccumulationPlugin
from diffusers.training_utils import EMAModel
from numpy.typing import NDArray

from aerialdreams.data.contact_sheet import image_grid
from aerialdreams.data.dataset import Split
from aerialdreams.data.land_cover import LandCoverClass
from aerialdreams.errors import UserError
from aerialdreams.models.families import BaseModel
from aerialdreams.pipeline.distributed import Distributed, init_distributed
from aerialdreams.pipeline.launch import ignore_incomplete_launch
from aerialdreams.training.latents import Draws, TrainingBatches, TrainingSource


def start_accelerator(
    group: str, precision: str, processes: int
) -> tuple[Accelerator, Distributed, torch.device]:
    """accelerate, this process's rank, and its device.

    Args:
        group: of the params that have `precision` and `processes`, for messages.
        precision: fp32, fp16 or bf16.
        processes: how many must have been started.

    Raises:
        UserError: the number of processes is another, or fp16 is asked for without a GPU.
    """
    if precision == "fp16" and not torch.cuda.is_available():
        raise UserError(f"{group}.precision: fp16 needs a GPU; set it to fp32 or bf16 on a CPU")
    ignore_incomplete_launch()
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(),  # else accelerate does not see that there are several
        mixed_precision="no" if precision == "fp32" else precision,
        # Passed, so that accelerate does not take them from its environment variables: the params
        # alone decide the result.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        dynamo_backend="no",
        kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True)],
    )
    if accelerator.num_processes != processes:
        raise UserError(
            f"{group}.processes: is {processes}, but {accelerator.num_processes} were started; set"
            f" it to {accelerator.num_processes}"
        )
    distributed = init_distributed(accelerator.num_processes)
    # With several processes on a CPU accelerate's device is cpu:0, which torch.load rejects.
    on_gpu = accelerator.device.type != "cpu"
    return accelerator, distributed, accelerator.device if on_gpu else torch.device("cpu")


def batches_of_rank(
    source: TrainingSource, draws: Draws, base: BaseModel, image_size: int, distributed: Distributed
) -> TrainingBatches:
    """This rank's share of a training's batches.

    Args:
        source: the train split.
        draws: what decides the samples of each step.
        base: the base model.
        image_size: height and width of its images, pixels.
        distributed: the processes.
    """
    return TrainingBatches(
        source,
        draws,
        base.latent_shape(image_size),
        base.num_train_timesteps,
        distributed.rank,
        distributed.world_size,
    )


def validation_sheets(
    patches: Split, images: NDArray[np.uint8], classes: list[LandCoverClass]
) -> dict[str, NDArray[np.uint8]]:
    """Mask, real and generated image of each patch, side by side: RGB, (height, width, 3).

    Args:
        patches: some of the validation split.
        images: generated for them, (patches, size, size, bands).
        classes: the class table.

    Returns:
        By patch id.
    """
    rows = zip(patches.patch_ids, patches.masks, patches.images, images, strict=True)
    return {
        patch_id: image_grid([mask], [[real[..., :3]], [generated[..., :3]]], classes)
        for patch_id, mask, real, generated in rows
    }


@contextmanager
def averaged_weights(ema: EMAModel | None, weights: list[torch.nn.Parameter]) -> Iterator[None]:
    """The weights are their averages (EMA), if there are any, as long as the block runs."""
    if ema:
        ema.store(weights)
        ema.copy_to(weights)
    try:
        yield
    finally:
        if ema:
            ema.restore(weights)


class Speedometer:
    """Samples per second since it was last restarted.

    Args:
        batch_size: samples of a step.
        step: steps done so far.
    """

    def __init__(self, batch_size: int, step: int) -> None:
        self.batch_size = batch_size
        self.restart(step)

    def restart(self, step: int) -> None:
        """Start anew: what happened since the last step (validation, sampling) does not count."""
        self._step, self._time = step, time.monotonic()

    def samples_per_second(self, step: int) -> float:
        """Speed of the steps up to `step`."""
        return (step - self._step) * self.batch_size / (time.monotonic() - self._time)


def memory_megabytes(device: torch.device) -> float:
    """Peak memory allocated on the GPU, or the memory of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return float(psutil.Process().memory_info().rss / 1e6)
