"""The project's scripts and commands in shells as people have them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.projects import environment, git_clone


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone with this virtual environment as its own, installed."""
    folder = tmp_path_factory.mktemp("shells") / "project"
    git_clone(ROOT, folder)
    for script in (ROOT / "scripts").iterdir():  # as they are in the working tree
        shutil.copy(script, folder / "scripts" / script.name)
    (folder / ".venv").mkdir()
    for path in Path(sys.prefix).iterdir():
        if path.name != "installed":
            (folder / ".venv" / path.name).symlink_to(path)
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder / name)
    texts = [(folder / name).read_text() for name in ("pyproject.toml", "constraints.txt")]
    (folder / ".venv/installed").write_text("".join(texts))
    return folder


def shell(project: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A command in the project, with other variables in its environment."""
    return subprocess.run(
        words, cwd=project, env=environment() | variables, capture_output=True, text=True
    )


@pytest.mark.parametrize("variable", ["PROJ_LIB", "PROJ_DATA", "GDAL_DATA"])
def test_geospatial_data_of_another_installation(
    project: Path, tmp_path: Path, variable: str
) -> None:
    code = "import stages; from rasterio.crs import CRS; print(CRS.from_epsg(2154).is_projected)"
    done = shell(project, sys.executable, "-c", code, **{variable: str(tmp_path)})
    assert done.stdout == "True\n", done.stderr
    command = shell(project, "aerialdreams", "settings", **{variable: str(tmp_path)})
    assert "Traceback" not in command.stderr


def test_cdpath_leads_nowhere_else(project: Path, tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    done = shell(project, "bash", "scripts/run", "--dry", "raw-patches", CDPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr


def test_a_download_without_git_is_told_before_the_installation(
    project: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "zip"
    shutil.copytree(project, folder, ignore=shutil.ignore_patterns(".git", ".venv"))
    done = shell(folder, "scripts/run", GIT_CEILING_DIRECTORIES=str(tmp_path))
    assert done.returncode == 2
    assert "DVC needs a git repository; get the project with `git clone`" in done.stderr
    assert not (folder / ".venv").exists()


def test_no_supported_python_is_a_sentence(project: Path, tmp_path: Path) -> None:
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    done = shell(project, "scripts/setup", VENV=str(tmp_path / "venv"), PYTHON=str(old))
    assert done.returncode == 2
    assert "no Python of 3.11.5 to 3.13" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_stages_run_with_a_bare_environment(project: Path) -> None:
    bare = {"PATH": f"{project}/.venv/bin:{os.defpath}", "LC_ALL": "C"}
    words = ["python", "-m", "stages.raw_patches", "--help"]
    done = subprocess.run(words, cwd=project, env=bare, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "raw_patches.source" in done.stdout


def test_a_python_without_the_packages_is_told(project: Path, tmp_path: Path) -> None:
    """As where `.venv/bin/dvc repro` finds another Python on the PATH."""
    (tmp_path / "python").write_text(f'#!/bin/sh\nexec {sys.executable} -S -E "$@"\n')
    (tmp_path / "python").chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    dvc = str(Path(sys.executable).parent / "dvc")
    done = shell(project, dvc, "repro", "-s", "raw-patches", PATH=path)
    assert done.returncode != 0
    assert "does not have the project's packages; activate its environment" in done.stderr
    assert "Traceback" not in done.stderr
