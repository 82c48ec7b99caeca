"""From a batch as it is drawn to what a network sees and is to predict."""

from typing import NamedTuple

import torch
from torch import Tensor

from aerialdreams.models.families import BaseModel
from aerialdreams.models.tensors import images_to_tensor
from aerialdreams.training.losses import prediction_target


class NoisyBatch(NamedTuple):
    """A batch on the device of the UNet.

    Attributes:
        latents: with noise, (samples, channels, h, w).
        timesteps: (samples,).
        text: caption embeddings, (samples, tokens, width).
        added: what the base model's family takes beside the text, see its `added_conditions`.
        target: what the UNet is to predict, of the shape of `latents`.
        mask: class ids, (samples, height, width).
    """

    latents: Tensor
    timesteps: Tensor
    text: Tensor
    added: dict[str, Tensor] | None
    target: Tensor
    mask: Tensor


def noisy_batch(base: BaseModel, batch: dict[str, Tensor]) -> NoisyBatch:
    """Encode a batch, if it has no latents, and add its noise.

    Args:
        base: gives the noise schedule, and encodes images and captions.
        batch: see `latents.TrainingBatches`.
    """
    device = base.unet.device
    batch = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
    if "image" in batch:
        with torch.no_grad():
            posterior = base.vae.encode(images_to_tensor(batch["image"])).latent_dist
        batch |= {"mean": posterior.mean, "std": posterior.std}
        batch |= base.encode_tokens(batch["tokens"])
    latents = batch["mean"].float() + batch["std"].float() * batch["vae_noise"]
    latents = latents * base.vae.config["scaling_factor"]
    noise, timesteps = batch["noise"], batch["timesteps"]
    return NoisyBatch(
        latents=base.scheduler.add_noise(latents, noise, timesteps),
        timesteps=timesteps,
        text=batch["text"].float(),
        added=base.added_conditions(batch),
        target=prediction_target(base.scheduler, latents, noise, timesteps),
        mask=batch["mask"],
    )
