"""torch's settings."""

import os

import torch

from aerialdreams.pipeline.exact_roots import use_exact_roots

CPU = torch.device("cpu")


DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def configure_torch(threads: int) -> torch.device:
    """Make torch give the same numbers every time; gives the device to work on.

    Args:
        threads: CPU threads of one operation. Sums on another number of threads round otherwise.
    """
    # cuBLAS reads this when it starts (https://docs.nvidia.com/cuda/cublas/#results-reproducibility).
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(threads)
    use_exact_roots()
    # accelerate would set another number, by the machine's cores, for several processes on a CPU.
    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    # Strict mode also fills each new tensor with NaN, for code that reads what it never wrote.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
