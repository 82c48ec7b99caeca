"""The MLflow store: `mlflow.db` in the project, or the server that MLFLOW_TRACKING_URI names.

Artifacts of the project's own store are beside it, in `mlartifacts/`. MLflow is imported where it
is used, because that takes seconds.
"""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "aerialdreams"
# Error codes of a store that works and refuses what it was sent (mlflow.protos.databricks_pb2).
REJECTED = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "BAD_REQUEST")


def connect() -> tuple["MlflowClient", str]:
    """A client, and the id of our experiment, which is created if it does not exist.

    Raises:
        MlflowException: the store cannot be reached or read.
    """
    import mlflow

    root = Path(os.environ.get("DVC_ROOT", ".")).resolve()
    own = f"sqlite:///{root / 'mlflow.db'}"
    uri = os.environ.get("MLFLOW_TRACKING_URI", own)
    if uri == own and not (root / "mlflow.db").exists():
        _create_store(root / "mlflow.db")
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment:
        return client, experiment.experiment_id
    # A server decides itself where artifacts go.
    artifacts = (root / "mlartifacts").as_uri() if uri == own else None
    return client, client.create_experiment(EXPERIMENT, artifact_location=artifacts)


def _create_store(path: Path) -> None:
    """Create an empty SQLite store under a temporary name and link it to its own.

    MLflow takes seconds to create its tables one by one. If it were killed meanwhile, it could not
    open the file again ("table already exists").
    """
    import mlflow

    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.unlink(missing_ok=True)
    mlflow.MlflowClient(f"sqlite:///{partial}").search_experiments()
    try:
        os.link(partial, path)  # unlike a rename, fails if another process was faster
    except FileExistsError:
        pass
    except OSError:  # a file system without hard links
        partial.replace(path)
    partial.unlink(missing_ok=True)


def is_rejected(error: Exception) -> bool:
    """Whether the store works and refuses the request, so that a retry is pointless."""
    return getattr(error, "error_code", "") in REJECTED


def first_line(error: Exception) -> str:
    """An error's message, shortened for a warning."""
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def warn(message: str) -> None:
    """Print a warning about the store."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "mlflow.db")
    print(f"warning: MLflow at {uri}: {message}", file=sys.stderr, flush=True)
