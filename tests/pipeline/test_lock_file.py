"""A dvc.lock that a kill cut, anywhere: DVC's own parser takes what is put back."""

from pathlib import Path

import yaml

from aerialdreams.pipeline.lock_file import LOCK, keep, mend
from tests.conftest import ROOT


def test_a_whole_lock_file_stays(workdir: Path) -> None:
    assert mend(workdir) is None
    text = (ROOT / "dvc.lock").read_text()
    LOCK.write_text(text)
    keep(workdir / "scratch")
    assert mend(workdir / "scratch") is None
    assert LOCK.read_text() == text


def test_a_lock_file_cut_anywhere_is_whole_again(workdir: Path) -> None:
    text = (ROOT / "dvc.lock").read_text()
    LOCK.write_text(text)
    keep(workdir / "scratch")
    put_back = 0
    for length in range(0, len(text), len(text) // 40):
        LOCK.write_text(text[:length])
        done = mend(workdir / "scratch")
        if done:  # else what is left reads as a lock file of fewer stages
            assert "put back from" in done and LOCK.read_text() == text
            put_back += 1
        else:
            left, all_stages = yaml.safe_load(LOCK.read_text()), yaml.safe_load(text)["stages"]
            assert set(left["stages"]) <= set(all_stages)
    assert put_back > 15


def test_without_a_copy_it_is_removed(workdir: Path) -> None:
    LOCK.write_text("schema: '2.0'\nstages:\n  a:\n    deps:\n    - path: x\n")
    assert "removed" in str(mend(workdir / "scratch"))
    assert not LOCK.exists()


def test_a_merge_that_is_not_settled_stays(workdir: Path) -> None:
    text = "schema: '2.0'\nstages:\n<<<<<<< HEAD\n  a:\n=======\n  b:\n>>>>>>> other\n"
    LOCK.write_text(text)
    assert mend(workdir / "scratch") is None
    assert LOCK.read_text() == text
