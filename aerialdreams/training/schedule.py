"""Learning rate schedules."""

import math

import torch

FINAL_SHARE = 0.01  # of the peak, at the end of the cosine


def learning_rate_at(
    step: int, steps: int, peak: float, warmup_steps: int, schedule: str = "cosine"
) -> float:
    """Learning rate of a step: a linear warm-up, then constant or half a cosine down to 1 %.

    Args:
        step: from 0.
        steps: number of steps in all.
        peak: learning rate after the warm-up.
        warmup_steps: length of the warm-up.
        schedule: cosine or constant.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    if schedule == "constant":
        return peak
    done = (step - warmup_steps) / max(1, steps - warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * done))
    return peak * (FINAL_SHARE + (1 - FINAL_SHARE) * cosine)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Set the learning rate of all parameter groups."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
