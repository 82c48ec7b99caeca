"""Square roots rounded as IEEE 754 asks."""

import warnings
from functools import cache

import numpy as np
import torch
from torch import Tensor


def exact_sqrt(values: Tensor) -> Tensor:
    """Square roots as IEEE 754 rounds them, of a tensor on a CPU.

    torch has them from MKL, which on CPUs that are not Intel's begins with the CPU's own estimate
    (RSQRTPS) and does not end exactly: a schedule of noise would differ from maker to maker.
    """
    if values.dtype not in (torch.float32, torch.float64):
        return torch.sqrt(values, out=torch.empty(0, dtype=torch.result_type(values, 1.0)))
    return torch.from_numpy(np.asarray(np.sqrt(values.detach().numpy())))


def exact_pow(values: Tensor, exponent: float) -> Tensor:
    """Powers of a tensor on a CPU; the half one, which torch takes for a root too, by `root`."""
    if exponent == 0.5:
        return exact_sqrt(values)
    out = torch.empty(0, dtype=torch.result_type(values, exponent))
    return torch.pow(values, exponent, out=out)


@cache
def use_exact_roots() -> torch.library.Library:
    """Let torch take roots on CPUs from `root`, for as long as the process lives."""
    library = torch.library.Library("aten", "IMPL")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that these are there already is the point
        library.impl("sqrt", exact_sqrt, "CPU")
        library.impl("pow.Tensor_Scalar", exact_pow, "CPU")
    return library
