"""The schema of params.yaml, one model per stage. A stage checks the whole file when it starts."""

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from aerialdreams.data.flair import CLASS_COUNT, DOMAIN, ZONE
from aerialdreams.data.land_cover import LandCoverClass
from aerialdreams.errors import UserError
from aerialdreams.paths import DATASET

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
Precision = Literal["fp32", "fp16", "bf16"]
SamplerName = Literal["ddim", "dpm++", "unipc"]
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


class _Group(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Runtime(_Group):
    """Params that do not change outputs. No stage depends on them in dvc.yaml."""

    workers: int = Field(ge=0)
    scheduler: str = Field(pattern=r"^((tcp|tls|ws|wss)://.+)?$")
    checkpoint_every: int = Field(ge=1)
    loaders: int = Field(ge=0)
    processes: int = Field(ge=1)
    grace: float = Field(gt=0)


class Compute(_Group):
    threads: int = Field(ge=1)
    portable: bool
    deterministic: bool


class Sample(_Group):
    seed: Seed
    zone_side: int = Field(ge=1, le=10)
    zones: dict[Domain, Annotated[list[Zone], Field(min_length=1)]] = Field(min_length=1)


class RawPatches(_Group):
    source: Literal["sample", "toy", "full", "domains", "folder"]
    domains: list[Domain]
    folder: str = Field(min_length=1)
    downloads: str = Field(min_length=1)
    storage: Url
    hub_revision: str = Field(min_length=1)
    sample: Sample


class PatchIndex(_Group):
    metadata: str
    validation_domains: list[Domain]
    test_domains: list[Domain]
    max_rejected: Share

    @model_validator(mode="after")
    def _disjoint_splits(self) -> "PatchIndex":
        shared = sorted(set(self.validation_domains) & set(self.test_domains))
        if shared:
            raise ValueError(
                f"{', '.join(shared)}: in both validation_domains and test_domains; remove it from"
                " one of them"
            )
        return self


class OverpassParams(_Group):
    server: Url
    user_agent: str = Field(min_length=1)
    pause: float = Field(ge=0)


class OsmMetadata(_Group):
    backend: Literal["extract", "overpass"]
    extract: str = Field(min_length=1)
    overpass: OverpassParams
    max_road_distance: float = Field(gt=0)
    max_place_distance: float = Field(gt=0)


class Captions(_Group):
    seed: Seed
    templates: list[Annotated[list[str], Field(min_length=1)]] = Field(min_length=1)
    place: list[PlaceLevel] = Field(min_length=1)
    floor_percent: float = Field(ge=0, le=100)
    most_classes: int = Field(ge=1)
    most_features: int = Field(ge=0)
    amounts: Literal["none", "words", "numbers"]

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


class DatasetParams(_Group):
    rows_per_shard: int = Field(ge=1)


class Vae(_Group):
    channels: Channels
    latent_channels: int = Field(ge=1)
    crop: int = Field(ge=16, multiple_of=16)
    kl_weight: float = Field(ge=0)
    latent_std: float = Field(gt=0)
    steps: Steps
    batch_size: BatchSize
    full_image_steps: int = Field(ge=0)
    learning_rate: LearningRate


class Text(_Group):
    vocabulary: int = Field(ge=514)
    width: int = Field(ge=8, multiple_of=8)
    layers: int = Field(ge=1)


class Unet(_Group):
    channels: Channels
    prediction: Literal["epsilon", "v_prediction"]
    caption_dropout: Share
    steps: Steps
    batch_size: BatchSize
    learning_rate: LearningRate


class TinyBase(_Group):
    seed: Seed
    vae: Vae
    text: Text
    unet: Unet


class BaseModelParams(_Group):
    source: Literal["tiny", "hub", "folder"]
    id: Repository
    revision: str = Field(min_length=1)
    input: str = Field(min_length=1)
    tiny: TinyBase


class EncodeLatents(_Group):
    batch_size: BatchSize
    all_orientations: bool
    precision: Precision
    validation_patches: int = Field(ge=1)


class PublishedWeights(_Group):
    id: Repository
    revision: str = Field(min_length=1)
    file: str
    sha256: Sha256


class TrainSegmenter(_Group):
    source: Literal["trained", "ign"]
    ign: PublishedWeights
    seed: Seed
    channels: Channels
    steps: Steps
    batch_size: BatchSize
    learning_rate: LearningRate


class SamplingParams(_Group):
    sampler: SamplerName
    steps: Steps
    guidance: float = Field(ge=1)
    conditioning_scale: float = Field(ge=0)


class WarmStart(_Group):
    folder: str
    md5: str


class TrainControlnet(_Group):
    seed: Seed
    processes: int = Field(ge=1)
    precision: Precision
    conditioning: Literal["one_hot", "colours"]
    embedding_channels: Channels
    warm_start: WarmStart
    unlock_decoder_steps: int = Field(ge=0)
    latent_cache: bool
    augment: bool
    caption_dropout: Share
    steps: Steps
    batch_size: BatchSize
    gradient_accumulation: int = Field(ge=1)
    learning_rate: LearningRate
    schedule: Literal["cosine", "constant"]
    warmup_steps: int = Field(ge=0)
    optimizer: Literal["adamw", "adamw_8bit", "paged_adamw_8bit"]
    weight_decay: float = Field(ge=0)
    max_grad_norm: float = Field(gt=0)
    min_snr_gamma: float = Field(ge=0)
    ema_decay: float = Field(ge=0, lt=1)
    gradient_checkpointing: bool
    compile: bool
    attention: Literal["sdpa", "eager"]
    validation_every: int = Field(ge=1)
    sampling: SamplingParams

    @model_validator(mode="after")
    def _equal_micro_batches(self) -> "TrainControlnet":
        parts = self.processes * self.gradient_accumulation
        if self.batch_size % parts:
            raise ValueError(
                f"batch_size: is {self.batch_size}; must be a multiple of processes x"
                f" gradient_accumulation, {parts}"
            )
        return self


class GenerateValidation(_Group):
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


class Tracking(_Group):
    """What train-controlnet logs to MLflow. No stage depends on these params in dvc.yaml."""

    log_every: int = Field(ge=1)
    images_every: int = Field(ge=1)
    images: int = Field(ge=1)


class EvaluateFid(_Group):
    batch_size: BatchSize
    inception_weights: str
    inception_sha256: Sha256


class EvaluateUtility(_Group):
    seeds: int = Field(ge=2)
    steps: Steps


class Params(_Group):
    """All of params.yaml."""

    runtime: Runtime
    tracking: Tracking
    classes: list[LandCoverClass]
    image_size: int = Field(ge=32, le=1024, multiple_of=16)
    inference_precision: Precision
    compute: Compute
    raw_patches: RawPatches
    patch_index: PatchIndex
    osm_metadata: OsmMetadata
    captions: Captions
    dataset: DatasetParams
    base_model: BaseModelParams
    encode_latents: EncodeLatents
    train_segmenter: TrainSegmenter
    train_controlnet: TrainControlnet
    generate_validation: GenerateValidation
    evaluate_fid: EvaluateFid
    evaluate_utility: EvaluateUtility

    @field_validator("classes")
    @classmethod
    def _complete_class_table(cls, classes: list[LandCoverClass]) -> list[LandCoverClass]:
        if len(classes) != CLASS_COUNT:
            raise ValueError(
                f"{len(classes)} entries; FLAIR #1 has {CLASS_COUNT} classes; list them in the"
                f" order of their ids, 1 to {CLASS_COUNT}"
            )
        for field in ("name", "colour"):
            values = [getattr(land_cover, field) for land_cover in classes]
            duplicates = sorted({value for value in values if values.count(value) > 1})
            if duplicates:
                raise ValueError(
                    f"{field} {duplicates[0]!r} is used twice; each class needs its own"
                )
        return classes

    @model_validator(mode="after")
    def _tiny_base_reads_the_dataset(self) -> "Params":
        stage = self.base_model
        if stage.source == "tiny" and Path(stage.input) != DATASET:
            raise ValueError(
                f"base_model.input: is {stage.input!r}; source tiny is trained on {DATASET}"
            )
        return self

    @model_validator(mode="after")
    def _size_for_ign_segmenter(self) -> "Params":
        if self.train_segmenter.source == "ign" and self.image_size % 32:
            raise ValueError(
                f"image_size: is {self.image_size}; must be a multiple of 32 for IGN's segmenter"
                " (train_segmenter.source)"
            )
        return self

    @model_validator(mode="after")
    def _orientations_for_augmentation(self) -> "Params":
        stage = self.train_controlnet
        if stage.augment and stage.latent_cache and not self.encode_latents.all_orientations:
            raise ValueError(
                "train_controlnet.augment: is true; set encode_latents.all_orientations to true as"
                " well, or train_controlnet.latent_cache to false"
            )
        return self

    @model_validator(mode="after")
    def _guidance_for_negative_prompt(self) -> "Params":
        stage, default = self.generate_validation, self.train_controlnet.sampling.guidance
        if stage.negative_prompt and (stage.guidance or default) == 1:
            raise ValueError(
                "generate_validation.negative_prompt: has no effect with guidance 1; raise"
                ' generate_validation.guidance, or set it to ""'
            )
        return self


def load_params(path: Path = Path("params.yaml")) -> Params:
    """Read and check params.yaml.

    Raises:
        UserError: the file is missing or not YAML, or keys are unknown, missing or out of range.
            The message names each such key with its value and the allowed values.
    """
    return check_params(read_yaml(path), path)


def read_yaml(path: Path) -> Any:
    """The content of a YAML file in UTF-8, with or without a byte order mark.

    Raises:
        UserError: the file is missing, not UTF-8 or not YAML.
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UserError(f"{path}: not found; run from the project's root") from None
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise UserError(f"{path}: line {line} is not UTF-8; save the file as UTF-8") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {error}") from None


def check_params(values: Any, path: Path) -> Params:
    """Check the values that were read from `path`; see `load_params`."""
    if not isinstance(values, dict):
        raise UserError(f"{path}: must be a mapping of stage names to their params")
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        lines = [_explain(problem) for problem in error.errors()]
        raise UserError(f"{path}: " + f"\n{path}: ".join(lines)) from None


def _explain(problem: Any) -> str:
    """One line for a pydantic error: key, value, allowed values."""
    key = ".".join(str(part) for part in problem["loc"])
    match problem["type"]:
        case "extra_forbidden":
            return f"{key}: unknown key; remove it or correct its spelling"
        case "missing":
            return f"{key}: missing; restore it from the params.yaml in git"
        case "value_error":
            return f"{key}: {problem['ctx']['error']}".removeprefix(": ")
    return f"{key}: is {problem['input']!r}; {problem['msg'].removeprefix('Input ')}"


def flatten(params: Params) -> dict[str, str | int | float]:
    """Params by dotted name, as in `dvc params diff` and MLflow; a list is one value."""
    rows = flat(params.model_dump(mode="json"))
    return {
        key: value if isinstance(value, (int, float, str)) else str(value)
        for key, value in rows.items()
    }


def flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Nested params by dotted name; a list is one value."""
    if not isinstance(values, dict):
        return {prefix: values}
    rows: dict[str, Any] = {}
    for key, value in values.items():
        rows |= flat(value, f"{prefix}.{key}" if prefix else str(key))
    return rows
