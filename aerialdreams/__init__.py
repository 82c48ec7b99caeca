"""AerialDreams: aerial photographs from land-cover masks."""

import os
import platform
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# This runs before any library is imported. None of them may report on its user.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "1")
# Threads that wait for each other sleep. By default they spin, which gains nothing here, and two
# trainings on one machine would hold each other up for many times what they take.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Sums are rounded by the instructions that they are made with, and each library takes the best that
# a CPU has. With those that every x86 CPU of the last ten years has, trained weights are the same
# bytes on all of them; it costs 5 % of the time. MKL asks for the oldest where a CPU is not Intel's
# (developer reference, "Conditional Numerical Reproducibility"). A GPU is not concerned.
if platform.machine() in ("x86_64", "AMD64"):
    os.environ.setdefault("ATEN_CPU_CAPABILITY", "avx2")
    os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")
    os.environ.setdefault("MKL_CBWR", "COMPATIBLE")
    os.environ.setdefault("OPENBLAS_CORETYPE", "Haswell")  # NumPy's

if TYPE_CHECKING:
    from aerialdreams.generation.painter import Painter as Painter


def __getattr__(name: str) -> Any:
    """`from aerialdreams import Painter`: imported when it is asked for, for it takes seconds."""
    if name == "Painter":
        from aerialdreams.generation.painter import Painter as Painter

        return Painter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
