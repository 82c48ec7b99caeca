"""AerialDreams: aerial photographs from land-cover masks."""

import os

__version__ = "0.1.0"

# No library that we import may report on its user. This runs before any of them is imported.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "1")
