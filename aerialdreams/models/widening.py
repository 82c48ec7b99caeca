"""Autoencoders for images of more bands than they were trained on."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from aerialdreams.errors import UserError
from aerialdreams.models.latent_diffusion import bands_of, naming


def widen(vae: AutoencoderKL, bands: int) -> AutoencoderKL:
    """An autoencoder of more bands, which does to the first ones what the given one does.

    The first layer of the encoder ignores the further bands: their weights are 0, so that latents
    are those of the first bands alone. The last layer of the decoder gives the mean of the first
    bands for each of the further ones. Training changes both.

    Args:
        vae: of fewer bands; unchanged.
        bands: of the images to come.

    Returns:
        Frozen and in evaluation mode. diffusers loads it as it loads the given one.

    Raises:
        ValueError: the autoencoder has as many bands, or more.
    """
    present = int(vae.config["in_channels"])
    further = bands - present
    if further <= 0:
        raise ValueError(f"the autoencoder has {present} bands; {bands} are not more")
    weights = {name: weight.detach().clone() for name, weight in vae.state_dict().items()}
    first, last = "encoder.conv_in.weight", "decoder.conv_out"
    zeros = torch.zeros_like(weights[first][:, :1])
    weights[first] = torch.cat([weights[first], *[zeros] * further], 1)
    for name in (f"{last}.weight", f"{last}.bias"):
        weights[name] = _with_mean(weights[name], further)
    with torch.device("meta"):  # its own weights are never made, nor drawn
        wide = type(vae).from_config(dict(vae.config), in_channels=bands, out_channels=bands)
    wide.load_state_dict(weights, assign=True)
    return wide.requires_grad_(False).eval()


def needs_widening(folder: Path, bands: int) -> bool:
    """Whether the autoencoder of a base model has fewer bands than the images.

    Args:
        folder: the base model.
        bands: of the images.

    Raises:
        UserError: it has more, or is a linear one, which cannot be widened; or it is damaged.
    """
    with naming(folder):
        config = AutoencoderKL.load_config(folder / "vae")
    linear, present = config["_class_name"] == "LinearAutoencoder", bands_of(config)
    if present > bands or (linear and present < bands):
        raise UserError(
            f"{folder}: its autoencoder is for images of {present} bands, and bands in params.yaml"
            f" names {bands}; use a base model of {bands} or, if it is a Stable Diffusion, of fewer"
        )
    return bool(present < bands)


def _with_mean(weights: Tensor, further: int) -> Tensor:
    """Weights of a layer's outputs, and `further` times their mean."""
    return torch.cat([weights, *[weights.mean(0, keepdim=True)] * further])
