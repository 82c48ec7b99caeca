"""What every stage does: exit codes, messages, one at a time, nothing half-written."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aerialdreams.util.files import atomic_file, atomic_folder, dvc_md5
from tests.conftest import ROOT


def run(workdir: Path, stage: str, *words: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", f"stages.{stage}", *words]
    return subprocess.run(command, cwd=workdir, env=env, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted((ROOT / "stages").glob("[a-z]*.py")), ids=lambda p: p.stem)
def test_help_says_what_a_stage_reads_and_writes(workdir: Path, path: Path) -> None:
    shown = run(workdir, path.stem, "--help")
    assert shown.returncode == 0
    assert "Reads " in shown.stdout and "Writes " in shown.stdout


def test_wrong_params_exit_2_without_traceback(workdir: Path) -> None:
    text = (ROOT / "params.yaml").read_text().replace("floor_percent:", "flor_percent:")
    (workdir / "params.yaml").write_text(text)
    ended = run(workdir, "captions")
    assert ended.returncode == 2
    assert "captions: error: params.yaml: captions.floor_percent: missing" in ended.stderr
    assert "params.yaml: captions.flor_percent: unknown key" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (workdir / "data").exists()


@pytest.mark.parametrize("linked", ["data", "data/raw", "models", "metrics"])
def test_linked_folders_are_refused_before_the_work(workdir: Path, linked: str) -> None:
    (workdir / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    (workdir / "disk").mkdir()
    (workdir / linked).parent.mkdir(exist_ok=True)
    (workdir / linked).symlink_to(workdir / "disk")
    env = os.environ | {"PYTHONPATH": str(ROOT), "DVC_ROOT": str(workdir)}
    command = [sys.executable, "-m", "stages.raw_patches"]
    ended = subprocess.run(command, cwd=workdir, env=env, capture_output=True, text=True)
    assert ended.returncode == 2
    assert f"raw-patches: error: {linked}: is a link, which DVC does not accept" in ended.stderr
    assert not list((workdir / "disk").iterdir())


@pytest.mark.slow
def test_a_second_run_waits_for_the_first(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    (workdir / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    (workdir / "scratch").mkdir()
    with (workdir / "scratch/captions.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ended = run(workdir, "captions")
    assert ended.returncode == 1
    assert "captions.lock: another process is running this stage" in ended.stderr


@pytest.mark.slow
def test_sigterm_exits_3_and_leaves_nothing(workdir: Path) -> None:
    (workdir / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "stages.raw_patches"]
    stage = subprocess.Popen(command, cwd=workdir, env=env, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(workdir.glob("data/raw.partial/*/*")) and time.monotonic() < deadline:
        time.sleep(0.1)
    stage.send_signal(signal.SIGTERM)
    _, errors = stage.communicate(timeout=60)
    assert stage.returncode == 3
    assert "raw-patches: error: interrupted" in errors
    assert list((workdir / "data").iterdir()) == []


def test_files_and_folders_are_whole_or_not_there(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("good")
    with pytest.raises(ValueError), atomic_file(target) as partial:
        partial.write_text("half")
        raise ValueError
    assert target.read_text() == "good"
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "old").touch()
    with pytest.raises(ValueError), atomic_folder(folder) as filling:
        (filling / "new").touch()
        raise ValueError
    assert [path.name for path in folder.iterdir()] == ["old"]
    with atomic_folder(folder) as filling:
        (filling / "new").touch()
    assert [path.name for path in folder.iterdir()] == ["new"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "folder"]


def test_hashes_are_dvcs(tmp_path: Path) -> None:
    """Against DVC itself, so that a tag in MLflow can be found in dvc.lock."""
    folder = tmp_path / "folder"
    (folder / "b").mkdir(parents=True)
    (folder / "b" / "é.txt").write_text("1")
    (folder / "a.txt").write_text("2")
    (folder / "b.txt").write_text("3")
    dvc = [sys.executable, "-m", "dvc"]
    subprocess.run([*dvc, "init", "--no-scm", "-q"], cwd=tmp_path, check=True)
    subprocess.run([*dvc, "add", "-q", "folder"], cwd=tmp_path, check=True)
    assert f"md5: {dvc_md5(folder)}\n" in (tmp_path / "folder.dvc").read_text()


ORPHAN = """
import signal, subprocess, sys, threading, time
from contextlib import nullcontext
from pathlib import Path
import psutil
from aerialdreams.pipeline.stage import _end_after
from aerialdreams.util.saving import saving
signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a stage that finishes its step first
parent = subprocess.Popen([sys.executable, "-c", ""])
threading.Thread(target=_end_after, args=(psutil.Process(parent.pid), 0.8)).start()
with saving() if sys.argv[1] == "saves" else nullcontext():
    parent.wait()
    time.sleep(3)
    Path("saved").touch()
time.sleep(60)
"""


@pytest.mark.slow
@pytest.mark.parametrize("saves", [True, False])
def test_grace_does_not_run_while_the_state_is_saved(workdir: Path, saves: bool) -> None:
    command = [sys.executable, "-c", ORPHAN, "saves" if saves else "idles"]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, cwd=workdir, env=env, timeout=50)
    assert ended.returncode == -signal.SIGKILL
    assert (workdir / "saved").exists() == saves
