"""`dvc exp`: each experiment has its own run in MLflow, and both agree on the numbers."""

import json
from pathlib import Path

import mlflow

from tests.projects import dvc
from tests.test_sharing import clone_with_cache


def test_an_experiment_is_a_run_of_its_own(whole: Path, tmp_path: Path) -> None:
    project = clone_with_cache(whole, tmp_path / "project")
    words = ["exp", "run", "--allow-missing", "-n", "quick", "-S", "train_controlnet.steps=10"]
    done = dvc(project, *words)
    assert done.returncode == 0, done.stderr
    assert "Stage 'base-model' didn't change, skipping" in done.stdout  # visible as such
    client = mlflow.MlflowClient(f"sqlite:///{project / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("aerialdreams")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "quick" and run.data.params["train_controlnet.steps"] == "10"
    shown = dvc(project, "exp", "show", "--json")
    assert shown.returncode == 0, shown.stderr
    text = json.dumps(json.loads(shown.stdout))
    number = run.data.metrics["validation.generated.miou"]
    assert '"quick"' in text and repr(number) in text
