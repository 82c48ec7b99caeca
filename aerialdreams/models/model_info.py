"""aerialdreams.json: what generation needs to know of a ControlNet, saved beside its weights."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from aerialdreams.data.caption_text import CaptionForm
from aerialdreams.data.land_cover import MaskValue
from aerialdreams.data.spec import RGB_ONLY, FurtherBands
from aerialdreams.errors import UserError
from aerialdreams.models.conditioning import MaskConditioning
from aerialdreams.models.sampling import Sampling
from aerialdreams.util.files import dvc_md5, write_json

FILE_NAME = "aerialdreams.json"


@dataclass(frozen=True)
class ModelInfo:
    """Everything that generation needs beside the weights.

    Attributes:
        image_size: height and width of the images that the model was trained on, pixels.
        pixel_size: ground size of a pixel, metres.
        conditioning: how masks are encoded.
        sampling: the settings that the model is meant to be sampled with, used by default.
        ignored: pixel values and colours of masks that stand for no class.
        credit: of the images and masks that the model was trained on.
        captions: the form of the captions that it was trained on.
        further: bands of the images after red, green and blue.
    """

    image_size: int
    pixel_size: float
    conditioning: MaskConditioning
    sampling: Sampling
    ignored: tuple[MaskValue, ...]
    credit: str
    captions: CaptionForm
    further: FurtherBands = RGB_ONLY

    def save(self, folder: Path) -> None:
        """Write aerialdreams.json into the model's folder."""
        values = {
            "image_size": self.image_size,
            "pixel_size_metres": self.pixel_size,
            "conditioning": self.conditioning.to_dict(),
            "sampling": asdict(self.sampling),
            "ignored": list(self.ignored),
            "credit": self.credit,
            "captions": self.captions._asdict(),
        }
        if self.further.names:
            values["further_bands"] = self.further._asdict()
        write_json(folder / FILE_NAME, values)

    @classmethod
    def load(cls, folder: Path) -> "ModelInfo":
        """Read aerialdreams.json from a model's folder.

        Raises:
            UserError: the file is missing or damaged.
        """
        path = folder / FILE_NAME
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            form = values["captions"]
            return cls(
                image_size=int(values["image_size"]),
                pixel_size=float(values["pixel_size_metres"]),
                conditioning=MaskConditioning.from_dict(values["conditioning"]),
                sampling=Sampling(**values["sampling"]),
                ignored=tuple(values["ignored"]),
                credit=str(values["credit"]),
                captions=CaptionForm(**form | {"sentences": tuple(form["sentences"])}),
                further=_further(values.get("further_bands")),
            )
        except FileNotFoundError:
            raise UserError(
                f"{path}: not found; name a ControlNet trained by this pipeline, or run `dvc repro"
                " train-controlnet`"
            ) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            message = f"{type(error).__name__}: {error}".splitlines()[0]
            raise UserError(f"{path}: cannot be read ({message}); `dvc checkout` it") from None


def _further(values: dict[str, list[Any]] | None) -> FurtherBands:
    if values is None:
        return RGB_ONLY
    low, high = values["height_metres"]
    return FurtherBands(tuple(values["names"]), (low, high))


def synthetic_tags(info: ModelInfo, controlnet: Path, prompt: str, seed: int) -> dict[str, str]:
    """GDAL metadata of a generated image: that it is synthetic, what made it, whom to credit.

    Args:
        info: of the model.
        controlnet: its folder.
        prompt: what the image shows.
        seed: of the noise.
    """
    return {
        "SYNTHETIC": "YES",
        "TIFFTAG_IMAGEDESCRIPTION": "Synthetic: made by AerialDreams, shows no real place",
        "PROMPT": prompt,
        "SEED": str(seed),
        "CONTROLNET_MD5": dvc_md5(controlnet),
        "CREDITS": f"Model trained on {info.credit}",
    }
