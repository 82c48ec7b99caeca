"""What the README says to type is typed: in a project that ran, small, and in a colleague's."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.projects import clone_with_cache, colleague, run, use

BLOCK = re.compile(r"(?:<!-- ([^\n]*) -->\n\s*)?```(sh|python)\n(.*?)```", re.S)
# Of a desktop, and of a server that would serve until it is stopped; the tests are running.
SHELL = """
set -e -o pipefail
xdg-open() { test -s "$1"; }
mlflow() { timeout 15 mlflow "$@" || test $? = 124; }
scripts/test() { true; }
"""
# What a reader has before his eyes: a mask of his own.
PYTHON = """
from PIL import Image
import numpy as np
mask = np.array(Image.open("mask.png"))[:96, :96]
"""
# Tests of their own type these: they need more than a project.
ELSEWHERE = {
    "an extract of France": "tests/osm/test_osm_metadata.py",
    "a PostgreSQL server": "tests/pipeline/test_servers.py",
}


def blocks() -> list[tuple[str, str, str]]:
    """What the README shows in fences: what it needs, its language, its text."""
    return BLOCK.findall((ROOT / "README.md").read_text())


def block(words: str) -> str:
    """The one block that has these words."""
    (found,) = (text for _, _, text in blocks() if words in text)
    return found


def paste(place: Path, text: str, language: str = "sh") -> subprocess.CompletedProcess[str]:
    """Run a block in a project as it stands."""
    if language == "python":
        return run(place, sys.executable, "-c", PYTHON + text)
    return run(place, "bash", "-c", SHELL + text)


@pytest.fixture(scope="module")
def project(whole: Path, storage: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reader's project, in which the pipeline ran; it has two commits."""
    place = clone_with_cache(whole, tmp_path_factory.mktemp("reader") / "project")
    use(place, str(storage))
    masks = sorted((place / "data/generated/validation/masks").glob("*.tif"))
    shutil.copy(masks[0], place / "mask.tif")
    shutil.copy(sorted((place / "data/masks").glob("*.png"))[0], place / "mask.png")
    if (ROOT / ".venv/installed").exists():
        (place / ".venv").symlink_to(ROOT / ".venv")
    return place


def test_every_block_is_typed_or_says_what_it_needs() -> None:
    needs = {need.removeprefix("needs ") for need, _, _ in blocks() if need}
    assert needs == set(ELSEWHERE)
    assert len(blocks()) == 11


@pytest.mark.parametrize(
    "words",
    [
        "scripts/run",
        "dvc metrics show",
        "load_dataset",
        "aerialdreams settings flair",
        "StableDiffusionControlNetPipeline",
        "aerialdreams generate mask.tif",
        "import Painter",
    ],
)
def test_blocks_of_one_project(project: Path, words: str) -> None:
    if words == "scripts/run" and not (project / ".venv").exists():
        pytest.skip("the tests do not run in the .venv that scripts/setup makes")
    ended = paste(project, block(words), "python" if "import" in block(words) else "sh")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "Running stage" not in ended.stdout
    subprocess.run(["git", "checkout", "-q", "params.yaml"], cwd=project, check=True)
    assert run(project, "git", "diff", "--stat").stdout == ""


def test_blocks_of_a_colleague(whole: Path, storage: Path, tmp_path: Path) -> None:
    other = colleague(whole, tmp_path / "other", str(storage))
    ended = paste(other, block("dvc pull dataset base-model"))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "Running stage" not in ended.stdout
