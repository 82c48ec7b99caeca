"""GPU memory that a ControlNet training on Stable Diffusion 2.1 or SDXL needs, computed.

Usage   python -m benchmarks.training_memory [--models sd21 sdxl] [--micro-batches N ...]
Builds the networks and runs a training step on torch's fake tensors, which have sizes and no
content, and adds up: weights, gradients, optimizer state, and the tensors that autograd saves for
the backward pass under bf16 autocast. What the step needs beside them (workspaces, CUDA's context,
fragmentation) is taken as 2 GB and 10 %. Prints a table and a last line of JSON.
`scripts/test-gpu` measures the same on a GPU.
"""

import argparse
import json
from typing import Any

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from torch._subclasses.fake_tensor import FakeTensorMode

from aerialdreams.models.conditioning import MaskConditioning
from aerialdreams.models.controlnet import new_controlnet
from aerialdreams.params import load_params
from aerialdreams.training.controlnet import ControlledUNet

CONTEXT, OVERHEAD = 2e9, 1.1
SIZES = {"sd21": 512, "sdxl": 1024}  # height and width of the images, pixels
# The sizes in the config.json files of `stable-diffusion-2-1-base` and of
# `stable-diffusion-xl-base-1.0`.
UNETS: dict[str, dict[str, Any]] = {
    "sd21": {
        "sample_size": 64,
        "cross_attention_dim": 1024,
        "attention_head_dim": (5, 10, 20, 20),
        "use_linear_projection": True,
    },
    "sdxl": {
        "sample_size": 128,
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "cross_attention_dim": 2048,
        "attention_head_dim": (5, 10, 20),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 1280 + 6 * 256,
    },
}
ADAM_BYTES = {"adamw": 8, "adamw_8bit": 2}  # of both moments, per weight


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=sorted(UNETS), default=list(UNETS))
    parser.add_argument("--micro-batches", type=int, nargs="+", default=[1, 2, 4, 8])
    words = parser.parse_args()
    rows = []
    with FakeTensorMode():
        for name in words.models:
            model = make_model(UNETS[name])
            fixed = fixed_bytes(model)
            for checkpointing in (False, True):
                for size in words.micro_batches:
                    activations = saved_bytes(model, SIZES[name], size, checkpointing)
                    row: dict[str, Any] = {
                        "model": name,
                        "micro_batch": size,
                        "checkpointing": checkpointing,
                    }
                    for optimizer, total in fixed.items():
                        row[optimizer] = (total + activations) * OVERHEAD + CONTEXT
                    rows.append(row | {"activations": activations})
    print("model  micro-batch  checkpointing  activations  adamw  adamw_8bit   GB")
    for row in rows:
        gigabytes = [row[name] / 1e9 for name in ("activations", "adamw", "adamw_8bit")]
        print(
            f"{row['model']:5}  {row['micro_batch']:11}  {row['checkpointing']!s:13}"
            f"  {gigabytes[0]:11.1f}  {gigabytes[1]:5.1f}  {gigabytes[2]:10.1f}"
        )
    print(json.dumps({"units": "bytes", "rows": rows}))


def make_model(sizes: dict[str, Any]) -> ControlledUNet:
    """The UNet of some sizes, frozen in bf16, with a ControlNet."""
    torch.set_default_dtype(torch.bfloat16)  # fake tensors cannot be converted in place
    unet = UNet2DConditionModel(**sizes)
    torch.set_default_dtype(torch.float32)
    conditioning = MaskConditioning("one_hot", tuple(load_params().classes))
    controlnet: ControlNetModel = new_controlnet(unet, conditioning, [16, 32, 96, 256], 0)
    return ControlledUNet(controlnet.train(), unet.requires_grad_(False))


def fixed_bytes(model: ControlledUNet) -> dict[str, float]:
    """Bytes of weights, gradients and optimizer state, by optimizer."""
    frozen = sum(p.numel() for p in model.unet.parameters()) * 2
    trained = sum(p.numel() for p in model.controlnet.parameters())
    # Autocast keeps a bf16 copy of the trained weights during the step.
    return {name: frozen + trained * (4 + 4 + 2 + size) for name, size in ADAM_BYTES.items()}


def saved_bytes(model: ControlledUNet, size: int, batch_size: int, checkpointing: bool) -> float:
    """Bytes of the tensors that autograd saves in a forward pass, parameters not counted.

    Args:
        model: of fake tensors.
        size: height and width of the images, pixels.
        batch_size: images at once.
        checkpointing: whether activations are recomputed in the backward pass.
    """
    config = model.unet.config
    for network in (model.controlnet, model.unet):
        if checkpointing:
            network.enable_gradient_checkpointing()
        else:
            network.disable_gradient_checkpointing()
    weights = {p.untyped_storage()._cdata for p in model.parameters()}
    storages: dict[int, int] = {}
    kept = []  # a storage that is freed could give its address to another

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            storages[storage._cdata] = storage.nbytes()
            kept.append(storage)
        return tensor

    inputs = (
        torch.randn(batch_size, 4, config["sample_size"], config["sample_size"]),
        torch.randint(0, 1000, (batch_size,)),
        torch.randn(batch_size, 77, config["cross_attention_dim"]),
        torch.randn(batch_size, model.controlnet.config["conditioning_channels"], size, size),
    )
    added = None
    if config["addition_embed_type"]:
        added = {
            "text_embeds": torch.randn(batch_size, 1280),
            "time_ids": torch.randn(batch_size, 6),
        }
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16),
    ):
        model(*inputs, added)
    return float(sum(storages.values()))


if __name__ == "__main__":
    main()
