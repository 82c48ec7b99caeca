"""MLflow: params and hashes on the training's run, and an evaluation that finds it by content."""

from pathlib import Path

import mlflow
import pytest

from aerialdreams.errors import WorkError
from aerialdreams.files import path_md5
from aerialdreams.params import Params, flatten
from aerialdreams.tracking import (
    CONTROLNET_TAG,
    EXPERIMENT,
    flatten_numbers,
    log_evaluation,
    training_run,
)


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
    with pytest.raises(KeyboardInterrupt), training_run(params, [Path("data")], kept) as (c, run):
        c.log_metric(run, "loss", 2.0, step=1)
        raise KeyboardInterrupt
    assert store.get_run(run).info.status == "KILLED"

    with training_run(params, [Path("data")], kept) as (client, resumed):
        assert resumed == run  # an interrupted training goes on in its own run
        client.log_metric(run, "loss", 1.0, step=2)
        client.set_tag(run, CONTROLNET_TAG, "abc.dir")
    assert not kept.exists()
    picture = workdir / "sheet.png"
    picture.write_bytes(b"x")
    assert log_evaluation("abc.dir", {"validation.generated.miou": 0.4}, [picture]) == run

    found = store.get_run(run)
    assert found.info.status == "FINISHED"
    assert found.data.metrics == {"loss": 1.0, "validation.generated.miou": 0.4}
    assert found.data.tags["md5.data"] == path_md5(Path("data"))
    assert found.data.params == {key: str(value) for key, value in flatten(params).items()}
    assert (workdir / "mlartifacts").is_dir()
    assert [item.path for item in store.list_artifacts(run, "evaluation")] == [
        "evaluation/sheet.png"
    ]


def test_a_model_without_a_run_gets_one(store: mlflow.MlflowClient) -> None:
    run = log_evaluation("unknown.dir", {"n": 1}, [])
    assert store.get_run(run).data.tags[CONTROLNET_TAG] == "unknown.dir"
    assert log_evaluation("unknown.dir", {"n": 2}, []) == run
    experiment = store.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    assert len(store.search_runs([experiment.experiment_id])) == 1


def test_a_store_that_cannot_be_reached_is_named(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://here")
    with pytest.raises(WorkError, match="MLFLOW_TRACKING_URI=nonsense://here"):
        log_evaluation("abc", {}, [])


def test_only_numbers_are_metrics() -> None:
    nested = {"a": {"fid": "not computed", "miou": 0.5, "iou": {"snow": 1}}, "n": 3}
    assert flatten_numbers(nested) == {"a.miou": 0.5, "a.iou.snow": 1, "n": 3}
