"""A ControlNet training as train-controlnet sets it up: networks, data, optimizer, checkpoint."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from numpy.typing import NDArray

from aerialdreams.data.dataset import Split
from aerialdreams.data.frequencies import read_train_percentages
from aerialdreams.data.land_cover import class_ids
from aerialdreams.generation.batch import generate_batch, requests_from_split
from aerialdreams.models.conditioning import MaskConditioning
from aerialdreams.models.families import BaseModel, load_base
from aerialdreams.models.sampling import Sampling
from aerialdreams.params import Params
from aerialdreams.paths import CONTROLNET
from aerialdreams.pipeline.accelerator import averaged_weights, start_accelerator, validation_sheets
from aerialdreams.pipeline.distributed import Distributed
from aerialdreams.training.checkpoint import Checkpoint
from aerialdreams.training.controlnet import (
    ControlledUNet,
    new_controlled_unet,
    set_memory_options,
    validation_loss,
    warm_start,
)
from aerialdreams.training.latents import (
    ImageSource,
    LatentSource,
    TrainingSource,
)
from aerialdreams.training.loss_curves import CurvePoints, LossCurve, TimestepBins
from aerialdreams.training.losses import balanced_weights
from aerialdreams.training.optimizer import new_optimizer
from aerialdreams.util.files import refuse_overlap
from aerialdreams.util.torch_setup import DTYPES


@dataclass
class Training:
    """All that a training works with, on one rank."""

    params: Params
    accelerator: Accelerator
    distributed: Distributed
    device: torch.device
    base: BaseModel
    conditioning: MaskConditioning
    source: TrainingSource
    model: ControlledUNet
    weights: list[torch.nn.Parameter]
    optimizer: Any
    ema: EMAModel | None
    losses: LossCurve
    bins: TimestepBins
    checkpoint: Checkpoint
    class_weights: torch.Tensor | None = None
    validation: CurvePoints = field(default_factory=CurvePoints)
    decoder_unlocked: bool = False


def set_up(params: Params) -> Training:
    """Networks, data, optimizer and checkpoint of this rank.

    Raises:
        UserError: the number of processes, the base model or the latents do not fit the params.
    """
    stage = params.train_controlnet
    accelerator, distributed, device = start_accelerator(
        "train_controlnet", stage.precision, stage.processes
    )
    base = load_base().to(device)
    if stage.latent_cache:
        offload_encoders(base)
    conditioning = MaskConditioning(stage.conditioning, tuple(params.classes))
    model = new_controlled_unet(
        base, conditioning, stage.embedding_channels, stage.seed, stage.initial_residuals
    )
    if stage.warm_start.folder:
        other = Path(stage.warm_start.folder)
        refuse_overlap("train_controlnet.warm_start.folder", other, CONTROLNET)
        warm_start(model, other, stage.warm_start.md5)
    set_memory_options(model, stage.gradient_checkpointing, stage.attention)
    model.to(device)
    weights = [*model.controlnet.parameters()]
    if stage.unlock_decoder_steps:
        weights += model.decoder.parameters()
    else:  # a frozen UNet may be kept in the precision that it computes in
        model.unet.to(DTYPES[stage.precision])
    optimizer = new_optimizer(
        weights, "train_controlnet.optimizer", stage.optimizer, stage.weight_decay, device
    )
    training = Training(
        params=params,
        accelerator=accelerator,
        distributed=distributed,
        device=device,
        base=base,
        conditioning=conditioning,
        source=(
            LatentSource("train")
            if stage.latent_cache
            else ImageSource("train", params.image_size, base.tokenizers)
        ),
        model=model,
        weights=weights,
        optimizer=accelerator.prepare(optimizer),
        ema=EMAModel(weights, decay=stage.ema_decay, foreach=True) if stage.ema_decay else None,
        losses=LossCurve("ControlNet"),
        bins=TimestepBins(base.num_train_timesteps, device),
        checkpoint=Checkpoint(Path(), {}, device),
        class_weights=class_weights_of(params).to(device) if stage.class_balance else None,
    )
    parts = {
        "controlnet": model.controlnet,
        "decoder": model.decoder if stage.unlock_decoder_steps else None,
        "optimizer": optimizer,
        "scaler": accelerator.scaler,
        "ema": training.ema,
        "losses": training.losses,
        "validation": training.validation,
        "bins": training.bins,
    }
    training.checkpoint.parts = {name: part for name, part in parts.items() if part is not None}
    return training


def class_weights_of(params: Params) -> torch.Tensor:
    """Weight of each class in the loss, by class id, (256,); see `losses.balanced_weights`.

    Raises:
        UserError: the frequencies are missing or of other classes.
    """
    percentages = read_train_percentages([land_cover.name for land_cover in params.classes])
    exponent = params.train_controlnet.class_balance
    return balanced_weights(percentages, class_ids(params.classes), exponent)


def offload_encoders(base: BaseModel) -> None:
    """Move to the CPU what cached latents make unnecessary: 1.7 GB of Stable Diffusion 2.1."""
    for network in (base.vae, *base.text_encoders):
        network.to("cpu")


def prepare_model(training: Training, decoder: bool) -> tuple[Any, Any]:
    """The model wrapped for distributed training, and the same compiled if the params ask for it.

    Args:
        training: the training.
        decoder: whether the UNet's decoder is trained, too.
    """
    # DDP first, then torch.compile, which splits the graph at DDP's buckets:
    # https://docs.pytorch.org/docs/stable/notes/ddp.html#torchdynamo-ddpoptimizer
    stage = training.params.train_controlnet
    training.decoder_unlocked = decoder and stage.unlock_decoder_steps > 0
    training.model.set_trainable(decoder=training.decoder_unlocked)
    wrapped = training.accelerator.prepare_model(training.model)
    return wrapped, torch.compile(wrapped) if stage.compile else wrapped


@contextmanager
def evaluation_weights(training: Training) -> Iterator[None]:
    """The model in evaluation mode, with averaged weights (EMA) if there are any."""
    training.model.controlnet.eval()
    try:
        with averaged_weights(training.ema, training.weights), training.accelerator.autocast():
            yield
    finally:
        training.model.controlnet.train()


def validate(training: Training, done: int) -> float:
    """The validation loss, added to its curve."""
    batch_size = training.params.encode_latents.batch_size
    with evaluation_weights(training):
        loss = validation_loss(
            training.model,
            training.base,
            training.conditioning,
            LatentSource("validation"),
            batch_size,
        )
    training.validation.add(done, loss)
    return loss


def sample_images(training: Training, patches: Split) -> dict[str, NDArray[np.uint8]]:
    """Mask, real and generated image of some validation patches, always from the same noise.

    Returns:
        By patch id, the three side by side: RGB, (height, width, 3).
    """
    with evaluation_weights(training):
        images = generate_batch(
            training.base.to(training.device),
            training.model.controlnet,
            training.conditioning,
            requests_from_split(patches),
            sampling_of(training.params),
            training.params.generate_validation.seed,
        )
    if training.params.train_controlnet.latent_cache:
        offload_encoders(training.base)
    # `to` has frozen all of the base; the decoder may be in training.
    training.model.set_trainable(decoder=training.decoder_unlocked)
    return validation_sheets(patches, images, training.params.classes)


def sampling_of(params: Params) -> Sampling:
    """The settings that the model is meant to be sampled with."""
    return Sampling(**params.train_controlnet.sampling.model_dump())
