"""The model card that lies with a trained ControlNet."""

import json

from aerialdreams.data.credits import IGN_CREDIT, OSM_CREDIT
from aerialdreams.models.controlnet import FINETUNED_UNET
from aerialdreams.params import Params, flatten
from aerialdreams.paths import BASE, DATASET
from aerialdreams.util.files import dvc_md5

# How to use the model; tests/training/test_train_controlnet.py runs it.
USE = """
import numpy as np
import torch
from diffusers import ControlNetModel, DDIMScheduler, StableDiffusionControlNetPipeline
from PIL import Image

controlnet = ControlNetModel.from_pretrained("models/controlnet")
pipeline = StableDiffusionControlNetPipeline.from_pretrained(
    "models/base", controlnet=controlnet, safety_checker=None)
pipeline.scheduler = DDIMScheduler.from_config(
    pipeline.scheduler.config, timestep_spacing="trailing")

mask = Image.open("mask.png").resize(({size}, {size}), Image.Resampling.NEAREST)  # ids 1 to 19
{condition}
image = pipeline("Aerial view of France.", condition, guidance_scale={guidance:g},
                 controlnet_conditioning_scale={scale:g}, num_inference_steps={steps},
                 generator=torch.Generator().manual_seed(0)).images[0]
image.save("photograph.png")
"""


CONDITIONS = {
    "one_hot": """\
ids = torch.from_numpy(np.array(mask)).long()[None] - 1
condition = torch.nn.functional.one_hot(ids, 19).permute(0, 3, 1, 2).float()""",
    "colours": """\
condition = mask.convert("RGB")  # a paletted PNG in FLAIR's colours""",
}


ONES = {
    "one_hot": "the mask as 19 planes of 0 and 1, plane = FLAIR class id - 1",
    "colours": "the mask in FLAIR's colours",
}


def controlnet_card(params: Params, loss: float, validation_loss: float) -> str:
    """Base, data, params, losses, licence, credits and use of a ControlNet, as its README.md.

    Args:
        params: all params.
        loss: the last steps' mean.
        validation_loss: of the saved weights.
    """
    stage = params.train_controlnet
    about = json.loads((BASE / "source.json").read_text(encoding="utf-8"))
    base = {
        "tiny": "a tiny Stable Diffusion that the pipeline trained from scratch",
        "folder": "a Stable Diffusion from a folder",
        "hub": f"{about.get('id')} at {about.get('commit')}",
    }[about["source"]]
    licence = about["license"] or "not named by its card; see the base model's publisher"
    groups = ("train_controlnet.", "encode_latents.", "image_size")
    settings = [(k, v) for k, v in flatten(params).items() if k.startswith(groups)]
    rows = "\n".join(f"| `{key}` | {value} |" for key, value in settings)
    unlocked = (
        f"The last {stage.unlock_decoder_steps} steps trained the UNet's decoder too: it is in"
        f" `{FINETUNED_UNET}/` and belongs in the pipeline in place of the base's.\n\n"
        if stage.unlock_decoder_steps
        else ""
    )
    use = USE.format(
        size=params.image_size,
        condition=CONDITIONS[stage.conditioning],
        guidance=stage.sampling.guidance,
        steps=stage.sampling.steps,
        scale=stage.sampling.conditioning_scale,
    )
    return f"""---
license: other
license_name: {about["license"] or "see-card"}
library_name: diffusers
pipeline_tag: text-to-image
tags: [controlnet, aerial, land-cover, FLAIR]
---
# A ControlNet that paints land-cover masks as aerial photographs

Condition: {ONES[stage.conditioning]}. One pixel of the mask is one of the image,
{params.image_size} x {params.image_size} for a patch of 102.4 m. Images made with it are synthetic
and show no real place.

| | |
|---|---|
| base model | {base}, MD5 {dvc_md5(BASE)} |
| dataset | MD5 {dvc_md5(DATASET)} (`dvc.lock` of the AerialDreams project has it) |
| loss | {loss:.6f} over the last steps, {validation_loss:.6f} on validation patches |

{unlocked}## Use

```python{use}```

## Params

| param | value |
|---|---|
{rows}

## Licence and credits

- The base model's licence holds for this model too: {licence}.
- Trained on images and masks of {IGN_CREDIT}, https://ignf.github.io/FLAIR/, and on captions with
  place names {OSM_CREDIT}, https://www.openstreetmap.org/copyright. With the sample source both
  are drawn by AerialDreams in their shape.
"""
