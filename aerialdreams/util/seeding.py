"""Random generators that depend only on a seed and on what they are for."""

import hashlib

import torch


def seeded_generator(seed: int, *keys: int | str) -> torch.Generator:
    """A random generator on the CPU whose numbers depend only on the arguments.

    Args:
        seed: of the stage.
        keys: what the numbers are for, such as a purpose and a training step.
    """
    digest = hashlib.sha256(repr((seed, *keys)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
