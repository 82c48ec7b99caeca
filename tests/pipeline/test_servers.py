"""Remotes over SSH and S3, and MLflow on PostgreSQL, against real servers: scripts/test-servers."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import pytest

from aerialdreams.util.files import dvc_md5
from tests.pipeline.test_sharing import path_of
from tests.projects import colleague, dvc, run, set_params, use
from tests.servers import KEYS, free_port, postgres, s3_server, ssh_server, wait_for

pytestmark = pytest.mark.servers
TARGETS = ["dataset", "train-controlnet"]
OUTPUTS = ["data/dataset", "models/controlnet"]


def set_locally(project: Path, *settings: tuple[str, str]) -> None:
    """Settings of the remote that git does not see."""
    for name, value in settings:
        ended = dvc(project, "remote", "modify", "--local", "storage", name, value)
        assert ended.returncode == 0, ended.stderr


def test_over_ssh(whole: Path, tmp_path: Path) -> None:
    with ssh_server(tmp_path / "ssh") as (port, key):
        url = f"ssh://127.0.0.1{tmp_path / 'storage'}"
        access = (("port", str(port)), ("keyfile", str(key)))
        other = colleague(whole, tmp_path / "other", url)
        refused = dvc(other, "pull", "dataset")  # nobody said which key
        assert refused.returncode != 0 and "Traceback" not in refused.stderr
        use(whole, url)
        set_locally(whole, *access)
        pushed = dvc(whole, "push", *TARGETS)
        assert pushed.returncode == 0, pushed.stderr
        set_locally(other, *access)
        pull_through_a_kill(other, tmp_path)
        for output in OUTPUTS:
            assert dvc_md5(other / output) == dvc_md5(whole / output)
        for name, _ in access:
            dvc(whole, "remote", "modify", "--local", "--unset", "storage", name)


def pull_through_a_kill(project: Path, tmp_path: Path) -> None:
    """Pull, killed as soon as something has come; pull again, and it ends."""
    cache = project / ".dvc/cache/files"
    process = subprocess.Popen(
        [Path(sys.executable).parent / "dvc", "pull", *TARGETS],
        cwd=project, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while process.poll() is None and not any(cache.rglob("*")):
        time.sleep(0.01)
    process.kill()
    process.wait()
    pulled = dvc(project, "pull", *TARGETS)
    assert pulled.returncode == 0, pulled.stderr


def test_over_s3(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import botocore.session

    with s3_server(tmp_path / "swift") as port:
        session = botocore.session.get_session()
        session.set_credentials(*KEYS)
        endpoint = f"http://127.0.0.1:{port}"
        client = session.create_client("s3", endpoint_url=endpoint, region_name="us-east-1")
        client.create_bucket(Bucket="aerialdreams")
        access = (("endpointurl", endpoint), ("region", "us-east-1"))
        use(whole, "s3://aerialdreams/storage")
        set_locally(whole, *access)
        # No credentials, in a home that has none: said, and in one message.
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        refused = dvc(whole, "push", *TARGETS)
        assert refused.returncode != 0 and "Traceback" not in refused.stderr
        assert "redential" in refused.stderr, refused.stderr
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEYS[0])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEYS[1])
        pushed = dvc(whole, "push", *TARGETS)
        assert pushed.returncode == 0, pushed.stderr
        other = colleague(whole, tmp_path / "other", "s3://aerialdreams/storage")
        set_locally(other, *access)
        pull_through_a_kill(other, tmp_path)
        for output in OUTPUTS:
            assert dvc_md5(other / output) == dvc_md5(whole / output)
        # An object that was damaged there is named, and not taken.
        place = path_of(whole, "models/controlnet", "config.json")
        client.put_object(Bucket="aerialdreams", Key=f"storage/{place}", Body=b"{}")
        third = colleague(whole, tmp_path / "third", "s3://aerialdreams/storage")
        set_locally(third, *access)
        damaged = dvc(third, "pull", "train-controlnet")
        assert damaged.returncode != 0 and "models/controlnet" in damaged.stderr, damaged.stderr
        checked = run(third, "aerialdreams", "check-remote", "models/controlnet")
        assert checked.returncode == 1
        assert "models/controlnet/config.json: its object" in checked.stderr
        for name, _ in access:
            dvc(whole, "remote", "modify", "--local", "--unset", "storage", name)


def test_two_trainings_into_one_server_that_rests(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The README's server: PostgreSQL, proxied artifacts, a login. Nothing that is told is lost."""
    (tmp_path / "auth.ini").write_text(
        "[mlflow]\ndefault_permission = EDIT\nadmin_username = admin\n"
        f"admin_password = a-long-password\ndatabase_uri = sqlite:///{tmp_path / 'users.db'}\n"
    )
    monkeypatch.setenv("MLFLOW_AUTH_CONFIG_PATH", str(tmp_path / "auth.ini"))
    monkeypatch.setenv("MLFLOW_FLASK_SERVER_SECRET_KEY", "a-long-secret")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "a-long-password")
    with postgres(tmp_path / "postgres") as store:
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        server = start_server(store, port, tmp_path)
        trainings = []
        for seed in (21, 22):
            place = colleague(whole, tmp_path / f"clone-{seed}", "unused")
            assert dvc(place, "cache", "dir", "--local", str(whole / ".dvc/cache")).returncode == 0
            checked = dvc(place, "checkout", "dataset", "adapt-base", "encode-latents")
            assert checked.returncode == 0, checked.stderr
            longer = {"steps": 2000, "validation_every": 1000}
            tracked = {"log_every": 50, "images_every": 1000}
            changes = {"train_controlnet": {"seed": seed} | longer, "tracking": tracked}
            set_params(place, changes)
            trainings.append(
                subprocess.Popen(
                    [sys.executable, "-m", "stages.train_controlnet"],
                    cwd=place,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    env=os.environ | {"MLFLOW_TRACKING_URI": url},
                )
            )
        client = mlflow.MlflowClient(url)
        while len(runs_of(client)) < 2:
            time.sleep(0.5)
        server.send_signal(signal.SIGTERM)
        server.wait()
        time.sleep(60)
        assert [training.poll() for training in trainings] != [1, 1]  # they go on
        server = start_server(store, port, tmp_path)
        for training in trainings:
            _, said = training.communicate(timeout=600)
            assert training.returncode == 0, said
        runs = runs_of(client)
        assert [run.info.status for run in runs] == ["FINISHED", "FINISHED"]
        for one in runs:
            steps = [point.step for point in client.get_metric_history(one.info.run_id, "loss")]
            assert steps == [*range(50, 2001, 50)]
            images = client.list_artifacts(one.info.run_id, "images")
            assert sum(item.path.endswith(".png") for item in images) == 2
        versions = client.search_model_versions("name = 'aerialdreams-controlnet'")
        assert len(versions) == 2
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong")
        wrong = run(whole, sys.executable, "-c", f"import mlflow; mlflow.set_tracking_uri({url!r});"
                    "mlflow.search_experiments()")  # fmt: skip
        assert wrong.returncode != 0
        server.send_signal(signal.SIGTERM)
        server.wait()


def start_server(store: str, port: int, folder: Path) -> "subprocess.Popen[bytes]":
    """`mlflow server` as the README has it."""
    words = [
        str(Path(sys.executable).parent / "mlflow"), "server", "--backend-store-uri", store,
        "--artifacts-destination", str(folder / "artifacts"), "--app-name", "basic-auth",
        "--host", "127.0.0.1", "--port", str(port), "--workers", "2",
    ]  # fmt: skip
    with (folder / "server.log").open("ab") as log:
        server = subprocess.Popen(words, stdout=log, stderr=log)
    wait_for(port, server)
    return server


def runs_of(client: mlflow.MlflowClient) -> list:
    """The runs that are there; none where there is no experiment yet."""
    experiment = client.get_experiment_by_name("aerialdreams")
    return list(client.search_runs([experiment.experiment_id])) if experiment else []
