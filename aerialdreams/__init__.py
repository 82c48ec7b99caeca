"""AerialDreams: aerial photographs from land-cover masks."""

import os
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# No library that we import may report on its user. This runs before any of them is imported.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "1")

if TYPE_CHECKING:
    from aerialdreams.painter import Painter as Painter


def __getattr__(name: str) -> Any:
    """`from aerialdreams import Painter`: imported when it is asked for, for it takes seconds."""
    if name == "Painter":
        from aerialdreams.painter import Painter

        return Painter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
