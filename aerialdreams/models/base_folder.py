"""Base models in folders: imported with checks that they fit, or passed on."""

import re
import shutil
from collections.abc import Collection
from pathlib import Path

from aerialdreams.errors import UserError
from aerialdreams.models.families import SUPPORTED, BaseModel, Family, family_of
from aerialdreams.util.download import file_sha256
from aerialdreams.util.files import link_or_copy

LFS_POINTER = b"version https://git-lfs"


def files_of_family(family: Family) -> list[str]:
    """Which files of a repository to download, as `fnmatch` patterns.

    Repositories hold weights in several forms; these are full precision, safetensors, whole or in
    shards. Other variants (fp16, ema) match none of them.
    """
    return [
        "README.md",
        "model_index.json",
        *(f"{part}/*.{suffix}" for part in family.PARTS for suffix in ("json", "txt")),
        *(f"{part}/{name}.safetensors" for part, name in family.WEIGHTS.items()),
        *(f"{part}/{name}-*-of-*.safetensors" for part, name in family.WEIGHTS.items()),
    ]


def import_base(source: Path, folder: Path) -> BaseModel:
    """Copy a model's parts into a folder and load them.

    Args:
        source: the model, in diffusers' layout. It and its parts may be links.
        folder: an empty folder to copy to.

    Raises:
        UserError: a part is missing or damaged, or the model is not one that this pipeline can
            train on.
    """
    family = family_of(source)
    missing = [part for part in family.PARTS if not (source / part).is_dir()]
    if missing:
        raise UserError(
            f"{source}: has no {', '.join(missing)}; it must hold a {family.NAME} in diffusers'"
            " layout, with weights as .safetensors"
        )
    for part in family.PARTS:
        files = _files_of(source, part, family.WEIGHTS.get(part))
        (folder / part).mkdir()
        for file in files:
            shutil.copyfile(file, folder / part / file.name)
    for name in ("README.md", "model_index.json"):
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    try:
        base = family.load(folder)
    except UserError as error:
        # The copy is about to be deleted: name the user's folder.
        raise UserError(str(error).replace(str(folder), str(source))) from None
    failed = base.misfits()
    if failed:
        raise UserError(f"{source}: cannot be the base model: {'; '.join(failed)}. {SUPPORTED}")
    return base


def pass_on(source: Path, folder: Path, without: Collection[str] = ()) -> None:
    """Put a model's files into another folder unchanged, as hard links where that is possible.

    Args:
        source: the model's folder.
        folder: an empty folder.
        without: files and folders of `source` that are left out.
    """
    for path in sorted(source.rglob("*")):
        name = path.relative_to(source)
        if name.parts[0] in without or not path.is_file():
            continue
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        link_or_copy(path, folder / name)


def file_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of each file of a model, by its path in the folder, for source.json."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): file_sha256(path) for path in files}


def _files_of(source: Path, part: str, name: str | None) -> list[Path]:
    """The files of a part to copy.

    Args:
        source: the model.
        part: one of its folders.
        name: of the part's weights, without shard and suffix; None if it has none.

    Raises:
        UserError: it has no complete weights.
    """
    present = sorted(path for path in (source / part).iterdir() if path.is_file())
    texts = [path for path in present if path.suffix in (".json", ".txt")]
    if not name:
        return texts
    pattern = rf"{name}(-\d+-of-\d+)?\.safetensors"
    weights = [path for path in present if re.fullmatch(pattern, path.name)]
    if not weights:
        others = [p.name for p in present if p.suffix in (".safetensors", ".bin", ".ckpt", ".pt")]
        raise UserError(
            f"{source / part}: has no {name}.safetensors in full precision, only"
            f" {', '.join(others) or 'no weights'}; get that file, or convert the model with"
            " diffusers: `DiffusionPipeline.from_pretrained(FOLDER).save_pretrained(NEW)`"
        )
    for path in weights:
        with path.open("rb") as file:
            if file.read(len(LFS_POINTER)) == LFS_POINTER:
                raise UserError(f"{path}: is a Git LFS pointer; run `git lfs pull` in {source}")
    return texts + weights
