"""Equal trained weights, bit for bit, on all x86 CPUs with AVX2. For stages with compute.portable.

What: the instruction sets that torch's and NumPy's libraries may use are capped at AVX2, and three
kinds of torch operation on a CPU are computed by other kernels than torch's own: square roots by
NumPy, matrix products (mm, addmm) of float32 by oneDNN.

Why: floating-point sums depend on the order of their terms, and each library picks it by the
instructions of the CPU that it runs on. To give equal results on machines of several makers, the
stages settle for the instructions that all x86 CPUs since 2015 have. MKL, which torch uses for
roots and matrix products, keeps AVX2 for Intel's CPUs; elsewhere its only reproducible mode is
COMPATIBLE, which is SSE2 (Intel, oneMKL Developer Guide, "Obtaining Numerically Reproducible
Results"). On matrix products that mode is several times slower than oneDNN with AVX2, and its
square roots start from the CPU's own estimate (RSQRTPS), which differs between makers, so neither
is left to MKL. What else torch takes from MKL stays in that mode.

Cost: a third more time on CPUs with AVX-512, so it is off by default; measured by
benchmarks/portable_arithmetic.py. benchmarks/other_cpus.py checks the equality on emulated CPUs.

Not covered: GPUs, other processors than x86, code that torch.compile generates.
"""

import os
import platform
import warnings
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # torch reads the caps when it is imported
    import torch
    from torch import Tensor

INSTRUCTION_CAPS = {
    "ATEN_CPU_CAPABILITY": "avx2",  # torch's own kernels
    "ONEDNN_MAX_CPU_ISA": "AVX2",  # convolutions, and here matrix products
    "MKL_CBWR": "COMPATIBLE",
    "OPENBLAS_CORETYPE": "Haswell",  # NumPy's matrix products
}


def is_x86() -> bool:
    """Whether this machine's processor is an x86 of 64 bits."""
    return platform.machine() in ("x86_64", "AMD64")


def set_instruction_caps() -> None:
    """Cap the instruction sets of torch and NumPy; no effect if they have been imported already."""
    if is_x86():
        for name, value in INSTRUCTION_CAPS.items():
            os.environ.setdefault(name, value)


@cache
def use_portable_kernels() -> "torch.library.Library | None":
    """Replace torch's CPU kernels of sqrt, pow, mm and addmm for the rest of the process."""
    if not is_x86():
        return None
    import torch

    library = torch.library.Library("aten", "IMPL")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that the kernels exist, as they should
        library.impl("sqrt", sqrt, "CPU")
        library.impl("pow.Tensor_Scalar", pow_scalar, "CPU")
        if torch.backends.mkldnn.is_available():
            library.impl("mm", mm, "CPU")
            library.impl("addmm", addmm, "CPU")
    return library


# With an `out` argument, which these kernels do not replace, torch's own are called.


def sqrt(values: "Tensor") -> "Tensor":
    """Square roots of a CPU tensor, float32 and float64 correctly rounded (IEEE 754)."""
    import numpy as np
    import torch

    if values.dtype not in (torch.float32, torch.float64):
        return torch.sqrt(values, out=torch.empty(0, dtype=torch.result_type(values, 1.0)))
    return torch.from_numpy(np.asarray(np.sqrt(values.detach().numpy())))


def pow_scalar(values: "Tensor", exponent: float) -> "Tensor":
    """Powers of a CPU tensor; for the exponent 0.5 torch would call MKL's square root."""
    import torch

    if exponent == 0.5:
        return sqrt(values)
    out = torch.empty(0, dtype=torch.result_type(values, exponent))
    return torch.pow(values, exponent, out=out)


def mm(a: "Tensor", b: "Tensor") -> "Tensor":
    """Matrix product of CPU tensors, (n, k) by (k, m), by oneDNN if both are float32."""
    import torch

    if not _is_for_onednn(a, b):
        return torch.mm(a, b, out=torch.empty(0, dtype=a.dtype))
    product: Tensor = torch.ops.mkldnn._linear_pointwise(a, b.t(), None, "none", [], "")
    return product


def addmm(
    bias: "Tensor", a: "Tensor", b: "Tensor", *, beta: float = 1, alpha: float = 1
) -> "Tensor":
    """beta x bias + alpha x (a @ b) of CPU tensors, by oneDNN if all are float32."""
    import torch

    if not _is_for_onednn(a, b) or bias.dtype != a.dtype or beta != 1 or alpha != 1:
        out = torch.empty(0, dtype=a.dtype)
        return torch.addmm(bias, a, b, beta=beta, alpha=alpha, out=out)
    if bias.shape == (b.shape[1],):
        total: Tensor = torch.ops.mkldnn._linear_pointwise(
            a, b.t(), bias.contiguous(), "none", [], ""
        )
        return total
    return mm(a, b).add_(bias)


def _is_for_onednn(a: "Tensor", b: "Tensor") -> bool:
    import torch

    return a.dtype == b.dtype == torch.float32 and a.numel() > 0 and b.numel() > 0
