"""The pipeline's stages, one module each, named after their stage in dvc.yaml."""

import os
from pathlib import Path

# The libraries' caches stay in the project: nothing is littered over the user's home directory.
os.environ.setdefault("HF_HOME", str(Path("scratch/huggingface").resolve()))
# The hub is not asked for anything unless a stage does so itself.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
