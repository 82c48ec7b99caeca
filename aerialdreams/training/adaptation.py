"""Adaptation of a base model to a dataset: its UNet, or a low-rank update of it, and the loss."""

import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig, LoraModel
from torch import Tensor

from aerialdreams.models.families import BaseModel
from aerialdreams.training.losses import diffusion_loss, valid_shares
from aerialdreams.training.noising import noisy_batch


class AdaptedUNet(torch.nn.Module):
    """A UNet in training: all of its weights, or low-rank updates of them (LoRA).

    Low-rank updates (Hu et al. 2021, arXiv 2106.09685) are of every linear layer and convolution
    of the UNet's blocks. They are zero at first, and their scale is 1.

    Args:
        unet: frozen; changed in place.
        lora_rank: of the updates; 0 trains all weights.
        seed: of the updates' initial weights.
    """

    def __init__(self, unet: UNet2DConditionModel, lora_rank: int, seed: int) -> None:
        super().__init__()
        self.unet: UNet2DConditionModel | LoraModel = unet
        if lora_rank:
            torch.manual_seed(seed)
            config = LoraConfig(r=lora_rank, lora_alpha=lora_rank, target_modules=layers_of(unet))
            self.unet = LoraModel(unet, config, "default")
        else:
            unet.requires_grad_(True)

    @property
    def weights(self) -> list[torch.nn.Parameter]:
        """What is trained."""
        return [weight for weight in self.parameters() if weight.requires_grad]

    def forward(
        self,
        noisy_latents: Tensor,
        timesteps: Tensor,
        text: Tensor,
        added: dict[str, Tensor] | None = None,
    ) -> Tensor:
        """Predict noise or velocity, as the base model does.

        Args:
            noisy_latents: (batch, channels, h, w).
            timesteps: (batch,).
            text: caption embeddings, (batch, tokens, width).
            added: what the base model's family takes beside the text, see its `added_conditions`.

        Returns:
            Float32, (batch, channels, h, w).
        """
        prediction: Tensor = self.unet(
            noisy_latents, timesteps, text, added_cond_kwargs=added, return_dict=False
        )[0]
        return prediction.float()

    def merge(self) -> UNet2DConditionModel:
        """The UNet with its updates added to its weights. It can't be trained further."""
        merged: UNet2DConditionModel = (
            self.unet.merge_and_unload() if isinstance(self.unet, LoraModel) else self.unet
        )
        return merged.requires_grad_(False)


def layers_of(unet: UNet2DConditionModel) -> list[str]:
    """Names of the linear layers and convolutions of a UNet's blocks."""
    blocks = ("down_blocks.", "mid_block.", "up_blocks.")
    return [
        name
        for name, layer in unet.named_modules()
        if name.startswith(blocks) and isinstance(layer, (torch.nn.Linear, torch.nn.Conv2d))
    ]


def denoising_loss(model: torch.nn.Module, base: BaseModel, batch: dict[str, Tensor]) -> Tensor:
    """The diffusion loss of each sample, shape (samples,), over pixels that have a class.

    Args:
        model: an `AdaptedUNet`, or a wrapper around one.
        base: gives the noise schedule; encodes images and captions if the batch has no latents.
        batch: see `latents.TrainingBatches`.
    """
    noisy = noisy_batch(base, batch)
    prediction = model(noisy.latents, noisy.timesteps, noisy.text, noisy.added)
    size = (noisy.target.shape[-2], noisy.target.shape[-1])
    return diffusion_loss(prediction, noisy.target, valid_shares(noisy.mask, size))
