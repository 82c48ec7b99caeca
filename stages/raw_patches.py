"""raw-patches: the tiles that everything starts from, in FLAIR's own layouts.

Reads   by raw_patches.source
          sample   nothing: a small invented world is drawn from a seed
          toy      IGN's toy set, 250 patches, from IGN's storage
          full     all of FLAIR #1, 77,412 patches, from IGN's storage
          domains  some domains of FLAIR #1, from its Hugging Face release
          folder   FLAIR as it lies on a disk: linked, never copied or changed
Writes  data/raw/, with IMG_nnnnnn.tif and MSK_nnnnnn.tif in folders that name domain and zone,
        flair-1_metadata_aerial.json, and sources.json: what it came from, with sha256
        With source sample also sample.osm.pbf, the same ground as OpenStreetMap would have it

Archives are kept in raw_patches.downloads: delete them when you will not need them again.
"""

import json
import shutil
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import quote

import requests

from aerialdreams.data.flair import METADATA, PATCH_NAME
from aerialdreams.errors import UserError, WorkError
from aerialdreams.params import Params, RawPatches
from aerialdreams.paths import RAW
from aerialdreams.pipeline.parallel import parallel_map
from aerialdreams.pipeline.stage import run_stage, scratch_dir
from aerialdreams.sample.world import draw_zone, lay_out, write_world
from aerialdreams.util.download import TIMEOUT, fetch, need_space, size_of
from aerialdreams.util.files import (
    atomic_file,
    atomic_folder,
    fingerprint,
    write_json,
)
from aerialdreams.util.scratch import resumable_folder

HUB_DATASET = "IGNF/FLAIR-1-2"
HUB_FOLDERS = ("data/train-val", "data/flair#1-test")  # flair#2-test has other patches
HUB_METADATA = "aux-data/flair_aerial_metadata.json"
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
MEMBERS = 500  # files of an archive that a worker unpacks at a time


class Archive(NamedTuple):
    """A file of a source, with what is published of it."""

    url: str
    name: str
    size: int | None = None
    sha256: str | None = None


class Members(NamedTuple):
    """Some files of an archive, and where they are to lie."""

    archive: Path
    files: list[tuple[str, Path]]


def main(params: Params) -> str:
    stage = params.raw_patches
    if stage.source == "sample":
        return draw_sample(params)
    if stage.source == "folder":
        return link_folder(Path(stage.folder))
    archives = list_hub(stage) if stage.source == "domains" else list_storage(stage)
    downloads = Path(stage.downloads)
    hashes = fetch_all(archives, downloads)
    with_hashes = [
        {"url": archive.url, "sha256": sha256}
        for archive, sha256 in zip(archives, hashes, strict=True)
    ]
    with resumable_folder(RAW, scratch_dir(), fingerprint(hashes, __file__, [])) as folder:
        count = unpack_all([downloads / archive.name for archive in archives], folder, params)
        gather_metadata(folder)
        write_json(folder / "sources.json", with_hashes)
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
    return f"{count} patches in {len(tasks)} zones of {len(sample.zones)} domains drawn"


def list_storage(stage: RawPatches) -> list[Archive]:
    """The archives of IGN's storage; it publishes no hashes, and sizes only when asked."""
    root = stage.storage.rstrip("/")
    return [Archive(f"{root}/{name}", name) for name in STORED[stage.source]]


def list_hub(stage: RawPatches) -> list[Archive]:
    """The archives of the chosen domains, with size and sha256 from the hub's listing.

    Raises:
        UserError: FLAIR #1 has no such domain.
        WorkError: the hub cannot be reached.
    """
    root = f"{stage.hub.rstrip('/')}/datasets/{HUB_DATASET}/resolve/{stage.hub_revision}"
    listed = [file for folder in (*HUB_FOLDERS, "aux-data") for file in ask_hub(stage, folder)]
    archives = {
        PurePosixPath(file["path"]).stem: Archive(
            f"{root}/{quote(file['path'])}",
            PurePosixPath(file["path"]).name,
            file["size"],
            file.get("lfs", {}).get("oid"),
        )
        for file in listed
        if file["path"].endswith(".zip") or file["path"] == HUB_METADATA
    }
    unknown = sorted(set(stage.domains) - set(archives))
    if unknown or not stage.domains:
        have = ", ".join(sorted(name for name in archives if name.startswith("D")))
        raise UserError(
            f"raw_patches.domains: {', '.join(unknown) or 'none named'}; the hub has {have}"
        )
    return [archives[name] for name in [*stage.domains, PurePosixPath(HUB_METADATA).stem]]


def ask_hub(stage: RawPatches, folder: str) -> list[dict[str, Any]]:
    """One folder of the hub's listing (https://huggingface.co/docs/hub/api)."""
    quoted = quote(folder)
    url = f"{stage.hub.rstrip('/')}/api/datasets/{HUB_DATASET}/tree/{stage.hub_revision}/{quoted}"
    try:
        answer = requests.get(url, timeout=TIMEOUT)
        answer.raise_for_status()
        files: list[dict[str, Any]] = answer.json()
    except requests.RequestException as error:
        raise WorkError(f"{url}: {error}; see the network and raw_patches.hub_revision") from None
    return files


def fetch_all(archives: list[Archive], downloads: Path) -> list[str]:
    """Have all archives in the folder; gives their sha256, in their order."""
    downloads.mkdir(parents=True, exist_ok=True)
    missing = [archive for archive in archives if not (downloads / archive.name).exists()]
    sizes = [archive.size or size_of(archive.url) or 0 for archive in missing]
    parts = [downloads / f"{archive.name}.part" for archive in missing]
    have = sum(part.stat().st_size for part in parts if part.exists())
    need_space(downloads, sum(sizes) - have, f"fetching {len(missing)} archives")
    return [fetch(a.url, downloads / a.name, a.size, a.sha256) for a in archives]


def unpack_all(archives: list[Path], folder: Path, params: Params) -> int:
    """Unpack tiles and metadata, each archive into a folder of its name; gives the tiles' number.

    That name is the domain of archives of Hugging Face, which have no folder for it inside. Files
    that are there already are whole, from a run that was killed, and stay.
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
    """Which members of an archive to unpack and where to, and their bytes.

    Raises:
        UserError: it is no whole zip, or a member would lie outside, on another, or is a link.
    """
    files: dict[Path, str] = {}
    size = 0
    try:
        with zipfile.ZipFile(archive) as opened:
            members = opened.infolist()
    except zipfile.BadZipFile as error:
        raise UserError(
            f"{archive}: no whole zip ({error}); remove it, `dvc repro` fetches it again"
        ) from None
    for member in members:
        path = PurePosixPath(member.filename)
        if not PATCH_NAME.fullmatch(path.name) and not is_metadata(path.name):
            continue
        if path.is_absolute() or ".." in path.parts or "\\" in member.filename:
            raise UserError(f"{archive}: {member.filename} leads out of its folder; not unpacked")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise UserError(f"{archive}: {member.filename} is a link; not unpacked")
        if folder / path in files:
            raise UserError(f"{archive}: {member.filename} is in it twice; not unpacked")
        files[folder / path] = member.filename
        size += member.file_size
    return [(name, target) for target, name in files.items()], size


def is_metadata(name: str) -> bool:
    """Whether a file is IGN's metadata of the patches, by its name in the one release or other."""
    return name.startswith("flair") and name.endswith(".json") and "metadata" in name


def unpack(task: Members) -> None:
    """Unpack some members; each is written beside its place and checked by the archive's CRC.

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
                    f"{task.archive}: {name} is damaged ({error}); remove the archive and its"
                    " .sha256, `dvc repro` fetches it again"
                ) from None


def link_folder(source: Path) -> str:
    """Link all tiles below a folder into data/raw, in folders of the same names.

    Raises:
        UserError: there is no such folder, or no tile in it.
    """
    if not source.is_dir():
        raise UserError(f"raw_patches.folder: {str(source)!r} is no folder; name where FLAIR lies")
    tiles = sorted(path for path in source.rglob("*.tif") if PATCH_NAME.fullmatch(path.name))
    if not tiles:
        raise UserError(f"{source}: no IMG_nnnnnn.tif or MSK_nnnnnn.tif in it or its folders")
    metadata = sorted(path for path in source.rglob("*.json") if is_metadata(path.name))
    with atomic_folder(RAW) as root:
        for path in [*tiles, *metadata]:
            target = root / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(path.resolve())
        gather_metadata(root)
    return f"{len(tiles)} tiles of {source} linked"


def gather_metadata(root: Path) -> None:
    """Join the metadata files below a folder into one at its top, where there are any."""
    found = [path for path in sorted(root.rglob("*.json")) if is_metadata(path.name)]
    joined: dict[str, Any] = {}
    for path in found:
        try:
            joined |= json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{path}: not valid JSON ({error}); fetch it again") from None
    for path in found:
        path.unlink()
    if found:
        write_json(root / METADATA, joined)


if __name__ == "__main__":
    run_stage("raw-patches", __doc__, main)
