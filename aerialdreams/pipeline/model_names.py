"""Models by name: a folder, a repository of the Hugging Face hub, or a version in MLflow."""

import re
from collections.abc import Sequence
from pathlib import Path

from aerialdreams.errors import UserError, WorkError

HUB = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
REGISTRY = re.compile(r"models:/(?P<name>[^/]+)/(?P<version>\d+)")
CONTROLNET_FILES = ("*.json", "*.txt", "*.safetensors")


def model_folder(name: str, key: str, files: Sequence[str] = CONTROLNET_FILES) -> Path:
    """The folder of a model, downloaded if it is not on this machine.

    Args:
        name: a folder; `OWNER/NAME` or `OWNER/NAME@REVISION` on the hub; or `models:/NAME/VERSION`
            of MLflow's model registry.
        key: the option that names the model, for messages.
        files: patterns of the files to download from the hub.

    Raises:
        UserError: there is no such repository, revision or version.
        WorkError: hub or store cannot be reached.
    """
    if Path(name).exists():
        return Path(name)
    if match := REGISTRY.fullmatch(name):
        return _from_registry(match["name"], match["version"], key)
    if (match := HUB.fullmatch(name)) and not name.startswith(("models/", "data/", "./", "../")):
        from aerialdreams.util.hub import download_snapshot

        return download_snapshot(key, match["repository"], match["revision"] or "main", list(files))
    return Path(name)


def _from_registry(name: str, version: str, key: str) -> Path:
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    from aerialdreams.pipeline.mlflow_store import connect, first_line, is_rejected

    try:
        client, _ = connect()
        uri = client.get_model_version_download_uri(name, version)
        return Path(download_artifacts(artifact_uri=uri))
    except (MlflowException, OSError) as error:
        message = f"{key}: models:/{name}/{version}: {first_line(error)}"
        if is_rejected(error):
            raise UserError(message) from None
        raise WorkError(message) from None
