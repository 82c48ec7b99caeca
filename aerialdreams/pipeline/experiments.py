"""Experiments, read from git and DVC or from MLflow, and tables of their differences."""

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
from aerialdreams.evaluation.comparison import difference
from aerialdreams.generation.outputs import MANIFEST
from aerialdreams.params import flat
from aerialdreams.paths import AGREEMENT, EVALUATION, GENERATED
from aerialdreams.pipeline.mlflow_store import connect, first_line
from aerialdreams.pipeline.tracking import training_cost

WORKSPACE = "workspace"
RUN = "run:"  # before the id of a run in MLflow
SPLIT = "validation"  # the split that experiments are compared on
METRICS = (
    "miou",
    "miou_of_real",
    "pixel_accuracy",
    "class_share_error",
    "judge_frechet_distance",
    "judge_kernel_distance",
    "judge_sample_spread",
    "fid",
    "kid",
)


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
        read = _read_from_run(name) if name.startswith(RUN) else _read_from_revision(name)
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


def _read_from_revision(name: str) -> Callable[[Path], bytes]:
    """A reader of the files of a git revision, a DVC experiment or the workspace."""
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


@dataclass(frozen=True)
class Table:
    """A table of text; the first column names the rows."""

    title: str
    columns: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Comparison:
    """Experiments compared with the first of them, the baseline.

    Attributes:
        experiments: two or more.
        tables: parameters that differ, metrics, training cost; a column per experiment.
        verdicts: one sentence for each experiment after the first.
    """

    experiments: list[Experiment]
    tables: list[Table]
    verdicts: list[str]


def compare_experiments(experiments: list[Experiment]) -> Comparison:
    """Compare experiments with the first of them.

    Raises:
        UserError: one of them has no validation patch in common with the first.
    """
    columns = ["", *(experiment.name for experiment in experiments)]
    tables = [
        Table("Parameters that differ", columns, params_rows(experiments)),
        Table(f"Metrics ({SPLIT})", columns, metric_rows(experiments)),
        Table("Training cost", columns, cost_rows(experiments)),
    ]
    verdicts = [verdict(experiments[0], other) for other in experiments[1:]]
    return Comparison(experiments, tables, verdicts)


def params_rows(experiments: list[Experiment]) -> list[list[str]]:
    """Parameters whose values differ, except those that change no output (runtime)."""
    rows = []
    for key in dict.fromkeys(key for experiment in experiments for key in experiment.params):
        values = [str(experiment.params.get(key, "")) for experiment in experiments]
        if len(set(values)) > 1 and not key.startswith("runtime."):
            rows.append([key, *values])
    return rows


def metric_rows(experiments: list[Experiment]) -> list[list[str]]:
    """Metrics of the generated images, with their 95 % confidence intervals."""
    generated = [experiment.evaluation[SPLIT]["generated"] for experiment in experiments]
    return [[key, *(_metric(numbers, key) for numbers in generated)] for key in METRICS]


def _metric(numbers: dict[str, Any], key: str) -> str:
    value, interval = numbers.get(key, ""), numbers.get(f"{key}_95")
    text = f"{value:.4f}" if isinstance(value, float) else str(value)
    return f"{text} ({interval[0]:.3f} to {interval[1]:.3f})" if interval else text


def cost_rows(experiments: list[Experiment]) -> list[list[str]]:
    """Time, memory and speed of the trainings, from the MLflow runs with the models' hashes."""
    costs = [training_cost(experiment.manifest["controlnet_md5"]) for experiment in experiments]
    keys = dict.fromkeys(key for cost in costs for key in cost)
    return [[key, *(cost.get(key, "not in this MLflow store") for cost in costs)] for key in keys]


def verdict(baseline: Experiment, other: Experiment) -> str:
    """Whether two experiments differ significantly in pixel accuracy, as a sentence.

    Raises:
        UserError: they have no validation patch in common.
    """
    gain = difference(baseline.agreement, other.agreement)
    numbers = (
        f"Pixel accuracy of {other.name} minus {baseline.name}: {100 * gain.mean:+.2f} points"
        f" (95 % CI {100 * gain.low:+.2f} to {100 * gain.high:+.2f}, N = {gain.n} patches)"
    )
    if gain.significant:
        return f"{numbers}: significant for these weights; other training seeds may differ."
    return f"{numbers}: not significant."
