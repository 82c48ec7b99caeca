"""Logs trainings and evaluations to MLflow, with their commit, data hashes and params."""

import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aerialdreams.pipeline.mlflow_groups import join_group, update_group
from aerialdreams.pipeline.mlflow_run import Run
from aerialdreams.pipeline.mlflow_store import RECIPE_TAG, connect, first_line, warn
from aerialdreams.util.files import dvc_md5

if TYPE_CHECKING:
    from mlflow import MlflowClient

MODEL = "aerialdreams-controlnet"  # name in the model registry
CONTROLNET_TAG = "md5.models/controlnet"
STOP_TIMEOUT = 10.0  # seconds to store the remaining entries of a stopped training
# MLflow's limits for one request (mlflow.utils.validation).
MAX_PARAMS, MAX_METRICS = 100, 1000


@contextmanager
def training_run(
    params: Mapping[str, object],
    inputs: list[Path],
    run_id_file: Path,
    recipe: str = "",
    stage: str = "train-controlnet",
) -> Iterator[Run]:
    """Create a run for a training, or reopen the run of an interrupted one.

    Args:
        params: logged as the run's params, by dotted name (see `params.flatten`).
        inputs: the stage's inputs. Their DVC hashes become tags; those in data/ also become MLflow
            datasets.
        run_id_file: keeps the run's id until the training has finished.
        recipe: see `identity.recipe_of`; runs with the same one become children of one run.
        stage: the run's name; in an experiment of DVC, train-controlnet's is the experiment's and
            another stage's follows it.

    Yields:
        The run. It ends as FINISHED, or as KILLED or FAILED if the block raises. If the store does
        not respond, the training continues.
    """
    hashes = {path: dvc_md5(path) for path in inputs}
    monitors: list[Any] = []

    def open_run(client: "MlflowClient", experiment_id: str) -> str:
        run_id = run_id_file.read_text() if run_id_file.exists() else ""
        query = f"attributes.run_id = '{run_id}'"
        runs = client.search_runs([experiment_id], query) if run_id else []
        if runs:
            run.last_steps = {metric.key: metric.step for metric in runs[0].data._metric_objs}
            client.update_run(run_id, status="RUNNING")
        else:
            tags = _commit_tags() | {f"md5.{path}": md5 for path, md5 in hashes.items()}
            if recipe:
                tags[RECIPE_TAG] = recipe
            name = os.environ.get("DVC_EXP_NAME") or stage
            if stage not in (name, "train-controlnet"):
                name += f" {stage}"
            run_id = str(client.create_run(experiment_id, run_name=name, tags=tags).info.run_id)
            _log_inputs(client, run_id, params, hashes)
            if recipe:
                join_group(client, experiment_id, run_id, recipe)
            run_id_file.write_text(run_id)
        monitors.append(_monitor_system(client, run_id))
        return run_id

    run = Run(open_run)
    status = "FINISHED"
    try:
        yield run
    except BaseException as error:
        status = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
        raise
    finally:
        run.add(lambda client, run_id: [monitor.finish() for monitor in monitors])
        run.add(lambda client, run_id: client.set_terminated(run_id, status))
        # A stopped process has little time, and the resumed training logs lost entries again.
        run.close(None if status == "FINISHED" else STOP_TIMEOUT)
        if status == "FINISHED":
            run_id_file.unlink(missing_ok=True)


def _log_inputs(
    client: "MlflowClient", run_id: str, params: Mapping[str, object], hashes: Mapping[Path, str]
) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag, Param

    rows = [Param(key, str(value)) for key, value in params.items()]
    for first in range(0, len(rows), MAX_PARAMS):
        client.log_batch(run_id, params=rows[first : first + MAX_PARAMS])
    datasets = [
        DatasetInput(
            Dataset(path.name, md5, "dvc", f'{{"path": "{path}"}}'),
            [InputTag("mlflow.data.context", "training")],
        )
        for path, md5 in hashes.items()
        if path.parts[0] == "data"
    ]
    client.log_inputs(run_id, datasets=datasets)


def _monitor_system(client: "MlflowClient", run_id: str) -> Any:
    """Start MLflow's monitor of CPU, memory, disk and GPU, which logs every ten seconds."""
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    monitor = SystemMetricsMonitor(run_id, resume_logging=True, tracking_uri=client.tracking_uri)
    monitor.start()
    return monitor


def register_model(run: Run, folder: Path, md5: str) -> None:
    """Upload a trained ControlNet to the run, and register it as a new version.

    Args:
        run: the training's run.
        folder: the model, in diffusers' layout.
        md5: DVC's hash of the folder.
    """

    def upload(file: Path) -> None:
        target = Path("controlnet") / file.relative_to(folder).parent
        run.add(lambda client, run_id: client.log_artifact(run_id, str(file), target.as_posix()))

    def register(client: "MlflowClient", run_id: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            client.create_registered_model(MODEL)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        source = f"{client.get_run(run_id).info.artifact_uri}/controlnet"
        client.create_model_version(MODEL, source, run_id, tags={CONTROLNET_TAG: md5})
        client.set_tag(run_id, CONTROLNET_TAG, md5)

    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        upload(file)  # separate entries: a retry repeats one file, and each counts as progress
    run.add(register)


def tag_output(run: Run, folder: Path, md5: str) -> None:
    """Tag a run with the DVC hash of what it wrote, as `training_run` does with inputs."""
    run.add(lambda client, run_id: client.set_tag(run_id, f"md5.{folder}", md5))


def log_evaluation(
    controlnet_md5: str, metrics: Mapping[str, float], files: list[Path]
) -> str | None:
    """Log an evaluation to the run and the registered version of a model.

    They are found by the model's hash. If no run has it, because the model was pulled or the store
    is another, a new run is created.

    Args:
        controlnet_md5: DVC's hash of models/controlnet.
        metrics: values by name.
        files: artifacts to upload.

    Returns:
        The run's id; None, after a warning, if the store does not respond.
    """

    def open_run(client: "MlflowClient", experiment_id: str) -> str:
        runs = _runs_of_model(client, experiment_id, controlnet_md5)
        if runs:
            return str(runs[0].info.run_id)
        tags = _commit_tags() | {CONTROLNET_TAG: controlnet_md5}
        created = client.create_run(experiment_id, run_name="evaluate-FID", tags=tags)
        client.set_terminated(created.info.run_id)
        return str(created.info.run_id)

    def log_metrics(client: "MlflowClient", run_id: str) -> None:
        from mlflow.entities import Metric

        rows = [Metric(name, value, now, 0) for name, value in metrics.items()]
        for first in range(0, len(rows), MAX_METRICS):
            client.log_batch(run_id, metrics=rows[first : first + MAX_METRICS])
        for version in client.search_model_versions(f"run_id = '{run_id}'"):
            for name, value in metrics.items():
                if name.endswith("miou"):
                    client.set_model_version_tag(MODEL, version.version, name, str(value))
        update_group(client, run_id)

    def upload(file: Path) -> None:
        run.add(lambda client, run_id: client.log_artifact(run_id, str(file), "evaluation"))

    now = int(time.time() * 1000)
    run = Run(open_run)
    run.add(log_metrics)
    for file in files:
        upload(file)
    run.close()
    return run.id


def training_cost(controlnet_md5: str) -> dict[str, str]:
    """Duration, memory and speed of a model's training, from the run that has its hash.

    Args:
        controlnet_md5: DVC's hash of models/controlnet.

    Returns:
        Formatted numbers by unit: minutes, MB, samples/s. Empty if there is no such run, and, after
        a warning, if the store does not respond.
    """
    from mlflow.exceptions import MlflowException

    try:
        runs = _runs_of_model(*connect(), controlnet_md5)
    except (MlflowException, OSError) as error:
        warn(first_line(error))
        return {}
    if not runs or not runs[0].info.end_time:
        return {}
    info, metrics = runs[0].info, runs[0].data.metrics
    cost = {"minutes": f"{(info.end_time - info.start_time) / 60_000:.1f}"}
    for name, unit in (("memory_megabytes", "MB"), ("samples_per_second", "samples/s")):
        if name in metrics:
            cost[unit] = f"{metrics[name]:.1f}"
    return cost


def _runs_of_model(client: "MlflowClient", experiment_id: str, md5: str) -> list[Any]:
    return list(client.search_runs([experiment_id], f"tags.`{CONTROLNET_TAG}` = '{md5}'"))


def flatten_numbers(nested: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers of a nested dict by dotted name; other values are left out."""
    numbers: dict[str, float] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            numbers |= flatten_numbers(value, f"{prefix}{key}.")
        elif isinstance(value, (int, float)):
            numbers[f"{prefix}{key}"] = value
    return numbers


def _commit_tags() -> dict[str, str]:
    """The git commit, and whether tracked files differ from it; empty outside a git repository."""
    try:
        commit = _git("rev-parse", "HEAD")
        changes = _git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return {}
    return {"mlflow.source.git.commit": commit, "git.dirty": str(bool(changes)).lower()}


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()
