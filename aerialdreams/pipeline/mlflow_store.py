"""The MLflow store: `mlflow.db` in the project, or the server at MLFLOW_TRACKING_URI.

The project's own store keeps artifacts in `mlartifacts/`. MLflow is imported inside functions
because its import takes seconds.
"""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "aerialdreams"
RECIPE_TAG = "recipe"  # of a training's run: see `recipes.recipe_of`
# Error codes of a working store that rejects a request (mlflow.protos.databricks_pb2).
REJECTED = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "BAD_REQUEST")


class StoreStateError(OSError):
    """The store is in a state in which nothing can be recorded; the message has the remedy."""


def connect() -> tuple["MlflowClient", str]:
    """Connect to the store and create the experiment if it does not exist.

    Returns:
        A client and the experiment's id.

    Raises:
        MlflowException: the store cannot be reached or read.
        StoreStateError: it is in a state in which nothing can be recorded.
    """
    import mlflow

    root = Path(os.environ.get("DVC_ROOT", ".")).resolve()
    own = f"sqlite:///{root / 'mlflow.db'}"
    uri = os.environ.get("MLFLOW_TRACKING_URI", own)
    if uri == own and set(str(root)) & set("%?#"):
        raise StoreStateError(
            f"MLflow cannot open a store at {root}, because of %, ? or # in the path; rename the"
            " folder, or set MLFLOW_TRACKING_URI"
        )
    if uri.startswith("file:") or "://" not in uri:
        raise StoreStateError(
            "MLflow 3 no longer writes to folders; set MLFLOW_TRACKING_URI to a database, such as"
            " sqlite:////home/me/mlflow.db, or to a server"
        )
    if uri == own and not (root / "mlflow.db").exists():
        _create_store(root / "mlflow.db")
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    # A server sets its own location for artifacts.
    artifacts = (root / "mlartifacts").as_uri() if uri == own else None
    if experiment is None:
        return client, client.create_experiment(EXPERIMENT, artifact_location=artifacts)
    if experiment.lifecycle_stage == "deleted":
        raise StoreStateError(
            f"the experiment {EXPERIMENT!r} was deleted; restore it with `mlflow experiments"
            f" restore --experiment-id {experiment.experiment_id}`, or delete it for good with"
            " `mlflow gc`"
        )
    if artifacts and experiment.artifact_location != artifacts:
        raise StoreStateError(
            f"the project was moved or copied: its store keeps models and images in"
            f" {experiment.artifact_location}; rename the experiment with `mlflow experiments"
            f" rename --experiment-id {experiment.experiment_id} --new-name {EXPERIMENT}-before`"
            " to begin a new one here"
        )
    return client, experiment.experiment_id


def runs_page() -> str:
    """How to open the table of trainings in a browser; "" if the store does not respond.

    Without the workflow type in the address, MLflow 3 opens its page for language models, which
    shows no training.
    """
    from mlflow.exceptions import MlflowException

    try:
        _, experiment_id = connect()
    except (MlflowException, OSError):
        return ""
    path = f"/#/experiments/{experiment_id}/runs?workflowType=machine_learning"
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if uri.startswith("http"):
        return f"{uri.rstrip('/')}{path}"
    store = "$MLFLOW_TRACKING_URI" if uri else "sqlite:///mlflow.db"  # it may hold a password
    return f"http://127.0.0.1:5000{path} after `mlflow ui --backend-store-uri {store}`"


def _create_store(path: Path) -> None:
    """Create an empty SQLite store under a temporary name and link it to its own.

    MLflow takes seconds to create the tables. If it is killed meanwhile, it cannot open the file
    again ("table already exists").
    """
    import mlflow

    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.unlink(missing_ok=True)
    mlflow.MlflowClient(f"sqlite:///{partial}").search_experiments()
    try:
        os.link(partial, path)  # unlike rename, it fails if another process has created the store
    except FileExistsError:
        pass
    except OSError:  # a file system without hard links
        partial.replace(path)
    partial.unlink(missing_ok=True)


def is_rejected(error: Exception) -> bool:
    """Whether a working store rejected the request, so that a retry is pointless."""
    return getattr(error, "error_code", "") in REJECTED


def first_line(error: Exception) -> str:
    """The first line of an error's message, at most 300 characters."""
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def warn(message: str) -> None:
    """Print a warning about the store."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "mlflow.db")
    print(f"warning: MLflow at {uri}: {message}", file=sys.stderr, flush=True)
