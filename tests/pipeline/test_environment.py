"""The process of a stage or a command: garbage is not looked for while libraries are imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

AT_START = """\
import atexit, gc
atexit.register(lambda: print("enabled", gc.isenabled(), "kept", gc.get_freeze_count() > 10_000))
"""


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        (["-m", "stages.captions"], True),
        pytest.param(
            ["-m", "aerialdreams.cli", "generate", "a.png", "--controlnet", "none"],
            True,
            marks=pytest.mark.slow,
        ),
        (["-c", "import stages"], False),  # a notebook, which has imports of its own
    ],
)
def test_garbage_is_collected_once_the_libraries_are_imported(
    tmp_path: Path, words: list[str], kept: bool
) -> None:
    (tmp_path / "sitecustomize.py").write_text(AT_START)
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    command = [sys.executable, *words]
    ended = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert f"enabled True kept {kept}" in ended.stdout, ended.stderr
