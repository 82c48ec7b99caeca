"""The whole pipeline in fresh clones, small: what comes out, again, and after being killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import mlflow
import psutil
import pytest
import yaml

from tests.conftest import ROOT

SMALL = {
    "runtime": {"checkpoint_every": 5},
    "image_size": 64,
    "raw_patches": {
        "sample": {
            "zone_side": 2,
            "zones": {
                "D038_2021": ["Z1_UA", "Z2_FN"],
                "D014_2020": ["Z1_UA"],
                "D022_2021": ["Z1_AU"],
            },
        },
    },
    "base_model": {
        "tiny": {
            "vae": {"steps": 40, "whole_steps": 10, "channels": [8, 16]},
            "unet": {"steps": 30, "channels": [16, 24, 32]},
        },
    },
    "train_segmenter": {"steps": 60, "channels": [8, 16, 24]},
    "train_controlnet": {"steps": 40, "log_every": 10, "images_every": 20, "images": 2},
    "generate_validation": {"steps": 2, "batch": 4, "grid_rows": 2},
}


def merge(values: dict, changes: dict) -> None:
    for key, value in changes.items():
        if isinstance(value, dict) and key != "zones":
            merge(values[key], value)
        else:
            values[key] = value


def clone(place: Path) -> Path:
    """A fresh clone of what is committed, with small params."""
    subprocess.run(["git", "clone", "-q", str(ROOT), str(place)], check=True)
    params = yaml.safe_load((place / "params.yaml").read_text())
    merge(params, SMALL)
    (place / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    return place


def environment() -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW")}
    return kept | {"PATH": path, "DVC_NO_ANALYTICS": "1"}


def dvc(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["dvc", *words], cwd=place, env=environment(), capture_output=True, text=True
    )


def kill_when(place: Path, ready: Callable[[], bool], how: signal.Signals) -> None:
    """Start `dvc repro`, kill dvc alone as soon as `ready`, and see that its stage ends too."""
    with (place / "killed.log").open("w") as log:
        process = subprocess.Popen(
            ["dvc", "repro"], cwd=place, env=environment(), stdout=log, stderr=log
        )
        deadline = time.monotonic() + 240
        while not ready():
            assert process.poll() is None, (place / "killed.log").read_text()
            assert time.monotonic() < deadline, "the stage to be killed never came"
            time.sleep(0.02)
        process.send_signal(how)
        process.wait(timeout=30)
    deadline = time.monotonic() + 10
    while left := stages_in(place):
        assert time.monotonic() < deadline, f"still running: {left}"
        time.sleep(0.1)


def stages_in(place: Path) -> list[str]:
    """Stage processes that work in a folder."""
    found = []
    for process in psutil.process_iter():
        try:
            command = " ".join(process.cmdline())
            if process.cwd() == str(place) and process.status() != psutil.STATUS_ZOMBIE:
                found += [command] if "stages." in command or "spawn_main" in command else []
        except psutil.Error:
            continue
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone in which `dvc repro` ran undisturbed."""
    place = clone(tmp_path_factory.mktemp("whole") / "project")
    ended = dvc(place, "repro")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return place


def test_every_stage_says_what_it_did_and_the_metrics_are_there(whole: Path) -> None:
    metrics = json.loads((whole / "metrics/evaluation.json").read_text())
    for split in ("validation", "test"):
        for source in ("generated", "real", "untrained"):
            numbers = metrics[split][source]
            assert 0 <= numbers["miou"] <= 1 and 0 < numbers["pixel_accuracy"] <= 1
            assert numbers["n"] == 4
            assert set(numbers["iou"]) <= {c["name"] for c in params_of(whole)["classes"]}
        assert metrics[split]["generated"]["fid"] == "not computed: no weights"
        assert metrics[split]["generated"]["judge_frechet_distance"] > 0
        assert metrics[split]["floor"]["n"] == 4
        made = whole / "data/generated" / split
        images = sorted(path.stem for path in made.glob("generated/*.png"))
        assert images == sorted(path.stem for path in made.glob("untrained/*.png"))
        assert images == sorted(path.stem for path in made.glob("generated/*.tif"))
        assert len(images) == 4
        assert len(list(made.glob("generated/*.vrt"))) == 1
    report = (whole / "data/report.html").read_text()
    assert "© OpenStreetMap contributors" in report and report.count("<figure>") >= 24
    assert "<img" in report and "src='http" not in report
    manifest = json.loads((whole / "data/generated/manifest.json").read_text())
    assert manifest["synthetic"] is True
    assert any("OpenStreetMap" in credit for credit in manifest["credits"])


def params_of(place: Path) -> dict:
    values: dict = yaml.safe_load((place / "params.yaml").read_text())
    return values


def test_mlflow_leads_from_the_run_to_dvc_lock_and_back(whole: Path) -> None:
    client = mlflow.MlflowClient(f"sqlite:///{whole / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("aerialdreams")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    lock = yaml.safe_load((whole / "dvc.lock").read_text())["stages"]["train-controlnet"]
    hashes = {item["path"]: item["md5"] for item in lock["deps"] + lock["outs"]}
    for path in ("data/dataset", "data/latents", "models/base", "models/controlnet"):
        assert run.data.tags[f"md5.{path}"] == hashes[path]
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=whole, capture_output=True, text=True, check=True
    )
    assert run.data.tags["mlflow.source.git.commit"] == head.stdout.strip()
    assert run.data.params["train_controlnet.steps"] == "40"
    metrics = json.loads((whole / "metrics/evaluation.json").read_text())
    assert (
        run.data.metrics["validation.generated.miou"] == metrics["validation"]["generated"]["miou"]
    )
    steps = [point.step for point in client.get_metric_history(run.info.run_id, "loss")]
    assert steps == [10, 20, 30, 40]
    images = [item.path for item in client.list_artifacts(run.info.run_id, "images")]
    assert sum(path.endswith(".png") for path in images) == 2


def test_a_second_run_has_nothing_to_do(whole: Path) -> None:
    again = dvc(whole, "repro")
    assert again.returncode == 0
    assert "Running stage" not in again.stdout
    assert "up to date" in again.stdout
    assert "miou" in dvc(whole, "metrics", "show").stdout
    shown = dvc(whole, "plots", "show")
    assert shown.returncode == 0, shown.stderr


def test_two_experiments_side_by_side(whole: Path, tmp_path: Path) -> None:
    """What is committed beside what is in the workspace, where the mask is hardly followed."""
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost"]
    subprocess.run([*git, "commit", "-qam", "small"], cwd=whole, check=True)
    before = (whole / "params.yaml").read_text()
    params = params_of(whole)
    params["generate_validation"]["conditioning_scale"] = 0.0
    (whole / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    again = dvc(whole, "repro")
    assert again.returncode == 0, again.stderr
    assert "Running stage 'train-controlnet'" not in again.stdout
    compared = subprocess.run(
        ["aerialdreams", "compare", "HEAD", "workspace", "--page", str(tmp_path / "page.html")],
        cwd=whole, env=environment(), capture_output=True, text=True,
    )  # fmt: skip
    assert compared.returncode == 0, compared.stderr
    rows = [line.split() for line in compared.stdout.splitlines()]
    differing = [row for row in rows if row and "." in row[0] and len(row) == 3]
    assert ["generate_validation.conditioning_scale", "1.3", "0.0"] in differing
    assert not any(row[0].startswith("train_controlnet") for row in differing)
    assert any(row[:1] == ["minutes"] and row[1] == row[2] for row in rows)  # one training
    assert "workspace shows" in compared.stdout and "N = 4" in compared.stdout
    page = (tmp_path / "page.html").read_text()
    assert page.count("<figure>") == 2 * 2 * 4
    wrong = subprocess.run(
        ["aerialdreams", "compare", "HEAD", "nowhere"],
        cwd=whole, env=environment(), capture_output=True, text=True,
    )  # fmt: skip
    assert wrong.returncode == 2 and "Traceback" not in wrong.stderr
    assert "nowhere: " in wrong.stderr and "name a git revision" in wrong.stderr
    (whole / "params.yaml").write_text(before)
    back = dvc(whole, "repro")  # from the run cache
    assert back.returncode == 0 and (whole / "params.yaml").read_text() == before


def test_killed_anywhere_the_next_run_ends_with_the_same_bytes(whole: Path, tmp_path: Path) -> None:
    place = clone(tmp_path / "project")
    for pattern, how in (
        ("data/raw.partial/*/*", signal.SIGKILL),
        ("scratch/images.*/*.png", signal.SIGTERM),
        ("scratch/base-model-unet-*.pt", signal.SIGKILL),
        ("scratch/train-controlnet-*.pt", signal.SIGTERM),
        ("scratch/generated.*/test/generated/*.png", signal.SIGKILL),
    ):
        kill_when(place, lambda p=pattern: any(place.glob(p)), how)  # type: ignore[misc]
    ended = dvc(place, "repro")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    # It went on: what was done before the last kill was not done again.
    assert "Running stage 'train-controlnet'" not in ended.stdout
    assert (place / "dvc.lock").read_text() == (whole / "dvc.lock").read_text()
    assert list(place.glob("scratch/*.pt")) == []


def test_a_change_of_wording_leaves_the_judge_alone(whole: Path) -> None:
    params = params_of(whole)
    params["captions"]["templates"] = [["{classes}, {place}."]]
    (whole / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    planned = dvc(whole, "repro", "--dry").stdout
    assert "Running stage 'captions'" in planned
    for stage in ("tiff-to-png", "lut-masks", "class-percentages", "osm-metadata", "train-segm"):
        assert f"Running stage '{stage}" not in planned
