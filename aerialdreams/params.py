"""The schema of params.yaml, one model per stage. A stage checks the whole file when it starts."""

from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError, model_validator

from aerialdreams.data.credits import OSM_CREDIT
from aerialdreams.data.flair import CLASS_NAMES
from aerialdreams.data.land_cover import LandCoverClass
from aerialdreams.data.spec import FURTHER_BANDS, DatasetSpec, FurtherBands
from aerialdreams.errors import UserError
from aerialdreams.param_groups.common import Group
from aerialdreams.param_groups.data import (
    Captions,
    ComposeMasks,
    Compute,
    DatasetParams,
    OsmMetadata,
    PatchIndex,
    RawPatches,
    Runtime,
)
from aerialdreams.param_groups.models import (
    AdaptBase,
    BaseModelParams,
    EncodeLatents,
    EvaluateFid,
    EvaluateUtility,
    GenerateValidation,
    Precision,
    Tracking,
    TrainControlnet,
    TrainSegmenter,
)
from aerialdreams.paths import DATASET


class Params(Group):
    """All of params.yaml."""

    runtime: Runtime
    tracking: Tracking
    dataset_spec: DatasetSpec
    image_size: int = Field(ge=32, le=1024, multiple_of=16)
    bands: list[str]
    inference_precision: Precision
    compute: Compute
    raw_patches: RawPatches
    patch_index: PatchIndex
    compose_masks: ComposeMasks
    osm_metadata: OsmMetadata
    captions: Captions
    dataset: DatasetParams
    base_model: BaseModelParams
    adapt_base: AdaptBase
    encode_latents: EncodeLatents
    train_segmenter: TrainSegmenter
    train_controlnet: TrainControlnet
    generate_validation: GenerateValidation
    evaluate_fid: EvaluateFid
    evaluate_utility: EvaluateUtility

    @property
    def classes(self) -> list[LandCoverClass]:
        """The class table."""
        return self.dataset_spec.classes

    @property
    def further_bands(self) -> FurtherBands:
        """The images' bands after red, green and blue."""
        names = tuple(name for name in FURTHER_BANDS if name in self.bands)
        return FurtherBands(names, self.dataset_spec.height_metres)

    @property
    def credits(self) -> list[str]:
        """The credit lines of everything that is derived from images, masks and captions."""
        places = [] if self.osm_metadata.backend == "none" else [OSM_CREDIT]
        return [self.dataset_spec.credit, *places]

    @model_validator(mode="after")
    def _bands_of_the_dataset(self) -> "Params":
        if self.bands != ["red", "green", "blue", *self.further_bands.names]:
            raise ValueError(
                f"bands: is {self.bands}; must be [red, green, blue], to which near_infrared,"
                " height or both in this order can be added"
            )
        unknown = set(self.bands) - set(self.dataset_spec.bands.names)
        if unknown:
            raise ValueError(
                f"bands: has {', '.join(sorted(unknown))}, whose number dataset_spec.bands does not"
                " give"
            )
        return self

    @model_validator(mode="after")
    def _tiny_base_reads_the_dataset(self) -> "Params":
        stage = self.base_model
        if stage.source == "tiny" and Path(stage.input) != DATASET:
            raise ValueError(
                f"base_model.input: is {stage.input!r}; source tiny is trained on {DATASET}"
            )
        return self

    @model_validator(mode="after")
    def _components_of_a_block(self) -> "Params":
        autoencoder = self.base_model.tiny.autoencoder
        values = len(self.bands) * autoencoder.block**2
        if autoencoder.channels > values:
            raise ValueError(
                f"base_model.tiny.autoencoder.channels: is {autoencoder.channels}; a block of"
                f" {autoencoder.block} x {autoencoder.block} pixels has {values} values"
            )
        return self

    @model_validator(mode="after")
    def _composed_classes_exist(self) -> "Params":
        unknown = self.compose_masks.shares.keys() - {row.name for row in self.classes}
        if unknown:
            raise ValueError(
                f"compose_masks.shares: has {', '.join(sorted(unknown))}, which the class table of"
                " dataset_spec does not have"
            )
        return self

    @model_validator(mode="after")
    def _data_for_ign_segmenter(self) -> "Params":
        if self.train_segmenter.source != "ign":
            return self
        names = tuple(land_cover.name for land_cover in self.classes)
        if names != CLASS_NAMES:
            raise ValueError(
                "train_segmenter.source: is ign, whose segmenter predicts FLAIR's 19 classes; the"
                " class table of dataset_spec has others, so use trained"
            )
        if self.image_size % 32:
            raise ValueError(
                f"image_size: is {self.image_size}; must be a multiple of 32 for IGN's segmenter"
                " (train_segmenter.source)"
            )
        return self

    @model_validator(mode="after")
    def _crops_of_cached_latents(self) -> "Params":
        for key, crop in (
            ("base_model.tiny.unet.crop", self.base_model.tiny.unet.crop),
            ("adapt_base.crop", self.adapt_base.crop),
            ("adapt_base.autoencoder.crop", self.adapt_base.autoencoder.crop),
            ("train_controlnet.crop", self.train_controlnet.crop),
        ):
            if crop > self.image_size:
                raise ValueError(f"{key}: is {crop}; must be at most image_size, {self.image_size}")
        if self.train_controlnet.crop and not self.train_controlnet.latent_cache:
            raise ValueError(
                "train_controlnet.crop: needs train_controlnet.latent_cache: true; crops are made"
                " of cached latents"
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
    def _samples_for_utility(self) -> "Params":
        most, stage = max(self.evaluate_utility.generated_per_real), self.generate_validation
        if most > stage.samples or (most > 1 and stage.extra_masks):
            raise ValueError(
                f"evaluate_utility.generated_per_real: has {most}; that needs"
                f" generate_validation.samples of {most} or more and, above 1,"
                " generate_validation.extra_masks of 0"
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
    parts = [str(part) for part in problem["loc"]]
    key = ".".join(part if part.isprintable() else repr(part) for part in parts)
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
