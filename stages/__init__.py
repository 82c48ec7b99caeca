"""The pipeline's stages, one module each, named after their stage in dvc.yaml."""

import os
from pathlib import Path

import aerialdreams  # noqa: F401  (sets the environment of other libraries)

# The libraries' caches stay in the project: nothing is littered over the user's home directory.
os.environ.setdefault("HF_HOME", str(Path("scratch/huggingface").resolve()))
# What these libraries tell while they work is for their developers.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
# The hub is not asked for anything unless a stage does so itself.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
