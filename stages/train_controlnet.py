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

from aerialdreams.about import write_about
from aerialdreams.controlnet_card import controlnet_card
from aerialdreams.curves import Bands, LossCurve, Points, write_curve
from aerialdreams.dataset import DATASET, load_some
from aerialdreams.diffusion import BASE, CONTROLNET, UNET, Base, generate, load_base, orders_of
from aerialdreams.errors import UserError
from aerialdreams.files import fingerprint, path_md5, whole_folder
from aerialdreams.latents import LATENTS, Latents, Pictures, Source, Steps
from aerialdreams.params import Params
from aerialdreams.pictures import grid
from aerialdreams.processes import launch, launched, team_up
from aerialdreams.stage import run_stage, scratch
from aerialdreams.student import (
    errors_of,
    held_out_loss,
    new_student,
    parts_of,
    weights_of,
    wrap,
)
from aerialdreams.tracking import Run, register_model, training_run
from aerialdreams.training import (
    DTYPES,
    Checkpoint,
    scheduled_rate,
    set_rate,
    set_up_torch,
    stop_deaf,
    training_steps,
)

LOSSES, HELD_OUT = Path("metrics/controlnet.csv"), Path("metrics/controlnet_held_out.csv")
INPUTS = [LATENTS, DATASET, BASE]


def main(params: Params) -> str:
    stage = params.train_controlnet
    if stage.processes > 1 and not launched():
        launch("stages.train_controlnet", stage.processes)
    set_up_torch(params.torch_threads)
    training = Training(params)
    kept_id = training.checkpoint.path.with_suffix(".run")
    with training_run(params, INPUTS, kept_id) if training.team.first else nullcontext() as run:
        training.train(run)
        if run:
            training.save()
            register_model(run, CONTROLNET, path_md5(CONTROLNET))
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
        self.team = team_up(count)
        found = (
            self.accelerator.device
        )  # of several on a CPU, it is cpu:0, which torch.load refuses
        self.device = found if found.type != "cpu" else torch.device("cpu")
        self.base = load_base().to(self.device)
        self.source = load_source(self.base, params)
        self.student = new_student(self.base, stage).to(self.device)
        self.planes = self.student.controlnet.config["conditioning_channels"]
        self.weights = [*self.student.controlnet.parameters()]
        if stage.unlock_decoder:
            self.weights += self.student.decoder.parameters()
        else:  # only its outputs are used: half the memory where precision is half
            self.student.unet.to(DTYPES[stage.precision])
        optimizer = torch.optim.AdamW(self.weights, weight_decay=stage.weight_decay, fused=True)
        self.optimizer = self.accelerator.prepare(optimizer)
        self.losses, self.held_out = LossCurve("ControlNet"), Points()
        self.bands = Bands(self.base.scheduler.config["num_train_timesteps"], self.device)
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
            scratch() / f"train-controlnet-{self.team.agree(key)}.pt",
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
        looks = load_some("validation", stage.images, params.image_size) if run else None
        for step in training_steps(
            self.checkpoint, stage.steps, params.runtime.checkpoint_every, "ControlNet", self.team
        ):
            if shared is None or step == unlocked_from:
                unlocked = step >= unlocked_from and stage.unlock_decoder > 0
                shared, model = wrap(self.accelerator, self.student, stage, unlocked)
            batches = batches or iter(self.load_ahead(step))
            clock = clock or (step, time.monotonic())
            rate = scheduled_rate(
                step, stage.steps, stage.learning_rate, stage.warmup, stage.schedule
            )
            set_rate(self.optimizer, rate)
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
        parts = parts_of(batch, stage.accumulation)
        total = torch.zeros((), device=self.device)
        for number, part in enumerate(parts, 1):
            # Processes exchange gradients once, with the last part's.
            with nullcontext() if number == len(parts) else self.accelerator.no_sync(shared):
                with self.accelerator.autocast():
                    errors = errors_of(model, self.base, part, self.planes, self.params.classes)
                weights = weights_of(self.base, part["times"], stage.min_snr_gamma)
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
        steps = Steps(
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
            worker_init_fn=stop_deaf,
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
        held, batch = Latents("validation"), self.params.encode_latents.batch
        with self.averaged():
            loss = held_out_loss(self.student, self.base, held, batch, self.params.classes)
        self.held_out.add(done, loss)
        return loss

    def look(self, looks: Any) -> NDArray[np.uint8]:
        """A sheet of validation patches (mask, real, generated), the same noise every time."""
        settings, classes = self.params.generate_validation, self.params.classes
        with self.averaged():
            orders, controlnet = orders_of(looks), self.student.controlnet
            images = generate(self.base, controlnet, orders, settings, classes)
        return grid(list(looks.masks), [list(looks.images), list(images)], classes)

    def save(self) -> None:
        """Write the model, with its card, and the curves."""
        with whole_folder(CONTROLNET) as folder, self.averaged():
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


def load_source(base: Base, params: Params) -> Source:
    """The train split, as its codes or, where latent_cache is false, as pictures."""
    if params.train_controlnet.latent_cache:
        return Latents("train")
    return Pictures("train", params.image_size, base.tokenizer)


def memory_megabytes(device: torch.device) -> float:
    """The most of the GPU's memory that was in use, or this process's own of the machine's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return float(psutil.Process().memory_info().rss / 1e6)


if __name__ == "__main__":
    run_stage("train-controlnet", __doc__, main)
