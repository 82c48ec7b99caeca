"""MLflow: params and hashes on the training's run, and an evaluation that finds it by content."""

import os
import time
from pathlib import Path

import mlflow
import pytest

from aerialdreams.params import Params, flatten
from aerialdreams.pipeline import mlflow_run, mlflow_store
from aerialdreams.pipeline.mlflow_store import EXPERIMENT
from aerialdreams.pipeline.tracking import (
    CONTROLNET_TAG,
    MODEL,
    flatten_numbers,
    log_evaluation,
    register_model,
    training_run,
)
from aerialdreams.util.files import dvc_md5


@pytest.fixture
def store(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> mlflow.MlflowClient:
    """The default store, in an empty folder."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return mlflow.MlflowClient(f"sqlite:///{workdir / 'mlflow.db'}")


def test_a_run_from_training_to_evaluation(
    store: mlflow.MlflowClient, workdir: Path, params: Params
) -> None:
    data = workdir / "data"
    data.mkdir()
    (data / "a.txt").write_text("a")
    kept = workdir / "kept.run"
    with (
        pytest.raises(KeyboardInterrupt),
        training_run(flatten(params), [Path("data")], kept) as run,
    ):
        run.metrics(1, {"loss": 2.0})
        run.metrics(2, {"loss": 1.5})
        raise KeyboardInterrupt
    assert run.id is not None
    assert store.get_run(run.id).info.status == "KILLED"

    with training_run(flatten(params), [Path("data")], kept) as resumed:
        resumed.metrics(2, {"loss": 1.5})  # done again after the last checkpoint
        resumed.metrics(3, {"loss": 1.0})
        model = workdir / "models/controlnet"
        model.mkdir(parents=True)
        (model / "config.json").write_text("{}")
        register_model(resumed, model, "abc.dir")
    assert resumed.id == run.id  # an interrupted training goes on in its own run
    assert not kept.exists()
    picture = workdir / "sheet.png"
    picture.write_bytes(b"x")
    numbers = {"validation.generated.miou": 0.4}
    assert log_evaluation("abc.dir", numbers, [picture]) == run.id

    found = store.get_run(run.id)
    assert found.info.status == "FINISHED"
    points = [(p.step, p.value) for p in store.get_metric_history(run.id, "loss")]
    assert points == [(1, 2.0), (2, 1.5), (3, 1.0)]
    assert found.data.metrics["validation.generated.miou"] == 0.4
    assert found.data.tags["md5.data"] == dvc_md5(Path("data"))
    assert found.data.params == {key: str(value) for key, value in flatten(params).items()}
    (used,) = found.inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == ("data", dvc_md5(Path("data")))
    assert (workdir / "mlartifacts").is_dir()
    assert [item.path for item in store.list_artifacts(run.id, "evaluation")] == [
        "evaluation/sheet.png"
    ]
    (version,) = store.search_model_versions(f"name = '{MODEL}'")
    assert version.run_id == run.id
    assert version.tags == {CONTROLNET_TAG: "abc.dir", "validation.generated.miou": "0.4"}
    assert [item.path for item in store.list_artifacts(run.id, "controlnet")] == [
        "controlnet/config.json"
    ]


def test_a_store_that_a_kill_left_half_made_is_not_met(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow's tables are made beside their place; what a kill leaves there is of no matter."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (workdir / f"mlflow.db.{os.getpid()}.partial").write_bytes(b"half")
    assert log_evaluation("abc", {"n": 1}, []) is not None
    assert [path.name for path in workdir.glob("mlflow.db*")] == ["mlflow.db"]


def test_a_failed_training_is_marked(
    store: mlflow.MlflowClient, workdir: Path, params: Params
) -> None:
    kept = workdir / "kept.run"
    with pytest.raises(ValueError), training_run(flatten(params), [], kept) as run:
        raise ValueError
    assert run.id is not None
    assert store.get_run(run.id).info.status == "FAILED"
    assert kept.exists()  # the next try goes on in it


def test_a_model_without_a_run_gets_one(store: mlflow.MlflowClient) -> None:
    run = log_evaluation("unknown.dir", {"n": 1}, [])
    assert run is not None
    assert store.get_run(run).data.tags[CONTROLNET_TAG] == "unknown.dir"
    assert log_evaluation("unknown.dir", {"n": 2}, []) == run
    experiment = store.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    assert len(store.search_runs([experiment.experiment_id])) == 1


def test_a_store_that_is_down_stops_nothing(
    workdir: Path,
    params: Params,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setattr(mlflow_run, "PATIENCE", 2.0)
    with training_run(flatten(params), [], workdir / "kept.run") as run:
        run.metrics(1, {"loss": 2.0})
    told = capsys.readouterr().err
    assert (
        "MLflow at http://127.0.0.1:9: the store does not respond, the training continues" in told
    )
    assert "entries could not be stored and are lost" in told
    assert log_evaluation("abc", {"n": 1}, []) is None


def test_a_store_that_comes_back_gets_what_waited(
    store: mlflow.MlflowClient,
    workdir: Path,
    params: Params,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    connect, tries = mlflow_store.connect, []

    def down_twice() -> tuple[mlflow.MlflowClient, str]:
        tries.append(1)
        if len(tries) < 3:
            raise ConnectionError("refused")
        return connect()

    monkeypatch.setattr(mlflow_run, "connect", down_twice)
    monkeypatch.setattr(mlflow_run, "RETRY_DELAYS", (0.1,))
    with training_run(flatten(params), [], workdir / "kept.run") as run:
        for step in range(1, 6):
            run.metrics(step, {"loss": 1 / step})
    assert run.id is not None
    assert [p.step for p in store.get_metric_history(run.id, "loss")] == [1, 2, 3, 4, 5]
    told = capsys.readouterr().err
    assert told.count("the training continues: refused") == 1 and "responds again" in told


def log_some(params: Params, workdir: Path) -> str | None:
    """Log a few points; gives the run's id, None if nothing was recorded."""
    with training_run(flatten(params), [], workdir / "kept.run") as run:
        for step in range(1, 25):
            run.metrics(step, {"loss": 1.0})
    return run.id


def test_an_upload_that_takes_longer_than_the_patience_is_waited_for(
    store: mlflow.MlflowClient,
    workdir: Path,
    params: Params,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(mlflow_run, "PATIENCE", 0.2)
    with training_run(flatten(params), [], workdir / "kept.run") as run:
        run.add(lambda client, run_id: time.sleep(2))  # a large model on a slow store
        run.metrics(1, {"loss": 1.0})
    assert run.id is not None
    assert [point.step for point in store.get_metric_history(run.id, "loss")] == [1]
    assert store.get_run(run.id).info.status == "FINISHED"
    assert "lost" not in capsys.readouterr().err


def test_a_deleted_experiment_is_told_once(
    store: mlflow.MlflowClient, workdir: Path, params: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    assert log_some(params, workdir)
    experiment = store.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    store.delete_experiment(experiment.experiment_id)
    capsys.readouterr()
    assert log_some(params, workdir) is None
    lines = capsys.readouterr().err.splitlines()
    assert len([line for line in lines if "MLflow" in line]) == 1
    assert "nothing is recorded: the experiment 'aerialdreams' was deleted; restore it" in lines[0]
    store.restore_experiment(experiment.experiment_id)
    assert log_some(params, workdir)


def test_a_moved_project_does_not_write_into_its_old_place(
    tmp_path: Path,
    params: Params,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    (tmp_path / "before").mkdir()
    monkeypatch.chdir(tmp_path / "before")
    assert log_some(params, tmp_path / "before")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "before").rename(tmp_path / "after")
    monkeypatch.chdir(tmp_path / "after")
    assert log_some(params, tmp_path / "after") is None
    message = capsys.readouterr().err
    assert message.count("nothing is recorded: the project was moved or copied") == 1
    assert not (tmp_path / "before").exists()
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'after/mlflow.db'}")
    old = client.get_experiment_by_name(EXPERIMENT)
    assert old is not None
    client.rename_experiment(old.experiment_id, f"{EXPERIMENT}-before")  # as the message says
    assert log_some(params, tmp_path / "after")


@pytest.mark.parametrize("name", ["a%20b", "what?", "a#b"])
def test_paths_that_mlflow_cannot_open(
    name: str,
    tmp_path: Path,
    params: Params,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / name)
    assert log_some(params, tmp_path / name) is None
    assert "nothing is recorded: MLflow cannot open a store at" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_store_in_a_folder_is_told_once(
    workdir: Path,
    params: Params,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "file:./mlruns")
    assert log_some(params, workdir) is None
    lines = [line for line in capsys.readouterr().err.splitlines() if "MLflow" in line]
    assert len(lines) == 1 and "set MLFLOW_TRACKING_URI to a database" in lines[0]


def test_only_numbers_are_metrics() -> None:
    nested = {"a": {"fid": "not computed", "miou": 0.5, "iou": {"snow": 1}}, "n": 3}
    assert flatten_numbers(nested) == {"a.miou": 0.5, "a.iou.snow": 1, "n": 3}
