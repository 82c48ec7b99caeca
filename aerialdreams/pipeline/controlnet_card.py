"""The model card of a trained ControlNet, models/controlnet/README.md."""

import json

from aerialdreams.data.credits import IGN_CREDIT, OSM_CREDIT
from aerialdreams.models.controlnet import FINETUNED_UNET
from aerialdreams.params import Params, flatten
from aerialdreams.paths import BASE, DATASET
from aerialdreams.util.files import dvc_md5

# The card's example; tests/training/test_train_controlnet.py runs it.
EXAMPLE = """
import numpy as np
import torch
from diffusers import ControlNetModel, DDIMScheduler, StableDiffusionControlNetPipeline
from PIL import Image

controlnet = ControlNetModel.from_pretrained("models/controlnet")
pipeline = StableDiffusionControlNetPipeline.from_pretrained(
    "models/base", controlnet=controlnet, safety_checker=None, trust_remote_code=True)
pipeline.scheduler = DDIMScheduler.from_config(
    pipeline.scheduler.config, timestep_spacing="trailing")

mask = Image.open("mask.png").resize(({size}, {size}), Image.Resampling.NEAREST)  # ids 1 to 19
{condition}
image = pipeline("Aerial view of France.", condition, guidance_scale={guidance:g},
                 controlnet_conditioning_scale={scale:g}, num_inference_steps={steps},
                 generator=torch.Generator().manual_seed(0)).images[0]
image.save("photograph.png")
"""

# Lines of the example that prepare the mask, by train_controlnet.conditioning.
PREPARE_MASK = {
    "one_hot": """\
ids = torch.from_numpy(np.array(mask)).long()[None] - 1
condition = torch.nn.functional.one_hot(ids, 19).permute(0, 3, 1, 2).float()""",
    "colours": """\
condition = mask.convert("RGB")  # a paletted PNG in FLAIR's colours""",
}

# Description of the conditioning input.
CONDITIONING = {
    "one_hot": "the one-hot encoded mask, 19 channels of 0 and 1, channel = FLAIR class id - 1",
    "colours": "the mask in FLAIR's colours",
}


def controlnet_card(params: Params, loss: float, validation_loss: float) -> str:
    """The card's text: base model, data, losses, example, params, licence and credits.

    Args:
        params: all params.
        loss: mean training loss of the last steps.
        validation_loss: validation loss of the saved weights.
    """
    stage = params.train_controlnet
    base_info = json.loads((BASE / "source.json").read_text(encoding="utf-8"))
    base = {
        "tiny": "a tiny Stable Diffusion, trained from scratch by the pipeline",
        "folder": "a Stable Diffusion from a local folder",
        "hub": f"{base_info.get('id')} at {base_info.get('commit')}",
    }[base_info["source"]]
    licence = base_info["license"] or "not named in its card; ask the base model's publisher"
    groups = ("train_controlnet.", "encode_latents.", "image_size")
    settings = [(k, v) for k, v in flatten(params).items() if k.startswith(groups)]
    rows = "\n".join(f"| `{key}` | {value} |" for key, value in settings)
    unlocked = (
        f"The last {stage.unlock_decoder_steps} steps also trained the UNet's decoder. Use the UNet"
        f" in `{FINETUNED_UNET}/` instead of the base model's.\n\n"
        if stage.unlock_decoder_steps
        else ""
    )
    example = EXAMPLE.format(
        size=params.image_size,
        condition=PREPARE_MASK[stage.conditioning],
        guidance=stage.sampling.guidance,
        steps=stage.sampling.steps,
        scale=stage.sampling.conditioning_scale,
    )
    return f"""---
license: other
license_name: {base_info["license"] or "see-card"}
library_name: diffusers
pipeline_tag: text-to-image
tags: [controlnet, aerial, land-cover, FLAIR]
---
# A ControlNet that generates aerial photographs from land-cover masks

Conditioning: {CONDITIONING[stage.conditioning]}. Mask and image have
{params.image_size} x {params.image_size} pixels for a patch of 102.4 m. Generated images are
synthetic and show no real place.

| | |
|---|---|
| base model | {base}, MD5 {dvc_md5(BASE)} |
| dataset | MD5 {dvc_md5(DATASET)}, as in the `dvc.lock` of the AerialDreams project |
| loss | {loss:.6f}, mean of the last steps; {validation_loss:.6f} on validation patches |

{unlocked}## Example

```python{example}```

## Params

| param | value |
|---|---|
{rows}

## Licence and credits

- The base model's licence also applies to this model: {licence}.
- Trained on images and masks of {IGN_CREDIT}, https://ignf.github.io/FLAIR/, and on captions with
  place names {OSM_CREDIT}, https://www.openstreetmap.org/copyright. With raw_patches.source sample,
  AerialDreams has drawn both in the same formats.
"""
