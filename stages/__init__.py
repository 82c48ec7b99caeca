"""The pipeline's stages, one module each, named after their stage in dvc.yaml.

`python -m stages.NAME` imports this package before NAME imports torch and the other libraries,
which read their environment variables once, when they are loaded.
"""

from aerialdreams.pipeline import environment

environment.set_up_stage()
