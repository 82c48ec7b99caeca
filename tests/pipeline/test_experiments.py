"""Experiments as the guide has them: each its own run in MLflow, compared in three places."""

import json
import statistics
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from aerialdreams.pipeline.mlflow_groups import GROUP_TAG, PARENT_TAG
from tests.docs.test_readme import block, paste
from tests.evaluation.test_results import CHROMIUM, browser
from tests.projects import clone_with_cache, dvc, environment, run
from tests.servers import free_port, wait_for


@pytest.fixture(scope="module")
def laboratory(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which the guide's experiments ran, one by itself and two from the queue."""
    place = clone_with_cache(whole, tmp_path_factory.mktemp("laboratory") / "project")
    ended = paste(place, block("dvc exp run -n slower"))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    # What experiments share is not done again, and said to be so.
    assert "Stage 'dataset' didn't change, skipping" in ended.stdout
    return place


def shown(project: Path) -> dict[str, dict[str, Any]]:
    """What `dvc exp show` has of each experiment, by name."""
    rows = json.loads(dvc(project, "exp", "show", "--json").stdout)
    found = {}
    for row in rows:
        for experiment in row["experiments"] or []:
            found[experiment["name"]] = experiment["revs"][0]["data"]
    return found


def all_runs(project: Path) -> list[Run]:
    """The runs of a project's MLflow store."""
    client = MlflowClient(f"sqlite:///{project / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("aerialdreams")
    return list(client.search_runs([experiment.experiment_id]))


def runs_of(project: Path) -> dict[str, Run]:
    """The trainings of a project's MLflow store, by name; without the parents of seeds."""
    runs = all_runs(project)
    return {one.info.run_name: one for one in runs if GROUP_TAG not in one.data.tags}


def test_dvc_and_mlflow_agree(laboratory: Path) -> None:
    experiments, runs = shown(laboratory), runs_of(laboratory)
    assert "slower" in experiments and len(experiments) == 3
    assert set(runs) == set(experiments)
    seeds = set()
    for name, one in experiments.items():
        params = one["params"]["params.yaml"]["data"]
        seeds.add((params["train_controlnet"]["seed"], params["train_controlnet"]["learning_rate"]))
        told = runs[name].data
        assert told.params["train_controlnet.seed"] == str(params["train_controlnet"]["seed"])
        report = one["metrics"]["metrics/evaluation.json"]["data"]["validation"]["generated"]
        for key in ("miou", "pixel_accuracy", "judge_frechet_distance"):
            assert told.metrics[f"validation.generated.{key}"] == report[key]
        assert runs[name].info.status == "FINISHED"
    # The workspace keeps the change of `slower`, and the queue starts from the workspace.
    assert seeds == {(3, 0.001), (4, 0.001), (5, 0.001)}


def test_compare_says_the_same_of_experiments_and_of_runs(laboratory: Path) -> None:
    runs = runs_of(laboratory)
    first, second = (name for name in runs if name != "slower")
    by_name = run(laboratory, "aerialdreams", "compare", first, second)
    assert by_name.returncode == 0, by_name.stderr
    ids = [f"run:{runs[name].info.run_id}" for name in (first, second)]
    by_run = run(laboratory, "aerialdreams", "compare", *ids, "--page", "runs.html")
    assert by_run.returncode == 0, by_run.stderr
    said = by_run.stdout.replace(ids[0], first).replace(ids[1], second)
    assert said.split() == by_name.stdout.split()
    assert "train_controlnet.seed" in said and "minutes" in said
    assert (laboratory / "runs.html").read_text().count("<img") == 2  # the sheets of both
    assert (laboratory / "comparison.html").read_text().count("<img") > 4
    wrong = run(laboratory, "aerialdreams", "compare", ids[0], "run:0123")
    assert wrong.returncode == 2 and "run:0123" in wrong.stderr
    assert "Traceback" not in wrong.stderr


def test_seeds_of_a_recipe_are_children_of_one_run(laboratory: Path) -> None:
    """The run above them has the means of their metrics."""
    runs = runs_of(laboratory)
    (parent,) = (one for one in all_runs(laboratory) if GROUP_TAG in one.data.tags)
    assert {one.data.tags[PARENT_TAG] for one in runs.values()} == {parent.info.run_id}
    assert len({one.data.tags["recipe"] for one in runs.values()}) == 1
    values = [one.data.metrics["validation.generated.miou"] for one in runs.values()]
    assert parent.data.metrics["validation.generated.miou"] == statistics.mean(values)
    deviation = parent.data.metrics["validation.generated.miou.deviation"]
    assert deviation == pytest.approx(statistics.stdev(values))


def test_recipes_are_compared_over_seeds(laboratory: Path) -> None:
    """By the name of one experiment, by the recipe that MLflow shows, and by a list."""
    runs = runs_of(laboratory)
    recipe = runs["slower"].data.tags["recipe"]
    queued = [name for name in runs if name != "slower"]
    said = []
    for group in ("slower@3,4,5", f"{recipe}@all", f"{queued[0]}@5,3,4"):
        ended = run(laboratory, "aerialdreams", "compare", "HEAD", group)
        assert ended.returncode == 0, ended.stderr
        assert "3 and 1 seeds" in ended.stdout and " ± " in ended.stdout
        said.append(ended.stdout.replace(group, "").split())
    assert said[0] == said[1]
    listed = run(laboratory, "aerialdreams", "compare", "HEAD", f"mine=slower,{','.join(queued)}")
    assert listed.returncode == 0, listed.stderr
    mixed = run(laboratory, "aerialdreams", "compare", "HEAD", "mine=slower,HEAD")
    assert mixed.returncode == 2
    assert "slower and HEAD differ in train_controlnet.learning_rate" in mixed.stderr
    missing = run(laboratory, "aerialdreams", "compare", "HEAD", "slower@3,9")
    assert missing.returncode == 2 and "there are 3, 4, 5" in missing.stderr


@contextmanager
def mlflow_ui(project: Path) -> Iterator[str]:
    """`mlflow ui` over a project's store; gives its address."""
    port = free_port()
    words = ["mlflow", "ui", "--backend-store-uri", "sqlite:///mlflow.db", "--port", str(port)]
    with (project / "scratch/ui.log").open("wb") as log:
        server = subprocess.Popen(words, cwd=project, env=environment(), stdout=log, stderr=log)
    try:
        wait_for(port, server)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium on the PATH")
def test_two_runs_side_by_side_in_mlflow(laboratory: Path, tmp_path: Path) -> None:
    """The page that `mlflow ui` shows has both runs' params and numbers."""
    runs = runs_of(laboratory)
    chosen = [one for name, one in runs.items() if name != "slower"]
    ids = json.dumps([one.info.run_id for one in chosen])
    with mlflow_ui(laboratory) as url:
        experiments = f"%5B%22{chosen[0].info.experiment_id}%22%5D"
        page = f"{url}/#/compare-runs?runs={ids}&experiments={experiments}"
        command = [*browser(tmp_path), "--virtual-time-budget=30000", "--dump-dom", page]
        drawn = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    for one in chosen:
        assert one.info.run_name in drawn.stdout
    for words in ("Comparing 2 Runs", "base_model.id", "gradient_norm", "md5.data/dataset"):
        assert words in drawn.stdout
