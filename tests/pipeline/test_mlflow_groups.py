"""Seeds of a recipe as children of one run, also when two trainings start at the same time."""

from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run

from aerialdreams.pipeline.mlflow_groups import GROUP_TAG, PARENT_TAG, join_group
from aerialdreams.pipeline.mlflow_store import RECIPE_TAG

RECIPE = "0123abcd"


class Overtaken(MlflowClient):
    """A client that creates a parent just after another training has created one, too."""

    def create_run(self, experiment_id: str, *args: Any, **options: Any) -> Run:
        super().create_run(experiment_id, *args, **options)  # the other training's
        return super().create_run(experiment_id, *args, **options)


def test_two_trainings_at_once_have_one_parent(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(uri)
    experiment = client.create_experiment("aerialdreams")
    children = [
        client.create_run(experiment, run_name=name, tags={RECIPE_TAG: RECIPE}).info.run_id
        for name in ("seed-1", "seed-2")
    ]
    join_group(Overtaken(uri), experiment, children[1], RECIPE)
    parents = client.search_runs([experiment], f"tags.{GROUP_TAG} = 'seeds'")
    assert len(parents) == 1
    for child in children:
        assert client.get_run(child).data.tags[PARENT_TAG] == parents[0].info.run_id
