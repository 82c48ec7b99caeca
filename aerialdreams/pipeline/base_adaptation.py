"""An adaptation as adapt-base sets it up: networks, data, optimizer, checkpoint."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from numpy.typing import NDArray

from aerialdreams.data.dataset import Split
from aerialdreams.generation.batch import generate_batch, requests_from_split
from aerialdreams.models.conditioning import MaskConditioning
from aerialdreams.models.families import BaseModel, load_base
from aerialdreams.models.sampling import Sampling
from aerialdreams.params import Params
from aerialdreams.paths import BASE
from aerialdreams.pipeline.accelerator import averaged_weights, start_accelerator, validation_sheets
from aerialdreams.pipeline.distributed import Distributed
from aerialdreams.training.adaptation import AdaptedUNet
from aerialdreams.training.checkpoint import Checkpoint
from aerialdreams.training.latents import ImageSource
from aerialdreams.training.loss_curves import LossCurve, TimestepBins
from aerialdreams.training.optimizer import new_optimizer


@dataclass
class Adaptation:
    """All that an adaptation works with, on one rank."""

    params: Params
    accelerator: Accelerator
    distributed: Distributed
    device: torch.device
    base: BaseModel
    source: ImageSource
    model: AdaptedUNet
    weights: list[torch.nn.Parameter]
    optimizer: Any
    ema: EMAModel | None
    losses: LossCurve
    bins: TimestepBins
    checkpoint: Checkpoint


def set_up(params: Params) -> Adaptation:
    """Networks, data, optimizer and checkpoint of this rank.

    Raises:
        UserError: the number of processes, the base model or the dataset do not fit the params.
    """
    stage = params.adapt_base
    accelerator, distributed, device = start_accelerator(
        "adapt_base", stage.precision, stage.processes
    )
    base = load_base(BASE).to(device)
    if stage.gradient_checkpointing:
        base.unet.enable_gradient_checkpointing()
    model = AdaptedUNet(base.unet, stage.lora_rank, stage.seed).to(device)
    weights = model.weights
    optimizer = new_optimizer(
        weights, "adapt_base.optimizer", stage.optimizer, stage.weight_decay, device
    )
    adaptation = Adaptation(
        params=params,
        accelerator=accelerator,
        distributed=distributed,
        device=device,
        base=base,
        source=ImageSource("train", params.image_size, base.tokenizers),
        model=model,
        weights=weights,
        optimizer=accelerator.prepare(optimizer),
        ema=EMAModel(weights, decay=stage.ema_decay, foreach=True) if stage.ema_decay else None,
        losses=LossCurve("UNet"),
        bins=TimestepBins(base.num_train_timesteps, device),
        checkpoint=Checkpoint(Path(), {}, device),
    )
    parts = {
        "weights": torch.nn.ParameterList(weights),
        "optimizer": optimizer,
        "scaler": accelerator.scaler,
        "ema": adaptation.ema,
        "losses": adaptation.losses,
        "bins": adaptation.bins,
    }
    adaptation.checkpoint.parts = {name: part for name, part in parts.items() if part is not None}
    return adaptation


def sample_images(adaptation: Adaptation, patches: Split) -> dict[str, NDArray[np.uint8]]:
    """Mask, real and generated image of some validation patches, always from the same noise.

    Returns:
        By patch id, the three side by side: RGB, (height, width, 3). The generated image is made
        from the caption alone.
    """
    params = adaptation.params
    with (
        averaged_weights(adaptation.ema, adaptation.weights),
        adaptation.accelerator.autocast(),
    ):
        images = generate_batch(
            adaptation.base,
            None,
            MaskConditioning("one_hot", tuple(params.classes)),
            requests_from_split(patches),
            Sampling(**params.train_controlnet.sampling.model_dump()),
            params.generate_validation.seed,
        )
    return validation_sheets(patches, images, params.classes)
