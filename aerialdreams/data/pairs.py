"""Pairs of rasters: which image and which mask belong together, from file names or a table."""

import re
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

from aerialdreams.errors import UserError

# Files that GDAL reads beside a raster, and texts; they are no rasters of their own.
SIDE_FILES = {
    *(".xml", ".ovr", ".msk", ".tfw", ".pgw", ".jgw", ".j2w", ".wld", ".gfw", ".bpw", ".tifw"),
    *(".prj", ".hdr", ".tab", ".points", ".txt", ".md", ".csv", ".json", ".parquet", ".pdf"),
}


class RasterPair(NamedTuple):
    """An image and its mask.

    Attributes:
        name: unique, and fit for a file name.
        group: what splits are made of.
        image: the image's file.
        mask: the mask's file.
        date: of the photograph, YYYY-MM-DD; None if unknown.
    """

    name: str
    group: str
    image: Path
    mask: Path
    date: str | None


def match_files(
    images: Path, masks: Path, image_pattern: str, mask_pattern: str
) -> tuple[list[RasterPair], list[Path]]:
    """Pair the files of two folders by their names.

    Args:
        images: folder of the images.
        masks: folder of the masks.
        image_pattern: regular expression for a file's path in its folder, with / and without
            suffix. Files whose whole path does not match are left out. The groups whose names start
            with `key` tell which files belong together; `group` and `date` are optional.
        mask_pattern: the same for masks; of its groups only the keys are read.

    Returns:
        The pairs in order of their names, and the images without mask.

    Raises:
        UserError: a folder is missing, a pattern has no key, two files have the same key, or no
            image has a mask.
    """
    found = [
        _by_key(folder, pattern, name)
        for folder, pattern, name in (
            (images, image_pattern, "image_pattern"),
            (masks, mask_pattern, "mask_pattern"),
        )
    ]
    image_of, mask_of = found
    if not image_of.keys() & mask_of.keys():
        raise UserError(
            f"{images}: none of its {len(image_of)} images has a mask among the {len(mask_of)} in"
            f" {masks}: the keys are {_examples(image_of)} and {_examples(mask_of)}; correct"
            " raw_patches.pairs.image_pattern and mask_pattern"
        )
    pairs = [
        _pair("_".join(key), match, path, mask_of[key][0])
        for key, (path, match) in image_of.items()
        if key in mask_of
    ]
    alone = [path for key, (path, _) in image_of.items() if key not in mask_of]
    return _unique(pairs), alone


def _by_key(
    folder: Path, pattern: str, param: str
) -> dict[tuple[str, ...], tuple[Path, dict[str, Any]]]:
    """The files below a folder, with their pattern's groups, by key."""
    if not folder.is_dir():
        raise UserError(f"{folder}: is not a folder; see raw_patches.folder and raw_patches.pairs")
    keys = sorted(name for name in re.compile(pattern).groupindex if name.startswith("key"))
    if not keys:
        raise UserError(f"raw_patches.pairs.{param}: {pattern!r} has no group named key")
    files: dict[tuple[str, ...], tuple[Path, dict[str, Any]]] = {}
    for path in _rasters(folder):
        match = re.fullmatch(pattern, path.relative_to(folder).with_suffix("").as_posix())
        if not match:
            continue
        groups = match.groupdict()
        key = tuple(groups[name] or "" for name in keys)
        if key in files:
            raise UserError(
                f"{path}: has the same key as {files[key][0]}, {'_'.join(key)!r}; correct"
                f" raw_patches.pairs.{param}"
            )
        files[key] = path, groups
    if not files:
        raise UserError(
            f"{folder}: has no file whose name matches raw_patches.pairs.{param}, {pattern!r}"
        )
    return files


def _rasters(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.is_file() and not hidden and path.suffix.lower() not in SIDE_FILES:
            yield path


def read_pair_table(path: Path, root: Path) -> list[RasterPair]:
    """Read a table of pairs.

    Args:
        path: a CSV (UTF-8, with commas) or Parquet file with the columns image and mask, paths
            relative to `root`; and, if known, group and date.
        root: the folder of the files.

    Raises:
        UserError: the table is missing or damaged, lacks a column, or names a missing file.
    """
    import pandas as pd

    try:
        rows = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, dtype=str)
    except FileNotFoundError:
        raise UserError(f"{path}: not found; see raw_patches.pairs.table") from None
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: cannot be read as a table ({error})") from None
    missing = [column for column in ("image", "mask") if column not in rows]
    if missing:
        raise UserError(f"{path}: has no column {missing[0]}; it needs image and mask")
    pairs = []
    for number, row in enumerate(rows.to_dict("records"), start=2):
        image, mask = root / str(row["image"]), root / str(row["mask"])
        for file in (image, mask):
            if not file.is_file():
                raise UserError(f"{path}: row {number}: {file} not found")
        groups = {key: row[key] for key in ("group", "date") if isinstance(row.get(key), str)}
        pairs.append(_pair(Path(str(row["image"])).with_suffix("").as_posix(), groups, image, mask))
    if not pairs:
        raise UserError(f"{path}: has no rows")
    return _unique(pairs)


def _pair(name: str, groups: dict[str, Any], image: Path, mask: Path) -> RasterPair:
    name = _safe(name)
    day = None
    if text := groups.get("date"):
        try:
            day = date.fromisoformat(text).isoformat()
        except ValueError:
            raise UserError(f"{image}: its date is {text!r}, not YYYY-MM-DD or YYYYMMDD") from None
    return RasterPair(name, _safe(groups.get("group") or name), image, mask, day)


def _safe(name: str) -> str:
    """A name as part of a file name: letters, digits, dots, hyphens and underscores."""
    return re.sub(r"[^\w.-]+", "_", name).strip("._") or "_"


def _unique(pairs: list[RasterPair]) -> list[RasterPair]:
    """The pairs in order of their names.

    Raises:
        UserError: two have the same name.
    """
    first: dict[str, RasterPair] = {}
    for pair in pairs:
        other = first.setdefault(pair.name, pair)
        if other is not pair:
            raise UserError(
                f"{pair.image}: its patches would have the same names as those of {other.image},"
                f" {pair.name}; rename one of the files"
            )
    return sorted(pairs)


def _examples(files: dict[tuple[str, ...], Any]) -> str:
    return ", ".join("_".join(key) for key in list(files)[:3])
