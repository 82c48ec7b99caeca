"""The whole pipeline in fresh clones, small: what comes out, again, and after being killed."""

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import mlflow
import psutil
import yaml

from tests.projects import clone, dvc, environment, params_of, run, set_params


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


def test_every_stage_says_what_it_did_and_the_metrics_are_there(whole: Path) -> None:
    metrics = json.loads((whole / "metrics/evaluation.json").read_text())
    for split in ("validation", "test"):
        for source in ("generated", "real", "untrained"):
            numbers = metrics[split][source]
            assert 0 <= numbers["miou"] <= 1 and 0 < numbers["pixel_accuracy"] <= 1
            assert numbers["n"] == 4
            assert set(numbers["iou"]) <= {
                c["name"] for c in params_of(whole)["dataset_spec"]["classes"]
            }
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
    assert "© OpenStreetMap contributors" in report and report.count('class="sample"') == 8
    assert "<img" in report and 'src="http' not in report
    manifest = json.loads((whole / "data/generated/manifest.json").read_text())
    assert manifest["synthetic"] is True
    assert any("OpenStreetMap" in credit for credit in manifest["credits"])


def test_mlflow_leads_from_the_run_to_dvc_lock_and_back(whole: Path) -> None:
    client = mlflow.MlflowClient(f"sqlite:///{whole / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("aerialdreams")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    lock = yaml.safe_load((whole / "dvc.lock").read_text())["stages"]["train-controlnet"]
    hashes = {item["path"]: item["md5"] for item in lock["deps"] + lock["outs"]}
    for path in ("data/dataset", "data/latents", "models/adapted_base", "models/controlnet"):
        assert run.data.tags[f"md5.{path}"] == hashes[path]
    # The commit that it ran on; the one after it has its dvc.lock.
    head = subprocess.run(
        ["git", "rev-parse", "HEAD~1"], cwd=whole, capture_output=True, text=True, check=True
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
    # Two masks at two steps, each under the same key in all runs.
    names = [Path(path).name for path in images if path.endswith(".png")]
    assert len(names) == 4
    keys = {name.partition("+")[0] for name in names}
    assert keys == {"validation~000009", "validation~000011"}


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
    before = (whole / "params.yaml").read_text()
    set_params(whole, {"generate_validation": {"conditioning_scale": 0.0}})
    again = dvc(whole, "repro")
    assert again.returncode == 0, again.stderr
    assert "Running stage 'train-controlnet'" not in again.stdout
    page = tmp_path / "page.html"
    compared = run(whole, "aerialdreams", "compare", "HEAD", "workspace", "--page", str(page))
    assert compared.returncode == 0, compared.stderr
    rows = [line.split() for line in compared.stdout.splitlines()]
    differing = [row for row in rows if row and "." in row[0] and len(row) == 3]
    assert ["generate_validation.conditioning_scale", "None", "0.0"] in differing
    assert not any(row[0].startswith("train_controlnet") for row in differing)
    assert any(row[:1] == ["minutes"] and row[1] == row[2] for row in rows)  # one training
    assert "workspace minus HEAD: " in compared.stdout and "N = 4" in compared.stdout
    assert page.read_text().count("<figure>") == 2 * 2 * 4 + 2  # and a sheet of each
    wrong = run(whole, "aerialdreams", "compare", "HEAD", "nowhere")
    assert wrong.returncode == 2 and "Traceback" not in wrong.stderr
    assert "nowhere: " in wrong.stderr and "name a git revision" in wrong.stderr
    (whole / "params.yaml").write_text(before)
    back = dvc(whole, "repro")  # from the run cache
    assert back.returncode == 0 and (whole / "params.yaml").read_text() == before


def test_killed_anywhere_the_next_run_ends_with_the_same_bytes(whole: Path, tmp_path: Path) -> None:
    place = clone(tmp_path / "project")
    for pattern, how in (
        ("data/raw.partial/*/*", signal.SIGKILL),
        ("scratch/images-*/*.png", signal.SIGTERM),
        ("scratch/base-model-*/unet.pt", signal.SIGKILL),
        ("scratch/train-controlnet-*/controlnet.pt", signal.SIGTERM),
        ("scratch/generated-*/test/generated/*.png", signal.SIGKILL),
    ):
        kill_when(place, lambda p=pattern: any(place.glob(p)), how)  # type: ignore[misc]
    ended = dvc(place, "repro")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    # It went on: what was done before the last kill was not done again.
    assert "Running stage 'train-controlnet'" not in ended.stdout
    assert (place / "dvc.lock").read_text() == (whole / "dvc.lock").read_text()
    assert list(place.glob("scratch/*/*.pt")) == []


def test_a_change_of_wording_leaves_the_judge_alone(whole: Path) -> None:
    before = (whole / "params.yaml").read_text()
    set_params(whole, {"captions": {"templates": [["{classes}, {place}."]]}})
    planned = dvc(whole, "repro", "--dry").stdout
    (whole / "params.yaml").write_text(before)
    assert "Running stage 'captions'" in planned
    for stage in ("tiff-to-png", "lut-masks", "class-percentages", "osm-metadata", "train-segm"):
        assert f"Running stage '{stage}" not in planned
