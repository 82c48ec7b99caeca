"""What several rooms' tests share: real data, default params, a folder to work in."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import stages  # noqa: F401  (sets the libraries' environment before they are imported)
from aerialdreams.params import Params, load_params
from stages import patch_index
from tests.overpass_server import FakeServer, recorded_responses, serve_overpass

ROOT = Path(__file__).parent.parent
DATA = ROOT / "tests/data"  # invented, in the exact formats of the real data
SHARED = ROOT.parent / "shared" / "data"


# Files of tests that run the whole pipeline, but of a project of their own in another process.
SECOND_PROCESS = {"test_experiments.py", "test_readme.py"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what runs the whole pipeline as slow, and share it in two of pytest's processes.

    All other tests of a file share a process.
    """
    for item in items:
        group = str(item.path)
        if "whole" in getattr(item, "fixturenames", ()):
            item.add_marker("slow")
            group = "second" if item.path.name in SECOND_PROCESS else "first"
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(scope="session", autouse=True)
def no_git_configuration() -> Iterator[None]:
    """The machine's git configuration decides nothing; clones get an identity of their own."""
    git = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    # The working tree may belong to another user, as in a container.
    git |= {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "safe.directory",
        "GIT_CONFIG_VALUE_0": "*",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in git.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real FLAIR patches and OpenStreetMap data, which are not part of the project."""
    if not SHARED.is_dir():
        pytest.skip("needs the real data of ../shared/data")
    return SHARED


@pytest.fixture
def params() -> Params:
    """The project's own params."""
    return load_params(ROOT / "params.yaml")


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, in which a stage finds and leaves its files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    return tmp_path


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone in which `dvc repro` ran undisturbed, small; who changes it puts it back."""
    from tests.projects import clone, commit, dvc

    place = clone(tmp_path_factory.mktemp("whole") / "project")
    ended = dvc(place, "repro")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    commit(place, "run")
    return place


@pytest.fixture(scope="session")
def storage(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A remote with all that `whole` pushes."""
    from tests.projects import dvc, use

    place = tmp_path_factory.mktemp("remote") / "storage"
    use(whole, str(place))
    pushed = dvc(whole, "push")
    assert pushed.returncode == 0, pushed.stderr
    return place


@pytest.fixture
def raw(workdir: Path) -> Path:
    """data/raw with three invented patches in FLAIR's format and their metadata."""
    return copy_raw(DATA, workdir)


def copy_raw(source: Path, workdir: Path) -> Path:
    """data/raw with the FLAIR patches of tests/data or of the real data; they may be changed."""
    folder = workdir / "data/raw"
    shutil.copytree(source / "flair", folder, copy_function=shutil.copyfile)
    return folder


@pytest.fixture
def indexed(raw: Path, params: Params) -> Params:
    """The three invented patches, one in each split, indexed."""
    domains = {"validation_groups": ["D004_2021"], "test_groups": ["D051_2019"]}
    three = changed(params, patch_index=domains)
    patch_index.main(three)
    return three


@pytest.fixture
def server() -> Iterator[FakeServer]:
    """An Overpass server with responses for invented zones."""
    with serve_overpass(FakeServer(recorded=recorded_responses(DATA / "osm"))) as server:
        yield server


def changed(params: Params, **groups: Any) -> Params:
    """Params with some values replaced, checked as from a file."""
    values = params.model_dump()
    for group, new in groups.items():
        values[group] = values[group] | new if isinstance(values[group], dict) else new
    return Params.model_validate(values)
