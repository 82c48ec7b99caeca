"""Grounds: the masks that a drawing starts from, with photograph and georeference if there are."""

import base64
import secrets
import tempfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import RasterioError

from aerialdreams.data.dataset import Patch
from aerialdreams.data.georeference import GeoReference
from aerialdreams.data.grids import on_square_grid
from aerialdreams.data.images import resize_image, resize_mask
from aerialdreams.data.land_cover import IGNORED, class_ids, class_pixel_counts
from aerialdreams.data.mask_files import VECTORS, read_user_mask
from aerialdreams.data.vectors import load_mapping, read_vector_mask
from aerialdreams.errors import UserError
from aerialdreams.models.model_info import ModelInfo

MAX_PIXELS = 4096 * 4096
MAX_UPLOAD = 64 * 2**20  # bytes
KEPT = 100
# Files are taken by their first bytes, not by their name: formats that name other files, such as
# VRT, could make the server read what it should not.
SIGNATURES = {
    ".png": (b"\x89PNG\r\n\x1a\n",),
    ".jpg": (b"\xff\xd8\xff",),
    ".tif": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    ".jp2": (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51"),
    ".gpkg": (b"SQLite format 3\0",),
    ".geojson": (b"{",),  # also after white space
}


@dataclass(frozen=True)
class Ground:
    """Where a drawing starts.

    Attributes:
        name: for the user.
        mask: class ids, (height, width), at the model's pixel size; IGNORED where there is none.
        caption: proposed for the mask.
        class_text: the part of the caption that names the classes, "" if it has none.
        photograph: RGB, (height, width, 3); None if there is none.
        reference: georeference; None if there is none.
        notes: what was unusual about an upload.
    """

    name: str
    mask: NDArray[np.uint8]
    caption: str
    class_text: str
    photograph: NDArray[np.uint8] | None = None
    reference: GeoReference | None = None
    notes: tuple[str, ...] = ()


class Grounds:
    """The last grounds that clients have loaded, by unguessable ids."""

    def __init__(self) -> None:
        self._grounds: OrderedDict[str, Ground] = OrderedDict()

    def add(self, ground: Ground) -> str:
        """Keep a ground; returns its id."""
        ground_id = secrets.token_urlsafe(12)
        self._grounds[ground_id] = ground
        while len(self._grounds) > KEPT:
            self._grounds.popitem(last=False)
        return ground_id

    def get(self, ground_id: str) -> Ground | None:
        """A ground; None if it was not added or is too old."""
        return self._grounds.get(ground_id)


def shares_of(mask: NDArray[np.uint8], info: ModelInfo) -> dict[str, float]:
    """Share of each class in a mask, 0 to 1, by its name, in order of the class table."""
    classes = info.conditioning.classes
    counts = class_pixel_counts(mask, class_ids(classes))
    total = max(int(counts.sum()), 1)
    return {row.name: int(count) / total for row, count in zip(classes, counts, strict=True)}


def caption_of(mask: NDArray[np.uint8], info: ModelInfo) -> tuple[str, str]:
    """A caption for a mask in the training captions' form, and its part that names the classes."""
    shares = shares_of(mask, info)
    return info.captions.caption(shares), ", ".join(info.captions.classes(shares))


def ground_of_patch(patch: Patch, info: ModelInfo) -> Ground:
    """A patch of the dataset as a ground, with its photograph, at the model's image size."""
    size = info.image_size
    reference = patch.square.reference(size) if patch.square else None
    text = ", ".join(info.captions.classes(shares_of(patch.mask, info)))
    return Ground(
        name=f"{patch.group} {patch.zone} {patch.patch_id}",
        mask=resize_mask(patch.mask, size),
        caption=patch.caption,
        class_text=text if text in patch.caption else "",
        # The page edits photographs of colours only; see `Studio.run`.
        photograph=None if info.further.names else resize_image(patch.image, size),
        reference=reference,
    )


def ground_of_upload(
    content: bytes, name: str, info: ModelInfo, mapping: str, off_palette: float = 0.05
) -> Ground:
    """An uploaded mask as a ground.

    Args:
        content: of a PNG, JPEG, GeoTIFF, JPEG 2000, GeoPackage or GeoJSON file.
        name: of the file, for the user.
        info: of the model.
        mapping: for vector data: osm or cosia.
        off_palette: largest share of pixels whose colour is no class's.

    Raises:
        UserError: it is none of these formats, too large, damaged or no mask.
    """
    suffix = next((s for s, starts in SIGNATURES.items() if content.startswith(starts)), "")
    if not suffix and content.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"{"):
        suffix = ".geojson"
    if not suffix:
        raise UserError(f"{name}: is no PNG, JPEG, GeoTIFF, JPEG 2000, GeoPackage or GeoJSON file")
    classes, ignored = info.conditioning.classes, info.ignored
    with tempfile.TemporaryDirectory(prefix="aerialdreams-") as folder:
        path = Path(folder) / f"upload{suffix}"
        path.write_bytes(content)
        try:
            if suffix in VECTORS and not _is_raster(path):
                mask = read_vector_mask(path, load_mapping(mapping), classes, info.pixel_size)
            else:
                _require_size(path)
                mask = read_user_mask(path, classes, off_palette, ignored)
        except UserError as error:
            raise UserError(str(error).replace(str(path), name)) from None
    try:
        mask, warped = on_square_grid(mask, info.pixel_size, info.pixel_size)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    if mask.class_ids.size > MAX_PIXELS:
        height, width = mask.class_ids.shape
        raise UserError(f"{name}: {width} x {height} pixels are too many for the page")
    caption, text = caption_of(mask.class_ids, info)
    notes = [*mask.notes, *([warped] if warped else [])]
    if mask.off_palette:
        notes.append(f"{mask.off_palette:.2%} of the pixels got the class of the nearest colour")
    return Ground(
        name, mask.class_ids, caption, text, reference=mask.georeference, notes=tuple(notes)
    )


def _is_raster(path: Path) -> bool:
    """Whether a GeoPackage holds a raster."""
    try:
        with rasterio.open(path):
            return True
    except RasterioError:
        return False


def _require_size(path: Path) -> None:
    """Refuse a raster by its header, before its pixels are read."""
    try:
        with rasterio.open(path) as file:
            width, height, bands = file.width, file.height, file.count
    except (RasterioError, OSError):
        return  # the reader says what is wrong
    if width * height > MAX_PIXELS or bands > 4:
        raise UserError(
            f"{path}: has {width} x {height} pixels in {bands} bands; a mask for the page has at"
            f" most {MAX_PIXELS // 2**20} million pixels in 4 bands"
        )


def encode_mask(mask: NDArray[np.uint8]) -> str:
    """A mask's class ids, row by row, in base64."""
    return base64.b64encode(np.ascontiguousarray(mask).tobytes()).decode()


def decode_mask(text: str, width: int, height: int, info: ModelInfo) -> NDArray[np.uint8]:
    """The mask that a client sent; see `encode_mask`.

    Raises:
        UserError: it has another size, or ids of no class.
    """
    try:
        content = base64.b64decode(text, validate=True)
    except ValueError:
        raise UserError("mask: is not base64") from None
    if len(content) != width * height:
        raise UserError(f"mask: has {len(content)} bytes, not {width} x {height}")
    mask = np.frombuffer(content, np.uint8).reshape(height, width)
    allowed = [*class_ids(info.conditioning.classes), IGNORED]
    if not np.isin(mask, allowed).all():
        raise UserError("mask: has ids of no class; the model's are in /api/model")
    return mask
