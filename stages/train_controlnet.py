"""train-controlnet: train a ControlNet to follow land-cover masks.

Reads   data/latents/, models/base/, data/dataset/ (validation patches for the images in MLflow; all
        of train if latent_cache is false)
Writes  models/controlnet/ in diffusers' layout, with aerialdreams.json, which has what generation
        needs beside the weights; metrics/controlnet.csv and metrics/controlnet_validation.csv, the
        losses; a run in MLflow with params, curves, images and the model

A training that was stopped or killed resumes from its last checkpoint and ends with the same bytes.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from diffusers.training_utils import EMAModel

from aerialdreams.data.contact_sheet import image_grid
from aerialdreams.data.dataset import Split, load_evenly_spaced
from aerialdreams.data.flair import PIXEL, SIDE
from aerialdreams.errors import UserError
from aerialdreams.generation.batch import generate_batch, requests_from_split
from aerialdreams.models.conditioning import MaskConditioning
from aerialdreams.models.controlnet import FINETUNED_UNET
from aerialdreams.models.model_info import ModelInfo
from aerialdreams.models.sampling import Sampling
from aerialdreams.models.stable_diffusion import StableDiffusion, load_stable_diffusion
from aerialdreams.params import Params, flatten
from aerialdreams.paths import BASE, CONTROLNET, DATASET, LATENTS
from aerialdreams.pipeline.controlnet_card import controlnet_card
from aerialdreams.pipeline.identity import training_identity
from aerialdreams.pipeline.launch import is_launched, launch_processes
from aerialdreams.pipeline.stage import run_stage, scratch_dir
from aerialdreams.pipeline.tracking import Run, register_model, training_run
from aerialdreams.training.batches import load_batches
from aerialdreams.training.checkpoint import Checkpoint, StopSignal, checkpoint_path
from aerialdreams.training.controlnet import (
    ControlledUNet,
    micro_batches,
    new_controlled_unet,
    per_sample_loss,
    set_memory_options,
    validation_loss,
    warm_start,
)
from aerialdreams.training.distributed import Distributed, init_distributed
from aerialdreams.training.latents import (
    ControlNetBatches,
    Draws,
    ImageSource,
    LatentSource,
    TrainingSource,
)
from aerialdreams.training.loss_curves import CurvePoints, LossCurve, TimestepBins, write_curve
from aerialdreams.training.losses import snr_weights
from aerialdreams.training.schedule import learning_rate_at, set_learning_rate
from aerialdreams.util.files import atomic_folder, dvc_md5
from aerialdreams.util.progress import progress
from aerialdreams.util.torch_setup import DTYPES, configure_torch

LOSSES, VALIDATION = Path("metrics/controlnet.csv"), Path("metrics/controlnet_validation.csv")
INPUTS = [LATENTS, DATASET, BASE]
# Params of the stage that change how the work is done, not what is learnt (but for rounding).
EXECUTION = {
    *("processes", "gradient_accumulation", "gradient_checkpointing", "compile", "attention"),
    *("validation_every", "sampling"),
}


def main(params: Params) -> str:
    stage = params.train_controlnet
    if stage.processes > 1 and not is_launched():
        launch_processes("stages.train_controlnet", stage.processes)
    configure_torch(params.torch_threads)
    training = set_up(params)
    run_id_file = training.checkpoint.path.with_suffix(".run")
    is_main = training.distributed.is_main
    with training_run(flatten(params), INPUTS, run_id_file) if is_main else nullcontext() as run:
        train(training, run)
        if run:
            save(training)
            register_model(run, CONTROLNET, dvc_md5(CONTROLNET))
    if is_main:
        training.checkpoint.remove()
    training.accelerator.end_training()
    size = sum(weight.numel() for weight in training.weights) / 1e6
    validation = training.validation.values[-1][1] if is_main else 0
    return (
        f"ControlNet of {size:.2f} M weights trained for {stage.steps} steps of {stage.batch_size}"
        f" on {len(training.source)} patches, loss {training.losses.means()[-1][1]:.4f}, validation"
        f" loss {validation:.4f}"
    )


@dataclass
class Training:
    """All that a training works with, on one rank."""

    params: Params
    accelerator: Accelerator
    distributed: Distributed
    device: torch.device
    base: StableDiffusion
    conditioning: MaskConditioning
    source: TrainingSource
    model: ControlledUNet
    weights: list[torch.nn.Parameter]
    optimizer: Any
    ema: EMAModel | None
    losses: LossCurve
    bins: TimestepBins
    checkpoint: Checkpoint
    validation: CurvePoints = field(default_factory=CurvePoints)


def set_up(params: Params) -> Training:
    """Networks, data, optimizer and checkpoint of this rank.

    Raises:
        UserError: the number of processes, the base model or the latents do not fit the params.
    """
    stage = params.train_controlnet
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(),  # else accelerate does not see that there are several
        mixed_precision="no" if stage.precision == "fp32" else stage.precision,
        kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True)],
    )
    if accelerator.num_processes != stage.processes:
        raise UserError(
            f"train_controlnet.processes: is {stage.processes}, but {accelerator.num_processes}"
            f" were started; set it to {accelerator.num_processes}"
        )
    distributed = init_distributed(accelerator.num_processes)
    # With several processes on a CPU accelerate's device is cpu:0, which torch.load rejects.
    on_gpu = accelerator.device.type != "cpu"
    device = accelerator.device if on_gpu else torch.device("cpu")
    base = load_stable_diffusion().to(device)
    conditioning = MaskConditioning(stage.conditioning, tuple(params.classes))
    model = new_controlled_unet(base, conditioning, stage.embedding_channels, stage.seed)
    if stage.warm_start.folder:
        warm_start(model, Path(stage.warm_start.folder), stage.warm_start.md5)
    set_memory_options(model, stage.gradient_checkpointing, stage.attention)
    model.to(device)
    weights = [*model.controlnet.parameters()]
    if stage.unlock_decoder_steps:
        weights += model.decoder.parameters()
    else:  # a frozen UNet may be kept in the precision that it computes in
        model.unet.to(DTYPES[stage.precision])
    optimizer = torch.optim.AdamW(weights, weight_decay=stage.weight_decay, fused=True)
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
            else ImageSource("train", params.image_size, base.tokenizer)
        ),
        model=model,
        weights=weights,
        optimizer=accelerator.prepare(optimizer),
        ema=EMAModel(weights, decay=stage.ema_decay, foreach=True) if stage.ema_decay else None,
        losses=LossCurve("ControlNet"),
        bins=TimestepBins(base.num_train_timesteps, device),
        checkpoint=Checkpoint(Path(), {}, device),
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
    path = find_checkpoint(params) if distributed.is_main else None
    training.checkpoint.path = Path(distributed.broadcast(str(path) if path else None))
    return training


def find_checkpoint(params: Params) -> Path:
    """Where the checkpoint of a training with these params, inputs and code is."""
    decisive = params.train_controlnet.model_dump(mode="json", exclude=EXECUTION)
    decisive["image_size"] = params.image_size
    decisive["classes"] = [land_cover.model_dump() for land_cover in params.classes]
    rooms = ("data", "models", "training")
    identity = training_identity(decisive, INPUTS, __file__, rooms)
    return checkpoint_path(scratch_dir(), "train-controlnet", identity)


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
    unlock_at = stage.steps - stage.unlock_decoder_steps
    start = checkpoint.restore()
    distributed.require_equal(start, "the step of the restored checkpoint")
    model, compiled = prepare_model(training, decoder=start >= unlock_at)
    batches = load_batches(
        batches_of_rank(training), start, stage.steps, params.runtime.loaders,
        pin_memory=training.device.type == "cuda",
    )  # fmt: skip
    logger = Logger(training, run, start)
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
                        losses = per_sample_loss(compiled, base, training.conditioning, part)
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

            done = step + 1
            logger.log(done, learning_rate, gradient_norm)
            stopping = distributed.any(stop.received)
            if stopping or done % params.runtime.checkpoint_every == 0 or done == stage.steps:
                training.losses.check()
                if distributed.is_main:
                    checkpoint.save(done)
            if stopping:
                checkpoint.wait()
                distributed.barrier()  # no rank leaves before rank 0 has saved
                raise KeyboardInterrupt
    checkpoint.wait()


def prepare_model(training: Training, decoder: bool) -> tuple[Any, Any]:
    """The model wrapped for distributed training, and the same compiled if the params ask for it.

    Args:
        training: the training.
        decoder: whether the UNet's decoder is trained, too.
    """
    stage = training.params.train_controlnet
    training.model.set_trainable(decoder=decoder and stage.unlock_decoder_steps > 0)
    wrapped = training.accelerator.prepare_model(training.model)
    return wrapped, torch.compile(wrapped) if stage.compile else wrapped


def batches_of_rank(training: Training) -> ControlNetBatches:
    """This rank's share of the batches."""
    stage, base = training.params.train_controlnet, training.base
    return ControlNetBatches(
        training.source,
        Draws(stage.seed, stage.batch_size, stage.caption_dropout, stage.augment),
        base.latent_shape(training.params.image_size),
        base.num_train_timesteps,
        training.distributed.rank,
        training.distributed.world_size,
    )


class Logger:
    """Sends curves and images to MLflow, and measures the validation loss, on rank 0.

    Args:
        training: the training.
        run: the run in MLflow; None on other ranks.
        start: the first step.
    """

    def __init__(self, training: Training, run: Run | None, start: int) -> None:
        self.training, self.run = training, run
        self.images: Split | None = None
        if run:
            count, size = training.params.tracking.images, training.params.image_size
            self.images = load_evenly_spaced("validation", count, size)
        self._restart_clock(start)

    def log(self, done: int, learning_rate: float, gradient_norm: torch.Tensor) -> None:
        """Log what is due after `done` steps. All ranks must call it."""
        training, stage = self.training, self.training.params.train_controlnet
        tracking, last = training.params.tracking, done == stage.steps
        metrics: dict[str, float] = {}
        if done % tracking.log_every == 0:
            speed = (done - self._since) * stage.batch_size / (time.monotonic() - self._began)
            metrics = {
                "loss": training.losses.last(tracking.log_every),
                "learning_rate": learning_rate,
                "gradient_norm": float(gradient_norm),
                "samples_per_second": speed,
                "memory_megabytes": memory_megabytes(training.device),
            } | training.bins.pop(training.accelerator.reduce)
            self._restart_clock(done)
        if not self.run:
            return
        if done % stage.validation_every == 0 or last:
            metrics["validation_loss"] = validate(training, done)
            self._restart_clock(done)
        if metrics:
            self.run.metrics(done, metrics)
        if self.images and (done % tracking.images_every == 0 or last):
            self.run.image(done, sample_images(training, self.images), "validation")
            self._restart_clock(done)

    def _restart_clock(self, step: int) -> None:
        """Time the steps from here on: validation and sampling do not count."""
        self._since, self._began = step, time.monotonic()


@contextmanager
def evaluation_weights(training: Training) -> Iterator[None]:
    """The model in evaluation mode, with averaged weights (EMA) if there are any."""
    if training.ema:
        training.ema.store(training.weights)
        training.ema.copy_to(training.weights)
    training.model.controlnet.eval()
    try:
        with training.accelerator.autocast():
            yield
    finally:
        training.model.controlnet.train()
        if training.ema:
            training.ema.restore(training.weights)


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


def sample_images(training: Training, patches: Split) -> Any:
    """Mask, real and generated image of some validation patches, always from the same noise.

    Returns:
        RGB, (height, width, 3).
    """
    with evaluation_weights(training):
        images = generate_batch(
            training.base,
            training.model.controlnet,
            training.conditioning,
            requests_from_split(patches),
            sampling_of(training.params),
            training.params.generate_validation.seed,
        )
    columns = [list(patches.images), list(images)]
    return image_grid(list(patches.masks), columns, training.params.classes)


def sampling_of(params: Params) -> Sampling:
    """The settings that the model is meant to be sampled with."""
    return Sampling(**params.train_controlnet.sampling.model_dump())


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
        pixel_size = PIXEL * SIDE / params.image_size
        ModelInfo(params.image_size, pixel_size, training.conditioning, sampling_of(params)).save(
            folder
        )
    write_curve(LOSSES, training.losses.means())
    write_curve(VALIDATION, training.validation.values)


def memory_megabytes(device: torch.device) -> float:
    """Peak memory allocated on the GPU, or the memory of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return float(psutil.Process().memory_info().rss / 1e6)


if __name__ == "__main__":
    run_stage("train-controlnet", __doc__, main)
