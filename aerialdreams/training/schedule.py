"""Learning rate schedule and optimizer step."""

import math

import torch
from torch import Tensor


def learning_rate_at(
    step: int, steps: int, peak: float, warmup: int, schedule: str = "cosine"
) -> float:
    """Learning rate: a linear rise over `warmup` steps, then half a cosine down to a hundredth.

    With schedule "constant" it stays where it rose to.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    if schedule == "constant":
        return peak
    done = (step - warmup) / max(1, steps - warmup)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all groups."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def optimizer_step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """Backward, clip the gradient's norm to 1, step."""
    optimizer.zero_grad()
    loss.backward()
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    torch.nn.utils.clip_grad_norm_(weights, 1.0)
    optimizer.step()
