"""Params of the stages that train, generate and evaluate."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from aerialdreams.param_groups.common import Group, Seed, Share

Steps = Annotated[int, Field(ge=1)]
BatchSize = Annotated[int, Field(ge=1)]
LearningRate = Annotated[float, Field(gt=0, le=1)]
Repository = Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]  # on the Hugging Face hub
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Precision = Literal["fp32", "fp16", "bf16"]
Schedule = Literal["cosine", "constant"]
Optimizer = Literal["adamw", "adamw_8bit", "paged_adamw_8bit"]
SamplerName = Literal["ddim", "dpm++", "unipc"]
CropSize = Annotated[int, Field(ge=0, multiple_of=16)]  # pixels
# Channels of a network's levels, from the finest to the coarsest.
Channels = Annotated[list[Annotated[int, Field(ge=8, multiple_of=8)]], Field(min_length=2)]


def check_micro_batches(
    batch_size: int, processes: int, gradient_accumulation: int, key: str = "batch_size"
) -> None:
    """Check that a batch can be split into parts of equal size.

    Args:
        batch_size: samples per step, in all processes together.
        processes: their number.
        gradient_accumulation: micro-batches per step and process.
        key: of the params that has `batch_size`, for the message.

    Raises:
        ValueError: it cannot.
    """
    parts = processes * gradient_accumulation
    if batch_size % parts:
        raise ValueError(
            f"{key}: is {batch_size}; must be a multiple of processes x"
            f" gradient_accumulation, {parts}"
        )


class Autoencoder(Group):
    block: Literal[2, 4, 8, 16]
    channels: int = Field(ge=1)
    whitening: float = Field(ge=0, le=1)
    latent_std: float = Field(gt=0)
    refinement_channels: int = Field(ge=0, multiple_of=3)
    refinement_steps: int = Field(ge=0)
    refinement_noise: float = Field(ge=0)


class Text(Group):
    vocabulary: int = Field(ge=514)
    width: int = Field(ge=8, multiple_of=8)
    layers: int = Field(ge=1)


class Unet(Group):
    channels: Channels
    prediction: Literal["epsilon", "v_prediction"]
    caption_dropout: Share
    steps: Steps
    batch_size: BatchSize
    learning_rate: LearningRate
    crop: CropSize


class TinyBase(Group):
    seed: Seed
    autoencoder: Autoencoder
    text: Text
    unet: Unet


class BaseModelParams(Group):
    source: Literal["tiny", "hub", "folder"]
    id: Repository
    revision: str = Field(min_length=1)
    input: str = Field(min_length=1)
    tiny: TinyBase


class AdaptAutoencoder(Group):
    steps: int = Field(ge=0)
    batch_size: BatchSize
    learning_rate: LearningRate
    crop: CropSize
    noise: float = Field(ge=0)


class AdaptBase(Group):
    seed: Seed
    processes: int = Field(ge=1)
    precision: Precision
    lora_rank: int = Field(ge=0)
    crop: CropSize
    augment: bool
    caption_dropout: Share
    steps: int = Field(ge=0)
    batch_size: BatchSize
    gradient_accumulation: int = Field(ge=1)
    learning_rate: LearningRate
    schedule: Schedule
    warmup_steps: int = Field(ge=0)
    optimizer: Optimizer
    weight_decay: float = Field(ge=0)
    max_grad_norm: float = Field(gt=0)
    ema_decay: float = Field(ge=0, lt=1)
    gradient_checkpointing: bool
    autoencoder: AdaptAutoencoder

    @model_validator(mode="after")
    def _equal_micro_batches(self) -> "AdaptBase":
        for key, size in (
            ("batch_size", self.batch_size),
            ("autoencoder.batch_size", self.autoencoder.batch_size),
        ):
            check_micro_batches(size, self.processes, self.gradient_accumulation, key)
        return self


class EncodeLatents(Group):
    batch_size: BatchSize
    all_orientations: bool
    precision: Precision
    validation_patches: int = Field(ge=1)


class PublishedWeights(Group):
    id: Repository
    revision: str = Field(min_length=1)
    file: str
    sha256: Sha256


class TrainSegmenter(Group):
    source: Literal["trained", "ign"]
    ign: PublishedWeights
    seed: Seed
    channels: Channels
    steps: Steps
    batch_size: BatchSize
    learning_rate: LearningRate


class SamplingParams(Group):
    sampler: SamplerName
    steps: Steps
    guidance: float = Field(ge=1)
    conditioning_scale: float = Field(ge=0)


class WarmStart(Group):
    folder: str
    md5: str


class TrainControlnet(Group):
    seed: Seed
    processes: int = Field(ge=1)
    precision: Precision
    conditioning: Literal["one_hot", "colours"]
    embedding_channels: Channels
    initial_residuals: float = Field(ge=0)
    warm_start: WarmStart
    unlock_decoder_steps: int = Field(ge=0)
    latent_cache: bool
    crop: CropSize
    augment: bool
    caption_dropout: Share
    steps: Steps
    batch_size: BatchSize
    gradient_accumulation: int = Field(ge=1)
    learning_rate: LearningRate
    schedule: Schedule
    warmup_steps: int = Field(ge=0)
    optimizer: Optimizer
    weight_decay: float = Field(ge=0)
    max_grad_norm: float = Field(gt=0)
    class_balance: Share
    min_snr_gamma: float = Field(ge=0)
    ema_decay: float = Field(ge=0, lt=1)
    gradient_checkpointing: bool
    compile: bool
    attention: Literal["sdpa", "eager"]
    validation_every: int = Field(ge=1)
    sampling: SamplingParams

    @model_validator(mode="after")
    def _equal_micro_batches(self) -> "TrainControlnet":
        check_micro_batches(self.batch_size, self.processes, self.gradient_accumulation)
        return self


class GenerateValidation(Group):
    seed: Seed
    masks: int = Field(ge=0)
    extra_masks: int = Field(ge=0)
    samples: int = Field(ge=1)
    styles: list[Annotated[str, Field(min_length=1)]]
    negative_prompt: str
    sampler: SamplerName | None
    steps: Steps | None
    guidance: Annotated[float, Field(ge=1)] | None
    conditioning_scale: Annotated[float, Field(ge=0)] | None
    batch_size: BatchSize
    geotiff: bool
    grid_rows: int = Field(ge=1)


class Tracking(Group):
    """What train-controlnet logs to MLflow. No stage depends on these params in dvc.yaml."""

    log_every: int = Field(ge=1)
    images_every: int = Field(ge=1)
    images: int = Field(ge=1)


class EvaluateFid(Group):
    batch_size: BatchSize
    inception_weights: str
    inception_sha256: Sha256


class EvaluateUtility(Group):
    seeds: int = Field(ge=2)
    steps: Steps
    generated_per_real: list[Annotated[int, Field(ge=1)]] = Field(min_length=1)

    @field_validator("generated_per_real")
    @classmethod
    def _holds_one(cls, counts: list[int]) -> list[int]:
        if 1 not in counts or len(set(counts)) < len(counts):
            raise ValueError(f"is {counts}; must hold 1, and each number once")
        return counts
