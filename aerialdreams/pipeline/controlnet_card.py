"""The model card of a trained ControlNet, models/controlnet/README.md."""

import json

from aerialdreams.data.dataset import median_pixel_size
from aerialdreams.data.land_cover import class_ids
from aerialdreams.models.controlnet import FINETUNED_UNET
from aerialdreams.models.families import family_of
from aerialdreams.models.stable_diffusion import StableDiffusion
from aerialdreams.params import Params, flat, flatten
from aerialdreams.paths import ADAPTED_BASE, DATASET
from aerialdreams.pipeline.adapted_base_card import base_in_words
from aerialdreams.util.files import dvc_md5

# The card's example; tests/training/test_train_controlnet.py runs it.
EXAMPLE = """
import numpy as np
import torch
from diffusers import ControlNetModel, DDIMScheduler, {pipeline}
from PIL import Image
{imports}
controlnet = ControlNetModel.from_pretrained("models/controlnet")
pipeline = {pipeline}.from_pretrained(
    "models/adapted_base", controlnet=controlnet{options})
pipeline.scheduler = DDIMScheduler.from_config(
    pipeline.scheduler.config, timestep_spacing="trailing")

mask = Image.open("mask.png").resize(({size}, {size}), Image.Resampling.NEAREST)
{condition}
image = pipeline("Aerial view.", {image}condition, guidance_scale={guidance:g},
                 controlnet_conditioning_scale={scale!r}, num_inference_steps={steps},
                 generator=torch.Generator().manual_seed(0)).images[0]
image.save("photograph.png")
"""

# diffusers loads the tiny base's autoencoder only if its module is imported.
OWN_AUTOENCODER = "\nimport aerialdreams.models.linear_autoencoder\n"

# Lines of the example that prepare the mask, by train_controlnet.conditioning.
PREPARE_MASK = {
    "one_hot": """\
class_ids = torch.tensor({class_ids})
condition = (torch.from_numpy(np.array(mask)) == class_ids[:, None, None])[None].float()""",
    "colours": """\
condition = mask.convert("RGB")  # a paletted PNG in the classes' colours""",
}

# Description of the conditioning input.
CONDITIONING = {
    "one_hot": "the one-hot encoded mask, a channel of 0 and 1 for each class of the table below",
    "colours": "the mask in the colours of the table below",
}


def controlnet_card(params: Params, loss: float, validation_loss: float) -> str:
    """The card's text: base model, data, losses, example, params, licence and credits.

    Args:
        params: all params.
        loss: mean training loss of the last steps.
        validation_loss: validation loss of the saved weights.
    """
    stage, spec = params.train_controlnet, params.dataset_spec
    base_info = json.loads((ADAPTED_BASE / "source.json").read_text(encoding="utf-8"))
    family = family_of(ADAPTED_BASE)
    licence = base_info["license"] or "not named in its card; ask the base model's publisher"
    groups = ("train_controlnet.", "encode_latents.", "image_size")
    settings = [(k, v) for k, v in flatten(params).items() if k.startswith(groups)]
    adaptation = base_info.get("adaptation", {"params": {}})["params"]
    settings += [(f"adapt_base.{name}", value) for name, value in flat(adaptation).items()]
    rows = "\n".join(f"| `{key}` | {value} |" for key, value in settings)
    unlocked = (
        f"The last {stage.unlock_decoder_steps} steps also trained the UNet's decoder. Use the UNet"
        f" in `{FINETUNED_UNET}/` instead of the base model's.\n\n"
        if stage.unlock_decoder_steps
        else ""
    )
    example = EXAMPLE.format(
        size=params.image_size,
        pipeline=family.PIPELINES[1],
        options=", safety_checker=None" if family is StableDiffusion else "",
        image="" if family is StableDiffusion else "image=",
        imports=OWN_AUTOENCODER if base_info["source"] == "tiny" else "",
        condition=PREPARE_MASK[stage.conditioning].format(class_ids=class_ids(spec.classes)),
        guidance=stage.sampling.guidance,
        steps=stage.sampling.steps,
        scale=stage.sampling.conditioning_scale,
    )
    classes = "\n".join(f"| {row.id} | {row.name} | `{row.colour}` |" for row in spec.classes)
    extent = median_pixel_size() * spec.patch_size
    places = "".join(
        f"- Trained on captions with place names {credit}, https://www.openstreetmap.org/copyright.\n"
        for credit in params.credits[1:]
    )
    return f"""---
license: other
license_name: {base_info["license"] or "see-card"}
library_name: diffusers
pipeline_tag: text-to-image
tags: [controlnet, aerial, land-cover, AerialDreams]
---
# A ControlNet that generates aerial photographs from land-cover masks

Conditioning: {CONDITIONING[stage.conditioning]}. Mask and image have
{params.image_size} x {params.image_size} pixels for a patch of {extent:.4g} m. Generated images are
synthetic and show no real place.

| | |
|---|---|
| base model | {base_in_words(base_info, family.NAME)}, MD5 {dvc_md5(ADAPTED_BASE)} |
| dataset | MD5 {dvc_md5(DATASET)}, as in the `dvc.lock` of the AerialDreams project |
| loss | {loss:.6f}, mean of the last steps; {validation_loss:.6f} on validation patches |

{unlocked}## Classes

| id | class | colour |
|---|---|---|
{classes}

## Example

```python{example}```

## Params

| param | value |
|---|---|
{rows}

## Licence and credits

- The base model's licence also applies to this model: {licence}.
- Trained on images and masks of {spec.credit}{f", {spec.url}" if spec.url else ""}.
{places}"""
