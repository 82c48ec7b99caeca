"""Stable Diffusion in a folder: imported with checks that it fits, or passed on."""

import re
import shutil
from collections.abc import Collection
from pathlib import Path

from aerialdreams.errors import UserError
from aerialdreams.models.stable_diffusion import (
    StableDiffusion,
    load_stable_diffusion,
)
from aerialdreams.util.download import file_sha256
from aerialdreams.util.files import link_or_copy

WEIGHTS = {
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
    "unet": "diffusion_pytorch_model",
}
PARTS = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")
# Which files of a repository to download. Repositories hold weights in several forms; these are
# full precision, safetensors, whole or in shards. Other variants (fp16, ema) match none of them.
PATTERNS = [
    "README.md",
    "model_index.json",
    *(f"{part}/*.{suffix}" for part in PARTS for suffix in ("json", "txt")),
    *(f"{part}/{name}.safetensors" for part, name in WEIGHTS.items()),
    *(f"{part}/{name}-*-of-*.safetensors" for part, name in WEIGHTS.items()),
]
LFS_POINTER = b"version https://git-lfs"
PREDICTIONS = ("epsilon", "v_prediction")


def import_base(source: Path, folder: Path) -> StableDiffusion:
    """Copy a model's parts into a folder and load them.

    Args:
        source: the model, in diffusers' layout. It and its parts may be links.
        folder: an empty folder to copy to.

    Raises:
        UserError: a part is missing or damaged, or the model is not a Stable Diffusion that this
            pipeline can train on.
    """
    missing = [part for part in PARTS if not (source / part).is_dir()]
    if missing:
        raise UserError(
            f"{source}: has no {', '.join(missing)}; it must hold a Stable Diffusion in diffusers'"
            " layout, with weights as .safetensors"
        )
    for part in PARTS:
        files = _files_of(source, part)
        (folder / part).mkdir()
        for file in files:
            shutil.copyfile(file, folder / part / file.name)
    for name in ("README.md", "model_index.json"):
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    try:
        base = load_stable_diffusion(folder)
    except UserError as error:
        # The copy is about to be deleted: name the user's folder.
        raise UserError(str(error).replace(str(folder), str(source))) from None
    _check_family(base, source)
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


def _files_of(source: Path, part: str) -> list[Path]:
    """The files of a part to copy.

    Raises:
        UserError: it has no complete weights.
    """
    present = sorted(path for path in (source / part).iterdir() if path.is_file())
    texts = [path for path in present if path.suffix in (".json", ".txt")]
    if part not in WEIGHTS:
        return texts
    name = WEIGHTS[part]
    pattern = rf"{name}(-\d+-of-\d+)?\.safetensors"
    weights = [path for path in present if re.fullmatch(pattern, path.name)]
    if not weights:
        others = [p.name for p in present if p.suffix in (".safetensors", ".bin", ".ckpt", ".pt")]
        raise UserError(
            f"{source / part}: has no {name}.safetensors in full precision, only"
            f" {', '.join(others) or 'no weights'}; get that file, or convert the model with"
            " diffusers: `StableDiffusionPipeline.from_pretrained(FOLDER).save_pretrained(NEW)`"
        )
    for path in weights:
        with path.open("rb") as file:
            if file.read(len(LFS_POINTER)) == LFS_POINTER:
                raise UserError(f"{path}: is a Git LFS pointer; run `git lfs pull` in {source}")
    return texts + weights


def _check_family(base: StableDiffusion, source: Path) -> None:
    """Check that parts fit each other, and that the model is conditioned on one text alone.

    Raises:
        UserError: they do not, or it is not.
    """
    unet, latent_channels = base.unet.config, base.vae.config["latent_channels"]
    reasons = {
        f"its UNet takes {unet['in_channels']} channels and its VAE's latents have"
        f" {latent_channels}": unet["in_channels"] != latent_channels,
        f"its UNet gives {unet['out_channels']} channels and its VAE's latents have"
        f" {latent_channels}": unet["out_channels"] != latent_channels,
        "its UNet needs a second text encoder or image sizes, as SDXL's does": bool(
            unet.get("addition_embed_type")
        ),
        "its UNet needs class labels": bool(
            unet.get("class_embed_type") or unet.get("num_class_embeds")
        ),
        f"its text encoder has width {base.text_encoder.config.hidden_size} and its UNet expects"
        f" {unet['cross_attention_dim']}": (
            base.text_encoder.config.hidden_size != unet["cross_attention_dim"]
        ),
        f"its scheduler's prediction_type is {base.scheduler.config['prediction_type']!r}": (
            base.scheduler.config["prediction_type"] not in PREDICTIONS
        ),
    }
    failed = [reason for reason, fails in reasons.items() if fails]
    if failed:
        raise UserError(
            f"{source}: cannot be the base model: {'; '.join(failed)}. Stable Diffusion 1.x and"
            " 2.x text-to-image models can"
        )
