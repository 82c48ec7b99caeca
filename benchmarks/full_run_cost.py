"""What the full run costs: FLAIR and Stable Diffusion 2.1 with the settings `flair sd21 gpu`.

Usage   python -m benchmarks.full_run_cost [--settings NAME ...] [--tflops T]
            [--utilisation SHARE] [--gpus N]
Counts the floating-point operations of each stage with torch's FlopCounterMode, on torch's meta
device and at the settings' sizes, and divides them by what the GPU is assumed to sustain: its peak
in bf16 (989 TFLOPS is NVIDIA's figure for an H100 SXM) times the utilisation. Data loading is
assumed to keep up. Prints a table and a last line of JSON.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch
import yaml
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode

from aerialdreams.models.conditioning import MaskConditioning
from aerialdreams.models.controlnet import new_controlnet
from aerialdreams.models.ign_segmenter import IgnSegmenter
from aerialdreams.models.segmenter import Segmenter
from aerialdreams.params import Params
from aerialdreams.training.adaptation import AdaptedUNet
from aerialdreams.training.autoencoder import AdaptedAutoencoder
from aerialdreams.training.controlnet import ControlledUNet
from tests.projects import merge

# Patches of FLAIR #1 by split, with validation domains as in params.yaml.
PATCHES = {"train": 49_900, "validation": 11_800, "test": 15_700}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", nargs="+", default=["flair", "sd21", "gpu"])
    parser.add_argument("--tflops", type=float, default=989.0)
    parser.add_argument("--utilisation", type=float, default=0.25)
    parser.add_argument("--gpus", type=int, default=1)
    words = parser.parse_args()
    speed = words.tflops * 1e12 * words.utilisation * words.gpus
    params = real_params(words.settings)
    hours = {name: flops / speed / 3600 for name, flops in stage_flops(params).items()}
    for name, value in hours.items():
        print(f"{name:24} {value:8.2f} h")
    print(f"{'all':24} {sum(hours.values()):8.2f} h")
    print(json.dumps({"units": "hours", "gpus": words.gpus, "hours": hours}))


def real_params(settings: list[str]) -> Params:
    """The project's params with some settings."""
    values = yaml.safe_load(Path("params.yaml").read_text())
    for name in settings:
        merge(values, yaml.safe_load(Path(f"settings/{name}.yaml").read_text()))
    return Params.model_validate(values)


def stage_flops(params: Params) -> dict[str, float]:
    """Floating-point operations of the stages that run networks."""
    size, latent = params.image_size, params.image_size // 8
    with torch.device("meta"):
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
        )
        unet = UNet2DConditionModel(
            sample_size=latent,
            cross_attention_dim=1024,
            attention_head_dim=(5, 10, 20, 20),
            use_linear_projection=True,
        ).requires_grad_(False)
        vae.requires_grad_(False)
        segmenter = Segmenter(params.train_segmenter.channels, len(params.classes))
        judge = IgnSegmenter()
        conditioning = MaskConditioning("one_hot", tuple(params.classes))
        controlnet = new_controlnet(
            unet, conditioning, params.train_controlnet.embedding_channels, 0
        )
        model = ControlledUNet(controlnet, unet)
        image = torch.randn(1, 3, size, size)
        inputs = (
            torch.randn(1, 4, latent, latent),
            torch.zeros(1, dtype=torch.int64),
            torch.randn(1, 77, 1024),
            torch.randn(1, conditioning.channels, size, size),
        )
        encode = count(lambda: vae.encode(image).latent_dist.mean)
        decode = count(lambda: vae.decode(inputs[0]).sample)
        denoise = count(lambda: model(*inputs))
        bare = count(lambda: unet(*inputs[:3]).sample)
        train = count(lambda: model(*inputs).sum().backward())
        judged = count(lambda: judge(image))
        learnt = count(lambda: segmenter(image).sum().backward())
        adapted = AdaptedUNet(unet, params.adapt_base.lora_rank, 0)
        adapt = encode + count(lambda: adapted(*inputs[:3]).sum().backward())
        crop = params.adapt_base.autoencoder.crop or size
        noise, autoencoder = torch.randn(1, 4, crop // 8, crop // 8), AdaptedAutoencoder(vae)
        decoder = count(
            lambda: autoencoder(image[..., :crop, :crop], noise, noise).sum().backward()
        )
    stage, sampling = params.generate_validation, params.train_controlnet.sampling
    evaluations = sampling.steps * (2 if sampling.guidance > 1 else 1)
    masks = sum(min(PATCHES[s], stage.masks or PATCHES[s]) for s in ("validation", "test"))
    extra = min(masks, 2 * (stage.extra_masks or masks))
    images = masks + extra * (stage.samples - 1 + len(stage.styles))
    utility = params.evaluate_utility
    return {
        "adapt-base, autoencoder": params.adapt_base.autoencoder.steps
        * params.adapt_base.autoencoder.batch_size
        * decoder,
        "adapt-base": params.adapt_base.steps * params.adapt_base.batch_size * adapt,
        "encode-latents": PATCHES["train"] * encode,
        "train-controlnet": params.train_controlnet.steps
        * params.train_controlnet.batch_size
        * train,
        "generate-validation": images * (evaluations * denoise + decode)
        + extra * (evaluations * bare + decode),
        "evaluate-FID": (PATCHES["train"] + 2 * masks + 2 * extra) * judged,
        "evaluate-utility": 3
        * utility.seeds
        * utility.steps
        * params.train_segmenter.batch_size
        * learnt,
    }


def count(function: Callable[[], object]) -> float:
    """Floating-point operations of a call, backward pass included if it has one."""
    with FlopCounterMode(display=False) as counter:
        function()
    return float(counter.get_total_flops())


if __name__ == "__main__":
    main()
