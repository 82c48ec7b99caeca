"""train-controlnet: train a ControlNet to follow land-cover masks.

Reads   data/latents/, models/adapted_base/, data/dataset/ (validation patches for the images in
        MLflow; all of train if latent_cache is false), metrics/class_frequencies.csv
Writes  models/controlnet/ in diffusers' layout, with aerialdreams.json, which has what generation
        needs beside the weights; metrics/controlnet.csv and metrics/controlnet_validation.csv, the
        losses; a run in MLflow with params, curves, images and the model

A training that was stopped or killed resumes from its last checkpoint and ends with the same bytes.
"""

import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from aerialdreams.data.dataset import load_evenly_spaced, median_pixel_size
from aerialdreams.models.controlnet import FINETUNED_UNET
from aerialdreams.models.model_info import ModelInfo
from aerialdreams.params import Params, flat, flatten, read_yaml
from aerialdreams.paths import (
    ADAPTED_BASE,
    CONTROLNET,
    CONTROLNET_LOSSES,
    CONTROLNET_VALIDATION_LOSSES,
    DATASET,
    FREQUENCIES,
    LATENTS,
)
from aerialdreams.pipeline import accelerator as accelerator_module
from aerialdreams.pipeline import controlnet_training
from aerialdreams.pipeline.accelerator import Speedometer, batches_of_rank, memory_megabytes
from aerialdreams.pipeline.controlnet_card import controlnet_card
from aerialdreams.pipeline.controlnet_training import (
    Training,
    evaluation_weights,
    prepare_model,
    sample_images,
    sampling_of,
    set_up,
    validate,
)
from aerialdreams.pipeline.identity import recipe_of, training_identity
from aerialdreams.pipeline.launch import is_launched, launch_processes
from aerialdreams.pipeline.stage import run_stage, scratch_dir
from aerialdreams.pipeline.tracking import Run, register_model, training_run
from aerialdreams.training.batches import load_batches, micro_batches
from aerialdreams.training.checkpoint import StopSignal
from aerialdreams.training.controlnet import per_sample_loss
from aerialdreams.training.latents import Draws
from aerialdreams.training.loss_curves import write_curve
from aerialdreams.training.losses import snr_weights
from aerialdreams.training.schedule import learning_rate_at, set_learning_rate
from aerialdreams.util.download import local_or_downloaded
from aerialdreams.util.files import atomic_folder, dvc_md5
from aerialdreams.util.progress import progress
from aerialdreams.util.scratch import work_folder
from aerialdreams.util.torch_setup import configure_torch

INPUTS = [LATENTS, DATASET, ADAPTED_BASE, FREQUENCIES]
# Params of the stage that change how the work is done, not what is learnt (but for rounding).
EXECUTION = {
    *("processes", "gradient_accumulation", "gradient_checkpointing", "compile", "attention"),
    *("validation_every", "sampling"),
}


def main(params: Params) -> str:
    stage = params.train_controlnet
    fetch_inception(params)
    if stage.processes > 1 and not is_launched():
        launch_processes("stages.train_controlnet", stage.processes)
    configure_torch(params.compute.threads, params.compute.deterministic)
    training = set_up(params)
    is_main = training.distributed.is_main
    unfinished = work_folder(scratch_dir(), "train-controlnet", identity_of(params))
    with unfinished if is_main else nullcontext() as work:
        # Other ranks restore from rank 0's checkpoint.
        folder = Path(training.distributed.broadcast(str(work) if work else None))
        training.checkpoint.path = folder / "controlnet.pt"
        run_id_file = folder / "run-id"
        recipe = recipe_of(flat(read_yaml(Path("params.yaml"))))
        tracked = (
            training_run(flatten(params), INPUTS, run_id_file, recipe) if is_main else nullcontext()
        )
        with tracked as run:
            train(training, run)
            if run:
                save(training)
                register_model(run, CONTROLNET, dvc_md5(CONTROLNET))
    training.accelerator.end_training()
    size = sum(weight.numel() for weight in training.weights) / 1e6
    validation = training.validation.values[-1][1] if is_main else 0
    return (
        f"ControlNet of {size:.2f} M weights trained for {stage.steps} steps of {stage.batch_size}"
        f" on {len(training.source)} patches, loss {training.losses.means()[-1][1]:.4f}, validation"
        f" loss {validation:.4f}"
    )


def fetch_inception(params: Params) -> None:
    """Download and check the FID Inception that evaluate-FID will need, before days of training.

    Raises:
        UserError: the file is missing or its hash differs.
        WorkError: the download failed.
    """
    stage = params.evaluate_fid
    if stage.inception_weights and os.environ.get("RANK", "0") == "0":
        downloads = Path(params.raw_patches.downloads)
        local_or_downloaded(stage.inception_weights, downloads, stage.inception_sha256)


def identity_of(params: Params) -> dict[str, Any]:
    """What decides the weights: a checkpoint is only continued with the same."""
    decisive = params.train_controlnet.model_dump(mode="json", exclude=EXECUTION)
    decisive["image_size"] = params.image_size
    decisive["classes"] = [land_cover.model_dump() for land_cover in params.classes]
    scripts = [__file__, controlnet_training.__file__, accelerator_module.__file__]
    return training_identity(decisive, INPUTS, scripts, ("data", "models", "training"))


def train(training: Training, run: Run | None) -> None:
    """All steps that are left. Rank 0 logs to `run`.

    Raises:
        KeyboardInterrupt: SIGTERM or SIGINT came; the current step is finished and saved.
        WorkError: the loss is not finite, or a checkpoint cannot be written.
    """
    params, stage, accelerator = (
        training.params,
        training.params.train_controlnet,
        training.accelerator,
    )
    base, checkpoint, distributed = training.base, training.checkpoint, training.distributed
    tracking = params.tracking
    unlock_at = stage.steps - stage.unlock_decoder_steps
    start = checkpoint.restore()
    distributed.require_equal(start, "the step of the restored checkpoint")
    model, compiled = prepare_model(training, decoder=start >= unlock_at)
    crop = stage.crop // base.vae_scale_factor
    draws = Draws(stage.seed, stage.batch_size, stage.caption_dropout, stage.augment, crop)
    own = batches_of_rank(training.source, draws, base, params.image_size, distributed)
    batches = load_batches(
        own, start, stage.steps, params.runtime.loaders, pin_memory=training.device.type == "cuda"
    )
    sheet = load_evenly_spaced("validation", tracking.images, params.image_size) if run else None
    speed = Speedometer(stage.batch_size, start)
    steps = range(start, stage.steps)
    with StopSignal() as stop:
        for step in (
            progress(steps, "ControlNet", "steps", stage.steps, start)
            if distributed.is_main
            else steps
        ):
            if step == unlock_at and step > start:
                model, compiled = prepare_model(training, decoder=True)
            batch = next(batches)

            step_loss = torch.zeros((), device=training.device)
            parts = micro_batches(batch, stage.gradient_accumulation)
            for number, part in enumerate(parts, 1):
                # Ranks exchange gradients once a step, with those of the last micro-batch.
                with nullcontext() if number == len(parts) else accelerator.no_sync(model):
                    with accelerator.autocast():
                        losses = per_sample_loss(
                            compiled, base, training.conditioning, part, training.class_weights
                        )
                    weights = snr_weights(base.scheduler, part["timesteps"], stage.min_snr_gamma)
                    loss = (losses * weights.to(training.device)).mean() / len(parts)
                    accelerator.backward(loss)
                step_loss += loss.detach()
                training.bins.add(part["timesteps"], losses)

            gradient_norm = accelerator.clip_grad_norm_(training.weights, stage.max_grad_norm)
            learning_rate = learning_rate_at(
                step, stage.steps, stage.learning_rate, stage.warmup_steps, stage.schedule
            )
            set_learning_rate(training.optimizer, learning_rate)
            training.optimizer.step()
            training.optimizer.zero_grad()
            if training.ema:
                training.ema.step(training.weights)
            training.losses.add(accelerator.reduce(step_loss, "mean"))

            done, last, metrics = step + 1, step + 1 == stage.steps, dict[str, float]()
            if done % tracking.log_every == 0:
                metrics = {
                    "loss": training.losses.last(tracking.log_every),
                    "learning_rate": learning_rate,
                    "gradient_norm": float(gradient_norm),
                    "samples_per_second": speed.samples_per_second(done),
                    "memory_megabytes": memory_megabytes(training.device),
                } | training.bins.pop(accelerator.reduce)
                speed.restart(done)
            if run and (done % stage.validation_every == 0 or last):
                metrics["validation_loss"] = validate(training, done)
                speed.restart(done)
            if run and metrics:
                run.metrics(done, metrics)
            if run and sheet and (done % tracking.images_every == 0 or last):
                for patch_id, image in sample_images(training, sheet).items():
                    run.image(done, image, f"validation/{patch_id}")
                speed.restart(done)

            stopping = distributed.any(stop.received)
            if stopping or done % params.runtime.checkpoint_every == 0 or last:
                training.losses.check()
                if distributed.is_main:
                    checkpoint.save(done)
            if stopping:
                checkpoint.wait()
                distributed.barrier()  # no rank leaves before rank 0 has saved
                raise KeyboardInterrupt
    checkpoint.wait()


def save(training: Training) -> None:
    """Write the model with its card and aerialdreams.json, and the curves."""
    params = training.params
    with atomic_folder(CONTROLNET) as folder, evaluation_weights(training):
        training.model.controlnet.save_pretrained(folder)
        if params.train_controlnet.unlock_decoder_steps:
            training.model.unet.save_pretrained(folder / FINETUNED_UNET)
        loss, validation = training.losses.means()[-1][1], training.validation.values[-1][1]
        card = controlnet_card(params, loss, validation)
        (folder / "README.md").write_text(card, encoding="utf-8")
        spec = params.dataset_spec
        ModelInfo(
            image_size=params.image_size,
            pixel_size=median_pixel_size() * spec.patch_size / params.image_size,
            conditioning=training.conditioning,
            sampling=sampling_of(params),
            ignored=tuple(spec.ignored),
            credit=spec.credit,
            captions=params.captions.form,
            further=params.further_bands,
        ).save(folder)
    write_curve(CONTROLNET_LOSSES, training.losses.means())
    write_curve(CONTROLNET_VALIDATION_LOSSES, training.validation.values)


if __name__ == "__main__":
    run_stage("train-controlnet", __doc__, main)
