"""The dataset spec: what a dataset's images and masks are. FLAIR #1 is one such spec."""

from typing import Annotated, Literal, NamedTuple, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from rasterio.crs import CRS
from rasterio.errors import CRSError

from aerialdreams.data.land_cover import IGNORED, LandCoverClass, MaskValue, with_ids

BandNumber = Annotated[int, Field(ge=1)]
FurtherBand = Literal["near_infrared", "height"]
FURTHER_BANDS: tuple[FurtherBand, ...] = get_args(FurtherBand)  # in the order of images' channels


class FurtherBands(NamedTuple):
    """The bands of images after red, green and blue.

    Attributes:
        names: in the order of the images' channels.
        height_metres: heights that are stored as 0 and as 255.
    """

    names: tuple[FurtherBand, ...] = ()
    height_metres: tuple[float, float] = (0, 255)


RGB_ONLY = FurtherBands()


class Bands(BaseModel):
    """Numbers of an image's bands, from 1; a grey image has one for red, green and blue."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    red: BandNumber
    green: BandNumber
    blue: BandNumber
    near_infrared: BandNumber | None = None
    height: BandNumber | None = None

    @property
    def rgb(self) -> tuple[int, int, int]:
        """The numbers of red, green and blue."""
        return self.red, self.green, self.blue

    @property
    def names(self) -> list[str]:
        """Names of the bands that the dataset has."""
        return list(self.model_dump(exclude_none=True))

    @property
    def count(self) -> int:
        """The least number of bands of an image."""
        return max(self.model_dump(exclude_none=True).values())


class DatasetSpec(BaseModel):
    """A dataset's class table, geometry, bands and credit.

    Attributes:
        name: for cards and pages.
        credit: the credit line that everything derived from the dataset carries.
        licence: the Hugging Face hub's identifier of the licence, such as cc-by-4.0.
        url: where the dataset comes from.
        classes: the class table, 2 to 254 classes.
        ignored: pixel values and colours of source masks that stand for no class.
        patch_size: height and width of a patch, pixels.
        pixel_size: of all images on the ground, metres. None: as each image's georeference says.
        crs: of all images, such as EPSG:2154, also of those whose file names none. None: each
            image's own.
        bands: numbers of the bands.
        value_range: pixel values that are shown as black and as full colour; near infrared has the
            same.
        height_unit: metres of one unit of the height band.
        height_metres: heights above ground that are stored as 0 and as 255; those beyond are
            clipped.
        published_percentages: each class's percentage of the train split as its publisher states
            it, for comparison; empty if unknown.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)
    credit: str = Field(min_length=1)
    licence: str = Field(min_length=1, pattern=r"^[\w.-]+$")
    url: str = Field(pattern=r"^(https?://.+)?$")
    classes: list[LandCoverClass] = Field(min_length=2, max_length=254)
    ignored: list[MaskValue]
    patch_size: int = Field(ge=32, le=8192)
    pixel_size: float | None = Field(gt=0)
    crs: str | None
    bands: Bands
    value_range: tuple[float, float]
    height_unit: float = Field(gt=0)
    height_metres: tuple[float, float]
    published_percentages: list[Annotated[float, Field(ge=0, le=100)]]

    @property
    def is_8_bit(self) -> bool:
        """Whether pixel values are colours from 0 to 255 as they are."""
        return list(self.value_range) == [0, 255]

    @field_validator("classes")
    @classmethod
    def _ids(cls, classes: list[LandCoverClass]) -> list[LandCoverClass]:
        return with_ids(classes)

    @field_validator("crs")
    @classmethod
    def _known_crs(cls, crs: str | None) -> str | None:
        try:
            known = CRS.from_user_input(crs) if crs else None
        except CRSError as error:
            raise ValueError(f"{crs!r} is not a CRS that PROJ knows ({error})") from None
        if known and not known.is_projected:
            raise ValueError(f"{crs!r} is not a projected CRS; patches need one in metres or feet")
        return crs

    @model_validator(mode="after")
    def _consistent(self) -> "DatasetSpec":
        of_classes = {value for row in self.classes for value in (row.id, *row.values)}
        both = [value for value in self.ignored if value in of_classes and value != IGNORED]
        if both:
            raise ValueError(f"ignored: {both[0]!r} is a class's value")
        for key in ("value_range", "height_metres"):
            low, high = getattr(self, key)
            if low >= high:
                raise ValueError(f"{key}: {[low, high]} is not ascending")
        if self.published_percentages and len(self.published_percentages) != len(self.classes):
            raise ValueError(
                f"published_percentages: {len(self.published_percentages)} entries for"
                f" {len(self.classes)} classes"
            )
        return self
