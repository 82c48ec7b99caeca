"""The only module that sets up a stage's or a command's process: variables, logging, collector.

Libraries read most of the environment variables once, when they are loaded, so these are set first:
by `stages/__init__.py` for the stages, by the `aerialdreams` command for itself. Child processes
inherit them. A variable that the user has set keeps its value.
"""

import gc
import importlib.util
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import yaml

from aerialdreams.pipeline import portable_arithmetic

VARIABLES = {
    # No telemetry.
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DVC_NO_ANALYTICS": "1",
    "DO_NOT_TRACK": "1",
    # Idle OpenMP threads sleep. By default they spin, which gains nothing here and slows two
    # trainings on one machine down by an order of magnitude.
    "OMP_WAIT_POLICY": "PASSIVE",
    # Only errors from libraries whose other messages are for their developers.
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    # By default MLflow retries a request for minutes; `pipeline.mlflow_run` retries itself.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}
STAGE_VARIABLES = {
    # What `datasets` caches belongs to the project. Only downloads from the hub go to its cache in
    # the home directory (HF_HOME), which all projects share.
    "HF_DATASETS_CACHE": str(Path("scratch/huggingface/datasets").resolve()),
    "HF_MODULES_CACHE": str(Path("scratch/huggingface/modules").resolve()),
}


# Conda, QGIS and PostGIS set these for their own libraries. rasterio's wheel brings its data along,
# and with another installation's data every CRS is unknown.
GEOSPATIAL_DATA = ("PROJ_LIB", "PROJ_DATA", "GDAL_DATA", "GDAL_DRIVER_PATH")


def set_up_command() -> None:
    """Set what the `aerialdreams` command needs. Call it before other libraries are imported."""
    rasterio = importlib.util.find_spec("rasterio")
    if rasterio and rasterio.origin and (Path(rasterio.origin).parent / "proj_data").is_dir():
        for name in GEOSPATIAL_DATA:
            os.environ.pop(name, None)
    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)
    logging.getLogger("alembic").setLevel(logging.WARNING)  # MLflow's database migrations


def pause_collection() -> None:
    """Do not look for garbage until `resume_collection`: for the import of torch and the like.

    An import makes many objects and next to no garbage. Python looks through all of them time and
    again, which takes a third of the time of these imports.
    """
    gc.disable()


def resume_collection() -> None:
    """Look for garbage again, but never among what the imports made."""
    _set_imports_aside()
    gc.enable()


@cache  # once a process: what is garbage by then stays for good
def _set_imports_aside() -> None:
    gc.freeze()


@contextmanager
def quick_imports() -> Iterator[None]:
    """For a command's imports; see `pause_collection`."""
    pause_collection()
    try:
        yield
    finally:
        resume_collection()


def hide_loading_bars() -> None:
    """Hide the progress bars of loading and saving weights, of the libraries that are imported."""
    for name in ("diffusers", "transformers"):
        if name in sys.modules:
            importlib.import_module(f"{name}.utils.logging").disable_progress_bar()


def set_up_stage() -> None:
    """Set what a stage needs. Call it before torch and the other libraries are imported."""
    set_up_command()
    if sys.argv[:1] == ["-m"]:  # `python -m stages.NAME` is at its imports; `run_stage` comes next
        pause_collection()
    for name, value in STAGE_VARIABLES.items():
        os.environ.setdefault(name, value)
    if _portable_requested(Path("params.yaml")):
        portable_arithmetic.set_instruction_caps()


def _portable_requested(path: Path) -> bool:
    """Whether params ask for portable arithmetic; `load_params` reports their errors, later."""
    try:
        return bool(yaml.safe_load(path.read_text(encoding="utf-8"))["compute"]["portable"])
    except (OSError, ValueError, yaml.YAMLError, LookupError, TypeError):
        return False
