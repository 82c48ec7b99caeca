"""Base models on cards, and the card of an adapted one, models/adapted_base/README.md."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aerialdreams.models.families import family_of
from aerialdreams.models.widening import needs_widening
from aerialdreams.params import Params, flatten
from aerialdreams.paths import DATASET
from aerialdreams.pipeline.publish import UNKNOWN_LICENCE
from aerialdreams.util.files import dvc_md5, read_json


def adapted_base_card(params: Params, base: Path, losses: Mapping[str, float]) -> str:
    """The card's text: what was trained on what, licences and credits, and the base's own card.

    The base's card goes on in full, because it has the credits of what the base was made from.

    Args:
        params: all params.
        base: folder of the base model, with source.json and perhaps a card.
        losses: mean training loss of the last steps, by the folder of what was trained: vae, unet.
    """
    spec, origin = params.dataset_spec, read_json(base / "source.json")
    card = base / "README.md"
    metadata, own = split_card(card.read_text(encoding="utf-8") if card.is_file() else "")
    licences = dict(re.findall(r"^(license|license_name|license_link): *(.+)$", metadata, re.M))
    licence = licences.get("license_name") or licences.get("license")
    if not licence:
        licences = {"license": "other", "license_name": UNKNOWN_LICENCE}
        licence = "not named in its card; ask the base model's publisher"
    family = family_of(base).NAME
    learnt, trainings = what_was_trained(params, base, losses)
    rows = "\n".join(
        f"| `{key}` | {value} |"
        for key, value in flatten(params).items()
        if key.startswith(("adapt_base.", "bands", "image_size"))
    )
    places = "".join(
        f"- Trained on captions with place names {credit}, https://www.openstreetmap.org/copyright.\n"
        for credit in params.credits[1:]
    )
    licence_lines = "\n".join(f"{key}: {value}" for key, value in licences.items())
    return f"""---
{licence_lines}
library_name: diffusers
pipeline_tag: text-to-image
tags: [aerial, land-cover, AerialDreams]
---
# {family} adapted to {spec.name}

{learnt} Everything else is the base model's.
Generated images are synthetic and show no real place.

| | |
|---|---|
| base model | {base_in_words(origin, family)}, MD5 {dvc_md5(base)} |
| dataset | MD5 {dvc_md5(DATASET)}, as in the `dvc.lock` of the AerialDreams project |
{trainings}

## Params

| param | value |
|---|---|
{rows}

## Licence and credits

- The base model's licence also applies to this model: {licence}.
- Trained on images of {spec.credit}{f", {spec.url}" if spec.url else ""}, licence {spec.licence}.
{places}
## The base model's own card

{own or "It has none."}
"""


def what_was_trained(params: Params, base: Path, losses: Mapping[str, float]) -> tuple[str, str]:
    """Sentences on what each network has learnt, and rows of a table with weights and losses.

    Args:
        params: all params.
        base: folder of the base model.
        losses: see `adapted_base_card`.
    """
    widened = "vae" in losses and needs_widening(base, len(params.bands))
    rank = params.adapt_base.lora_rank
    learnt = {
        "vae": f"Its VAE has learnt to encode and decode images of {', '.join(params.bands)}."
        if widened
        else "The decoder of its VAE has learnt to decode the images of the train split.",
        "unet": "Its UNet has learnt the images and captions of the train split.",
    }
    trained = {
        "vae": "the decoder's and the encoder's first layer" if widened else "the decoder's",
        "unet": f"low-rank updates of rank {rank}, merged" if rank else "all",
    }
    rows = [
        f"| trained weights of `{name}/` | {trained[name]} |\n"
        f"| loss of `{name}/` | {loss:.6f}, mean of the last steps |"
        for name, loss in losses.items()
    ]
    return " ".join(learnt[name] for name in losses), "\n".join(rows)


def base_in_words(origin: Mapping[str, Any], family: str) -> str:
    """What a base model is, for cards.

    Args:
        origin: the model's source.json.
        family: name of the model's family.
    """
    name = {
        "tiny": "a tiny Stable Diffusion, trained from scratch by the pipeline",
        "folder": f"a {family} from a local folder",
        "hub": f"{origin.get('id')} at {origin.get('commit')}",
    }[origin["source"]]
    return name + adaptation_in_words(origin)


def adaptation_in_words(origin: Mapping[str, Any]) -> str:
    """What adapt-base did to a model, to follow its name; "" if nothing.

    Args:
        origin: the model's source.json.
    """
    if "adaptation" not in origin:
        return ""
    adaptation = origin["adaptation"]
    dataset, params = adaptation["dataset"], adaptation["params"]
    steps, decoder_steps = params["steps"], params["autoencoder"]["steps"]
    if not steps:
        return f", its VAE's decoder adapted to {dataset} in {decoder_steps:,} steps"
    decoder = f", its VAE's decoder in {decoder_steps:,}" if decoder_steps else ""
    return f", adapted to {dataset} in {steps:,} steps{decoder}"


def split_card(text: str) -> tuple[str, str]:
    """Metadata and body of a card; a card may have no metadata."""
    match = re.match(r"---\n(.*?)\n---\n(.*)", text, re.DOTALL)
    metadata, body = match.groups() if match else ("", text)
    return metadata, body.strip()
