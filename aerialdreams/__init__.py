"""AerialDreams: aerial photographs from land-cover masks.

Importing the package or any of its modules changes nothing in the process: no environment variable,
no GDAL option, no logging level. What a stage or a command needs is in `pipeline.environment`.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from aerialdreams.generation.painter import Painter as Painter


def __getattr__(name: str) -> Any:
    """`from aerialdreams import Painter`, imported on first use because it takes seconds."""
    if name == "Painter":
        from aerialdreams.generation.painter import Painter as Painter

        return Painter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
