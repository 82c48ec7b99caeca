"""GPU memory that a ControlNet training on Stable Diffusion 2.1 at 512 pixels needs, computed.

Usage   python -m benchmarks.training_memory [--micro-batches N ...]
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
SIZE, LATENT_SIZE = 512, 64
ADAM_BYTES = {"adamw": 8, "adamw_8bit": 2}  # of both moments, per weight


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--micro-batches", type=int, nargs="+", default=[1, 2, 4, 8])
    words = parser.parse_args()
    rows = []
    with FakeTensorMode():
        model = make_model()
        fixed = fixed_bytes(model)
        for checkpointing in (False, True):
            for size in words.micro_batches:
                activations = saved_bytes(model, size, checkpointing)
                row: dict[str, Any] = {"micro_batch": size, "checkpointing": checkpointing}
                for optimizer, total in fixed.items():
                    row[optimizer] = (total + activations) * OVERHEAD + CONTEXT
                rows.append(row | {"activations": activations})
    print("micro-batch  checkpointing  activations  adamw  adamw_8bit   GB")
    for row in rows:
        gigabytes = [row[name] / 1e9 for name in ("activations", "adamw", "adamw_8bit")]
        print(
            f"{row['micro_batch']:11}  {row['checkpointing']!s:13}  {gigabytes[0]:11.1f}"
            f"  {gigabytes[1]:5.1f}  {gigabytes[2]:10.1f}"
        )
    print(json.dumps({"units": "bytes", "rows": rows}))


def make_model() -> ControlledUNet:
    """Networks of Stable Diffusion 2.1's sizes; the frozen UNet in bf16."""
    torch.set_default_dtype(torch.bfloat16)  # fake tensors cannot be converted in place
    unet = UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        cross_attention_dim=1024,
        attention_head_dim=(5, 10, 20, 20),
        use_linear_projection=True,
    )
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


def saved_bytes(model: ControlledUNet, batch_size: int, checkpointing: bool) -> float:
    """Bytes of the tensors that autograd saves in a forward pass, parameters not counted."""
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
        torch.randn(batch_size, 4, LATENT_SIZE, LATENT_SIZE),
        torch.randint(0, 1000, (batch_size,)),
        torch.randn(batch_size, 77, 1024),
        torch.randn(batch_size, model.controlnet.config["conditioning_channels"], SIZE, SIZE),
    )
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16),
    ):
        model(*inputs)
    return float(sum(storages.values()))


if __name__ == "__main__":
    main()
