"""The pipeline's stages, one module each, named after their stage in dvc.yaml.

`python -m stages.NAME` imports this package before NAME imports torch and the other libraries,
which read their environment variables once, when they are loaded.
"""

import importlib.util
import sys

if importlib.util.find_spec("pydantic") is None:  # of all dependencies, one stands for the rest
    print(
        f"aerialdreams: error: {sys.executable} does not have the project's packages; activate its"
        " environment with `source .venv/bin/activate`, or use scripts/run",
        file=sys.stderr,
    )
    sys.exit(2)

from aerialdreams.pipeline import environment

environment.set_up_stage()
