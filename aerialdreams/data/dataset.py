"""The captioned dataset: Parquet shards that Hugging Face `datasets` loads directly.

A split is train, validation or test; `folder` is the dataset's folder.
"""

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from affine import Affine
from numpy.typing import NDArray
from PIL import Image
from rasterio.crs import CRS

from aerialdreams.data.georeference import GeoReference
from aerialdreams.data.images import resize_image, resize_mask
from aerialdreams.data.index import SPLITS
from aerialdreams.data.spec import FURTHER_BANDS
from aerialdreams.errors import UserError
from aerialdreams.paths import DATASET

if TYPE_CHECKING:
    from datasets import Dataset

# The columns that `Patch` needs beside those of further bands; stages/dataset.py writes some more.
COLUMNS = [
    *("patch_id", "image", "mask", "caption", "captions"),
    *("group", "zone", "crs", "origin_x", "origin_y", "extent", "pixel_size"),
]


class Square(NamedTuple):
    """The square of a patch.

    Attributes:
        crs: EPSG code or WKT; None if the image has a transform, but no CRS.
        x: of the north-west corner, in the CRS's units.
        y: of the north-west corner.
        extent: height and width.
    """

    crs: str | None
    x: float
    y: float
    extent: float

    def reference(self, size: int) -> GeoReference:
        """The georeference of the square as an image of `size` x `size` pixels."""
        pixel = self.extent / size
        crs = CRS.from_user_input(self.crs) if self.crs else None
        return GeoReference(Affine(pixel, 0, self.x, 0, -pixel, self.y), crs)


@dataclass(frozen=True)
class Patch:
    """One row of the dataset.

    Attributes:
        patch_id: unique in the dataset.
        caption: the patch's caption.
        captions: one caption per template.
        group: what its split is made of; a domain in FLAIR.
        zone: its zone's name, unique within the group.
        square: its square on the ground; None without georeference.
        pixel_size: of the image on the ground, metres.
        image_pngs: the image's colours and its further bands, undecoded, by column.
        mask_png: the mask, undecoded.
    """

    patch_id: str
    caption: str
    captions: list[str]
    group: str
    zone: str
    square: Square | None
    pixel_size: float
    image_pngs: dict[str, Any] = field(repr=False)
    mask_png: bytes = field(repr=False)

    @property
    def image(self) -> NDArray[np.uint8]:
        """RGB, 0 to 255, (height, width, 3); decoded at each access."""
        return decode_png(self.image_pngs["image"]["bytes"])

    @property
    def bands(self) -> NDArray[np.uint8]:
        """RGB and the further bands that the dataset has, (height, width, bands)."""
        return decode_bands(self.image_pngs)

    @property
    def mask(self) -> NDArray[np.uint8]:
        """Class ids, (height, width); decoded at each access."""
        return decode_png(self.mask_png)


class Split(NamedTuple):
    """Patches of a split in memory, resized to the models' image size.

    Attributes:
        patch_ids: one per patch.
        images: RGB and the further bands that the dataset has, 0 to 255, (patches, size, size,
            bands).
        masks: class ids, (patches, size, size).
        captions: one per patch.
    """

    patch_ids: list[str]
    images: NDArray[np.uint8]
    masks: NDArray[np.uint8]
    captions: list[str]


def shard_paths(split: str, folder: Path = DATASET) -> list[Path]:
    """The files of a split, in the order of their rows.

    Raises:
        UserError: the dataset has no such split.
    """
    paths = sorted((folder / "data").glob(f"{split}-*.parquet"))
    if not paths:
        raise UserError(
            f"{folder}: no {split} shards; assign groups to the {split} split in patch_index, or"
            " get the dataset with `dvc repro dataset` or `dvc pull dataset`"
        )
    return paths


def read_patches(
    split: str, rows: Sequence[int] | None = None, folder: Path = DATASET
) -> Iterator[Patch]:
    """Patches of a split in order of patch_id, read lazily.

    Args:
        split: train, validation or test.
        rows: numbers of the rows to read, ascending; None for all. Shards that hold none of them
            are not read.
        folder: of the dataset.

    Raises:
        UserError: a shard is missing or damaged.
    """
    paths = shard_paths(split, folder)
    if rows is None:
        for path in paths:
            yield from read_shard(path)
        return
    first = position = 0
    for path in paths:
        end = first + _num_rows(path)
        wanted = set[int]()
        while position < len(rows) and rows[position] < end:
            wanted.add(rows[position] - first)
            position += 1
        if wanted:
            yield from map(_to_patch, _read_rows(path, wanted=wanted))
        first = end


def count_patches(split: str, folder: Path = DATASET) -> int:
    """The number of patches in a split."""
    return sum(_num_rows(path) for path in shard_paths(split, folder))


def splits_of(folder: Path = DATASET) -> list[str]:
    """The splits of a dataset that have patches, in the order train, validation, test."""
    return [split for split in SPLITS if any((folder / "data").glob(f"{split}-*.parquet"))]


def evenly_spaced(count: int, total: int) -> list[int]:
    """`count` of the numbers 0 to total - 1, spread evenly; all of them if count is 0 or larger."""
    count = min(count or total, total)
    return [number * total // count for number in range(count)]


def read_shard(path: Path) -> Iterator[Patch]:
    """The patches of one shard, read lazily.

    Raises:
        UserError: the shard is missing or damaged.
    """
    for row in _read_rows(path):
        yield _to_patch(row)


def read_captions(path: Path) -> list[str]:
    """All captions of one shard, without reading its images."""
    return [caption for row in _read_rows(path, ["captions"]) for caption in row["captions"]]


def read_zones(split: str, folder: Path = DATASET) -> dict[tuple[str, str], list[str]]:
    """Patch ids by (group, zone) of a split, without reading its images."""
    zones: dict[tuple[str, str], list[str]] = {}
    for path in shard_paths(split, folder):
        for row in _read_rows(path, ["patch_id", "group", "zone"]):
            zones.setdefault((row["group"], row["zone"]), []).append(row["patch_id"])
    return zones


def patch_names(split: str, folder: Path = DATASET) -> list[str]:
    """Group, zone and id of each patch of a split, in order, without reading its images."""
    columns = ["group", "zone", "patch_id"]
    return [
        " ".join(row[column] for column in columns)
        for path in shard_paths(split, folder)
        for row in _read_rows(path, columns)
    ]


def median_pixel_size(folder: Path = DATASET) -> float:
    """The median size of the train split's pixels on the ground, metres."""
    sizes = [
        row["pixel_size"]
        for path in shard_paths("train", folder)
        for row in _read_rows(path, ["pixel_size"])
    ]
    return float(np.median(sizes))


def _num_rows(path: Path) -> int:
    return int(pq.ParquetFile(path).metadata.num_rows)


def _to_patch(row: dict[str, Any]) -> Patch:
    return Patch(
        patch_id=row["patch_id"],
        caption=row["caption"],
        captions=row["captions"],
        group=row["group"],
        zone=row["zone"],
        square=None
        if row["extent"] is None
        else Square(row["crs"], row["origin_x"], row["origin_y"], row["extent"]),
        pixel_size=row["pixel_size"],
        image_pngs={name: row[name] for name in ("image", *FURTHER_BANDS) if name in row},
        mask_png=row["mask"]["bytes"],
    )


def _read_rows(
    path: Path, columns: list[str] | None = None, wanted: set[int] | None = None
) -> Iterator[dict[str, Any]]:
    """The rows of a shard, or those with the wanted numbers; other row groups are not read.

    Args:
        path: the shard.
        columns: the columns to read; None for all that `Patch` needs.
        wanted: numbers of rows; None for all.
    """
    try:
        file = pq.ParquetFile(path)
        if columns is None:
            names = file.schema_arrow.names
            columns = [*COLUMNS, *(name for name in FURTHER_BANDS if name in names)]
        first = 0
        for group in range(file.num_row_groups):
            end = first + file.metadata.row_group(group).num_rows
            if wanted is None or not wanted.isdisjoint(range(first, end)):
                number = first
                for batch in file.iter_batches(16, row_groups=[group], columns=columns):
                    for row in batch.to_pylist():
                        if wanted is None or number in wanted:
                            yield row
                        number += 1
            first = end
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path}: cannot be read ({error}); run `dvc checkout {DATASET}`") from None


def load_split(split: str, size: int, folder: Path = DATASET) -> Split:
    """A whole split in memory, resized to `size` x `size` pixels."""
    return stack_patches(read_patches(split, folder=folder), size)


def evenly_spaced_patches(split: str, count: int, folder: Path = DATASET) -> Iterator[Patch]:
    """`count` patches spread evenly over a split, or all if it has fewer, read lazily."""
    return read_patches(split, evenly_spaced(count, count_patches(split, folder)), folder)


def load_evenly_spaced(split: str, count: int, size: int, folder: Path = DATASET) -> Split:
    """`evenly_spaced_patches` in memory, resized to `size` x `size` pixels."""
    return stack_patches(evenly_spaced_patches(split, count, folder), size)


def open_split(split: str, folder: Path = DATASET) -> "Dataset":
    """A split as a Hugging Face dataset, with random access; images are undecoded PNG."""
    from datasets import Image as ImageFeature  # slow to import, and few callers need it
    from datasets import load_dataset

    files = [str(path) for path in shard_paths(split, folder)]
    rows = load_dataset("parquet", data_files={split: files}, split=split)
    for column in ("image", "mask", *FURTHER_BANDS):
        if column in rows.column_names:
            rows = rows.cast_column(column, ImageFeature(decode=False))
    return rows


def stack_patches(patches: Iterable[Patch], size: int) -> Split:
    """Patches in memory, resized to `size` x `size` pixels.

    Images are resized by area average, masks by nearest neighbour.

    Args:
        patches: at least one.
        size: new height and width, pixels.
    """
    patch_ids, images, masks, captions = [], [], [], []
    for patch in patches:
        patch_ids.append(patch.patch_id)
        images.append(resize_image(patch.bands, size))
        masks.append(resize_mask(patch.mask, size))
        captions.append(patch.caption)
    return Split(patch_ids, np.stack(images), np.stack(masks), captions)


def decode_bands(row: Mapping[str, Any]) -> NDArray[np.uint8]:
    """Decode all bands of an image of the dataset.

    Args:
        row: has the columns `image` and, if the dataset has them, `near_infrared` and `height`.

    Returns:
        RGB and further bands, (height, width, bands).
    """
    columns = ["image", *(name for name in FURTHER_BANDS if name in row)]
    return np.dstack([decode_png(row[name]["bytes"]) for name in columns])


def decode_png(png: bytes) -> NDArray[np.uint8]:
    """Decode an image or a mask of the dataset.

    Args:
        png: the `bytes` of a value of the column `image` or `mask`.

    Returns:
        RGB, (height, width, 3); or a further band or class ids, (height, width).
    """
    with Image.open(io.BytesIO(png)) as image:
        return np.array(image)
