"""Legitimate surroundings in which the pipeline gives the same bytes."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT
from tests.projects import SMALL, clone, environment, set_params


def git(place: Path, *words: str) -> None:
    subprocess.run(
        ["git", "-c", "protocol.file.allow=always", *words],
        cwd=place,
        check=True,
        capture_output=True,
    )


def worktree(folder: Path) -> Path:
    """A worktree with a detached head."""
    source = clone(folder / "source")
    git(source, "worktree", "add", "--detach", str(folder / "tree"))
    return folder / "tree"


def submodule(folder: Path) -> Path:
    """A submodule of another repository; its params have Windows' line ends."""
    source = clone(folder / "source")
    subprocess.run(["git", "init", "-q", str(folder / "outer")], check=True)
    git(folder / "outer", "submodule", "add", "-q", str(source), "inner")
    place = folder / "outer/inner"
    text = (place / "params.yaml").read_text()
    (place / "params.yaml").write_bytes(text.replace("\n", "\r\n").encode())
    return place


def shallow(folder: Path) -> Path:
    """A shallow clone in a folder with odd characters; its params begin with a byte order mark."""
    place = folder / "l'été, (a & b) [c] – ü"
    git(folder, "clone", "-q", "--depth", "1", f"file://{ROOT}", str(place))
    set_params(place, SMALL)
    text = (place / "params.yaml").read_text()
    (place / "params.yaml").write_bytes(b"\xef\xbb\xbf" + text.encode())
    return place


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The outputs of an ordinary clone."""
    place = clone(tmp_path_factory.mktemp("usual") / "project")
    return outputs(place, environment())


def outputs(place: Path, variables: dict[str, str], umask: int = 0o022) -> dict[str, str]:
    """Run the first stages; the hashes of what they write."""
    words = ["dvc", "repro", "class-percentages"]
    ended = subprocess.run(
        words, cwd=place, env=variables, capture_output=True, text=True, umask=umask
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    stages = yaml.safe_load((place / "dvc.lock").read_text())["stages"]
    names = ("raw-patches", "patch-index", "class-percentages")
    return {one["path"]: one["md5"] for name in names for one in stages[name]["outs"]}


@pytest.mark.parametrize("make", [worktree, submodule, shallow])
def test_the_same_bytes_wherever_the_project_lies(
    make: Callable[[Path], Path], usual: dict[str, str], tmp_path: Path
) -> None:
    """Also without a home directory, in the C locale, and with files that nobody else may read."""
    place = make(tmp_path)
    variables = environment() | {"LC_ALL": "C"}
    del variables["HOME"]
    assert outputs(place, variables, umask=0o077) == usual
