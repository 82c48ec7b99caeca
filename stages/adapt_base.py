"""adapt-base: the base model learns the train split: the decoder of its autoencoder, and its UNet.

Reads   models/base/, data/dataset/ (train; some validation patches for the images in MLflow)
Writes  models/adapted_base/ in diffusers' layout: the base model with what was trained, a card, and
        source.json, the base's with what was trained on which dataset; metrics/adaptation.csv and
        metrics/adaptation_autoencoder.csv, the losses; a run in MLflow with params, curves and
        images

The decoder is trained for adapt_base.autoencoder.steps, then the UNet for adapt_base.steps. With 0
for both, models/adapted_base/ has the files of models/base/, and there are no losses and no run. A
training that was stopped or killed resumes from its last checkpoint and ends with the same bytes.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch

from aerialdreams.data.dataset import load_evenly_spaced
from aerialdreams.errors import UserError
from aerialdreams.models.base_folder import file_hashes, pass_on
from aerialdreams.models.families import BaseModel
from aerialdreams.models.latent_diffusion import save_vae
from aerialdreams.models.widening import needs_widening
from aerialdreams.params import Params, flat, flatten
from aerialdreams.paths import ADAPTATION_LOSSES, ADAPTED_BASE, AUTOENCODER_LOSSES, BASE, DATASET
from aerialdreams.pipeline import accelerator as accelerator_module
from aerialdreams.pipeline import base_adaptation
from aerialdreams.pipeline.accelerator import Speedometer, batches_of_rank, memory_megabytes
from aerialdreams.pipeline.adapted_base_card import adapted_base_card
from aerialdreams.pipeline.base_adaptation import (
    Adaptation,
    AutoencoderAdaptation,
    UNetAdaptation,
    Workplace,
)
from aerialdreams.pipeline.identity import training_identity
from aerialdreams.pipeline.launch import is_launched, launch_processes
from aerialdreams.pipeline.stage import run_stage, scratch_dir
from aerialdreams.pipeline.tracking import Run, tag_output, training_run
from aerialdreams.training.batches import load_batches, micro_batches
from aerialdreams.training.checkpoint import StopSignal
from aerialdreams.training.loss_curves import write_curve
from aerialdreams.training.schedule import learning_rate_at, set_learning_rate
from aerialdreams.util.files import atomic_folder, dvc_md5, read_json, write_json
from aerialdreams.util.progress import progress
from aerialdreams.util.scratch import work_folder
from aerialdreams.util.torch_setup import configure_torch

INPUTS = [DATASET, BASE]
# Params of the stage that change how the work is done, not what is learnt (but for rounding).
EXECUTION = {"processes", "gradient_accumulation", "gradient_checkpointing"}


class Learnt(NamedTuple):
    """What is left of a training when its network is trained.

    Attributes:
        summary: in numbers.
        losses: points of the curve.
    """

    summary: str
    losses: list[tuple[int, float]]


def main(params: Params) -> str:
    stage, learnt = params.adapt_base, dict[str, Learnt]()
    if not (BASE / "source.json").is_file():
        raise UserError(f"{BASE}: no base model; run `dvc repro base-model`")
    if needs_widening(BASE, len(params.bands)) and not stage.autoencoder.steps:
        raise UserError(
            f"adapt_base.autoencoder.steps: is 0, but the autoencoder of {BASE} must learn further"
            f" bands, since bands is [{', '.join(params.bands)}]; set it to some thousands"
        )
    if not stage.steps and not stage.autoencoder.steps:
        with atomic_folder(ADAPTED_BASE) as folder:
            pass_on(BASE, folder)
        write_curves(learnt)
        return f"0 steps, so that {ADAPTED_BASE} has the files of {BASE}"
    if stage.processes > 1 and not is_launched():
        launch_processes("stages.adapt_base", stage.processes)
    configure_torch(params.compute.threads, params.compute.deterministic)
    place = Workplace(params)
    is_main = place.distributed.is_main
    unfinished = work_folder(scratch_dir(), "adapt-base", identity_of(params))
    with unfinished if is_main else nullcontext() as work:
        # Other ranks restore from rank 0's checkpoints.
        folder = Path(place.distributed.broadcast(str(work) if work else None))
        tracked = (
            training_run(flatten(params), INPUTS, folder / "run-id", stage="adapt-base")
            if is_main
            else nullcontext()
        )
        with tracked as run:
            if stage.autoencoder.steps:
                learnt["vae"] = learn(AutoencoderAdaptation(place), folder / "vae.pt", run)
            if stage.steps:
                learnt["unet"] = learn(UNetAdaptation(place), folder / "unet.pt", run)
            if run:
                save(params, place.base, learnt)
                tag_output(run, ADAPTED_BASE, dvc_md5(ADAPTED_BASE))
    place.accelerator.end_training()
    return "; ".join(network.summary for network in learnt.values())


def identity_of(params: Params) -> dict[str, Any]:
    """What decides the weights: a checkpoint is only continued with the same."""
    decisive = flat(params.adapt_base.model_dump(mode="json", exclude=EXECUTION))
    decisive |= {"image_size": params.image_size, "bands": params.bands}
    scripts = [__file__, base_adaptation.__file__, accelerator_module.__file__]
    return training_identity(decisive, INPUTS, scripts, ("data", "models", "training"))


def learn(adaptation: Adaptation, checkpoint: Path, run: Run | None) -> Learnt:
    """Train a network of the base model; see `train`."""
    adaptation.checkpoint.path = checkpoint
    train(adaptation, run)
    adaptation.finish()
    return Learnt(adaptation.summary(), adaptation.losses.means())


def train(adaptation: Adaptation, run: Run | None) -> None:
    """All steps of a training that are left. Rank 0 logs to `run`.

    Raises:
        KeyboardInterrupt: SIGTERM or SIGINT came; the current step is finished and saved.
        WorkError: the loss is not finite, or a checkpoint cannot be written.
    """
    place, checkpoint = adaptation.place, adaptation.checkpoint
    params, accelerator, distributed = place.params, place.accelerator, place.distributed
    stage, settings, tracking = params.adapt_base, adaptation.settings, params.tracking
    start = checkpoint.restore()
    distributed.require_equal(start, "the step of the restored checkpoint")
    model = accelerator.prepare_model(adaptation.model)
    own = batches_of_rank(
        place.source, adaptation.draws, place.base, params.image_size, distributed
    )
    batches = load_batches(
        own, start, settings.steps, params.runtime.loaders, pin_memory=place.device.type == "cuda"
    )
    sheet = load_evenly_spaced("validation", tracking.images, params.image_size) if run else None
    speed = Speedometer(settings.batch_size, start)
    steps = range(start, settings.steps)
    with StopSignal() as stop:
        for step in (
            progress(steps, adaptation.name, "steps", settings.steps, start)
            if distributed.is_main
            else steps
        ):
            batch = next(batches)

            step_loss = torch.zeros((), device=place.device)
            parts = micro_batches(batch, stage.gradient_accumulation)
            for number, part in enumerate(parts, 1):
                # Ranks exchange gradients once a step, with those of the last micro-batch.
                with nullcontext() if number == len(parts) else accelerator.no_sync(model):
                    with accelerator.autocast():
                        losses = adaptation.sample_losses(model, part)
                    loss = losses.mean() / len(parts)
                    accelerator.backward(loss)
                step_loss += loss.detach()

            gradient_norm = accelerator.clip_grad_norm_(adaptation.weights, stage.max_grad_norm)
            learning_rate = learning_rate_at(
                step, settings.steps, settings.learning_rate, stage.warmup_steps, stage.schedule
            )
            set_learning_rate(adaptation.optimizer, learning_rate)
            adaptation.optimizer.step()
            adaptation.optimizer.zero_grad()
            if adaptation.ema:
                adaptation.ema.step(adaptation.weights)
            adaptation.losses.add(accelerator.reduce(step_loss, "mean"))

            done, last = step + 1, step + 1 == settings.steps
            if done % tracking.log_every == 0:
                metrics = {
                    "loss": adaptation.losses.last(tracking.log_every),
                    "learning_rate": learning_rate,
                    "gradient_norm": float(gradient_norm),
                    "samples_per_second": speed.samples_per_second(done),
                    "memory_megabytes": memory_megabytes(place.device),
                } | adaptation.metrics()
                if run:
                    named = {adaptation.prefix + name: value for name, value in metrics.items()}
                    run.metrics(done, named)
                speed.restart(done)
            if run and sheet and (done % tracking.images_every == 0 or last):
                for patch_id, image in adaptation.sheets(sheet).items():
                    run.image(done, image, f"{adaptation.prefix}validation/{patch_id}")
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


def save(params: Params, base: BaseModel, learnt: Mapping[str, Learnt]) -> None:
    """Write the model with its card and source.json, and the losses.

    Args:
        params: all params.
        base: with its trained networks.
        learnt: by the name of its folder, each network that was trained.
    """
    losses = {name: network.losses[-1][1] for name, network in learnt.items()}
    origin = read_json(BASE / "source.json")
    origin["adaptation"] = {
        "base_md5": dvc_md5(BASE),
        "dataset": params.dataset_spec.name,
        "dataset_md5": dvc_md5(DATASET),
        "credits": params.credits,
        "bands": params.bands,
        "losses": losses,
        "params": params.adapt_base.model_dump(mode="json", exclude=EXECUTION),
    }
    with atomic_folder(ADAPTED_BASE) as folder:
        pass_on(BASE, folder, without=(*learnt, "README.md", "source.json"))
        if "vae" in learnt:
            save_vae(base.vae, folder)  # of more bands, if the images have more
        if "unet" in learnt:
            base.unet.to(memory_format=torch.contiguous_format).save_pretrained(folder / "unet")
        card = adapted_base_card(params, BASE, losses)
        (folder / "README.md").write_text(card, encoding="utf-8")
        origin["sha256"] = file_hashes(folder)
        write_json(folder / "source.json", origin)
    write_curves(learnt)


def write_curves(learnt: Mapping[str, Learnt]) -> None:
    """Write the losses of each network for `dvc plots`, none if it was not trained."""
    for name, path in (("vae", AUTOENCODER_LOSSES), ("unet", ADAPTATION_LOSSES)):
        write_curve(path, learnt[name].losses if name in learnt else [])


if __name__ == "__main__":
    run_stage("adapt-base", __doc__, main)
