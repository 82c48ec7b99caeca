"""Random generators that are functions of a seed and a purpose."""

import hashlib

import torch


def seeded_generator(seed: int, *keys: int | str) -> torch.Generator:
    """A CPU generator that is a function of the seed and of what it is for."""
    digest = hashlib.sha256(repr((seed, *keys)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
