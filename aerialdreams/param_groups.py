"""The groups of params.yaml, one model for each stage; `params.Params` has them all."""

import re
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from aerialdreams.data.caption_text import CaptionForm
from aerialdreams.data.flair import DOMAIN, ZONE

Domain = Annotated[str, Field(pattern=f"^{DOMAIN}$")]
Zone = Annotated[str, Field(pattern=f"^{ZONE}$")]
Url = Annotated[str, Field(pattern=r"^https?://.+")]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Steps = Annotated[int, Field(ge=1)]
BatchSize = Annotated[int, Field(ge=1)]
LearningRate = Annotated[float, Field(gt=0, le=1)]
Repository = Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]  # on the Hugging Face hub
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Share = Annotated[float, Field(ge=0, le=1)]


def _regular_expression(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is not a regular expression ({error})") from None
    return pattern


Pattern = Annotated[str, Field(min_length=1), AfterValidator(_regular_expression)]
Precision = Literal["fp32", "fp16", "bf16"]
Schedule = Literal["cosine", "constant"]
Optimizer = Literal["adamw", "adamw_8bit", "paged_adamw_8bit"]
SamplerName = Literal["ddim", "dpm++", "unipc"]
CropSize = Annotated[int, Field(ge=0, multiple_of=16)]  # pixels
# Channels of a network's levels, from the finest to the coarsest.
Channels = Annotated[list[Annotated[int, Field(ge=8, multiple_of=8)]], Field(min_length=2)]

# Names that captions.place can list: columns of data/osm_metadata.parquet (nearest_place is place).
PlaceLevel = Literal[
    "road",
    "nearest_place",
    "quartier",
    "arrondissement_municipal",
    "commune",
    "postcode",
    "arrondissement",
    "departement",
    "region",
    "metropole",
    "country",
]
PLACE_LEVELS = get_args(PlaceLevel)
CAPTION_FIELDS = ("place", "classes", "features", "season", "month", "date", *PLACE_LEVELS)


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


class Group(BaseModel):
    """Unknown keys are errors, and values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Runtime(Group):
    """Params that do not change outputs. No stage depends on them in dvc.yaml."""

    workers: int = Field(ge=0)
    scheduler: str = Field(pattern=r"^((tcp|tls|ws|wss)://.+)?$")
    checkpoint_every: int = Field(ge=1)
    loaders: int = Field(ge=0)
    processes: int = Field(ge=1)
    grace: float = Field(gt=0)


class Compute(Group):
    threads: int = Field(ge=1)
    portable: bool
    deterministic: bool


class Sample(Group):
    seed: Seed
    zone_side: int = Field(ge=1, le=10)
    zones: dict[Domain, Annotated[list[Zone], Field(min_length=1)]] = Field(min_length=1)


class Pairs(Group):
    """Rasters of images and masks of any size, matched by the names of their files or by a list."""

    table: str
    images: str
    masks: str
    image_pattern: Pattern
    mask_pattern: Pattern
    stride: int = Field(ge=0)
    least_valid: Share
    max_off_palette: Share
    warp: bool


class RawPatches(Group):
    source: Literal["sample", "toy", "full", "domains", "folder", "pairs"]
    domains: list[Domain]
    folder: str = Field(min_length=1)
    downloads: str = Field(min_length=1)
    storage: Url
    hub_revision: str = Field(min_length=1)
    pairs: Pairs
    sample: Sample


class DrawnSplits(Group):
    seed: Seed
    validation: Share
    test: Share


class PatchIndex(Group):
    metadata: str
    validation_groups: list[str]
    test_groups: list[str]
    drawn: DrawnSplits
    max_rejected: Share

    @model_validator(mode="after")
    def _disjoint_splits(self) -> "PatchIndex":
        shared = sorted(set(self.validation_groups) & set(self.test_groups))
        if shared:
            raise ValueError(
                f"{', '.join(shared)}: in both validation_groups and test_groups; remove it from"
                " one of them"
            )
        if self.drawn.validation + self.drawn.test >= 1:
            raise ValueError("drawn: validation and test leave no group for the train split")
        return self


class OverpassParams(Group):
    server: Url
    user_agent: str = Field(min_length=1)
    pause: float = Field(ge=0)


class OsmMetadata(Group):
    backend: Literal["extract", "overpass", "none"]
    extract: str = Field(min_length=1)
    overpass: OverpassParams
    max_road_distance: float = Field(gt=0)
    max_place_distance: float = Field(gt=0)


class Captions(Group):
    seed: Seed
    templates: list[Annotated[list[str], Field(min_length=1)]] = Field(min_length=1)
    place: list[PlaceLevel] = Field(min_length=1)
    default_place: str
    floor_percent: float = Field(ge=0, le=100)
    most_classes: int = Field(ge=1)
    most_features: int = Field(ge=0)
    amounts: Literal["none", "words", "numbers"]

    @property
    def form(self) -> CaptionForm:
        """The form of the captions, by the first template."""
        return CaptionForm(
            tuple(self.templates[0]),
            self.default_place,
            self.floor_percent,
            self.most_classes,
            self.amounts,
        )

    @field_validator("templates")
    @classmethod
    def _known_fields(cls, templates: list[list[str]]) -> list[list[str]]:
        for sentence in (sentence for template in templates for sentence in template):
            try:
                sentence.format(**dict.fromkeys(CAPTION_FIELDS, ""))
            except (KeyError, IndexError, ValueError) as error:
                raise ValueError(
                    f"{sentence!r}: no field {error}; the fields are {', '.join(CAPTION_FIELDS)}"
                ) from error
        return templates


class ComposeMasks(Group):
    seed: Seed
    masks: int = Field(ge=0)
    shares: dict[str, Annotated[float, Field(gt=0, le=100)]]

    @model_validator(mode="after")
    def _shares_of_masks(self) -> "ComposeMasks":
        if self.masks and not self.shares:
            raise ValueError("shares: is empty; name the classes that masks are composed for")
        if sum(self.shares.values()) > 100:
            raise ValueError(
                f"shares: have a sum of {sum(self.shares.values()):g}; must be percent"
            )
        return self


class DatasetParams(Group):
    rows_per_shard: int = Field(ge=1)


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
