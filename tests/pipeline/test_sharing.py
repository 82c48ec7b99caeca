"""What colleagues share: pull the dataset and go on from there, by name, by version, over a web."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from dvc.api import DVCFileSystem

from aerialdreams.util.files import dvc_md5
from tests.projects import (
    clone,
    clone_with_cache,
    colleague,
    commit,
    dvc,
    params_of,
    run,
    set_params,
)
from tests.server import Site, serve


def lock_of(project: Path, stage: str) -> dict:
    stages: dict = yaml.safe_load((project / "dvc.lock").read_text())["stages"]
    return dict(stages[stage])


def size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def test_a_second_clone_trains_to_the_same_lock_without_tiles(
    whole: Path, storage: Path, tmp_path: Path
) -> None:
    other = colleague(whole, tmp_path / "other", str(storage))
    assert not (other / "data/dataset").exists()
    nothing = dvc(other, "repro", "--pull", "--allow-missing")
    assert nothing.returncode == 0 and "Running stage" not in nothing.stdout, nothing.stdout
    assert dvc(other, "pull", "dataset", "adapt-base", "encode-latents").returncode == 0
    trained = dvc(other, "repro", "--single-item", "--force", "train-controlnet")
    assert trained.returncode == 0, trained.stderr
    assert "Running stage 'train-controlnet'" in trained.stdout
    assert (other / "dvc.lock").read_text() == (whole / "dvc.lock").read_text()
    committed = (".gitignore", "external")
    came = sorted(path.name for path in (other / "data").iterdir() if path.name not in committed)
    assert came == ["contact_sheet.png", "dataset", "latents"]
    assert size(other / "data") < size(whole / "data") / 3


def test_an_identical_training_is_pulled_and_not_repeated(
    whole: Path, storage: Path, tmp_path: Path
) -> None:
    change = {"train_controlnet": {"steps": 10, "seed": 11}}
    repro = ["repro", "--pull", "--allow-missing", "train-controlnet"]
    first = colleague(whole, tmp_path / "first", str(storage))
    set_params(first, change)
    trained = dvc(first, *repro)
    assert trained.returncode == 0, trained.stderr
    assert "Running stage 'train-controlnet'" in trained.stdout
    pushed = dvc(first, "push", "--run-cache", "train-controlnet")
    assert pushed.returncode == 0, pushed.stderr
    second = colleague(whole, tmp_path / "second", str(storage))
    set_params(second, change)
    assert dvc(second, "fetch", "--run-cache", "dataset").returncode == 0
    pulled = dvc(second, *repro)
    assert pulled.returncode == 0, pulled.stderr
    assert "Stage 'train-controlnet' is cached - skipping run" in pulled.stdout
    assert lock_of(second, "train-controlnet") == lock_of(first, "train-controlnet")
    assert dvc_md5(second / "models/controlnet") == dvc_md5(first / "models/controlnet")


@pytest.fixture(scope="module")
def published(whole: Path, storage: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository as a server has it: bare, its config naming the remote, with a version."""
    place = tmp_path_factory.mktemp("published")
    copy = colleague(whole, place / "copy", str(storage))
    assert dvc(copy, "remote", "modify", "storage", "url", str(storage)).returncode == 0
    commit(copy, "where the data lie")
    for tag in ("dataset@v1.0.0", "controlnet@v1.0.0"):
        subprocess.run(["git", "tag", "-a", tag, "-m", tag], cwd=copy, check=True)
    subprocess.run(["git", "clone", "-q", "--bare", str(copy), str(place / "bare.git")], check=True)
    return place / "bare.git"


def test_the_dataset_by_name_version_and_api(whole: Path, published: Path, tmp_path: Path) -> None:
    url, md5 = str(published), dvc_md5(whole / "data/dataset")
    for words in (
        ["get", url, "data/dataset", "-o", "by-path"],
        ["artifacts", "get", url, "dataset", "--rev", "v1.0.0", "-o", "by-version"],
    ):
        ended = dvc(tmp_path, *words)
        assert ended.returncode == 0, ended.stderr
        assert dvc_md5(tmp_path / words[-1]) == md5
    files = DVCFileSystem(url, rev="dataset@v1.0.0")
    card = files.read_text("data/dataset/README.md")
    assert card == (whole / "data/dataset/README.md").read_text()
    # Another project takes it in, pinned, and can update it.
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    assert dvc(tmp_path, "init", "-q").returncode == 0
    imported = dvc(tmp_path, "import", url, "data/dataset", "--rev", "dataset@v1.0.0")
    assert imported.returncode == 0, imported.stderr
    pinned = yaml.safe_load((tmp_path / "dataset.dvc").read_text())
    assert pinned["deps"][0]["repo"]["rev"] == "dataset@v1.0.0"
    assert dvc_md5(tmp_path / "dataset") == md5


def test_an_older_dataset_has_its_bytes(whole: Path, storage: Path, tmp_path: Path) -> None:
    project = clone_with_cache(whole, tmp_path / "project")
    old = dvc_md5(project / "data/dataset")
    set_params(project, {"captions": {"templates": [["{classes}, {place}."]]}})
    renewed = dvc(project, "repro", "dataset")
    assert renewed.returncode == 0, renewed.stderr
    commit(project, "another wording")
    new = dvc_md5(project / "data/dataset")
    assert new != old
    for revision, md5 in (("HEAD~1", old), ("-", new)):
        subprocess.run(["git", "checkout", "-q", revision], cwd=project, check=True)
        assert dvc(project, "checkout", "data/dataset").returncode == 0
        assert dvc_md5(project / "data/dataset") == md5


@pytest.fixture
def web(storage: Path) -> Iterator[Site]:
    """The remote on a web server, read-only."""
    with serve() as site:
        for path in storage.rglob("*"):
            if path.is_file():
                site.files[path.relative_to(storage).as_posix()] = path.read_bytes()
        yield site


def test_a_web_server_is_a_remote_to_read(whole: Path, web: Site, tmp_path: Path) -> None:
    other = colleague(whole, tmp_path / "other", web.url.rstrip("/"))
    # The first answers are cut; what came before is not asked for again.
    web.faults = ["", "", "cut 1000", "cut 1000", "cut 1000", *["reset"] * 200]
    cut = dvc(other, "pull", "dataset")
    assert cut.returncode != 0 and "ERROR" in cut.stderr
    assert not (other / "data/dataset").exists()
    had = {path.name for path in (other / ".dvc/cache/files").rglob("*") if path.is_file()}
    web.faults, web.requests = [], []
    pulled = dvc(other, "pull", "dataset")
    assert pulled.returncode == 0, pulled.stderr
    assert dvc_md5(other / "data/dataset") == dvc_md5(whole / "data/dataset")
    asked = {path.rpartition("/")[2] for method, path, _ in web.requests if method == "GET"}
    assert not {name[2:] for name in had} & asked


def test_a_damaged_object_is_named_and_not_taken(whole: Path, web: Site, tmp_path: Path) -> None:
    weights = path_of(whole, "models/segmenter", "model.safetensors")
    body = web.files[weights]
    web.files[weights] = body[:-1] + bytes([body[-1] ^ 1])
    other = colleague(whole, tmp_path / "other", web.url.rstrip("/"))
    pulled = dvc(other, "pull", "train-segmenter")
    assert pulled.returncode != 0 and "models/segmenter" in pulled.stderr
    assert not (other / "models/segmenter").exists()
    checked = run(other, "aerialdreams", "check-remote", "models/segmenter")
    assert checked.returncode == 1 and "Traceback" not in checked.stderr
    named = f"models/segmenter/model.safetensors: its object .*{weights[-30:]} is damaged"
    assert re.search(named, checked.stderr), checked.stderr
    del web.files[weights]
    checked = run(other, "aerialdreams", "check-remote", "models/segmenter")
    assert checked.returncode == 1 and "is missing" in checked.stderr
    web.files[weights] = body
    checked = run(other, "aerialdreams", "check-remote", "models/segmenter")
    assert checked.returncode == 0 and "4 objects of 1 outputs are intact" in checked.stdout
    wrong = run(other, "aerialdreams", "check-remote", "data/nothing")
    assert wrong.returncode == 2 and "data/nothing: not an output" in wrong.stderr


def path_of(project: Path, output: str, name: str) -> str:
    """Where a remote has a file of an output that is a folder."""
    md5 = dvc_md5(project / output)
    tree = project / ".dvc/cache/files/md5" / md5[:2] / md5[2:]
    (found,) = (row["md5"] for row in json.loads(tree.read_text()) if row["relpath"] == name)
    return f"files/md5/{found[:2]}/{found[2:]}"


def test_no_remote_is_said(tmp_path: Path) -> None:
    """A fresh clone has a place of its own, which is empty until somebody pushes."""
    project = clone(tmp_path / "project")
    assert params_of(project)["raw_patches"]["source"] == "sample"
    pulled = dvc(project, "pull", "dataset")
    assert pulled.returncode != 0
    assert "Traceback" not in pulled.stderr
