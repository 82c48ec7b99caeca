"""Two queued experiments at a time, MLflow on PostgreSQL, a kill: as if run one by one."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from mlflow import MlflowClient

from tests.projects import clone_with_cache, environment
from tests.servers import postgres

pytestmark = pytest.mark.servers
SEEDS = range(4, 8)
METRICS = "metrics/evaluation.json"


def dvc(project: Path, store: str, *words: str) -> str:
    """`dvc` with MLflow's store; what it printed."""
    env = environment() | ({"MLFLOW_TRACKING_URI": store} if store else {})
    ended = subprocess.run(["dvc", *words], cwd=project, env=env, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def start_queue(project: Path, store: str) -> None:
    """Start two workers. They keep the standard output, so that it must be no pipe."""
    words = ["dvc", "queue", "start", "--jobs", "2"]
    env = environment() | {"MLFLOW_TRACKING_URI": store}
    subprocess.run(words, cwd=project, env=env, stdout=subprocess.DEVNULL, check=True)


def by_seed(project: Path) -> dict[int, dict[str, Any]]:
    """The metrics of each experiment that ended well, by its seed."""
    found = {}
    for row in json.loads(dvc(project, "", "exp", "show", "--json")):
        for experiment in row["experiments"] or []:
            data = (experiment["revs"][0] or {}).get("data") or {}
            # A failed one has the metrics of the commit that it started from.
            ended_well = (experiment["executor"] or {}).get("state", "success") == "success"
            if ended_well and METRICS in (data.get("metrics") or {}):
                params = data["params"]["params.yaml"]["data"]
                seed = params["train_controlnet"]["seed"]
                found[seed] = data["metrics"][METRICS]["data"]
    return found


def trainings(project: Path) -> list[psutil.Process]:
    """The queue's processes that train a ControlNet."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if "stages.train_controlnet" in (process.info["cmdline"] or []):
            try:
                if Path(process.cwd()).is_relative_to(project):
                    found.append(process)
            except psutil.Error:
                continue
    return found


def wait_for_queue(project: Path, store: str) -> None:
    """Wait until no experiment waits or runs."""
    while any(word in dvc(project, store, "queue", "status") for word in ("Queued", "Running")):
        time.sleep(2)


def test_a_parallel_queue_ends_as_one_by_one(whole: Path, tmp_path: Path) -> None:
    # Caches of their own: what one has run, the other would restore from the run cache.
    together = clone_with_cache(whole, tmp_path / "together")
    shutil.copytree(whole / ".dvc/cache", tmp_path / "cache")
    dvc(together, "", "cache", "dir", "--local", str(tmp_path / "cache"))
    alone = clone_with_cache(whole, tmp_path / "alone")
    for seed in SEEDS:
        dvc(alone, "", "exp", "run", "-n", f"seed-{seed}", "-S", f"train_controlnet.seed={seed}")
    expected = by_seed(alone)
    assert sorted(expected) == [*SEEDS]
    with postgres(tmp_path / "postgres") as store:
        grid = f"train_controlnet.seed=range({SEEDS.start},{SEEDS.stop})"
        dvc(together, store, "exp", "run", "--queue", "--allow-missing", "-S", grid)
        start_queue(together, store)
        until = time.monotonic() + 300
        while not (running := trainings(together)):
            assert time.monotonic() < until, dvc(together, store, "queue", "status")
            time.sleep(0.1)
        os.kill(running[0].pid, signal.SIGKILL)
        wait_for_queue(together, store)
        lost = [seed for seed in SEEDS if seed not in by_seed(together)]
        assert len(lost) == 1  # the killed one alone
        words = ("exp", "run", "--queue", "--allow-missing", "-S")
        dvc(together, store, *words, f"train_controlnet.seed={lost[0]}")
        start_queue(together, store)
        wait_for_queue(together, store)
        assert by_seed(together) == expected  # to the last digit
        client = MlflowClient(store)
        experiment = client.get_experiment_by_name("aerialdreams")
        runs = client.search_runs(
            [experiment.experiment_id], "attributes.status = 'FINISHED'", max_results=100
        )
        finished = {
            int(one.data.params["train_controlnet.seed"]): one.data.metrics
            for one in runs
            if "train_controlnet.seed" in one.data.params
            and "validation.generated.miou" in one.data.metrics
        }
        for seed, metrics in expected.items():
            miou = metrics["validation"]["generated"]["miou"]
            assert finished[seed]["validation.generated.miou"] == miou
