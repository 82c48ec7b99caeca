"""The trainings of adapt-base as it sets them up: network, data, optimizer, checkpoint."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL
from diffusers.training_utils import EMAModel
from numpy.typing import NDArray
from torch import Tensor

from aerialdreams.data.dataset import Split
from aerialdreams.generation.batch import generate_batch, reconstruct, requests_from_split
from aerialdreams.models.conditioning import MaskConditioning
from aerialdreams.models.families import BaseModel, load_base
from aerialdreams.models.sampling import Sampling
from aerialdreams.models.widening import needs_widening, widen
from aerialdreams.params import Params
from aerialdreams.paths import BASE
from aerialdreams.pipeline.accelerator import averaged_weights, start_accelerator, validation_sheets
from aerialdreams.pipeline.distributed import Distributed
from aerialdreams.training.adaptation import AdaptedUNet, denoising_loss
from aerialdreams.training.autoencoder import AdaptedAutoencoder, reconstruction_loss
from aerialdreams.training.checkpoint import Checkpoint
from aerialdreams.training.latents import Draws, ImageSource
from aerialdreams.training.loss_curves import LossCurve, TimestepBins
from aerialdreams.training.optimizer import new_optimizer


class Settings(Protocol):
    """The params that each training has of its own; params.yaml has the meaning of each."""

    @property
    def steps(self) -> int: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def crop(self) -> int: ...


class Workplace:
    """The base model and the processes that train it: what both trainings share, on one rank.

    Args:
        params: all params.

    Raises:
        UserError: the number of processes, the base model or the dataset do not fit the params.
    """

    def __init__(self, params: Params) -> None:
        stage = params.adapt_base
        self.params = params
        self.accelerator: Accelerator
        self.distributed: Distributed
        self.accelerator, self.distributed, self.device = start_accelerator(
            "adapt_base", stage.precision, stage.processes
        )
        self.base: BaseModel = load_base(BASE)
        self.widened = needs_widening(BASE, len(params.bands))
        if self.widened:
            assert isinstance(self.base.vae, AutoencoderKL)
            self.base.vae = widen(self.base.vae, len(params.bands))
        self.base.to(self.device)
        self.source = ImageSource("train", params.image_size, self.base.tokenizers)


class Adaptation(ABC):
    """The training of one network of the base model, on one rank.

    Args:
        place: where it is trained.
        settings: its own params.
        model: the network.
        name: of the network, for messages.
        what: is trained of it, for the summary.
        prefix: of the names of its curves and images in MLflow.

    Raises:
        UserError: the optimizer does not fit the device.
    """

    def __init__(
        self,
        place: Workplace,
        settings: Settings,
        model: AdaptedUNet | AdaptedAutoencoder,
        name: str,
        what: str,
        prefix: str = "",
    ) -> None:
        stage = place.params.adapt_base
        self.place, self.settings, self.model = place, settings, model.to(place.device)
        self.name, self.what, self.prefix = name, what, prefix
        self.weights = self.model.weights
        crop = settings.crop // place.base.vae_scale_factor
        self.draws = Draws(
            stage.seed, settings.batch_size, stage.caption_dropout, stage.augment, crop
        )
        optimizer = new_optimizer(
            self.weights, "adapt_base.optimizer", stage.optimizer, stage.weight_decay, place.device
        )
        self.optimizer = place.accelerator.prepare(optimizer)
        decay = stage.ema_decay
        self.ema = EMAModel(self.weights, decay=decay, foreach=True) if decay else None
        self.losses = LossCurve(name)
        parts = {
            "weights": torch.nn.ParameterList(self.weights),
            "optimizer": optimizer,
            "scaler": place.accelerator.scaler,
            "ema": self.ema,
            "losses": self.losses,
        }
        kept = {key: part for key, part in parts.items() if part is not None}
        self.checkpoint = Checkpoint(Path(), kept, place.device)

    @abstractmethod
    def sample_losses(self, model: torch.nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """The loss of each sample of a batch, (samples,).

        Args:
            model: the network, or a wrapper around it.
            batch: see `latents.TrainingBatches`.
        """

    @abstractmethod
    def pictures(self, patches: Split) -> NDArray[np.uint8]:
        """What the network makes of some patches, (patches, size, size, bands)."""

    def metrics(self) -> dict[str, float]:
        """Further metrics since the last call, by name."""
        return {}

    def sheets(self, patches: Split) -> dict[str, NDArray[np.uint8]]:
        """Mask, real image and `pictures` of some patches: by patch id, RGB, side by side."""
        with averaged_weights(self.ema, self.weights), self.place.accelerator.autocast():
            images = self.pictures(patches)
        return validation_sheets(patches, images, self.place.params.classes)

    def finish(self) -> None:
        """Leave the trained network in the base model, and free the memory of the training."""
        if self.ema:
            self.ema.copy_to(self.weights)
        self.model.requires_grad_(False)
        self.place.accelerator.free_memory()

    def summary(self) -> str:
        """What was trained, in numbers."""
        size = sum(weight.numel() for weight in self.weights) / 1e6
        return (
            f"{self.what} of {size:.2f} M weights trained for {self.settings.steps} steps of"
            f" {self.settings.batch_size} on {len(self.place.source)} patches, loss"
            f" {self.losses.means()[-1][1]:.4f}"
        )


class UNetAdaptation(Adaptation):
    """The training of the base model's UNet."""

    def __init__(self, place: Workplace) -> None:
        stage, base = place.params.adapt_base, place.base
        if stage.gradient_checkpointing:
            base.unet.enable_gradient_checkpointing()
        self.unet = AdaptedUNet(base.unet, stage.lora_rank, stage.seed)
        what = "low-rank updates" if stage.lora_rank else "UNet"
        super().__init__(place, stage, self.unet, "UNet", what)
        self.bins = TimestepBins(base.num_train_timesteps, place.device)
        self.checkpoint.parts["bins"] = self.bins

    def sample_losses(self, model: torch.nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """See `Adaptation`."""
        losses = denoising_loss(model, self.place.base, batch)
        self.bins.add(batch["timesteps"], losses)
        return losses

    def pictures(self, patches: Split) -> NDArray[np.uint8]:
        """Images generated from the captions alone, always from the same noise."""
        params = self.place.params
        return generate_batch(
            self.place.base,
            None,
            MaskConditioning("one_hot", tuple(params.classes)),
            requests_from_split(patches),
            Sampling(**params.train_controlnet.sampling.model_dump()),
            params.generate_validation.seed,
        )

    def metrics(self) -> dict[str, float]:
        """The loss by timestep."""
        return self.bins.pop(self.place.accelerator.reduce)

    def finish(self) -> None:
        """See `Adaptation`; low-rank updates are merged into the weights."""
        super().finish()
        self.place.base.unet = self.unet.merge()


class AutoencoderAdaptation(Adaptation):
    """The training of the decoder of the base model's autoencoder."""

    def __init__(self, place: Workplace) -> None:
        settings = place.params.adapt_base.autoencoder
        model = AdaptedAutoencoder(place.base.vae, first_layer=place.widened)
        what = f"autoencoder's {'first layer and ' if place.widened else ''}decoder"
        super().__init__(place, settings, model, "autoencoder", what, "autoencoder/")
        self.noise = settings.noise

    def sample_losses(self, model: torch.nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """See `Adaptation`."""
        return reconstruction_loss(model, self.place.base, batch, self.noise)

    def pictures(self, patches: Split) -> NDArray[np.uint8]:
        """The real images after encoding and decoding."""
        return reconstruct(self.place.base.vae, patches.images)
