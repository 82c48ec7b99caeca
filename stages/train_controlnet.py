"""train-controlnet: teach a ControlNet to follow land-cover masks.

Reads   data/latents/, models/base/, data/dataset/ (some validation patches to look at; all of
        train where latent_cache is false)
Writes  models/controlnet/ in diffusers' layout; metrics/controlnet.csv and
        metrics/controlnet_held_out.csv, the losses; a run in MLflow with params, curves, images
        and the model. A run that was stopped or killed goes on from its last checkpoint.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from diffusers.training_utils import EMAModel
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from aerialdreams.data.contact_sheet import image_grid
from aerialdreams.data.dataset import load_evenly_spaced
from aerialdreams.errors import UserError
from aerialdreams.generation.batch import generate_batch, requests_from_split
from aerialdreams.models.controlnet import UNET
from aerialdreams.models.model_info import write_about
from aerialdreams.models.stable_diffusion import StableDiffusion, load_stable_diffusion
from aerialdreams.params import Params
from aerialdreams.paths import BASE, CONTROLNET, DATASET, LATENTS
from aerialdreams.pipeline.controlnet_card import controlnet_card
from aerialdreams.pipeline.launch import is_launched, launch_processes
from aerialdreams.pipeline.stage import run_stage, scratch_dir
from aerialdreams.pipeline.tracking import Run, register_model, training_run
from aerialdreams.training.checkpoint import Checkpoint, ignore_stop_signals, training_steps
from aerialdreams.training.controlnet import held_out_loss, new_controlled_unet, split_batch, wrap
from aerialdreams.training.distributed import init_distributed
from aerialdreams.training.latents import ImageSource, LatentSource, StepBatches, TrainingSource
from aerialdreams.training.loss_curves import CurvePoints, LossCurve, TimestepBins, write_curve
from aerialdreams.training.losses import per_sample_loss, snr_weights
from aerialdreams.training.schedule import learning_rate_at, set_learning_rate
from aerialdreams.util.files import atomic_folder, dvc_md5, fingerprint
from aerialdreams.util.torch_setup import DTYPES, configure_torch

LOSSES, HELD_OUT = Path("metrics/controlnet.csv"), Path("metrics/controlnet_held_out.csv")
INPUTS = [LATENTS, DATASET, BASE]


def main(params: Params) -> str:
    stage = params.train_controlnet
    if stage.processes > 1 and not is_launched():
        launch_processes("stages.train_controlnet", stage.processes)
    configure_torch(params.torch_threads)
    training = Training(params)
    kept_id = training.checkpoint.path.with_suffix(".run")
    with training_run(params, INPUTS, kept_id) if training.team.first else nullcontext() as run:
        training.train(run)
        if run:
            training.save()
            register_model(run, CONTROLNET, dvc_md5(CONTROLNET))
    if training.team.first:
        training.checkpoint.remove()
    training.accelerator.end_training()
    size = sum(weight.numel() for weight in training.weights) / 1e6
    return (
        f"ControlNet of {size:.2f} M weights trained for {stage.steps} steps of {stage.batch} on"
        f" {len(training.source)} patches, loss {training.losses.means()[-1][1]:.4f}, held out"
        f" {training.held_out.values[-1][1] if training.team.first else 0:.4f}"
    )


class Training:
    """A training's networks, data and curves, in one of the processes that share it."""

    def __init__(self, params: Params) -> None:
        self.params = params
        stage = params.train_controlnet
        self.accelerator = Accelerator(
            # Without this, accelerate takes each of several processes on a CPU for the only one.
            cpu=not torch.cuda.is_available(),
            mixed_precision="no" if stage.precision == "fp32" else stage.precision,
            kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True)],
        )
        count = self.accelerator.num_processes
        if count != stage.processes:  # on which sums depend
            raise UserError(
                f"train_controlnet.processes: is {stage.processes}, and {count} were started; set"
                f" it to {count}"
            )
        self.team = init_distributed(count)
        found = (
            self.accelerator.device
        )  # of several on a CPU, it is cpu:0, which torch.load refuses
        self.device = found if found.type != "cpu" else torch.device("cpu")
        self.base = load_stable_diffusion().to(self.device)
        self.source = load_source(self.base, params)
        self.student = new_controlled_unet(self.base, stage).to(self.device)
        self.planes = self.student.controlnet.config["conditioning_channels"]
        self.weights = [*self.student.controlnet.parameters()]
        if stage.unlock_decoder:
            self.weights += self.student.decoder.parameters()
        else:  # only its outputs are used: half the memory where precision is half
            self.student.unet.to(DTYPES[stage.precision])
        optimizer = torch.optim.AdamW(self.weights, weight_decay=stage.weight_decay, fused=True)
        self.optimizer = self.accelerator.prepare(optimizer)
        self.losses, self.held_out = LossCurve("ControlNet"), CurvePoints()
        self.bands = TimestepBins(self.base.scheduler.config["num_train_timesteps"], self.device)
        self.ema: EMAModel | None = None
        if stage.ema_decay:
            self.ema = EMAModel(self.weights, decay=stage.ema_decay, foreach=True)
        state: dict[str, Any] = {
            "controlnet": self.student.controlnet,
            "decoder": self.student.decoder if stage.unlock_decoder else None,
            "optimizer": optimizer,
            "scaler": self.accelerator.scaler,
            "ema": self.ema,
            "losses": self.losses,
            "held_out": self.held_out,
            "bands": self.bands,
        }
        # Generation's settings are among what MLflow's images depend on, no more.
        settings = [stage, params.image_size, params.torch_threads, params.classes]
        key = fingerprint(settings, __file__, INPUTS) if self.team.first else None
        self.checkpoint = Checkpoint(
            scratch_dir() / f"train-controlnet-{self.team.agree(key)}.pt",
            {name: part for name, part in state.items() if part is not None},
            self.device,
        )

    def train(self, run: Run | None) -> None:
        """All steps that are left; `run` is told of them, by the first process."""
        params, stage = self.params, self.params.train_controlnet
        unlocked_from = stage.steps - stage.unlock_decoder
        shared: Any = None
        batches: Iterator[dict[str, Tensor]] | None = None
        clock: tuple[int, float] | None = None  # since when samples per second are counted
        looks = load_evenly_spaced("validation", stage.images, params.image_size) if run else None
        for step in training_steps(
            self.checkpoint, stage.steps, params.runtime.checkpoint_every, "ControlNet", self.team
        ):
            if shared is None or step == unlocked_from:
                unlocked = step >= unlocked_from and stage.unlock_decoder > 0
                shared, model = wrap(self.accelerator, self.student, stage, unlocked)
            batches = batches or iter(self.load_ahead(step))
            clock = clock or (step, time.monotonic())
            rate = learning_rate_at(
                step, stage.steps, stage.learning_rate, stage.warmup, stage.schedule
            )
            set_learning_rate(self.optimizer, rate)
            norm = self.learn(shared, model, next(batches))

            done, numbers = step + 1, {}
            if done % stage.log_every == 0:
                numbers = {
                    "loss": self.losses.last(stage.log_every),
                    "learning_rate": rate,
                    "gradient_norm": float(norm),
                    "samples_per_second": (done - clock[0])
                    * stage.batch
                    / (time.monotonic() - clock[1]),
                    "memory_megabytes": memory_megabytes(self.device),
                } | self.bands.take(self.accelerator.reduce)
                clock = None
            if run and (done % stage.held_out_every == 0 or done == stage.steps):
                numbers["held_out_loss"] = self.measure(done)
                clock = None
            if run and numbers:
                run.metrics(done, numbers)
            if run and (done % stage.images_every == 0 or done == stage.steps):
                run.image(done, self.look(looks), "validation")
                clock = None

    def learn(self, shared: Any, model: Any, batch: dict[str, Tensor]) -> Tensor:
        """One step on this process's share of a batch; gives the gradient's norm."""
        stage = self.params.train_controlnet
        parts = split_batch(batch, stage.accumulation)
        total = torch.zeros((), device=self.device)
        for number, part in enumerate(parts, 1):
            # Processes exchange gradients once, with the last part's.
            with nullcontext() if number == len(parts) else self.accelerator.no_sync(shared):
                with self.accelerator.autocast():
                    errors = per_sample_loss(
                        model, self.base, part, self.planes, self.params.classes
                    )
                weights = snr_weights(self.base, part["times"], stage.min_snr_gamma)
                loss = (errors * weights.to(self.device)).mean() / len(parts)
                self.accelerator.backward(loss)
            total += loss.detach()
            self.bands.add(part["times"], errors)
        norm: Tensor = self.accelerator.clip_grad_norm_(self.weights, stage.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.ema:
            self.ema.step(self.weights)
        self.losses.add(self.accelerator.reduce(total, "mean"))
        return norm

    def load_ahead(self, first: int) -> "DataLoader[dict[str, Tensor]]":
        """This process's batches from a step on, read ahead by runtime.loaders processes."""
        stage, vae, size = (
            self.params.train_controlnet,
            self.base.vae.config,
            self.params.image_size,
        )
        side = size // 2 ** (len(vae["block_out_channels"]) - 1)
        steps = StepBatches(
            self.source,
            stage,
            (vae["latent_channels"], side, side),
            self.base.scheduler.config["num_train_timesteps"],
            self.team.rank,
            self.team.count,
        )
        return DataLoader(
            steps,
            batch_size=None,
            sampler=range(first, stage.steps),
            num_workers=self.params.runtime.loaders,
            worker_init_fn=ignore_stop_signals,
            pin_memory=self.device.type == "cuda",
        )

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The networks with the averaged weights, where there are some."""
        if self.ema:
            self.ema.store(self.weights)
            self.ema.copy_to(self.weights)
        self.student.controlnet.eval()
        try:
            with self.accelerator.autocast():
                yield
        finally:
            self.student.controlnet.train()
            if self.ema:
                self.ema.restore(self.weights)

    def measure(self, done: int) -> float:
        """The held-out loss, which is kept too."""
        held, batch = LatentSource("validation"), self.params.encode_latents.batch
        with self.averaged():
            loss = held_out_loss(self.student, self.base, held, batch, self.params.classes)
        self.held_out.add(done, loss)
        return loss

    def look(self, looks: Any) -> NDArray[np.uint8]:
        """A sheet of validation patches (mask, real, generated), the same noise every time."""
        settings, classes = self.params.generate_validation, self.params.classes
        with self.averaged():
            orders, controlnet = requests_from_split(looks), self.student.controlnet
            images = generate_batch(self.base, controlnet, orders, settings, classes)
        return image_grid(list(looks.masks), [list(looks.images), list(images)], classes)

    def save(self) -> None:
        """Write the model, with its card, and the curves."""
        with atomic_folder(CONTROLNET) as folder, self.averaged():
            self.student.controlnet.save_pretrained(folder)
            if self.params.train_controlnet.unlock_decoder:
                self.student.unet.save_pretrained(folder / UNET)
            card = controlnet_card(
                self.params, self.losses.means()[-1][1], self.held_out.values[-1][1]
            )
            (folder / "README.md").write_text(card, encoding="utf-8")
            write_about(folder, self.params.image_size, self.params.classes)
        write_curve(LOSSES, self.losses.means())
        write_curve(HELD_OUT, self.held_out.values)


def load_source(base: StableDiffusion, params: Params) -> TrainingSource:
    """The train split, as its codes or, where latent_cache is false, as pictures."""
    if params.train_controlnet.latent_cache:
        return LatentSource("train")
    return ImageSource("train", params.image_size, base.tokenizer)


def memory_megabytes(device: torch.device) -> float:
    """The most of the GPU's memory that was in use, or this process's own of the machine's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return float(psutil.Process().memory_info().rss / 1e6)


if __name__ == "__main__":
    run_stage("train-controlnet", __doc__, main)
