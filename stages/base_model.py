"""base-model: the Stable Diffusion that the ControlNet is trained on.

Reads   by base_model.source
          tiny    data/dataset/ (train): a small model is trained on it from scratch
          hub     a model of the Hugging Face hub
          folder  a model in diffusers' layout
Writes  models/base/ in diffusers' layout: VAE, CLIP text encoder and tokenizer (SDXL has two of
        each), UNet, scheduler;
        models/base/source.json, its origin (id, commit, licence, sha256 of each file);
        metrics/unet.csv, the losses of source tiny
"""

import re
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from diffusers import StableDiffusionPipeline

from aerialdreams.data.dataset import load_split
from aerialdreams.errors import UserError
from aerialdreams.models.base_folder import file_hashes, files_of_family, import_base
from aerialdreams.models.families import BaseModel, family_of
from aerialdreams.models.latent_diffusion import tokenize
from aerialdreams.models.tiny import (
    new_scheduler,
    new_text_encoder,
    new_tokenizer,
    new_unet,
)
from aerialdreams.params import Params
from aerialdreams.paths import BASE, DATASET, UNET_LOSSES
from aerialdreams.pipeline.identity import training_identity
from aerialdreams.pipeline.stage import run_stage, scratch_dir
from aerialdreams.training.checkpoint import Checkpoint
from aerialdreams.training.linear_autoencoder import (
    AutoencoderSettings,
    fit_autoencoder,
    train_refinement,
)
from aerialdreams.training.loss_curves import LossCurve, write_curve
from aerialdreams.training.tiny_base import UNetSettings, encode_images, train_unet
from aerialdreams.util.files import atomic_folder, refuse_overlap, write_json
from aerialdreams.util.hub import download_snapshot
from aerialdreams.util.scratch import work_folder
from aerialdreams.util.torch_setup import configure_torch


def main(params: Params) -> str:
    stage = params.base_model
    losses = LossCurve("UNet")
    origin: dict[str, Any] = {"source": stage.source}
    training = (
        work_folder(scratch_dir(), "base-model", identity_of(params))
        if stage.source == "tiny"
        else nullcontext()
    )
    with training as work, atomic_folder(BASE) as folder:
        if work:
            summary, losses = train_tiny(params, work, folder)
        elif stage.source == "folder":
            source = Path(stage.input)
            if not source.is_dir():
                raise UserError(f"base_model.input: {stage.input!r} is not a folder")
            refuse_overlap("base_model.input", source, BASE)
            summary = describe(import_base(source, folder))
        else:
            source = download_model(stage.id, stage.revision)
            summary = f"{stage.id} at {source.name[:12]}: {describe(import_base(source, folder))}"
            origin |= {"id": stage.id, "commit": source.name}
        origin["license"] = licence_of(folder)
        origin["sha256"] = file_hashes(folder)
        write_json(folder / "source.json", origin)
    write_curve(UNET_LOSSES, losses.means())
    return summary


def identity_of(params: Params) -> dict[str, Any]:
    """What decides the weights of the tiny model."""
    decisive = params.base_model.tiny.model_dump(mode="json") | {"image_size": params.image_size}
    return training_identity(decisive, [DATASET], [__file__], ("data", "models", "training"))


def train_tiny(params: Params, work: Path, folder: Path) -> tuple[str, LossCurve]:
    """Train a tiny Stable Diffusion from scratch and save it in diffusers' layout.

    Args:
        params: those of base_model.tiny and image_size decide the result.
        work: where checkpoints are kept.
        folder: an empty folder to save it to.

    Returns:
        A summary in numbers, and the UNet's losses.
    """
    device, tiny = (
        configure_torch(params.compute.threads, params.compute.deterministic),
        params.base_model.tiny,
    )
    crop = tiny.unet.crop // tiny.autoencoder.block
    unet_settings = UNetSettings(**tiny.unet.model_dump() | {"crop": crop})
    train = load_split("train", params.image_size)
    autoencoder = AutoencoderSettings(**tiny.autoencoder.model_dump())
    vae = fit_autoencoder(train.images, autoencoder, tiny.seed).to(device)
    train_refinement(vae, train.images, autoencoder, tiny.seed)
    latents = encode_images(vae, train.images)

    tokenizer = new_tokenizer(train.captions, tiny.text.vocabulary)
    text_encoder = new_text_encoder(
        tiny.text.width, tiny.text.layers, len(tokenizer), tiny.seed + 1
    ).to(device)
    unet = new_unet(
        unet_settings.channels,
        tiny.autoencoder.channels,
        tiny.text.width,
        latents.shape[-1],
        tiny.seed + 2,
    ).to(device)
    scheduler = new_scheduler(unet_settings.prediction)
    checkpoint = Checkpoint(work / "unet.pt", {}, device)
    losses = train_unet(
        unet,
        text_encoder,
        scheduler,
        latents,
        tokenize(tokenizer, [*train.captions, ""]),
        unet_settings,
        tiny.seed,
        checkpoint,
        params.runtime.checkpoint_every,
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
    (folder / "README.md").write_text(tiny_card(params), encoding="utf-8")
    sizes = [sum(p.numel() for p in m.parameters()) / 1e6 for m in (text_encoder, unet)]
    summary = (
        f"autoencoder of {tiny.autoencoder.channels} components, text encoder of {sizes[0]:.2f} M"
        f" weights and UNet of {sizes[1]:.2f} M trained for {unet_settings.steps} steps"
    )
    return summary, losses


def download_model(repository: str, revision: str) -> Path:
    """A model's files from the hub, in its cache; first the one that tells its family.

    Args:
        repository: base_model.id.
        revision: branch, tag or commit.

    Raises:
        UserError: there is no such model, or it is of another family.
        WorkError: the hub cannot be reached, and the cache does not have the files.
    """
    key = "base_model.id"
    index = download_snapshot(key, repository, revision, ["model_index.json"])
    family = family_of(index, f"{key}: {repository}")
    return download_snapshot(key, repository, index.name, files_of_family(family))


def describe(base: BaseModel) -> str:
    """The sizes of a model's networks, and what its UNet predicts."""
    encoders = [("text encoder", encoder) for encoder in base.text_encoders]
    sizes = [
        f"{name} of {sum(p.numel() for p in network.parameters()) / 1e6:.2f} M weights"
        for name, network in [("VAE", base.vae), *encoders, ("UNet", base.unet)]
    ]
    return f"{', '.join(sizes)}, {base.scheduler.config['prediction_type']}"


def licence_of(folder: Path) -> str | None:
    """The licence that the model's card names, or None."""
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8") if card.exists() else ""
    match = re.search(r"^license:\s*(\S+)", text, re.MULTILINE)
    return match[1] if match else None


def tiny_card(params: Params) -> str:
    """The card of a base model that was trained from scratch."""
    return f"""---
license: other
license_name: {params.dataset_spec.licence}
library_name: diffusers
---
# A tiny base model for AerialDreams

Trained from scratch by the pipeline on the train split of its dataset.

Derived from {"; and from captions with place names ".join(params.credits)}.
"""


if __name__ == "__main__":
    run_stage("base-model", __doc__, main)
