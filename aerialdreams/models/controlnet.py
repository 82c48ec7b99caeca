"""ControlNets: new, loaded, fine-tuned UNet."""

from dataclasses import replace
from pathlib import Path

import torch
from diffusers import (
    ControlNetModel,
    UNet2DConditionModel,
)

from aerialdreams.data.flair import CLASS_COUNT
from aerialdreams.errors import UserError
from aerialdreams.models.stable_diffusion import StableDiffusion
from aerialdreams.paths import CONTROLNET

UNET = "unet"  # folder beside the ControlNet's weights, where the decoder was trained with it


COLOUR_PLANES = 3


def load_controlnet(folder: Path = CONTROLNET) -> ControlNetModel:
    """Read a ControlNet in diffusers' layout.

    Raises:
        UserError: a file is missing or damaged.
    """
    try:
        return ControlNetModel.from_pretrained(folder).eval()
    except (OSError, ValueError) as error:
        message = str(error).splitlines()[0]
        raise UserError(f"{folder}: no ControlNet ({message}); `dvc checkout` it") from None


def with_finetuned_unet(base: StableDiffusion, folder: Path = CONTROLNET) -> StableDiffusion:
    """The base model with the UNet that was trained beside a ControlNet, if one was."""
    if not (folder / UNET).is_dir():
        return base
    unet = UNet2DConditionModel.from_pretrained(folder / UNET)
    return replace(base, unet=unet.requires_grad_(False).eval().to(base.unet.device))


def new_controlnet(
    unet: UNet2DConditionModel, channels: list[int], condition: str, seed: int
) -> ControlNetModel:
    """A ControlNet that does nothing yet: its outputs are zero until it is trained.

    Args:
        unet: the base model's, from which the weights of the encoder are copied.
        channels: widths of the network that takes the mask down to the latent's size; each after
            the first halves it.
        condition: "one_hot", a plane for each class, or "colours", the mask in its LUT's colours.
        seed: of that network's weights.
    """
    torch.manual_seed(seed)
    planes = CLASS_COUNT if condition == "one_hot" else COLOUR_PLANES
    controlnet = ControlNetModel.from_unet(
        unet,
        conditioning_channels=planes,
        conditioning_embedding_out_channels=tuple(channels),
    )
    # With torch's own start each layer would hand on a third of its signal and the mask would be
    # noticed thousands of steps later. He et al. 2015 (arXiv 1502.01852) keeps its strength; the
    # last layer stays zero, as ControlNet wants it.
    embedding = controlnet.controlnet_cond_embedding
    for layer in (embedding.conv_in, *embedding.blocks):
        torch.nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    if condition == "one_hot":  # only one of the planes is 1 at a pixel
        with torch.no_grad():
            embedding.conv_in.weight *= CLASS_COUNT**0.5
    return controlnet
