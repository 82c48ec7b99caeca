"""Unfinished work: resumed, reported, and never shared by two processes."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aerialdreams.util.files import dvc_md5
from aerialdreams.util.scratch import MAX_AGE, resumable_folder, work_folder

OURS = {"params": {"learning_rate": 0.003, "seed": 1}, "inputs": {"data/latents": "a.dir"}}
THEIRS = {"params": {"learning_rate": 0.002, "seed": 1}, "inputs": {"data/latents": "a.dir"}}


def interrupt(scratch: Path, identity: dict[str, object]) -> Path:
    """Begin some work and be killed."""
    with (
        pytest.raises(KeyboardInterrupt),
        work_folder(scratch, "train-controlnet", identity) as folder,
    ):
        (folder / "checkpoint.pt").write_bytes(b"step 7")
        raise KeyboardInterrupt
    return folder


def test_a_killed_run_gets_its_work_back(tmp_path: Path) -> None:
    left = interrupt(tmp_path, OURS)
    with work_folder(tmp_path, "train-controlnet", OURS) as folder:
        assert folder == left
        assert (folder / "checkpoint.pt").read_bytes() == b"step 7"
    assert not left.exists()


def test_work_that_does_not_fit_is_reported_and_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    left = interrupt(tmp_path, THEIRS)
    with work_folder(tmp_path, "train-controlnet", OURS) as folder:
        assert list(folder.iterdir()) == [folder / "identity.json"]
    assert capsys.readouterr().err == (
        f"train-controlnet: not resuming from {left}: params.learning_rate is 0.003, there 0.002\n"
    )
    assert (left / "checkpoint.pt").exists()


def test_two_processes_with_the_same_work_do_not_share_it(tmp_path: Path) -> None:
    with work_folder(tmp_path, "train-controlnet", OURS) as first:
        (first / "checkpoint.pt").write_bytes(b"first")
        with work_folder(tmp_path, "train-controlnet", OURS) as second:
            assert second != first
            assert not (second / "checkpoint.pt").exists()
        assert (first / "checkpoint.pt").read_bytes() == b"first"


FILL = """
import sys, time
from pathlib import Path
from aerialdreams.util.scratch import resumable_folder
out, scratch, count, key = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
with resumable_folder(out, scratch, key) as folder:
    for number in range(count):
        if not (folder / str(number)).exists():
            (folder / str(number)).write_text(key)
            time.sleep(0.05)
"""


def test_experiments_side_by_side_delete_nothing_of_each_other(tmp_path: Path) -> None:
    """Three runs at once, two of them with the same key: each output is complete."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", FILL, str(tmp_path / name), str(tmp_path / "scratch"), "40", key]
        )
        for name, key in (("a", "1" * 16), ("b", "1" * 16), ("c", "2" * 16))
    ]
    assert [process.wait(timeout=60) for process in processes] == [0, 0, 0]
    assert dvc_md5(tmp_path / "a") == dvc_md5(tmp_path / "b")
    assert sorted(int(path.name) for path in (tmp_path / "c").iterdir()) == list(range(40))
    assert {path.read_text() for path in (tmp_path / "c").iterdir()} == {"2" * 16}


def test_a_killed_process_frees_its_folder(tmp_path: Path) -> None:
    folders = [str(tmp_path / name) for name in ("out", "scratch")]
    command = [sys.executable, "-c", FILL, *folders, "1000", "1" * 16]
    process = subprocess.Popen(command)
    deadline = time.monotonic() + 30
    while len(list(tmp_path.glob("scratch/out-*/*"))) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.wait()
    with resumable_folder(tmp_path / "out", tmp_path / "scratch", "1" * 16) as folder:
        assert len(list(folder.iterdir())) >= 3
    assert (tmp_path / "out/0").read_text() == "1" * 16


def test_old_unfinished_work_is_deleted_in_the_end(tmp_path: Path) -> None:
    old, recent = interrupt(tmp_path, THEIRS), interrupt(tmp_path, {"params": {"seed": 3}})
    past = time.time() - MAX_AGE - 60
    for path in (*old.iterdir(), old):
        os.utime(path, (past, past))
    with work_folder(tmp_path, "train-controlnet", OURS):
        pass
    assert not old.exists()
    assert recent.exists()
