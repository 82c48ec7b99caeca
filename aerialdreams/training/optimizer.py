"""The optimizers of UNet and ControlNet."""

import torch

from aerialdreams.errors import UserError


def new_optimizer(
    weights: list[torch.nn.Parameter],
    key: str,
    name: str,
    weight_decay: float,
    device: torch.device,
) -> torch.optim.Optimizer:
    """AdamW, or AdamW with its state in 8 bits (Dettmers et al. 2022, arXiv 2110.02861).

    Args:
        weights: to optimise.
        key: the params key that has `name`, for messages.
        name: adamw, adamw_8bit or paged_adamw_8bit, whose state moves to the CPU's memory when the
            GPU's is full.
        weight_decay: decoupled from the gradient (Loshchilov and Hutter 2019, arXiv 1711.05101).
        device: of the weights.

    Raises:
        UserError: bitsandbytes is not installed, or the device is not a GPU.
    """
    if name == "adamw":
        return torch.optim.AdamW(weights, weight_decay=weight_decay, fused=True)
    if device.type != "cuda":
        raise UserError(f"{key}: {name} needs a GPU; set it to adamw")
    try:
        import bitsandbytes
    except ImportError:
        raise UserError(f"{key}: {name} needs bitsandbytes; `pip install -e '.[gpu]'`") from None
    kinds = {
        "adamw_8bit": bitsandbytes.optim.AdamW8bit,
        "paged_adamw_8bit": bitsandbytes.optim.PagedAdamW8bit,
    }
    optimizer: torch.optim.Optimizer = kinds[name](weights, weight_decay=weight_decay)
    return optimizer
