"""What a client asks for: a recipe, which makes the same image again."""

import math
import re
from typing import Annotated, Literal

from affine import Affine
from pydantic import BaseModel, ConfigDict, Field
from rasterio.crs import CRS
from rasterio.errors import CRSError

from aerialdreams.data.georeference import GeoReference
from aerialdreams.errors import UserError

MAX_SIDE = 4096
Side = Annotated[int, Field(ge=1, le=MAX_SIDE)]


class Start(BaseModel):
    """What an edit changes: a photograph and its mask.

    Attributes:
        mask: class ids before the change, row by row, in base64.
        photograph: PNG in base64; "" generates it first, from the mask and the same seed.
        real: whether the photograph is a real one, which is not marked as synthetic.
    """

    model_config = ConfigDict(extra="forbid")

    mask: str
    photograph: str = ""
    real: bool = False


class Place(BaseModel):
    """A georeference.

    Attributes:
        crs: "EPSG:" and a number, or WKT; None if the CRS is unknown.
        transform: from columns and rows to coordinates: a, b, c, d, e, f of GDAL's affine matrix.
    """

    model_config = ConfigDict(extra="forbid")

    crs: str | None = Field(max_length=10_000)
    transform: tuple[float, float, float, float, float, float]

    @classmethod
    def of(cls, reference: GeoReference) -> "Place":
        """The place of a georeference."""
        crs, code = reference.crs, reference.crs.to_epsg() if reference.crs else None
        text = f"EPSG:{code}" if code else crs.to_wkt() if crs else None
        return cls(crs=text, transform=tuple(reference.transform)[:6])

    def reference(self) -> GeoReference:
        """The georeference.

        Raises:
            UserError: the CRS is not known, or the transform is not finite.
        """
        if not all(map(math.isfinite, self.transform)):
            raise UserError("place.transform: has a number that is not finite")
        try:
            # from_user_input would also take names of files.
            code = re.fullmatch(r"EPSG:(\d{1,9})", self.crs or "")
            crs = CRS.from_epsg(int(code[1])) if code else self.crs and CRS.from_wkt(self.crs)
        except CRSError:
            raise UserError("place.crs: is no EPSG code or WKT that is known") from None
        return GeoReference(Affine(*self.transform), crs or None)


class Recipe(BaseModel):
    """A request for images of one mask.

    Attributes:
        width: of the mask, pixels.
        height: of the mask, pixels.
        mask: class ids, row by row, in base64; 255 where there is no class.
        prompt: what the image shows.
        negative_prompt: what it must not show; needs guidance above 1.
        seed: of the first image; each further variation has the next one.
        variations: number of images.
        sampler: None, here and below: as saved with the model.
        steps: denoising steps.
        guidance: classifier-free guidance scale; 1 turns it off.
        conditioning_scale: factor on the ControlNet's residuals.
        place: georeference of the mask; None for none.
        start: for an edit; all pixels further than `margin` from what changes stay as they are.
        margin: pixels of blending around what changes.
        model: DVC's hash of the ControlNet that the recipe was made with; "" for any.
    """

    model_config = ConfigDict(extra="forbid")

    version: Literal[1] = 1
    width: Side
    height: Side
    mask: str
    prompt: str = Field(default="Aerial view.", max_length=2000)
    negative_prompt: str = Field(default="", max_length=2000)
    seed: int = Field(default=0, ge=0, le=2**53)
    variations: int = Field(default=1, ge=1, le=4)
    sampler: Literal["ddim", "dpm++", "unipc"] | None = None
    steps: int | None = Field(default=None, ge=1, le=200)
    guidance: float | None = Field(default=None, ge=1, le=50)
    conditioning_scale: float | None = Field(default=None, ge=0, le=10)
    place: Place | None = None
    start: Start | None = None
    margin: int = Field(default=8, ge=0, le=256)
    model: str = Field(default="", max_length=64)


class Size(BaseModel):
    """What decides how long images take.

    Attributes:
        width: pixels.
        height: pixels.
        steps: None for the model's own.
        guidance: None for the model's own.
        variations: number of images.
    """

    model_config = ConfigDict(extra="forbid")

    width: Side
    height: Side
    steps: int | None = Field(default=None, ge=1, le=200)
    guidance: float | None = Field(default=None, ge=1, le=50)
    variations: int = Field(default=1, ge=1, le=4)


class PatchChoice(BaseModel):
    """A patch of the dataset.

    Attributes:
        split: validation or test.
        row: its number in the split.
    """

    model_config = ConfigDict(extra="forbid")

    split: Literal["validation", "test"]
    row: int = Field(ge=0)


class Shares(BaseModel):
    """The classes of a mask, to propose a caption for.

    Attributes:
        shares: share of each class, 0 to 1, by its name.
        ground: the ground that the mask started from, whose caption is kept but for the classes.
    """

    model_config = ConfigDict(extra="forbid")

    shares: dict[str, float] = Field(max_length=256)
    ground: str | None = Field(default=None, max_length=64)
