"""The captioned dataset: Parquet shards that Hugging Face `datasets` loads directly."""

import io
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from aerialdreams.data.images import resize_image, resize_mask
from aerialdreams.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset
from aerialdreams.paths import DATASET

Item = TypeVar("Item")


# What models are trained on, and where it is.
COLUMNS = [
    *("patch_id", "image", "mask", "caption", "captions"),
    *("domain", "zone", "origin_x", "origin_y"),
]


class Patch(NamedTuple):
    """One row of the dataset."""

    patch_id: str
    image: NDArray[np.uint8]  # RGB, (512, 512, 3)
    mask: NDArray[np.uint8]  # class ids, (512, 512)
    caption: str
    captions: list[str]  # one per template
    domain: str
    zone: str
    origin: tuple[float, float]  # north-west corner in EPSG:2154, metres


class Split(NamedTuple):
    """A split in memory, at the models' image size."""

    patch_ids: list[str]
    images: NDArray[np.uint8]  # RGB, (patches, size, size, 3)
    masks: NDArray[np.uint8]  # class ids, (patches, size, size)
    captions: list[str]


def shards(split: str) -> list[Path]:
    """A split's shards, in the order of their rows.

    Raises:
        UserError: the dataset has no such split.
    """
    paths = sorted((DATASET / "data").glob(f"{split}-*.parquet"))
    if not paths:
        raise UserError(
            f"{DATASET}: no {split} shards; run `dvc repro dataset` or `dvc pull dataset`"
        )
    return paths


def read_patches(split: str) -> Iterator[Patch]:
    """The patches of a split, in order of patch_id, read as they are needed.

    Raises:
        UserError: a shard is missing or damaged.
    """
    for path in shards(split):
        yield from read_shard(path)


def count_patches(split: str) -> int:
    """How many patches a split has."""
    return sum(pq.ParquetFile(path).metadata.num_rows for path in shards(split))


def read_shard(path: Path) -> Iterator[Patch]:
    """The patches of one shard, read as they are needed."""
    for row in _rows(path):
        yield _patch(row)


def read_captions(path: Path) -> list[str]:
    """All captions of one shard, without reading its images."""
    return [caption for row in _rows(path, ["captions"]) for caption in row["captions"]]


def read_zones(split: str) -> dict[tuple[str, str], list[str]]:
    """Patch ids by (domain, zone) of a split, without reading its images."""
    zones: dict[tuple[str, str], list[str]] = {}
    for path in shards(split):
        for row in _rows(path, ["patch_id", "domain", "zone"]):
            zones.setdefault((row["domain"], row["zone"]), []).append(row["patch_id"])
    return zones


def _patch(row: dict[str, Any]) -> Patch:
    image, mask = decode_png(row["image"]), decode_png(row["mask"])
    return Patch(
        row["patch_id"],
        image,
        mask,
        row["caption"],
        row["captions"],
        row["domain"],
        row["zone"],
        (row["origin_x"], row["origin_y"]),
    )


def _rows(path: Path, columns: list[str] = COLUMNS) -> Iterator[dict[str, Any]]:
    try:
        for batch in pq.ParquetFile(path).iter_batches(batch_size=16, columns=columns):
            yield from batch.to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path}: cannot be read ({error}); `dvc checkout` it") from None


def load_split(split: str, size: int) -> Split:
    """A whole split in memory, resized to `size` x `size` pixels."""
    return stack_patches(read_patches(split), size)


def load_evenly_spaced(split: str, count: int, size: int) -> Split:
    """As `load_split`, but only `count` patches, spread evenly over the split."""
    return stack_patches(evenly_spaced_patches(split, count), size)


def evenly_spaced_patches(split: str, count: int) -> Iterator[Patch]:
    """`count` patches spread evenly over a split, or all if it has fewer.

    Only the shards that hold them are read.
    """
    paths = shards(split)
    lengths = [pq.ParquetFile(path).metadata.num_rows for path in paths]
    total = sum(lengths)
    count = min(count, total)
    wanted = {number * total // count for number in range(count)}
    first = 0
    for path, length in zip(paths, lengths, strict=True):
        if not wanted.isdisjoint(range(first, first + length)):
            for number, row in enumerate(_rows(path), first):
                if number in wanted:
                    yield _patch(row)
        first += length


def open_split(split: str) -> "Dataset":
    """A split as a Hugging Face dataset, with random access; images are undecoded PNG."""
    from datasets import Image as ImageFeature  # slow to import, and few need it
    from datasets import load_dataset

    files = [str(path) for path in shards(split)]
    rows = load_dataset("parquet", data_files={split: files}, split=split)
    for column in ("image", "mask"):
        rows = rows.cast_column(column, ImageFeature(decode=False))
    return rows


def stack_patches(patches: Iterable[Patch], size: int) -> Split:
    """Patches in memory, resized to `size` x `size` pixels; there must be at least one.

    Images are resized by area average, masks by nearest neighbour.
    """
    ids, images, masks, captions = [], [], [], []
    for patch in patches:
        ids.append(patch.patch_id)
        images.append(resize_image(patch.image, size))
        masks.append(resize_mask(patch.mask, size))
        captions.append(patch.caption)
    return Split(ids, np.stack(images), np.stack(masks), captions)


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` items; the last may be shorter (Python 3.12 has itertools.batched)."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def decode_png(value: dict[str, Any]) -> NDArray[np.uint8]:
    """Decode an image or mask of the dataset, whose `bytes` are a PNG.

    Returns:
        RGB, (height, width, 3), or class ids, (height, width).
    """
    with Image.open(io.BytesIO(value["bytes"])) as image:
        return np.array(image)
