"""adapt-base: the base model's UNet learns the train split's images and captions.

Reads   models/base/, data/dataset/ (train; some validation patches for the images in MLflow)
Writes  models/adapted_base/ in diffusers' layout: the base model with an adapted UNet, a card, and
        source.json, the base's with what the UNet was trained on; metrics/adaptation.csv, the
        losses; a run in MLflow with params, curves and images

With adapt_base.steps 0, models/adapted_base/ has the files of models/base/, and there are no losses
and no run. A training that was stopped or killed resumes from its last checkpoint and ends with the
same bytes.
"""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from aerialdreams.data.dataset import load_evenly_spaced
from aerialdreams.errors import UserError
from aerialdreams.models.base_folder import file_hashes, pass_on
from aerialdreams.params import Params, flatten
from aerialdreams.paths import ADAPTATION_LOSSES, ADAPTED_BASE, BASE, DATASET
from aerialdreams.pipeline import accelerator as accelerator_module
from aerialdreams.pipeline import base_adaptation
from aerialdreams.pipeline.accelerator import (
    Speedometer,
    averaged_weights,
    batches_of_rank,
    memory_megabytes,
)
from aerialdreams.pipeline.adapted_base_card import adapted_base_card
from aerialdreams.pipeline.base_adaptation import (
    Adaptation,
    sample_images,
    set_up,
)
from aerialdreams.pipeline.identity import training_identity
from aerialdreams.pipeline.launch import is_launched, launch_processes
from aerialdreams.pipeline.stage import run_stage, scratch_dir
from aerialdreams.pipeline.tracking import Run, tag_output, training_run
from aerialdreams.training.adaptation import denoising_loss
from aerialdreams.training.batches import load_batches, micro_batches
from aerialdreams.training.checkpoint import StopSignal
from aerialdreams.training.latents import Draws
from aerialdreams.training.loss_curves import write_curve
from aerialdreams.training.schedule import learning_rate_at, set_learning_rate
from aerialdreams.util.files import atomic_folder, dvc_md5, read_json, write_json
from aerialdreams.util.progress import progress
from aerialdreams.util.scratch import work_folder
from aerialdreams.util.torch_setup import configure_torch

INPUTS = [DATASET, BASE]
# Params of the stage that change how the work is done, not what is learnt (but for rounding).
EXECUTION = {"processes", "gradient_accumulation", "gradient_checkpointing"}
OWN_FILES = ("unet", "README.md", "source.json")  # of an adapted model; the others are the base's


def main(params: Params) -> str:
    stage = params.adapt_base
    if not (BASE / "source.json").is_file():
        raise UserError(f"{BASE}: no base model; run `dvc repro base-model`")
    if stage.steps == 0:
        with atomic_folder(ADAPTED_BASE) as folder:
            pass_on(BASE, folder)
        write_curve(ADAPTATION_LOSSES, [])
        return f"0 steps, so that {ADAPTED_BASE} has the files of {BASE}"
    if stage.processes > 1 and not is_launched():
        launch_processes("stages.adapt_base", stage.processes)
    configure_torch(params.compute.threads, params.compute.deterministic)
    adaptation = set_up(params)
    is_main = adaptation.distributed.is_main
    unfinished = work_folder(scratch_dir(), "adapt-base", identity_of(params))
    with unfinished if is_main else nullcontext() as work:
        # Other ranks restore from rank 0's checkpoint.
        folder = Path(adaptation.distributed.broadcast(str(work) if work else None))
        adaptation.checkpoint.path = folder / "unet.pt"
        tracked = (
            training_run(flatten(params), INPUTS, folder / "run-id", stage="adapt-base")
            if is_main
            else nullcontext()
        )
        with tracked as run:
            train(adaptation, run)
            if run:
                save(adaptation)
                tag_output(run, ADAPTED_BASE, dvc_md5(ADAPTED_BASE))
    adaptation.accelerator.end_training()
    size = sum(weight.numel() for weight in adaptation.weights) / 1e6
    learnt = f"low-rank updates of {size:.2f} M" if stage.lora_rank else f"UNet of {size:.2f} M"
    return (
        f"{learnt} weights trained for {stage.steps} steps of {stage.batch_size} on"
        f" {len(adaptation.source)} patches, loss {adaptation.losses.means()[-1][1]:.4f}"
    )


def identity_of(params: Params) -> dict[str, Any]:
    """What decides the weights: a checkpoint is only continued with the same."""
    decisive = params.adapt_base.model_dump(mode="json", exclude=EXECUTION)
    decisive["image_size"] = params.image_size
    scripts = [__file__, base_adaptation.__file__, accelerator_module.__file__]
    return training_identity(decisive, INPUTS, scripts, ("data", "models", "training"))


def train(adaptation: Adaptation, run: Run | None) -> None:
    """All steps that are left. Rank 0 logs to `run`.

    Raises:
        KeyboardInterrupt: SIGTERM or SIGINT came; the current step is finished and saved.
        WorkError: the loss is not finite, or a checkpoint cannot be written.
    """
    params, stage = adaptation.params, adaptation.params.adapt_base
    accelerator, distributed = adaptation.accelerator, adaptation.distributed
    base, checkpoint, tracking = adaptation.base, adaptation.checkpoint, params.tracking
    start = checkpoint.restore()
    distributed.require_equal(start, "the step of the restored checkpoint")
    model = accelerator.prepare_model(adaptation.model)
    crop = stage.crop // base.vae_scale_factor
    draws = Draws(stage.seed, stage.batch_size, stage.caption_dropout, stage.augment, crop)
    own = batches_of_rank(adaptation.source, draws, base, params.image_size, distributed)
    batches = load_batches(
        own, start, stage.steps, params.runtime.loaders, pin_memory=adaptation.device.type == "cuda"
    )
    sheet = load_evenly_spaced("validation", tracking.images, params.image_size) if run else None
    speed = Speedometer(stage.batch_size, start)
    steps = range(start, stage.steps)
    with StopSignal() as stop:
        for step in (
            progress(steps, "UNet", "steps", stage.steps, start) if distributed.is_main else steps
        ):
            batch = next(batches)

            step_loss = torch.zeros((), device=adaptation.device)
            parts = micro_batches(batch, stage.gradient_accumulation)
            for number, part in enumerate(parts, 1):
                # Ranks exchange gradients once a step, with those of the last micro-batch.
                with nullcontext() if number == len(parts) else accelerator.no_sync(model):
                    with accelerator.autocast():
                        losses = denoising_loss(model, base, part)
                    loss = losses.mean() / len(parts)
                    accelerator.backward(loss)
                step_loss += loss.detach()
                adaptation.bins.add(part["timesteps"], losses)

            gradient_norm = accelerator.clip_grad_norm_(adaptation.weights, stage.max_grad_norm)
            learning_rate = learning_rate_at(
                step, stage.steps, stage.learning_rate, stage.warmup_steps, stage.schedule
            )
            set_learning_rate(adaptation.optimizer, learning_rate)
            adaptation.optimizer.step()
            adaptation.optimizer.zero_grad()
            if adaptation.ema:
                adaptation.ema.step(adaptation.weights)
            adaptation.losses.add(accelerator.reduce(step_loss, "mean"))

            done, last = step + 1, step + 1 == stage.steps
            if done % tracking.log_every == 0:
                metrics = {
                    "loss": adaptation.losses.last(tracking.log_every),
                    "learning_rate": learning_rate,
                    "gradient_norm": float(gradient_norm),
                    "samples_per_second": speed.samples_per_second(done),
                    "memory_megabytes": memory_megabytes(adaptation.device),
                } | adaptation.bins.pop(accelerator.reduce)
                if run:
                    run.metrics(done, metrics)
                speed.restart(done)
            if run and sheet and (done % tracking.images_every == 0 or last):
                for patch_id, image in sample_images(adaptation, sheet).items():
                    run.image(done, image, f"validation/{patch_id}")
                speed.restart(done)

            stopping = distributed.any(stop.received)
            if stopping or done % params.runtime.checkpoint_every == 0 or last:
                adaptation.losses.check()
                if distributed.is_main:
                    checkpoint.save(done)
            if stopping:
                checkpoint.wait()
                distributed.barrier()  # no rank leaves before rank 0 has saved
                raise KeyboardInterrupt
    checkpoint.wait()


def save(adaptation: Adaptation) -> None:
    """Write the model with its card and source.json, and the losses."""
    params, loss = adaptation.params, adaptation.losses.means()[-1][1]
    origin = read_json(BASE / "source.json")
    origin["adaptation"] = {
        "base_md5": dvc_md5(BASE),
        "dataset": params.dataset_spec.name,
        "dataset_md5": dvc_md5(DATASET),
        "credits": params.credits,
        "loss": loss,
        "params": params.adapt_base.model_dump(mode="json", exclude=EXECUTION),
    }
    with atomic_folder(ADAPTED_BASE) as folder:
        pass_on(BASE, folder, without=OWN_FILES)
        with averaged_weights(adaptation.ema, adaptation.weights):
            unet = adaptation.model.merge()
            unet.to(memory_format=torch.contiguous_format).save_pretrained(folder / "unet")
        card = adapted_base_card(params, BASE, loss)
        (folder / "README.md").write_text(card, encoding="utf-8")
        origin["sha256"] = file_hashes(folder)
        write_json(folder / "source.json", origin)
    write_curve(ADAPTATION_LOSSES, adaptation.losses.means())


if __name__ == "__main__":
    run_stage("adapt-base", __doc__, main)
