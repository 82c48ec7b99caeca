"""train-controlnet: teach a ControlNet to follow land-cover masks.

Reads   data/latents/, data/dataset/ (some validation patches to look at), models/base/
Writes  models/controlnet/ in diffusers' layout; metrics/controlnet.csv, the losses; a run in
        MLflow with params, losses and validation images
"""

import time
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import ControlNetModel
from numpy.typing import NDArray
from torch import Tensor

from aerialdreams.dataset import DATASET, Split, load_some
from aerialdreams.diffusion import (
    BASE,
    CONTROLNET,
    Base,
    draw_codes,
    draw_noise,
    generate,
    load_base,
    new_controlnet,
    one_hot,
    target_of,
)
from aerialdreams.errors import UserError
from aerialdreams.files import fingerprint, path_md5, whole_folder
from aerialdreams.latents import LATENTS, Latents
from aerialdreams.params import Params
from aerialdreams.patches import IGN_CREDIT, OSM_CREDIT
from aerialdreams.pictures import grid
from aerialdreams.stage import run_stage, scratch
from aerialdreams.tracking import CONTROLNET_TAG, training_run
from aerialdreams.training import (
    Checkpoint,
    LossCurve,
    draw_batch,
    drop_captions,
    scheduled_rate,
    set_rate,
    set_up_torch,
    training_steps,
    write_curve,
)

LOSSES = Path("metrics/controlnet.csv")
INPUTS = [LATENTS, DATASET, BASE]


def main(params: Params) -> str:
    set_up_torch(params.torch_threads)
    stage = params.train_controlnet
    # Generation's settings are among what the validation images in MLflow depend on, no more.
    key = fingerprint([stage, params.image_size, params.torch_threads], __file__, INPUTS)
    accelerator = Accelerator(mixed_precision=stage.precision)
    base = load_base().to(accelerator.device)
    latents = Latents()
    check_embedding(stage.embedding_channels, base)
    looks = load_some("validation", stage.images, params.image_size)

    controlnet = new_controlnet(base.unet, stage.embedding_channels, stage.seed).train()
    optimizer = torch.optim.AdamW(controlnet.parameters(), weight_decay=0.01, fused=True)
    model, optimizer = accelerator.prepare(controlnet, optimizer)
    losses = LossCurve("ControlNet")
    checkpoint = Checkpoint(
        scratch() / f"train-controlnet-{key}.pt",
        {"controlnet": controlnet, "optimizer": optimizer, "losses": losses},
    )
    every = params.runtime.checkpoint_every
    with training_run(params, INPUTS, scratch() / f"train-controlnet-{key}.run") as (client, run):
        clock: tuple[int, float] | None = None  # since when images per second are counted
        for step in training_steps(checkpoint, stage.steps, every, "ControlNet"):
            clock = clock or (step, time.monotonic())
            rate = scheduled_rate(step, stage.steps, stage.learning_rate, stage.warmup)
            set_rate(optimizer, rate)
            with accelerator.autocast():
                loss = loss_of(model, base, latents, params, step)
            optimizer.zero_grad()
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(controlnet.parameters(), 1.0)
            optimizer.step()
            losses.add(loss)
            done = step + 1
            if done % stage.log_every == 0:
                speed = (done - clock[0]) * stage.batch / (time.monotonic() - clock[1])
                client.log_metric(run, "loss", losses.means(stage.log_every)[-1][1], step=done)
                client.log_metric(run, "learning_rate", rate, step=done)
                client.log_metric(run, "images_per_second", speed, step=done)
                clock = None
            if done % stage.images_every == 0 or done == stage.steps:
                sheet = look(base, controlnet, looks, params)
                client.log_image(run, sheet, key="validation", step=done)
        with whole_folder(CONTROLNET) as folder:
            controlnet.save_pretrained(folder)
            (folder / "README.md").write_text(CARD, encoding="utf-8")
        client.set_tag(run, CONTROLNET_TAG, path_md5(CONTROLNET))
    write_curve(LOSSES, losses)
    checkpoint.remove()
    size = sum(p.numel() for p in controlnet.parameters()) / 1e6
    return (
        f"ControlNet of {size:.2f} M weights trained for {stage.steps} steps of {stage.batch} on"
        f" {len(latents)} patches, loss {losses.means()[-1][1]:.3f}"
    )


def check_embedding(channels: list[int], base: Base) -> None:
    """Refuse a network for the mask that does not end at the size of the base's codes.

    Raises:
        UserError: it halves the mask more or less often than the VAE halves the image.
    """
    wanted = len(base.vae.config["block_out_channels"])
    if len(channels) != wanted:
        raise UserError(
            f"train_controlnet.embedding_channels: {len(channels)} widths; the base model's VAE"
            f" asks for {wanted}, for each after the first halves the mask"
        )


def loss_of(
    model: ControlNetModel,
    base: Base,
    latents: Latents,
    params: Params,
    step: int,
) -> Tensor:
    """The loss of one step; which patches, noise, times and captions follow from the step alone."""
    stage, device = params.train_controlnet, base.unet.device
    chosen = draw_batch(stage.seed, step, stage.batch, len(latents))
    mean, std = latents.rows("mean", chosen), latents.rows("std", chosen)
    clean = draw_codes(mean, std, stage.seed, step) * base.vae.config["scaling_factor"]
    noise, times = draw_noise(
        stage.seed, step, tuple(clean.shape), base.scheduler.config["num_train_timesteps"]
    )
    target = target_of(base.scheduler, clean, noise, times).to(device)
    noisy = base.scheduler.add_noise(clean, noise, times).to(device)
    kept = drop_captions(chosen, stage.caption_dropout, stage.seed, step)
    text, times = latents.rows("text", kept).to(device), times.to(device)
    condition = one_hot(latents.rows("mask", chosen).numpy()).to(device)
    down, middle = model(noisy, times, text, condition, return_dict=False)
    predicted = base.unet(
        noisy,
        times,
        text,
        down_block_additional_residuals=down,
        mid_block_additional_residual=middle,
    ).sample
    return ((predicted.float() - target) ** 2).mean()


def look(
    base: Base, controlnet: ControlNetModel, looks: Split, params: Params
) -> NDArray[np.uint8]:
    """A sheet of validation patches (mask, real, generated), the same noise every time."""
    controlnet.eval()
    images = generate(base, controlnet, looks, params.generate_validation)
    controlnet.train()
    return grid(list(looks.masks), [list(looks.images), list(images)], params.classes)


CARD = f"""---
license: other
library_name: diffusers
tags: [controlnet]
---
# A ControlNet that paints land-cover masks as aerial photographs

Condition: the mask as 19 planes of 0 and 1, plane = FLAIR class id - 1. Trained by AerialDreams
on the base model in front of it; its licence holds for this model too (CreativeML Open RAIL++-M
for Stable Diffusion 2.1; none for the tiny base that the pipeline trains itself).

Derived from {IGN_CREDIT}, and from captions with place names {OSM_CREDIT}. With the sample source
both are drawn by AerialDreams in their shape.
"""

if __name__ == "__main__":
    run_stage("train-controlnet", __doc__, main)
