"""Params of the stages that make the dataset, and of the work itself."""

import re
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field, field_validator, model_validator

from aerialdreams.data.caption_text import CaptionForm
from aerialdreams.data.flair import DOMAIN, ZONE
from aerialdreams.param_groups.common import Group, Seed, Share

Domain = Annotated[str, Field(pattern=f"^{DOMAIN}$")]
Zone = Annotated[str, Field(pattern=f"^{ZONE}$")]
Url = Annotated[str, Field(pattern=r"^https?://.+")]


def _regular_expression(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is not a regular expression ({error})") from None
    return pattern


Pattern = Annotated[str, Field(min_length=1), AfterValidator(_regular_expression)]

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
