"""base-model: the Stable Diffusion that the ControlNet is trained on.

Reads   data/dataset/ (train), of which source tiny trains one from scratch; or a model of the
        Hugging Face hub, or of a folder, in diffusers' layout
Writes  models/base/ in diffusers' layout: VAE, CLIP text encoder and tokenizer, UNet, scheduler;
        models/base/source.json, what it is (id, commit, licence, sha256 of each file);
        metrics/vae.csv and metrics/unet.csv, the losses of a tiny one
"""

import re
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from urllib.parse import quote

import requests
from diffusers import StableDiffusionPipeline

from aerialdreams.data.credits import IGN_CREDIT, OSM_CREDIT
from aerialdreams.data.dataset import load_split
from aerialdreams.errors import UserError, WorkError
from aerialdreams.models.stable_diffusion import load_stable_diffusion, tokenize
from aerialdreams.models.tiny import (
    new_scheduler,
    new_text_encoder,
    new_tokenizer,
    new_unet,
    new_vae,
)
from aerialdreams.params import BaseModelParams, Params
from aerialdreams.paths import BASE, DATASET, UNET_LOSSES, VAE_LOSSES
from aerialdreams.pipeline.identity import training_identity
from aerialdreams.pipeline.stage import run_stage, scratch_dir
from aerialdreams.training.checkpoint import Checkpoint
from aerialdreams.training.loss_curves import LossCurve, write_curve
from aerialdreams.training.tiny_base import (
    UNetSettings,
    VaeSettings,
    encode_images,
    train_unet,
    train_vae,
)
from aerialdreams.util.download import TIMEOUT, fetch, file_sha256, need_space
from aerialdreams.util.files import atomic_folder, write_json
from aerialdreams.util.scratch import work_folder
from aerialdreams.util.torch_setup import configure_torch

PARTS = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")
# Of the several forms in which a repository may hold weights: whole precision, safetensors, and
# not those of a safety checker or of another variant (fp16, ema).
WANTED = re.compile(
    rf"(?:{'|'.join(PARTS)})/(?:[\w.]+\.(?:json|txt)|(?:diffusion_pytorch_)?model\.safetensors)"
    r"|README\.md|model_index\.json"
)
FALLBACK = "Manojb/stable-diffusion-2-1-base"  # the same weights as the default's


def main(params: Params) -> str:
    stage = params.base_model
    vae_losses, unet_losses = LossCurve("VAE"), LossCurve("UNet")
    about: dict[str, Any] = {"source": stage.source}
    training = (
        work_folder(scratch_dir(), "base-model", identity_of(params))
        if stage.source == "tiny"
        else nullcontext()
    )
    with training as work, atomic_folder(BASE) as folder:
        if work:
            said, vae_losses, unet_losses = train_tiny(params, work, folder)
        elif stage.source == "folder":
            said = copy_base(Path(stage.folder), folder)
        else:
            commit, fetched = fetch_base(stage, Path(params.raw_patches.downloads))
            said = f"{stage.id} at {commit[:12]}: {copy_base(fetched, folder)}"
            about |= {"id": stage.id, "commit": commit}
        about["license"] = licence_of(folder)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        about["sha256"] = {f.relative_to(folder).as_posix(): file_sha256(f) for f in files}
        write_json(folder / "source.json", about)
    write_curve(VAE_LOSSES, vae_losses.means())
    write_curve(UNET_LOSSES, unet_losses.means())
    return said


def identity_of(params: Params) -> dict[str, Any]:
    """What decides the weights of the tiny model."""
    decisive = params.base_model.tiny.model_dump(mode="json") | {"image_size": params.image_size}
    return training_identity(decisive, [DATASET], [__file__], ("data", "models", "training"))


def train_tiny(params: Params, work: Path, folder: Path) -> tuple[str, LossCurve, LossCurve]:
    """Train a tiny Stable Diffusion from scratch and save it in diffusers' layout.

    Args:
        params: those of base_model.tiny and image_size decide the result.
        work: where checkpoints are kept.
        folder: an empty folder to save it to.

    Returns:
        A summary in numbers, and the losses of VAE and UNet.
    """
    device, tiny = configure_torch(params.torch_threads), params.base_model.tiny
    vae_settings = VaeSettings(**tiny.vae.model_dump())
    unet_settings = UNetSettings(**tiny.unet.model_dump())
    every = params.runtime.checkpoint_every
    train = load_split("train", params.image_size)

    vae = new_vae(
        vae_settings.channels, vae_settings.latent_channels, params.image_size, tiny.seed
    ).to(device)
    checkpoint = Checkpoint(work / "vae.pt", {}, device)
    vae_losses = train_vae(vae, train.images, vae_settings, tiny.seed, checkpoint, every)
    latents = encode_images(vae, train.images)

    tokenizer = new_tokenizer(train.captions, tiny.text.vocabulary)
    text_encoder = new_text_encoder(
        tiny.text.width, tiny.text.layers, len(tokenizer), tiny.seed + 1
    ).to(device)
    unet = new_unet(
        unet_settings.channels,
        vae_settings.latent_channels,
        tiny.text.width,
        latents[0].shape[-1],
        tiny.seed + 2,
    ).to(device)
    scheduler = new_scheduler(unet_settings.prediction)
    checkpoint = Checkpoint(work / "unet.pt", {}, device)
    unet_losses = train_unet(
        unet,
        text_encoder,
        scheduler,
        latents,
        vae.config["scaling_factor"],
        tokenize(tokenizer, [*train.captions, ""]),
        unet_settings,
        tiny.seed,
        checkpoint,
        every,
    )
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    (folder / "README.md").write_text(TINY_CARD, encoding="utf-8")
    sizes = [sum(p.numel() for p in m.parameters()) / 1e6 for m in (vae, text_encoder, unet)]
    summary = (
        f"VAE of {sizes[0]:.2f} M weights trained for"
        f" {vae_settings.steps + vae_settings.full_image_steps} steps, text encoder of"
        f" {sizes[1]:.2f} M and UNet of {sizes[2]:.2f} M for {unet_settings.steps}"
    )
    return summary, vae_losses, unet_losses


def fetch_base(stage: BaseModelParams, downloads: Path) -> tuple[str, Path]:
    """Fetch a model of the hub, its files checked by size and the sha256 that the hub publishes.

    Args:
        stage: which.
        downloads: where to; what came there before is not fetched again.

    Returns:
        The commit that `revision` stood for, and the model's folder.

    Raises:
        UserError: the hub has no such model or revision, or it is no Stable Diffusion.
        WorkError: the hub cannot be reached.
    """
    hub = stage.hub.rstrip("/")
    url = f"{hub}/api/models/{stage.id}/revision/{quote(stage.revision, safe='')}?blobs=true"
    try:
        answer = requests.get(url, timeout=TIMEOUT)
    except requests.RequestException as error:
        raise WorkError(
            f"{url}: the hub cannot be reached ({error}); without a network set base_model.source"
            " to folder, and base_model.folder to a copy of the model"
        ) from None
    if answer.status_code in (401, 403, 404):  # it says 401 of what is gone, too
        raise UserError(
            f"base_model.id: {stage.id} at {stage.revision}: the hub answers {answer.status_code};"
            f" it is gone or not open to all; {FALLBACK} has Stable Diffusion 2.1-base too"
        )
    if answer.status_code != 200:
        raise WorkError(f"{url}: the hub answers {answer.status_code} {answer.reason}; try later")
    listed = answer.json()
    commit = str(listed["sha"])
    files = [file for file in listed["siblings"] if WANTED.fullmatch(file["rfilename"])]
    folder = downloads / stage.id.replace("/", "--") / commit
    folder.mkdir(parents=True, exist_ok=True)
    need_space(folder, sum(file.get("size") or 0 for file in files), f"fetching {stage.id}")
    for file in files:
        name = file["rfilename"]
        sha256 = (file.get("lfs") or {}).get("sha256")
        link = f"{hub}/{stage.id}/resolve/{commit}/{quote(name)}"
        fetch(link, folder / name, file.get("size"), sha256)
    return commit, folder


def copy_base(source: Path, folder: Path) -> str:
    """Copy a model's parts, as they are; gives what it is, in numbers.

    Raises:
        UserError: a part is missing or cannot be read.
    """
    if not source.is_dir():
        raise UserError(f"base_model.folder: {str(source)!r} is no folder; name one with a model")
    for path in sorted(source.rglob("*")):
        name = path.relative_to(source).as_posix()
        if path.is_file() and WANTED.fullmatch(name):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / name)
    missing = [part for part in PARTS if not (folder / part).is_dir()]
    if missing:
        raise UserError(
            f"{source}: has no {', '.join(missing)}; it must hold Stable Diffusion in diffusers'"
            " layout, with weights as .safetensors"
        )
    base = load_stable_diffusion(folder)
    models = {"VAE": base.vae, "text encoder": base.text_encoder, "UNet": base.unet}
    sizes = [
        f"{what} of {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M weights"
        for what, model in models.items()
    ]
    return f"{', '.join(sizes)}, {base.scheduler.config['prediction_type']}"


def licence_of(folder: Path) -> str | None:
    """What the model's card names as its licence."""
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8") if card.exists() else ""
    named = re.search(r"^license:\s*(\S+)", text, re.MULTILINE)
    return named[1] if named else None


TINY_CARD = f"""---
license: other
library_name: diffusers
---
# A tiny base model for AerialDreams

Trained from scratch by the pipeline on the train split of its dataset.

Derived from {IGN_CREDIT}, and from captions with place names {OSM_CREDIT}. With the source
`sample`, AerialDreams draws the images and the places itself, in the same format.
"""

if __name__ == "__main__":
    run_stage("base-model", __doc__, main)
