"""Experiments, read from git and DVC or from MLflow."""

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from dvc.api import DVCFileSystem
from dvc.exceptions import DvcException
from dvc_data.index import DataIndexError
from mlflow.exceptions import MlflowException
from scmrepo.exceptions import SCMError

from aerialdreams.errors import UserError
from aerialdreams.generation.outputs import MANIFEST
from aerialdreams.params import flat
from aerialdreams.paths import AGREEMENT, EVALUATION, GENERATED
from aerialdreams.pipeline.mlflow_store import connect, first_line

WORKSPACE = "workspace"
RUN = "run:"  # before the id of a run in MLflow
SPLIT = "validation"  # the split that experiments are compared on


@dataclass(frozen=True)
class Experiment:
    """An evaluated experiment.

    Attributes:
        name: as the user gave it, see `load_experiment`.
        params: by dotted name.
        evaluation: metrics/evaluation.json.
        agreement: pixel accuracy of the generated validation images, by patch id.
        manifest: data/generated/manifest.json.
        read: gives a file's content by its path in the project; raises UserError if that file is
            neither in the cache nor in a remote.
    """

    name: str
    params: dict[str, Any]
    evaluation: dict[str, Any]
    agreement: pd.Series
    manifest: dict[str, Any]
    read: Callable[[Path], bytes]

    def image(self, patch_id: str) -> bytes | None:
        """A generated validation image as PNG; None for a run in MLflow, which has none.

        Raises:
            UserError: the image is neither in the cache nor in a remote.
        """
        if self.name.startswith(RUN):
            return None
        return self.read(GENERATED / SPLIT / f"generated/IMG_{patch_id}.png")


def load_experiment(name: str) -> Experiment:
    """Read an experiment from git and DVC's cache or remote, or from MLflow.

    Args:
        name: a git revision, an experiment of `dvc exp`, "workspace", or "run:" and the id of a
            run in MLflow.

    Raises:
        UserError: there is no such experiment, or a file of it is neither in the cache nor in a
            remote.
    """
    with _user_errors(name):
        read = _read_from_run(name) if name.startswith(RUN) else read_revision(name)
        params = flat(yaml.safe_load(read(Path("params.yaml"))))
        evaluation = json.loads(read(EVALUATION))
        manifest = json.loads(read(GENERATED / MANIFEST))
        table = pq.read_table(pa.BufferReader(read(AGREEMENT))).to_pandas()
    rows = table[(table["split"] == SPLIT) & (table["source"] == "generated")]
    agreement = rows.set_index("patch_id")["pixel_accuracy"].sort_index()
    return Experiment(name, params, evaluation, agreement, manifest, read)


@contextmanager
def _user_errors(name: str) -> Iterator[None]:
    """Turn errors about a missing experiment or missing data into a UserError."""
    try:
        yield
    except (
        DvcException,
        DataIndexError,  # of a folder whose listing is missing; no DvcException
        SCMError,
        MlflowException,
        OSError,
        ValueError,
    ) as error:
        raise UserError(
            f"{name}: {first_line(error)}; name a git revision, an experiment of `dvc exp show`,"
            f" {WORKSPACE}, or {RUN}ID of an evaluated run in MLflow, and have its data"
            " (`dvc pull`, `dvc repro`)"
        ) from None


def read_revision(name: str) -> Callable[[Path], bytes]:
    """A reader of the files of a git revision, a DVC experiment or the workspace.

    It raises a UserError for a file that is neither in the cache nor in a remote.
    """
    files = DVCFileSystem(rev=None if name == WORKSPACE else name)

    def read(path: Path) -> bytes:
        with _user_errors(name):
            content: bytes = files.read_bytes(path.as_posix())
            return content

    return read


def _read_from_run(name: str) -> Callable[[Path], bytes]:
    """A reader of the files that evaluate-FID attached to a run in MLflow."""
    client, _ = connect()
    run_id = name.removeprefix(RUN)
    client.get_run(run_id)

    def read(path: Path) -> bytes:
        with _user_errors(name), tempfile.TemporaryDirectory() as folder:
            artifact = f"evaluation/{path.name}"
            return Path(client.download_artifacts(run_id, artifact, folder)).read_bytes()

    return read
