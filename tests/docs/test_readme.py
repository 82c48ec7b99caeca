"""Runs the code blocks of the README and the guide, in a project in which the pipeline ran.

A block is run unless an HTML comment above it says otherwise:

    <!-- needs X -->                 not run, because X is missing here; only its syntax is checked
    <!-- tested by tests/FILE.py --> that file runs it
    <!-- in a colleague's clone -->  run in a clone that has the remote and no data
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from aerialdreams.params import check_params
from tests.conftest import ROOT
from tests.projects import clone_with_cache, colleague, merge, params_of, run, use

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]
BLOCK = re.compile(r"(?:<!-- ([^\n]*) -->\n)?```(sh|python|yaml)\n(.*?)```", re.S)
COLLEAGUE = "in a colleague's clone"
# What cannot be had here, and the test that runs the same commands where it can.
NEEDS = {
    "an extract of France": "tests/osm/test_osm_metadata.py",
    "a PostgreSQL server": "tests/pipeline/test_servers.py",
    "a GPU": "tests/gpu/test_gpu.py",
    "a browser": "tests/serve/test_page.py",
    "a map": "tests/datasets/test_vectors.py",
    "a photograph and its masks": "tests/generation/test_edit.py",
    "a network and a GPU": None,
    "your own data": "tests/pipeline/test_own_data.py",
    "two machines with GPUs": None,
    "Node.js": None,
}
# Replaces commands of a desktop and a server that runs until it is stopped, and the tests that are
# running now.
SHELL = """
set -e -o pipefail
xdg-open() { test -s "$1"; }
mlflow() { timeout 15 mlflow "$@" || test $? = 124; }
mkdocs() { true; }
scripts/test() { true; }
scripts/test-servers() { true; }
"""
PYTHON = """
from PIL import Image
import numpy as np
mask = np.array(Image.open("mask.png"))[:96, :96]
"""


class Block(NamedTuple):
    """A code block of a page."""

    page: Path
    line: int
    mark: str  # the comment above it, or ""
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks() -> list[Block]:
    """All code blocks of the README and the guide."""
    return [
        Block(page, text[: match.start(3)].count("\n") + 1, match[1] or "", match[2], match[3])
        for page in PAGES
        for text in [page.read_text(encoding="utf-8")]
        for match in BLOCK.finditer(text)
    ]


def block(words: str) -> str:
    """The text of the only block that contains `words`."""
    (text,) = (block.text for block in blocks() if words in block.text)
    return text


def paste(project: Path, text: str, language: str = "sh") -> subprocess.CompletedProcess[str]:
    """Run a block in a project."""
    if language == "python":
        return run(project, sys.executable, "-c", PYTHON + text)
    return run(project, "bash", "-c", SHELL + text)


def marked(mark: str) -> list[Block]:
    """The shell and Python blocks under a mark."""
    return [block for block in blocks() if block.mark == mark and block.language != "yaml"]


@pytest.fixture(scope="module")
def project(whole: Path, storage: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reader's project, in which the pipeline ran; it has two commits."""
    folder = clone_with_cache(whole, tmp_path_factory.mktemp("reader") / "project")
    use(folder, str(storage))
    masks = sorted((folder / "data/generated/validation/masks").glob("*.tif"))
    shutil.copy(masks[0], folder / "mask.tif")
    shutil.copy(sorted((folder / "data/masks").glob("*.png"))[0], folder / "mask.png")
    if (ROOT / ".venv/installed").exists():
        (folder / ".venv").symlink_to(ROOT / ".venv")
    return folder


def test_every_mark_is_known() -> None:
    for block in blocks():
        needs, tested_by = block.mark.removeprefix("needs "), block.mark.removeprefix("tested by ")
        if needs != block.mark:
            assert needs in NEEDS, block
        elif tested_by != block.mark:
            assert "block(" in (ROOT / tested_by).read_text(), block
        else:
            assert block.mark in ("", COLLEAGUE), block
    for test in filter(None, NEEDS.values()):
        assert (ROOT / test).is_file()


@pytest.mark.parametrize("block", blocks(), ids=str)
def test_syntax(block: Block) -> None:
    if block.language == "python":
        compile(block.text, str(block), "exec")
    elif block.language == "sh":
        subprocess.run(["bash", "-n", "-c", block.text], check=True)
    else:
        values = params_of(ROOT)
        merge(values, yaml.safe_load(block.text))
        check_params(values, block.page)


@pytest.mark.parametrize("block", marked(""), ids=str)
def test_block(project: Path, block: Block) -> None:
    if re.search(r"scripts/run|\.venv", block.text) and not (project / ".venv").exists():
        pytest.skip("the tests do not run in the .venv that scripts/setup creates")
    ended = paste(project, block.text, block.language)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "Running stage" not in ended.stdout
    subprocess.run(["git", "checkout", "-q", "params.yaml"], cwd=project, check=True)
    assert run(project, "git", "diff", "--stat").stdout == ""


@pytest.mark.parametrize("block", marked(COLLEAGUE), ids=str)
def test_block_of_a_colleague(whole: Path, storage: Path, tmp_path: Path, block: Block) -> None:
    other = colleague(whole, tmp_path / "other", str(storage))
    ended = paste(other, block.text)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "Running stage" not in ended.stdout
