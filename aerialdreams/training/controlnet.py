"""What is trained: a ControlNet and the UNet that it steers; its errors on a batch."""

from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers import ControlNetModel, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor

from aerialdreams.data.land_cover import LandCoverClass
from aerialdreams.errors import UserError
from aerialdreams.models.controlnet import load_controlnet, new_controlnet
from aerialdreams.models.stable_diffusion import StableDiffusion
from aerialdreams.params import TrainControlnet
from aerialdreams.training.batches import draw_latent_noise, draw_noise
from aerialdreams.training.latents import Sample, TrainingSource
from aerialdreams.training.losses import per_sample_loss
from aerialdreams.util.files import dvc_md5

HELD_OUT_SEED = 0  # not a param: losses of all experiments are on the same noise


class ControlledUNet(torch.nn.Module):
    """The ControlNet and the UNet that it steers, as one network.

    Args:
        controlnet: what is trained.
        unet: the base model's; see `decoder`.
    """

    def __init__(self, controlnet: ControlNetModel, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.controlnet, self.unet = controlnet, unet

    @property
    def decoder(self) -> torch.nn.ModuleList:
        """The UNet's second half, which the ControlNet adds to (`sd_locked=False` trains it)."""
        unet = self.unet
        return torch.nn.ModuleList([unet.up_blocks, unet.conv_norm_out, unet.conv_out])

    def forward(self, noisy: Tensor, times: Tensor, text: Tensor, condition: Tensor) -> Tensor:
        """What the UNet predicts, (batch, channels, h, w), float32.

        Args:
            noisy: codes with noise, (batch, channels, h, w).
            times: timesteps, (batch,).
            text: captions' embeddings, (batch, tokens, width).
            condition: see diffusion.condition_of.
        """
        down, middle = self.controlnet(noisy, times, text, condition, return_dict=False)
        predicted: Tensor = self.unet(
            noisy,
            times,
            text,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
            return_dict=False,
        )[0]
        return predicted.float()


def new_controlled_unet(base: StableDiffusion, settings: TrainControlnet) -> ControlledUNet:
    """The base's UNet with a new ControlNet, or with the one that warm_start names.

    Raises:
        UserError: the mask's network does not end at the size of the base's codes, or warm_start
            is no ControlNet of this base and condition, or not the one with that hash.
    """
    channels, halvings = settings.embedding_channels, len(base.vae.config["block_out_channels"])
    if len(channels) != halvings:
        raise UserError(
            f"train_controlnet.embedding_channels: {len(channels)} widths; the base model's VAE"
            f" asks for {halvings}, for each after the first halves the mask"
        )
    controlnet = new_controlnet(base.unet, channels, settings.condition, settings.seed)
    if settings.warm_start.folder:
        controlnet = warm(controlnet, settings)
    student = ControlledUNet(controlnet.train(), base.unet)
    for network in (student.controlnet, student.unet):
        if settings.gradient_checkpointing:
            network.enable_gradient_checkpointing()
        if settings.attention == "plain":
            network.set_attn_processor(AttnProcessor())
    return student


def warm(fresh: ControlNetModel, settings: TrainControlnet) -> ControlNetModel:
    """The ControlNet that warm_start names, if it is of the same make as a fresh one."""
    folder = Path(settings.warm_start.folder)
    found = load_controlnet(folder)
    md5 = dvc_md5(folder)
    if md5 != settings.warm_start.md5:
        raise UserError(
            f"train_controlnet.warm_start.md5: is {settings.warm_start.md5!r}; {folder} has {md5};"
            " put that there if it is the one that is meant"
        )
    shapes = {name: weight.shape for name, weight in fresh.state_dict().items()}
    theirs = {name: weight.shape for name, weight in found.state_dict().items()}
    other = sorted(name for name in shapes | theirs if shapes.get(name) != theirs.get(name))
    if other:
        raise UserError(
            f"{folder}: is a ControlNet of another make than base model, condition and"
            f" embedding_channels ask for ({len(other)} weights differ, such as {other[0]})"
        )
    return found


def wrap(
    accelerator: Accelerator, student: ControlledUNet, settings: TrainControlnet, unlocked: bool
) -> tuple[torch.nn.Module, torch.nn.Module]:
    """The student as processes share it, and the same compiled where that is asked for.

    Args:
        accelerator: of this process.
        student: what is trained.
        settings: compile counts.
        unlocked: whether the UNet's decoder is trained too.
    """
    student.unet.requires_grad_(False)
    if unlocked:
        student.decoder.requires_grad_(True)
    shared: torch.nn.Module = accelerator.prepare_model(student)
    model: Any = torch.compile(shared) if settings.compile else shared
    return shared, model


def split_batch(batch: dict[str, Tensor], count: int) -> list[dict[str, Tensor]]:
    """A batch in so many parts of equal size."""
    size = len(batch["times"]) // count
    return [
        {name: tensor[first : first + size] for name, tensor in batch.items()}
        for first in range(0, size * count, size)
    ]


@torch.no_grad()
def held_out_loss(
    student: ControlledUNet,
    base: StableDiffusion,
    source: TrainingSource,
    batch: int,
    classes: list[LandCoverClass],
) -> float:
    """Mean squared error on validation patches, each with a noise and a timestep of its own.

    The same noise in all experiments; the timesteps are spread evenly over the schedule.
    """
    count, timesteps = len(source), base.scheduler.config["num_train_timesteps"]
    shape = tuple(source.rows([Sample(0, 0, 0)])["mean"].shape[1:])
    errors = []
    for first in range(0, count, batch):
        places = range(first, min(first + batch, count))
        part = source.rows([Sample(place, 0, 0) for place in places])
        part["noise"], _ = draw_noise(HELD_OUT_SEED, 0, (len(places), *shape), timesteps, first)
        part["epsilon"] = draw_latent_noise(HELD_OUT_SEED, 0, (len(places), *shape), first)
        part["times"] = torch.tensor([(2 * p + 1) * timesteps // (2 * count) for p in places])
        planes = student.controlnet.config["conditioning_channels"]
        errors.append(per_sample_loss(student, base, part, planes, classes))
    return float(torch.cat(errors).mean())
