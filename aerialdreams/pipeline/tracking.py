"""MLflow: which run made which model, from which commit, data and params.

The store is `mlflow.db` in the project, artifacts beside it in `mlartifacts/`;
MLFLOW_TRACKING_URI names another. Whatever happens to it, the work goes on: what is told to a run
waits in line for the store, in a thread of its own. MLflow is imported there: it takes seconds.
"""

import logging
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from aerialdreams.params import Params, flatten
from aerialdreams.util.files import dvc_md5

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "aerialdreams"


MODEL = "aerialdreams-controlnet"  # its name in the model registry


CONTROLNET_TAG = "md5.models/controlnet"


PATIENCE = 60.0  # seconds that a stage's end waits for a store that does not answer


OPENING = 20.0  # seconds that the first point waits for the run to be opened, or to fail


PAUSES = (1.0, 2.0, 5.0, 10.0, 30.0)  # seconds between tries; the last one again and again


# Asked for by MLflow itself for minutes on end, where we do so too (mlflow.environment_variables).
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")


os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")


Job = Callable[["MlflowClient", str], object]


class Run:
    """A run in MLflow that takes what it is told at once, and stores it when the store answers.

    Args:
        open_run: makes the run or finds it, and gives its id.
    """

    def __init__(self, open_run: Callable[["MlflowClient", str], str]) -> None:
        self._open = open_run
        self._jobs: queue.Queue[Job | None] = queue.Queue()
        self._given_up = threading.Event()
        self._tried = threading.Event()  # to open the run, with success or without
        self.id: str | None = None
        self.known: dict[str, int] = {}  # last step of each curve that an interrupted run left
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def metrics(self, step: int, numbers: Mapping[str, float]) -> None:
        """Points of curves; those that the run has already, of before a kill, are left out.

        The first ones wait for MLflow to be imported and the run to be opened, which takes
        seconds: the checkpoint that follows would stand for points that nobody has stored.
        """
        self._tried.wait(OPENING)
        now = int(time.time() * 1000)

        def send(client: "MlflowClient", run: str) -> None:
            from mlflow.entities import Metric

            new = [(k, v) for k, v in numbers.items() if step > self.known.get(k, -1)]
            if new:
                client.log_batch(run, metrics=[Metric(k, v, now, step) for k, v in new])

        self.add(send)

    def image(self, step: int, picture: NDArray[np.uint8], key: str) -> None:
        """A picture of a series, RGB, (height, width, 3)."""
        self.add(lambda client, run: client.log_image(run, picture, key=key, step=step))

    def add(self, job: Job) -> None:
        """Anything else to do with the client and the run's id, in line behind the rest."""
        self._jobs.put(job)

    def close(self, patience: float | None = None) -> None:
        """Wait until all is stored; say what is lost if the store does not answer."""
        self._jobs.put(None)
        self._thread.join(PATIENCE if patience is None else patience)
        if self._thread.is_alive():
            self._given_up.set()
            _warn(f"{self._jobs.qsize()} entries could not be stored and are lost")

    def _work(self) -> None:
        failures = 0
        client = None
        job: Job | None = lambda client, run: None  # noqa: E731  (to open the run at once)
        while job:
            try:
                if client is None or self.id is None:
                    client, experiment = connect()
                    self.id = self._open(client, experiment)
                self._tried.set()
                job(client, self.id)
            except Exception as error:  # of MLflow, its database or the network: all alike
                self._tried.set()
                if _hopeless(error):
                    _warn(f"left out: {_first_line(error)}")
                else:
                    if not failures:
                        _warn(f"the work goes on, the store does not answer: {_first_line(error)}")
                    failures += 1
                    if self._given_up.wait(PAUSES[min(failures, len(PAUSES)) - 1]):
                        return
                    continue
            else:
                if failures:
                    _warn("the store answers again")
                failures = 0
            job = self._jobs.get()


@contextmanager
def training_run(params: Params, inputs: list[Path], kept_id: Path) -> Iterator[Run]:
    """A run of its own for a training, or the one that an interrupted training began.

    Args:
        params: all of them are logged.
        inputs: the stage's inputs; their DVC hashes become tags, the dataset's MLflow's digest.
        kept_id: file that keeps the run's id as long as the training is not done.

    Yields:
        The run. It ends as FINISHED, or as FAILED or KILLED where the block raises. A store that
        does not answer is tried again and again while the work goes on.
    """
    hashes = {path: dvc_md5(path) for path in inputs}
    monitors: list[Any] = []

    def open_run(client: "MlflowClient", experiment: str) -> str:
        kept = kept_id.read_text() if kept_id.exists() else ""
        found = client.search_runs([experiment], f"attributes.run_id = '{kept}'") if kept else []
        if found:
            run_id = kept
            run.known.update({m.key: m.step for m in found[0].data._metric_objs})
            client.update_run(run_id, status="RUNNING")
        else:
            tags = _commit_tags() | {f"md5.{path}": md5 for path, md5 in hashes.items()}
            created = client.create_run(experiment, run_name=_run_name(), tags=tags)
            run_id = str(created.info.run_id)
            _log_inputs(client, run_id, params, hashes)
            kept_id.write_text(run_id)
        monitors.append(_watch_system(client, run_id))
        return run_id

    run = Run(open_run)
    status = "FINISHED"
    try:
        yield run
    except BaseException as error:
        status = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
        raise
    finally:
        run.add(lambda client, _: [monitor.finish() for monitor in monitors])
        run.add(lambda client, run_id: client.set_terminated(run_id, status))
        # Who is told to stop has little time; what is lost is told again by the next try.
        run.close(None if status == "FINISHED" else min(PATIENCE, 10.0))
        if status == "FINISHED":
            kept_id.unlink(missing_ok=True)


def _run_name() -> str:
    """DVC's name of the experiment that runs, where there is one."""
    return os.environ.get("DVC_EXP_NAME") or "train-controlnet"


def _log_inputs(
    client: "MlflowClient", run: str, params: Params, hashes: Mapping[Path, str]
) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag, Param

    rows = [Param(key, str(value)) for key, value in flatten(params).items()]
    for first in range(0, len(rows), 100):  # as many as a request may hold
        client.log_batch(run, params=rows[first : first + 100])
    inputs = [
        DatasetInput(
            Dataset(path.name, md5, "dvc", f'{{"path": "{path}"}}'),
            [InputTag("mlflow.data.context", "training")],
        )
        for path, md5 in hashes.items()
        if path.parts[0] == "data"
    ]
    client.log_inputs(run, datasets=inputs)


def _watch_system(client: "MlflowClient", run: str) -> Any:
    """MLflow's own record of CPU, memory, disk and GPU, every ten seconds."""
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    monitor = SystemMetricsMonitor(run, resume_logging=True, tracking_uri=client.tracking_uri)
    monitor.start()
    return monitor


def register_model(run: Run, folder: Path, md5: str) -> None:
    """Put a trained ControlNet into the registry as a new version, its files into the run.

    Args:
        run: the training's.
        folder: the model, in diffusers' layout.
        md5: DVC's hash of it.
    """

    def register(client: "MlflowClient", run_id: str) -> None:
        from mlflow.exceptions import MlflowException

        client.log_artifacts(run_id, str(folder), "controlnet")
        try:
            client.create_registered_model(MODEL)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        source = f"{client.get_run(run_id).info.artifact_uri}/controlnet"
        client.create_model_version(MODEL, source, run_id, tags={CONTROLNET_TAG: md5})
        client.set_tag(run_id, CONTROLNET_TAG, md5)

    run.add(register)


def log_evaluation(
    controlnet_md5: str, numbers: Mapping[str, float], files: list[Path]
) -> str | None:
    """Attach an evaluation to the run and model version of the model, found by its hash.

    Where no run has it (the model was pulled, or the store is another), a new one is made.

    Args:
        controlnet_md5: DVC's hash of models/controlnet.
        numbers: metrics by name.
        files: pictures and tables to keep with them.

    Returns:
        The run's id; None where the store does not answer, which is said and stops nothing.
    """

    def find(client: "MlflowClient", experiment: str) -> str:
        runs = client.search_runs([experiment], f"tags.`{CONTROLNET_TAG}` = '{controlnet_md5}'")
        if runs:
            return str(runs[0].info.run_id)
        tags = _commit_tags() | {CONTROLNET_TAG: controlnet_md5}
        created = client.create_run(experiment, run_name="evaluate-FID", tags=tags)
        client.set_terminated(created.info.run_id)
        return str(created.info.run_id)

    def store(client: "MlflowClient", run_id: str) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        rows = [Metric(name, value, now, 0) for name, value in numbers.items()]
        for first in range(0, len(rows), 1000):
            client.log_batch(run_id, metrics=rows[first : first + 1000])
        for path in files:
            client.log_artifact(run_id, str(path), "evaluation")
        for version in client.search_model_versions(f"run_id = '{run_id}'"):
            for name, value in numbers.items():
                if name.endswith("miou"):
                    client.set_model_version_tag(MODEL, version.version, name, str(value))

    run = Run(find)
    run.add(store)
    run.close()
    return run.id


def training_cost(controlnet_md5: str) -> dict[str, str]:
    """What the training of a model took, by the run that has its hash; nothing where none has."""
    from mlflow.exceptions import MlflowException

    try:
        client, experiment = connect()
        runs = client.search_runs([experiment], f"tags.`{CONTROLNET_TAG}` = '{controlnet_md5}'")
    except (MlflowException, OSError) as error:
        _warn(_first_line(error))
        return {}
    if not runs or not runs[0].info.end_time:
        return {}
    info, metrics = runs[0].info, runs[0].data.metrics
    cost = {"minutes": f"{(info.end_time - info.start_time) / 60_000:.1f}"}
    for name, unit in (("memory_megabytes", "MB"), ("samples_per_second", "samples/s")):
        if name in metrics:
            cost[unit] = f"{metrics[name]:.1f}"
    return cost


def flatten_numbers(nested: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Every number of a nested dict under its dotted name; what is no number is left out."""
    numbers: dict[str, float] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            numbers |= flatten_numbers(value, f"{prefix}{key}.")
        elif isinstance(value, (int, float)):
            numbers[f"{prefix}{key}"] = value
    return numbers


def connect() -> tuple["MlflowClient", str]:
    """A client and the id of our experiment, which is made if it is not there."""
    import mlflow

    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    root = Path(os.environ.get("DVC_ROOT", ".")).resolve()
    own = f"sqlite:///{root / 'mlflow.db'}"
    uri = os.environ.get("MLFLOW_TRACKING_URI", own)
    if uri == own and not (root / "mlflow.db").exists():
        _make_store(root / "mlflow.db")
    client = mlflow.MlflowClient(uri)
    found = client.get_experiment_by_name(EXPERIMENT)
    if found:
        return client, found.experiment_id
    # A server keeps artifacts where it is told to; our own store keeps them beside it.
    place = (root / "mlartifacts").as_uri() if uri == own else None
    return client, client.create_experiment(EXPERIMENT, artifact_location=place)


def _make_store(path: Path) -> None:
    """Make an empty store beside its place and move it there when it is whole.

    MLflow builds its tables one by one for seconds; killed in between, it could never open what it
    left ("table already exists").
    """
    import mlflow

    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.unlink(missing_ok=True)
    mlflow.MlflowClient(f"sqlite:///{partial}").search_experiments()
    try:
        os.link(partial, path)  # unlike a renaming, it leaves what another process made meanwhile
    except FileExistsError:
        pass
    except OSError:  # a file system without links
        partial.replace(path)
    partial.unlink(missing_ok=True)


def _hopeless(error: Exception) -> bool:
    """Whether the store answered and will never take it."""
    code = getattr(error, "error_code", "")
    return code in ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "BAD_REQUEST")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def _warn(message: str) -> None:
    uri = os.environ.get("MLFLOW_TRACKING_URI", "mlflow.db")
    print(f"warning: MLflow at {uri}: {message}", file=sys.stderr, flush=True)


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
