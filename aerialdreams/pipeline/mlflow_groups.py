"""Seeds of one recipe in MLflow: child runs of a run that has the means of their metrics."""

import statistics
import time
from typing import TYPE_CHECKING, Any

from aerialdreams.pipeline.mlflow_store import RECIPE_TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient

PARENT_TAG = "mlflow.parentRunId"
GROUP_TAG = "group"  # only the parents have it
AVERAGED = ("validation.", "test.", "utility.")  # metrics that parents have


def join_group(client: "MlflowClient", experiment_id: str, run_id: str, recipe: str) -> None:
    """Make a run, and the earlier runs of its recipe, children of one run.

    The parent is created with the recipe's second run: most recipes are trained once.

    Args:
        client: of the store.
        experiment_id: of the experiment.
        run_id: the new run.
        recipe: see `identity.recipe_of`.
    """
    query = f"tags.`{RECIPE_TAG}` = '{recipe}'"
    order = ["attributes.start_time ASC"]
    runs = [
        run
        for run in client.search_runs([experiment_id], query, order_by=order)
        if run.info.run_id != run_id
    ]
    parents = [run.info.run_id for run in runs if GROUP_TAG in run.data.tags]
    if not runs:
        return
    if not parents:
        tags = {RECIPE_TAG: recipe, GROUP_TAG: "seeds"}
        created = client.create_run(experiment_id, run_name=f"recipe {recipe}", tags=tags)
        client.set_terminated(created.info.run_id)
        # Another training may have created a parent at the same time; both keep the earlier one.
        query = f"{query} and tags.{GROUP_TAG} = 'seeds'"
        order = ["attributes.start_time ASC", "attributes.run_id ASC"]
        found = client.search_runs([experiment_id], query, order_by=order)
        parents = [run.info.run_id for run in found]
        if parents[0] != created.info.run_id:
            client.delete_run(created.info.run_id)
    children = [run.info.run_id for run in runs if GROUP_TAG not in run.data.tags]
    for child in [*children, run_id]:
        client.set_tag(child, PARENT_TAG, parents[0])


def update_group(client: "MlflowClient", run_id: str) -> None:
    """Log the mean and the standard deviation over seeds to a run's parent, if it has one."""
    from mlflow.entities import Metric

    run = client.get_run(run_id)
    parent = run.data.tags.get(PARENT_TAG)
    if not parent:
        return
    children = client.search_runs([run.info.experiment_id], f"tags.`{PARENT_TAG}` = '{parent}'")
    evaluated: list[dict[str, Any]] = [
        {key: value for key, value in child.data.metrics.items() if key.startswith(AVERAGED)}
        for child in children
    ]
    evaluated = [metrics for metrics in evaluated if metrics]
    now, rows = int(time.time() * 1000), []
    for key in set.intersection(*map(set, evaluated)) if evaluated else ():
        values = [metrics[key] for metrics in evaluated]
        rows.append(Metric(key, statistics.mean(values), now, 0))
        if len(values) > 1:
            rows.append(Metric(f"{key}.deviation", statistics.stdev(values), now, 0))
    for first in range(0, len(rows), 1000):
        client.log_batch(parent, metrics=rows[first : first + 1000])
