"""ControlNet training: the model that is optimised, its loss on a batch, its validation loss."""

from pathlib import Path
from typing import Literal

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor

from aerialdreams.errors import UserError
from aerialdreams.models.conditioning import MaskConditioning
from aerialdreams.models.controlnet import load_controlnet, new_controlnet
from aerialdreams.models.families import BaseModel
from aerialdreams.models.tensors import image_windows
from aerialdreams.training.batches import draw_noise, draw_vae_noise
from aerialdreams.training.latents import Sample, TrainingSource
from aerialdreams.training.losses import diffusion_loss, position_weights, valid_shares
from aerialdreams.training.noising import noisy_batch
from aerialdreams.util.files import dvc_md5

VALIDATION_SEED = 0  # not a param: all experiments are validated on the same noise


class ControlledUNet(torch.nn.Module):
    """A ControlNet and the UNet that takes its residuals, as one module.

    Args:
        controlnet: trained.
        unet: the base model's, frozen but for its decoder where that is unlocked.
    """

    def __init__(self, controlnet: ControlNetModel, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.controlnet, self.unet = controlnet, unet

    @property
    def decoder(self) -> torch.nn.ModuleList:
        """The UNet's decoder, to which the residuals are added (`sd_locked=False` trains it)."""
        unet = self.unet
        return torch.nn.ModuleList([unet.up_blocks, unet.conv_norm_out, unet.conv_out])

    def forward(
        self,
        noisy_latents: Tensor,
        timesteps: Tensor,
        text: Tensor,
        conditioning: Tensor,
        added: dict[str, Tensor] | None = None,
    ) -> Tensor:
        """Predict noise or velocity, as the base model does.

        Args:
            noisy_latents: (batch, channels, h, w).
            timesteps: (batch,).
            text: caption embeddings, (batch, tokens, width).
            conditioning: from `MaskConditioning`, (batch, conditioning channels, height, width).
            added: what the base model's family takes beside the text, see its `added_conditions`.

        Returns:
            Float32, (batch, channels, h, w).
        """
        down, mid = self.controlnet(
            noisy_latents,
            timesteps,
            text,
            conditioning,
            added_cond_kwargs=added,
            return_dict=False,
        )
        prediction: Tensor = self.unet(
            noisy_latents,
            timesteps,
            text,
            added_cond_kwargs=added,
            down_block_additional_residuals=down,
            mid_block_additional_residual=mid,
            return_dict=False,
        )[0]
        return prediction.float()

    def set_trainable(self, decoder: bool) -> None:
        """Freeze the UNet, or all of it but its decoder."""
        self.unet.requires_grad_(False)
        if decoder:
            self.decoder.requires_grad_(True)


def new_controlled_unet(
    base: BaseModel,
    conditioning: MaskConditioning,
    embedding_channels: list[int],
    seed: int,
    initial_residuals: float = 0.0,
) -> ControlledUNet:
    """The base model's UNet with a new ControlNet.

    Args:
        base: the base model.
        conditioning: how masks are encoded.
        embedding_channels: see `models.controlnet.new_controlnet`.
        seed: of the new weights.
        initial_residuals: see `models.controlnet.new_controlnet`.

    Raises:
        UserError: `embedding_channels` does not reduce masks to the size of the latents.
    """
    halvings = len(base.vae.config["block_out_channels"])
    if len(embedding_channels) != halvings:
        raise UserError(
            f"train_controlnet.embedding_channels: has {len(embedding_channels)} widths; the base"
            f" model's VAE needs {halvings}, because each width after the first halves the mask"
        )
    controlnet = new_controlnet(
        base.unet, conditioning, embedding_channels, seed, initial_residuals
    )
    return ControlledUNet(controlnet.train(), base.unet)


def warm_start(model: ControlledUNet, folder: Path, md5: str) -> None:
    """Load the weights of another ControlNet into a new one.

    Args:
        model: with a new ControlNet.
        folder: a ControlNet in diffusers' layout.
        md5: DVC's hash of the folder.

    Raises:
        UserError: the folder has no ControlNet, another hash, or other weights than the model.
    """
    source = load_controlnet(folder)
    actual = dvc_md5(folder)
    if actual != md5:
        raise UserError(
            f"train_controlnet.warm_start.md5: is {md5!r}, but {folder} has {actual}; set it to"
            " that if this is the ControlNet that you want"
        )
    ours = {name: weight.shape for name, weight in model.controlnet.state_dict().items()}
    theirs = {name: weight.shape for name, weight in source.state_dict().items()}
    differing = sorted(name for name in ours | theirs if ours.get(name) != theirs.get(name))
    if differing:
        raise UserError(
            f"{folder}: does not fit the base model, conditioning and embedding_channels"
            f" ({len(differing)} weights differ, such as {differing[0]})"
        )
    model.controlnet.load_state_dict(source.state_dict())


def set_memory_options(
    model: ControlledUNet, gradient_checkpointing: bool, attention: Literal["sdpa", "eager"]
) -> None:
    """Trade speed for memory.

    Args:
        model: what is trained.
        gradient_checkpointing: recompute activations in the backward pass.
        attention: torch's fused attention, or the explicit formula.
    """
    for network in (model.controlnet, model.unet):
        if gradient_checkpointing:
            network.enable_gradient_checkpointing()
        if attention == "eager":
            network.set_attn_processor(AttnProcessor())


def per_sample_loss(
    model: torch.nn.Module,
    base: BaseModel,
    conditioning: MaskConditioning,
    batch: dict[str, Tensor],
    class_weights: Tensor | None = None,
) -> Tensor:
    """The diffusion loss of each sample, shape (samples,), over pixels that have a class.

    Args:
        model: a `ControlledUNet`, or a wrapper around one.
        base: gives the noise schedule; encodes images and captions if the batch has no latents.
        conditioning: how masks are encoded.
        batch: see `latents.TrainingBatches`.
        class_weights: by class id, (256,), see `losses.balanced_weights`; None for none.
    """
    noisy = noisy_batch(base, batch)
    target, mask = noisy.target, noisy.mask
    prediction = model(noisy.latents, noisy.timesteps, noisy.text, conditioning(mask), noisy.added)
    # A function of each sample alone, so that batches may be split anywhere.
    size = (target.shape[-2], target.shape[-1])
    valid = valid_shares(mask, size)
    if class_weights is None:
        return diffusion_loss(prediction, target, valid)
    weights = position_weights(mask, class_weights, size)
    return diffusion_loss(prediction, target, valid, weights)


@torch.no_grad()
def validation_loss(
    model: ControlledUNet,
    base: BaseModel,
    conditioning: MaskConditioning,
    source: TrainingSource,
    batch_size: int,
) -> float:
    """Mean diffusion loss on validation patches, with one noise and one timestep for each.

    The noise is the same in all experiments; timesteps are spread evenly over the schedule.
    """
    count, num_timesteps = len(source), base.num_train_timesteps
    latent_shape = tuple(source.rows([Sample(0, 0, 0)])["mean"].shape[1:])
    losses = []
    for first in range(0, count, batch_size):
        rows = range(first, min(first + batch_size, count))
        shape = (len(rows), *latent_shape)
        batch = source.rows([Sample(row, 0, 0) for row in rows])
        side = batch["mask"].shape[-1]
        batch["window"] = image_windows(side, [(0, 0)] * len(rows), side)
        batch["noise"], _ = draw_noise(VALIDATION_SEED, 0, shape, num_timesteps, first)
        batch["vae_noise"] = draw_vae_noise(VALIDATION_SEED, 0, shape, first)
        batch["timesteps"] = torch.tensor(
            [(2 * row + 1) * num_timesteps // (2 * count) for row in rows]
        )
        losses.append(per_sample_loss(model, base, conditioning, batch))
    return float(torch.cat(losses).mean())
