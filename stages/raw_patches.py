"""raw-patches: the source tiles, one image and one mask per patch.

Reads   by raw_patches.source
          sample   nothing: a small invented world is drawn from a seed
          toy      IGN's toy set, 250 patches, from IGN's storage
          full     all of FLAIR #1, 77,412 patches, from IGN's storage
          domains  some domains of FLAIR #1, from its Hugging Face release
          folder   FLAIR in raw_patches.folder: linked, never copied or changed
          pairs    rasters of images and masks in raw_patches.folder: cut into patches
Writes  data/raw/, with IMG_nnnnnn.tif and MSK_nnnnnn.tif in folders that name domain and zone,
        metadata as JSON, and sources.json: source, archives and their sha256.
        With source sample also sample.osm.pbf, the same ground as OpenStreetMap data

IGN's archives are kept in raw_patches.downloads, those of the hub in the hub's cache.
"""

import os
import re
import shutil
import stat
import sys
import zipfile
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from aerialdreams.data.cutting import Cut, CutSettings, cut_pair
from aerialdreams.data.flair import METADATA, PATCH_FOLDERS, PATCH_NAME, PATCH_NAME_HINT
from aerialdreams.data.metadata import CUT_METADATA, read_metadata
from aerialdreams.data.pairs import RasterPair, match_files, read_pair_table
from aerialdreams.errors import UserError
from aerialdreams.param_groups.data import RawPatches
from aerialdreams.params import Params
from aerialdreams.paths import RAW
from aerialdreams.pipeline.parallel import parallel_map
from aerialdreams.pipeline.stage import run_stage, scratch_dir
from aerialdreams.sample.world import SAMPLE_EXTRACT, draw_zone, lay_out, write_world
from aerialdreams.util.download import fetch, file_sha256, need_space, size_of
from aerialdreams.util.files import (
    atomic_file,
    atomic_folder,
    fingerprint,
    read_json,
    refuse_overlap,
    write_json,
)
from aerialdreams.util.hub import download_snapshot, list_files
from aerialdreams.util.scratch import resumable_folder

HUB_DATASET = "IGNF/FLAIR-1-2"
HUB_FOLDERS = ("data/train-val", "data/flair#1-test")  # flair#2-test has other patches
HUB_METADATA = "aux-data/flair_aerial_metadata.json"
ORIGIN = "sources.json"
STORED = {
    "toy": ["flair_1_toy_dataset.zip", "flair-1_metadata_aerial.zip"],
    "full": [
        "flair_aerial_train.zip",
        "flair_labels_train.zip",
        "flair_1_aerial_test.zip",
        "flair_1_labels_test.zip",
        "flair-1_metadata_aerial.zip",
    ],
}
DONE = ".cut"  # what became of each raster, while they are cut
TILE_NAME = re.compile(r"(IMG|MSK)_.+\.tif")
MEMBERS = 500  # files of an archive that a worker unpacks at a time


class Members(NamedTuple):
    """Members of an archive, and the files to unpack them to."""

    archive: Path
    files: list[tuple[str, Path]]


def main(params: Params) -> str:
    stage = params.raw_patches
    refuse_foreign_files()
    if stage.source == "sample":
        return draw_sample(params)
    if stage.source == "folder":
        return link_folder(Path(stage.folder))
    if stage.source == "pairs":
        return cut_pairs(params)
    archives = hub_archives(stage) if stage.source == "domains" else storage_archives(stage)
    hashes = {path.name: sha256 for path, sha256 in archives}
    origin: dict[str, Any] = {"source": stage.source, "files": hashes}
    if stage.source == "domains":
        origin |= {"repository": HUB_DATASET, "commit": archives[0][0].parents[2].name}
    key = fingerprint(list(hashes.values()), __file__, [])
    with resumable_folder(RAW, scratch_dir(), key) as folder:
        count = unpack_all([path for path, _ in archives], folder, params)
        gather_metadata(folder)
        write_json(folder / ORIGIN, origin)
    return f"{count} tiles unpacked from {len(archives)} archives"


def draw_sample(params: Params) -> str:
    """Draw the invented world, in FLAIR's layout."""
    sample, runtime = params.raw_patches.sample, params.runtime
    with atomic_folder(RAW) as root:
        tasks = lay_out(root, sample.zones, sample.zone_side, sample.seed)
        zones = parallel_map(
            draw_zone,
            tasks,
            len(tasks),
            "zones drawn",
            workers=runtime.workers,
            scheduler=runtime.scheduler,
            unit="zones",
        )
        count = write_world(root, list(zones), sample.seed)
        write_json(root / ORIGIN, {"source": "sample"})
    return f"{count} patches in {len(tasks)} zones of {len(sample.zones)} domains drawn"


def storage_archives(stage: RawPatches) -> list[tuple[Path, str]]:
    """Download IGN's archives; it publishes no hashes, and sizes only in response headers.

    Returns:
        Paths of the archives, and their sha256.
    """
    downloads, root = Path(stage.downloads), stage.storage.rstrip("/")
    downloads.mkdir(parents=True, exist_ok=True)
    names = STORED[stage.source]
    missing = [name for name in names if not (downloads / name).exists()]
    sizes = [size_of(f"{root}/{name}") or 0 for name in missing]
    parts = [downloads / f"{name}.part" for name in missing]
    have = sum(part.stat().st_size for part in parts if part.exists())
    need_space(downloads, sum(sizes) - have, f"downloading {len(missing)} archives")
    return [(downloads / name, fetch(f"{root}/{name}", downloads / name)) for name in names]


def hub_archives(stage: RawPatches) -> list[tuple[Path, str]]:
    """Download the archives of the chosen domains and the metadata from the Hugging Face hub.

    Returns:
        Paths of the files, and their sha256.

    Raises:
        UserError: FLAIR #1 has no such domain.
        WorkError: the hub cannot be reached.
    """
    patterns = [f"{part}/{name}.zip" for part in HUB_FOLDERS for name in stage.domains]
    key = "raw_patches.hub_revision"
    root = download_snapshot(
        key, HUB_DATASET, stage.hub_revision, [*patterns, HUB_METADATA], "dataset"
    )
    archives = {path.stem: path for part in HUB_FOLDERS for path in (root / part).glob("*.zip")}
    unknown = sorted(set(stage.domains) - set(archives))
    if unknown or not stage.domains:
        files = list_files(HUB_DATASET, root.name, "dataset")
        domains = sorted(PurePosixPath(name).stem for name in files if name.startswith(HUB_FOLDERS))
        raise UserError(
            f"raw_patches.domains: {', '.join(unknown) or 'none named'}; the hub has"
            f" {', '.join(domains)}"
        )
    files_needed = [*(archives[name] for name in stage.domains), root / HUB_METADATA]
    return [(path, file_sha256(path)) for path in files_needed]


def unpack_all(archives: list[Path], folder: Path, params: Params) -> int:
    """Unpack tiles and metadata, each archive into a folder of its name.

    Archives of the hub are named after their domain and have no folder for it inside. Files that
    exist are complete, from a run that was killed, and are kept.

    Returns:
        Number of tiles.
    """
    tasks, needed, count = [], 0, 0
    folder.mkdir(parents=True, exist_ok=True)
    for archive in archives:
        if archive.suffix == ".json":
            shutil.copyfile(archive, folder / archive.name)
            continue
        files, size = look_into(archive, folder / archive.stem)
        needed += size
        count += sum(target.suffix == ".tif" for _, target in files)
        tasks += [Members(archive, files[i : i + MEMBERS]) for i in range(0, len(files), MEMBERS)]
    have = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    need_space(folder, needed - have, "unpacking")
    for _ in parallel_map(
        unpack,
        tasks,
        len(tasks),
        "archives unpacked",
        workers=params.runtime.workers,
        scheduler=params.runtime.scheduler,
        unit="parts",
    ):
        pass
    return count


def look_into(archive: Path, folder: Path) -> tuple[list[tuple[str, Path]], int]:
    """Members of an archive to unpack, with their targets, and their size in bytes.

    Raises:
        UserError: it is not a complete zip file, or a member is a link, occurs twice or would be
            written outside the folder.
    """
    files: dict[Path, str] = {}
    size = 0
    try:
        with zipfile.ZipFile(archive) as opened:
            members = opened.infolist()
    except zipfile.BadZipFile as error:
        raise UserError(
            f"{archive}: not a complete zip file ({error}); delete it, `dvc repro` downloads it"
            " again"
        ) from None
    for member in members:
        path = PurePosixPath(member.filename)
        if not PATCH_NAME.fullmatch(path.name) and not is_metadata(path.name):
            continue
        if path.is_absolute() or ".." in path.parts or "\\" in member.filename:
            raise UserError(
                f"{archive}: {member.filename} would be written outside its folder; not unpacked"
            )
        if stat.S_ISLNK(member.external_attr >> 16):
            raise UserError(f"{archive}: {member.filename} is a link; not unpacked")
        if folder / path in files:
            raise UserError(f"{archive}: {member.filename} is in it twice; not unpacked")
        files[folder / path] = member.filename
        size += member.file_size
    return [(name, target) for target, name in files.items()], size


def is_metadata(name: str) -> bool:
    """Whether a file is IGN's metadata of the patches, by its name in either release."""
    return name.startswith("flair") and name.endswith(".json") and "metadata" in name


def unpack(task: Members) -> None:
    """Unpack members; each is checked by the archive's CRC and complete or absent.

    Raises:
        UserError: a member is damaged.
    """
    with zipfile.ZipFile(task.archive) as opened:
        for name, target in task.files:
            if target.exists():
                continue
            try:
                with (
                    atomic_file(target) as partial,
                    opened.open(name) as source,
                    partial.open("wb") as file,
                ):
                    shutil.copyfileobj(source, file, 1 << 20)
            except (zipfile.BadZipFile, EOFError, zlib.error) as error:
                raise UserError(
                    f"{task.archive}: {name} is damaged ({error}); delete the archive and its"
                    " .sha256, `dvc repro` downloads it again"
                ) from None


def link_folder(source: Path) -> str:
    """Link all tiles below a folder into data/raw, in folders of the same names.

    Raises:
        UserError: there is no such folder, it overlaps data/raw, or it holds no tile.
    """
    if not source.is_dir():
        raise UserError(
            f"raw_patches.folder: {str(source)!r} is not a folder; name the one with FLAIR's tiles"
        )
    tiles: dict[PurePosixPath, Path] = {}
    metadata = []
    for path in files_below(source):
        relative = PurePosixPath(path.relative_to(source).as_posix())
        if PATCH_NAME.fullmatch(relative.stem.upper() + relative.suffix.lower()):
            # Later stages look for exactly these names.
            target = relative.with_name(relative.stem.upper() + relative.suffix.lower())
            if target in tiles:
                raise UserError(f"{path}: {tiles[target]} has the same name but for its case")
            tiles[target] = path
        elif is_metadata(path.name):
            metadata.append(path)
    if not tiles:
        raise UserError(f"{source}: no {PATCH_NAME_HINT} in it or its folders")
    for path in (source, *tiles.values()):
        refuse_overlap("raw_patches.folder", path, RAW)
    with atomic_folder(RAW) as root:
        for target, path in tiles.items():
            (root / target).parent.mkdir(parents=True, exist_ok=True)
            (root / target).symlink_to(path.resolve())
        write_json(root / ORIGIN, {"source": "folder"})
        joined = join_metadata(metadata)
        if metadata:
            write_json(root / METADATA, joined)
    domains = {match[1] for target in tiles if (match := PATCH_FOLDERS.fullmatch(str(target)))}
    return f"{len(tiles)} tiles of {len(domains)} domains in {source} linked"


def cut_pairs(params: Params) -> str:
    """Cut the rasters in raw_patches.folder into patches; a killed run resumes with the others.

    Raises:
        UserError: files are missing, cannot be read, or do not fit each other or the dataset spec.
    """
    stage, spec = params.raw_patches, params.dataset_spec
    source, options = Path(stage.folder), stage.pairs
    if not source.is_dir():
        raise UserError(f"raw_patches.folder: {stage.folder!r} is not a folder; name your rasters'")
    pairs, alone = list_pairs(source, stage)
    for path in (source, *(path for pair in pairs for path in (pair.image, pair.mask))):
        refuse_overlap("raw_patches.folder", path, RAW)
    settings = CutSettings(
        spec,
        options.stride or spec.patch_size,
        options.least_valid,
        options.max_off_palette,
        options.warp,
    )
    states = [
        (str(p), p.stat().st_size, p.stat().st_mtime) for x in pairs for p in (x.image, x.mask)
    ]
    key = fingerprint([spec, stage, states], __file__, [])
    with resumable_folder(RAW, scratch_dir(), key) as folder:
        cuts = parallel_map(
            partial(cut_once, folder, settings),
            pairs,
            len(pairs),
            "rasters cut",
            workers=params.runtime.workers,
            scheduler=params.runtime.scheduler,
            unit="rasters",
        )
        metadata: dict[str, Any] = {}
        skipped, notes = 0, list[str]()
        for cut in cuts:
            metadata |= cut.patches
            skipped += cut.skipped
            notes += cut.notes
        if not metadata:
            raise UserError(
                f"{source}: none of {skipped} patches has enough pixels with data and a class; see"
                " raw_patches.pairs.least_valid and dataset_spec"
            )
        write_json(folder / CUT_METADATA, metadata)
        write_json(folder / ORIGIN, {"source": "pairs", "rasters": [pair.name for pair in pairs]})
        shutil.rmtree(folder / DONE)
    for note in notes:
        print(note, file=sys.stderr)
    missing = f"; {len(alone)} images without mask, such as {alone[0]}" if alone else ""
    return (
        f"{len(metadata)} patches cut from {len(pairs)} rasters, {skipped} skipped for few valid"
        f" pixels{missing}"
    )


def list_pairs(source: Path, stage: RawPatches) -> tuple[list[RasterPair], list[Path]]:
    """The pairs of rasters, and the images without mask."""
    options = stage.pairs
    if options.table:
        return read_pair_table(source / options.table, source), []
    return match_files(
        source / options.images,
        source / options.masks,
        options.image_pattern,
        options.mask_pattern,
    )


def cut_once(folder: Path, settings: CutSettings, pair: RasterPair) -> Cut:
    """Cut a pair of rasters, unless a killed run has already."""
    record = folder / DONE / f"{pair.name}.json"
    if record.exists():
        return Cut(**read_json(record))
    cut = cut_pair(pair, folder, settings)
    write_json(record, cut._asdict())
    return cut


def files_below(folder: Path) -> Iterator[Path]:
    """Files in a folder and its folders, sorted; links to folders are followed, each folder once.

    Raises:
        UserError: a folder cannot be read.
    """

    def fail(error: OSError) -> None:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror})") from None

    seen: set[Path] = set()
    for root, folders, files in os.walk(folder, onerror=fail, followlinks=True):
        real = Path(root).resolve()
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        yield from (Path(root) / name for name in sorted(files))


def refuse_foreign_files() -> None:
    """Make sure that data/raw holds nothing but what this stage wrote there before.

    Raises:
        UserError: it holds other files, which would be lost.
    """
    if RAW.is_symlink():
        raise UserError(f"{RAW}: is a link; remove it, and name your tiles in raw_patches.folder")
    if not RAW.is_dir() or not any(RAW.iterdir()):
        return
    known = (ORIGIN, METADATA, CUT_METADATA, SAMPLE_EXTRACT)
    foreign = [
        path
        for path in files_below(RAW)
        if path.name not in known and not TILE_NAME.fullmatch(path.name)
    ]
    if foreign or not (RAW / ORIGIN).exists():
        raise UserError(
            f"{foreign[0] if foreign else RAW}: was not written by the pipeline and would be lost,"
            f" for {RAW} is replaced; move it elsewhere (for tiles, name their new folder in"
            " raw_patches.folder), or delete it"
        )


def gather_metadata(root: Path) -> None:
    """Join the metadata files below a folder into one at its top, where there are any."""
    paths = [path for path in sorted(root.rglob("*.json")) if is_metadata(path.name)]
    joined = join_metadata(paths)
    for path in paths:
        path.unlink()
    if paths:
        write_json(root / METADATA, joined)


def join_metadata(paths: list[Path]) -> dict[str, Any]:
    """The entries of IGN's metadata files, by patch.

    Raises:
        UserError: a file is not valid JSON.
    """
    joined: dict[str, Any] = {}
    for path in paths:
        joined |= read_metadata(path)
    return joined


if __name__ == "__main__":
    run_stage("raw-patches", __doc__, main)
