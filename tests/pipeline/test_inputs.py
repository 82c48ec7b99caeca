"""What users give a pipeline is watched by DVC, and never deleted by it."""

import shutil
from pathlib import Path

import pytest

from tests.conftest import DATA, ROOT
from tests.projects import dvc, git_clone, set_params

pytestmark = pytest.mark.slow


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A fresh clone."""
    git_clone(ROOT, tmp_path / "project")
    return tmp_path / "project"


def test_a_folder_that_grows_is_noticed(project: Path, tmp_path: Path) -> None:
    tiles = tmp_path / "tiles"
    shutil.copytree(DATA / "flair", tiles)
    moved = next(tiles.glob("D051*"))
    shutil.move(moved, tmp_path / "later")
    set_params(project, {"raw_patches": {"source": "folder", "folder": str(tiles)}})
    first = dvc(project, "repro", "raw-patches")
    assert "4 tiles of 2 domains" in first.stdout, first.stderr
    assert "didn't change, skipping" in dvc(project, "repro", "raw-patches").stdout
    shutil.move(tmp_path / "later", moved)
    second = dvc(project, "repro", "raw-patches")
    assert "6 tiles of 3 domains" in second.stdout, second.stderr


@pytest.mark.parametrize("folder", ["data/raw", "data", "."])
def test_tiles_unpacked_into_the_output_survive(project: Path, folder: str) -> None:
    shutil.copytree(DATA / "flair", project / "data/raw")
    before = {path: path.read_bytes() for path in (project / "data/raw").rglob("*.tif")}
    set_params(project, {"raw_patches": {"source": "folder", "folder": folder}})
    done = dvc(project, "repro", "patch-index")
    assert done.returncode != 0
    assert {path: path.read_bytes() for path in (project / "data/raw").rglob("*.tif")} == before
    # Nor does the default run replace them.
    set_params(project, {"raw_patches": {"source": "sample", "folder": "data/external"}})
    done = dvc(project, "repro", "raw-patches")
    assert "was not written by the pipeline and would be lost" in done.stderr
    assert {path: path.read_bytes() for path in (project / "data/raw").rglob("*.tif")} == before
