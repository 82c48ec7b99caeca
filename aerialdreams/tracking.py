"""MLflow: which run made which model, from which commit, data and params.

The store is `mlflow.db` in the project, artifacts beside it in `mlartifacts/`;
MLFLOW_TRACKING_URI names another. MLflow is imported where it is used: it takes seconds.
"""

import logging
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aerialdreams.errors import WorkError
from aerialdreams.files import path_md5
from aerialdreams.params import Params, flatten

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "aerialdreams"
CONTROLNET_TAG = "md5.models/controlnet"


@contextmanager
def training_run(
    params: Params, inputs: list[Path], kept_id: Path
) -> Iterator[tuple["MlflowClient", str]]:
    """A run of its own for a training, or the one that an interrupted training began.

    Args:
        params: all of them are logged.
        inputs: the stage's inputs; their DVC hashes become tags.
        kept_id: file that keeps the run's id as long as the training is not done.

    Yields:
        The client and the run's id. The run ends as FINISHED, or as FAILED or KILLED where the
        block raises.

    Raises:
        WorkError: the store cannot be reached.
    """
    client, experiment = _connect()
    if kept_id.exists():
        run_id = kept_id.read_text()
        client.update_run(run_id, status="RUNNING")
    else:
        tags = _commit_tags() | {f"md5.{path}": path_md5(path) for path in inputs}
        run_id = client.create_run(experiment, run_name="train-controlnet", tags=tags).info.run_id
        kept_id.write_text(run_id)
        for key, value in flatten(params).items():
            client.log_param(run_id, key, value)
    try:
        yield client, run_id
    except BaseException as error:
        status = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
        client.set_terminated(run_id, status)
        raise
    client.set_terminated(run_id)
    kept_id.unlink()


def log_evaluation(controlnet_md5: str, numbers: Mapping[str, float], images: list[Path]) -> str:
    """Attach an evaluation to the run that trained the model, found by the model's hash.

    Where no run has it (the model was pulled, or the store is another), a new one is made.

    Args:
        controlnet_md5: DVC's hash of models/controlnet.
        numbers: metrics by name.
        images: pictures to show with them.

    Returns:
        The run's id.

    Raises:
        WorkError: the store cannot be reached.
    """
    client, experiment = _connect()
    runs = client.search_runs([experiment], f"tags.`{CONTROLNET_TAG}` = '{controlnet_md5}'")
    if runs:
        run_id = runs[0].info.run_id
    else:
        tags = _commit_tags() | {CONTROLNET_TAG: controlnet_md5}
        run_id = client.create_run(experiment, run_name="evaluate-FID", tags=tags).info.run_id
        client.set_terminated(run_id)
    for name, value in numbers.items():
        client.log_metric(run_id, name, value)
    for path in images:
        client.log_artifact(run_id, str(path), "evaluation")
    return str(run_id)


def flatten_numbers(nested: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Every number of a nested dict under its dotted name; what is no number is left out."""
    numbers: dict[str, float] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            numbers |= flatten_numbers(value, f"{prefix}{key}.")
        elif isinstance(value, (int, float)):
            numbers[f"{prefix}{key}"] = value
    return numbers


def _connect() -> tuple["MlflowClient", str]:
    """A client and the id of our experiment, which is made if it is not there."""
    import mlflow
    from mlflow.exceptions import MlflowException

    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    root = Path(os.environ.get("DVC_ROOT", ".")).resolve()
    own = f"sqlite:///{root / 'mlflow.db'}"
    uri = os.environ.get("MLFLOW_TRACKING_URI", own)
    try:
        client = mlflow.MlflowClient(uri)
        found = client.get_experiment_by_name(EXPERIMENT)
        if found:
            return client, found.experiment_id
        # A server keeps artifacts where it is told to; our own store keeps them beside it.
        place = (root / "mlartifacts").as_uri() if uri == own else None
        return client, client.create_experiment(EXPERIMENT, artifact_location=place)
    except (MlflowException, OSError) as error:
        message = str(error).splitlines()[0]
        raise WorkError(f"MLFLOW_TRACKING_URI={uri}: {message}") from None


def _commit_tags() -> dict[str, str]:
    """The git commit that runs, and whether files differ from it."""
    try:
        commit = _git("rev-parse", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return {}  # an export without git: nothing to say
    return {"mlflow.source.git.commit": commit, "git.dirty": str(bool(changed)).lower()}


def _git(*words: str) -> str:
    return subprocess.run(
        ["git", *words], check=True, capture_output=True, text=True
    ).stdout.strip()
