"""Stages in several processes: the results have the bytes of those of one process."""

import json
import shutil
from pathlib import Path

import pytest

from aerialdreams.pipeline.distributed import Distributed
from aerialdreams.util.files import dvc_md5
from tests.projects import run, set_params


@pytest.fixture(scope="module")
def project(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of a project in which the pipeline ran, without what the tests make again."""
    folder = tmp_path_factory.mktemp("processes") / "project"
    outputs = ("latents", "generated", "scratch", "mlflow.db*", "mlartifacts", ".dvc")
    shutil.copytree(whole, folder, symlinks=True, ignore=shutil.ignore_patterns(*outputs))
    return folder


def stage(project: Path, name: str) -> str:
    """Run a stage by hand; gives its summary line."""
    ended = run(project, "python", "-m", f"stages.{name}")
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip().splitlines()[-1]


def test_two_processes_give_the_same_bytes_as_one(whole: Path, project: Path) -> None:
    set_params(project, {"runtime": {"processes": 2, "loaders": 1}})
    summary = stage(project, "encode_latents")
    assert "and their 8 captions encoded in 1 shards" in summary
    assert dvc_md5(project / "data/latents") == dvc_md5(whole / "data/latents")
    stage(project, "generate_validation")
    assert dvc_md5(project / "data/generated") == dvc_md5(whole / "data/generated")
    for name, output in (("evaluate_FID", "evaluation"), ("evaluate_utility", "utility")):
        path = project / f"metrics/{output}.json"
        path.unlink()
        stage(project, name)
        assert path.read_bytes() == (whole / f"metrics/{output}.json").read_bytes()
    assert not [p for p in (project / "scratch").iterdir() if p.is_dir()]


def test_capped_masks_are_spread_and_counted(whole: Path, project: Path) -> None:
    set_params(
        project,
        {
            "runtime": {"processes": 1},
            "generate_validation": {"masks": 3, "extra_masks": 2, "geotiff": True},
        },
    )
    stage(project, "encode_latents")
    assert "3 validation, 3 test" in stage(project, "generate_validation")
    counts = {
        folder: len(list((project / f"data/generated/validation/{folder}").glob("*.png")))
        for folder in ("generated", "sample-2", "untrained")
    }
    assert counts == {"generated": 3, "sample-2": 2, "untrained": 2}
    for png in (project / "data/generated/validation/generated").glob("*.png"):
        theirs = whole / "data/generated/validation/generated" / png.name
        assert theirs.exists()
    stage(project, "evaluate_FID")
    report = json.loads((project / "metrics/evaluation.json").read_text())["validation"]
    assert [report[name]["n"] for name in ("real", "generated", "untrained")] == [3, 3, 2]
    assert isinstance(report["generated"]["sample_difference"], float)
    assert "from generated images" in stage(project, "evaluate_utility")
    utility = json.loads((project / "metrics/utility.json").read_text())
    assert [utility[name]["n"] for name in ("real", "generated", "both")] == [3, 3, 6]


def test_shares_are_consecutive_and_complete() -> None:
    items = list(range(11))
    for size in (1, 2, 3, 16):
        shares = [list(Distributed(rank, size).share(items)) for rank in range(size)]
        assert [item for share in shares for item in share] == items
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
