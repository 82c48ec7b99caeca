"""torch's settings."""

import os
from contextlib import AbstractContextManager, nullcontext

import torch

CPU = torch.device("cpu")
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def configure_torch(threads: int, deterministic: bool = True) -> torch.device:
    """Set torch's threads and determinism for the rest of the process.

    Args:
        threads: CPU threads of one operation; another number rounds sums differently.
        deterministic: whether GPUs give the same bits on each run, which costs speed. CPUs do.

    Returns:
        The device to work on: the GPU if there is one.
    """
    # cuBLAS reads this when it starts (https://docs.nvidia.com/cuda/cublas/#results-reproducibility).
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # With several processes on a CPU, accelerate would set another number, by the machine's cores.
    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = not deterministic
    # Deterministic mode also fills every new tensor with NaN, to expose reads of uninitialised
    # memory; that costs time and changes no result.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def inference_autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Compute in a lower precision, where a network is not trained.

    Args:
        device: where the networks are.
        precision: fp32, fp16 or bf16.
    """
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, DTYPES[precision])


def fastest_precision(device: torch.device) -> str:
    """The precision in which a device generates images fastest: fp32, fp16 or bf16."""
    if device.type != "cuda":
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
